package consumer

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"
)

const (
	pollRecords  = 10_000                 // the most records taken in one turn
	idleWait     = 100 * time.Millisecond // the longest turn without input
	profileWait  = 5 * time.Millisecond   // the turn's wait while lanes wait for profiles
	probeAfter   = 50 * time.Millisecond  // silence after which a raw fetch decides whether anything is left
	probeSame    = 500 * time.Millisecond // until the same is asked again of a partition
	probeLimit   = 500 * time.Millisecond // for all answers together
	touchEvery   = time.Minute            // how often the profiles' markers say that they are current
	askEvery     = 25 * time.Millisecond  // how often at most the ends of profiles are asked for; it takes several requests of each broker
	requestLimit = 10 * time.Second
	endlessLimit = 500 * time.Millisecond // for the ends of profiles, while some are not told
	settleLimit  = 500 * time.Millisecond // for what logs answer about their epochs
)

// turnState is what the loop remembers between turns.
type turnState struct {
	silentAt time.Time // since when the polls have brought nothing
	probedAt time.Time
	cutAfter time.Time // not before: the last cut failed
	cutRetry *backoff.ExponentialBackOff
}

// loop is the turn loop: it owns the lanes. Each turn polls, lets the lanes
// process what their profiles allow, and cuts if a cut is due.
func (c *Consumer) loop(ctx context.Context) error {
	t := &turnState{silentAt: time.Now(), cutRetry: backoff.NewExponentialBackOff()}
	t.cutRetry.InitialInterval, t.cutRetry.MaxInterval = 100*time.Millisecond, 5*time.Second
	for {
		select {
		case <-ctx.Done():
			return c.finish(ctx)
		default:
		}
		for _, f := range c.mail.take() {
			if err := f(ctx); err != nil {
				return err
			}
		}
		if err := errors.Join(c.deps.Catalog.Err(), c.db.Err()); err != nil {
			return err
		}
		if err := c.turn(ctx, t); err != nil {
			return err
		}
	}
}

// finish is the orderly end: one last cut, within the grace.
func (c *Consumer) finish(ctx context.Context) error {
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeGrace)
	defer cancel()
	if err := c.cut(fctx); err != nil {
		c.log.Warn("the last cut failed; its events will be read again", "err", err)
	}
	return nil
}

func (c *Consumer) turn(ctx context.Context, t *turnState) error {
	c.readBarriers()
	moved, err := c.poll(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if moved {
		t.silentAt = now
	}
	c.askProfileEnds(ctx)
	c.shareOut()
	if err := c.runLanes(now); err != nil {
		return err
	}
	if err := c.becomeReady(); err != nil {
		return err
	}
	c.pauseStalled(now)
	if !moved && !c.full() && now.Sub(t.silentAt) > probeAfter && now.Sub(t.probedAt) > probeAfter {
		t.probedAt = now
		c.probe(ctx, now)
	}
	if err := c.touchProfiles(ctx, now); err != nil {
		return err
	}
	if err := c.dropLeftovers(now); err != nil {
		return err
	}
	c.publish()
	c.retain(ctx, now)
	c.merge(ctx, now)
	if now.After(t.cutAfter) && c.cutDue(now) {
		return c.tryCut(ctx, t)
	}
	return nil
}

// shareOut divides among the lanes what they have in common.
func (c *Consumer) shareOut() {
	room := c.room()
	for _, l := range c.lanes {
		l.hourLimit = max(1, hoursPerCut/len(c.lanes))
		l.room = room / int64(len(c.lanes))
		if l.prof != nil {
			l.prof.cacheLimit = c.cfg.MemoryBytes / 5 / int64(len(c.lanes))
		}
	}
}

// touchProfiles notes which lanes have all profiles, and takes those over anew
// that have not had them for so long that deletions may be gone from the topic:
// that happens to a replica that runs, too, while it cannot reach the brokers.
func (c *Consumer) touchProfiles(ctx context.Context, now time.Time) error {
	var stale []int32
	for n, l := range c.lanes {
		if l.prof == nil {
			continue
		}
		age := now.Sub(l.prof.current)
		if age < min(touchEvery, c.cfg.ProfileStale/4) {
			continue
		}
		switch {
		case c.lag.reached(l.prof.topic, n, l.prof.next):
			if err := l.prof.touch(now, c.deps.Catalog.LogTime()); err != nil {
				return c.db.Damaged(err)
			}
		case age > c.cfg.ProfileStale:
			stale = append(stale, n)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	c.log.Warn("profiles have not been current for too long and are read anew", "lanes", stale, "limit", c.cfg.ProfileStale)
	return c.retake(ctx, stale)
}

// tryCut cuts; a cut that failed is tried again after a while.
func (c *Consumer) tryCut(ctx context.Context, t *turnState) error {
	err := c.cut(ctx)
	var f fatal
	switch {
	case err == nil:
		t.cutRetry.Reset()
		c.publish()
		return nil
	case errors.As(err, &f):
		return err
	}
	// The next cut must not commit again what this one perhaps has.
	c.retakeUndecided(ctx, err)
	if ctx.Err() != nil {
		return nil
	}
	c.log.Warn("a cut failed and is tried again", "err", err)
	t.cutAfter = time.Now().Add(t.cutRetry.NextBackOff())
	return nil
}

// runLanes lets the lanes process, in parallel.
func (c *Consumer) runLanes(now time.Time) error {
	var eg errgroup.Group
	eg.SetLimit(runtime.GOMAXPROCS(0))
	for _, l := range c.lanes {
		if l.stage == ready && len(l.waiting) > 0 {
			eg.Go(func() error { return l.run(now) })
		}
	}
	return c.db.Damaged(eg.Wait())
}
