package consumer

import (
	"context"
	"path"
	"time"

	"lockstitch/state/objects"
)

// sweepEvery is how often a replica looks for orphaned objects.
const sweepEvery = time.Hour

// sweepLoop removes what failed cuts and retention have left in the store. Every
// replica runs it; sweeping twice does no harm.
func (c *Consumer) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if n, err := c.sweep(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("sweeping the store", "err", err)
		} else if n > 0 {
			c.log.Info("removed orphaned objects", "count", n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweep deletes segment objects that no catalog record names. It lists first
// and reads the catalog afterwards, past its end as of then: an object listed
// whose cut has committed is in it. What is not, and older by the store's clock
// than any cut may be late, is nobody's.
func (c *Consumer) sweep(ctx context.Context) (int, error) {
	var old []objects.Info
	var newest time.Time
	err := c.deps.Store.List(ctx, "segments/", func(i objects.Info) error {
		if i.ModTime.After(newest) {
			newest = i.ModTime
		}
		old = append(old, i)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := c.deps.Catalog.CatchUp(ctx); err != nil {
		return 0, err
	}
	// The newest object's time is as near as a listing comes to the store's
	// clock; our own may be wrong.
	limit := newest
	if now := time.Now(); now.Before(limit) {
		limit = now
	}
	limit = limit.Add(-c.cfg.SweepAge)
	n := 0
	for _, i := range old {
		if i.ModTime.After(limit) || c.deps.Catalog.Live(path.Base(i.Name)) {
			continue
		}
		if err := c.deps.Store.Delete(ctx, i.Name); err != nil {
			return n, err
		}
		c.metrics.swept.Inc()
		n++
	}
	return n, nil
}
