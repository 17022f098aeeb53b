package consumer

import (
	"context"
	"errors"
	"math/rand/v2"
	"path"
	"time"

	"lockstitch/state/objects"
	"lockstitch/state/segment"
	"lockstitch/state/task"
)

// sweepLoop removes what failed cuts and retention have left in the store. Every
// replica runs it; sweeping twice does no harm.
func (c *Consumer) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(c.cfg.SweepEvery)
	defer tick.Stop()
	s := sweeper{Consumer: c, apart: c.cfg.SweepEvery / 2}
	c.metrics.tasks.Done(task.Sweeping)
	for {
		n, err := s.sweep(ctx)
		if errors.Is(err, ErrForeignStore) {
			c.mail.post(func(context.Context) error { return err })
			return
		}
		switch {
		case err == nil:
			c.metrics.tasks.Done(task.Sweeping)
		case ctx.Err() == nil:
			c.log.Warn("sweeping the store", "err", err)
		}
		if n > 0 {
			c.log.Info("removed orphaned objects", "count", n)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// sweeper deletes segment objects that no catalog record names, and remembers which
// these were at its last look.
type sweeper struct {
	*Consumer
	apart time.Duration        // of two looks at the least
	seen  map[string]time.Time // orphans, by when they were first seen
}

// maxOrphans is of how many orphans a sweeper remembers when it saw them first; more
// wait for a later look.
const maxOrphans = 100_000

// sweep deletes what has been nobody's at two looks. It lists first and reads the
// catalog afterwards, past its end as of then: an object listed whose cut has
// committed is in it. What is not, and older by the store's clock than any cut may
// be late, is nobody's. The store's clock may have been set ahead meanwhile, which
// makes what was just uploaded old: hence the second look, later by our own clock,
// that cannot be set. Of a topic that the catalog has never known nothing is taken:
// it is a live segment of another system whose store this is. Of a system that reads the
// same topics nothing can be here: a store that is not this catalog's own is not swept.
func (s *sweeper) sweep(ctx context.Context) (int, error) {
	if s.deps.Owned != nil {
		if err := s.deps.Owned(ctx); err != nil {
			return 0, err
		}
	}
	var orphans []objects.Info
	var strangers []string
	var failed objects.Failures // what cannot be read or deleted stays
	var newest time.Time
	err := s.deps.Store.List(ctx, "segments/", func(i objects.Info) error {
		if i.ModTime.After(newest) {
			newest = i.ModTime
		}
		if !s.deps.Catalog.Live(path.Base(i.Name)) {
			orphans = append(orphans, i)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if err := s.deps.Catalog.CatchUp(ctx); err != nil {
		return 0, err
	}
	// Not to fail at the same ones first each time.
	rand.Shuffle(len(orphans), func(i, j int) { orphans[i], orphans[j] = orphans[j], orphans[i] })
	// The newest object's time is as near as a listing comes to the store's
	// clock; our own may be wrong.
	now, limit := time.Now(), newest
	if now.Before(limit) {
		limit = now
	}
	limit = limit.Add(-s.cfg.SweepAge)
	n, seen := 0, make(map[string]time.Time)
	for _, i := range orphans {
		if i.ModTime.After(limit) || s.deps.Catalog.Live(path.Base(i.Name)) {
			continue
		}
		// An export that was planned before reads the segments that were merged since.
		if now.Sub(time.UnixMilli(s.deps.Catalog.Replaced(path.Base(i.Name)))) < s.cfg.SweepAge {
			continue
		}
		first, again := s.seen[i.Name]
		if !again || now.Sub(first) < s.apart {
			if !again {
				first = now
			}
			if len(seen) < maxOrphans {
				seen[i.Name] = first
			}
			continue
		}
		strange, err := s.strange(ctx, i.Name)
		switch {
		case err != nil:
		case strange:
			strangers = append(strangers, i.Name)
		default:
			if err = s.deps.Store.Delete(ctx, i.Name); err == nil {
				s.metrics.swept.Inc()
				n++
			}
		}
		if failed.Add(err) {
			return n, failed.First
		}
	}
	s.seen = seen
	if len(strangers) > 0 {
		s.log.Error("the store holds segments of topics that this catalog has never known, or of a newer version; they are left alone: is store_url that of another system?",
			"count", len(strangers), "one", strangers[0])
	}
	return n, failed.First
}

// strange tells whether a segment is of a topic that the catalog has never known, or
// of a newer build. What is damaged is not.
func (s *sweeper) strange(ctx context.Context, object string) (bool, error) {
	r, err := s.deps.Store.Open(ctx, object, 0, -1)
	if errors.Is(err, objects.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	sources, err := segment.Origin(object, r)
	var corrupt *segment.CorruptError
	var version *segment.VersionError
	switch {
	case errors.As(err, &corrupt):
		return false, nil
	case errors.As(err, &version):
		return true, nil
	case err != nil:
		return false, err
	}
	return !s.deps.Catalog.Knows(sources[0].Source().ID), nil
}
