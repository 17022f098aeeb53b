package rolling

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"lockstitch/state/report"
)

// lookAtLeast is the longest that orders are not looked at.
const lookAtLeast = time.Minute

// job is something being done about one order.
type job struct {
	work   work
	cancel context.CancelFunc
}

// Run works until ctx ends, waits for what it has begun and returns nil.
func (g *Generator) Run(ctx context.Context) error {
	jobs := make(map[string]*job) // by order id
	ended := make(chan string)
	defer g.readings.Close(errors.New("the replica ends"))
	defer func() {
		for _, j := range jobs {
			j.cancel()
		}
		for range jobs {
			<-ended
		}
	}()
	for {
		changed, moved := g.deps.Reports.Changed(), g.deps.Slots.Changed()
		now := g.deps.Clock.Now()
		var wake time.Time
		wanted := make(map[string]work)
		for _, s := range g.deps.Reports.Orders(g.deps.Slots.Mine) {
			w, again := due(s, now)
			if !again.IsZero() && (wake.IsZero() || again.Before(wake)) {
				wake = again
			}
			id := s.Order.ID
			wanted[id] = w
			if w.kind != nothing && jobs[id] == nil {
				jobs[id] = g.start(ctx, s, w, ended)
			}
		}
		for id, j := range jobs {
			if wanted[id] != j.work {
				j.cancel() // done elsewhere, paused, changed, deleted, or another's now
			}
		}
		var alarm <-chan time.Time
		stop := func() {}
		if !wake.IsZero() {
			// A clock that is behind may be set right while this waits.
			if latest := now.Add(lookAtLeast); wake.After(latest) {
				wake = latest
			}
			alarm, stop = g.deps.Clock.At(wake)
		}
		select {
		case <-changed:
		case <-moved:
		case <-alarm:
		case id := <-ended:
			delete(jobs, id)
		case <-ctx.Done():
			stop()
			return nil
		}
		stop()
	}
}

// start does the work in a goroutine, trying again until it is done or
// cancelled.
func (g *Generator) start(ctx context.Context, s *report.Standing, w work, ended chan<- string) *job {
	jctx, cancel := context.WithCancel(ctx)
	log := g.log.With("account", s.Order.Account, "order", s.Order.Name)
	go func() {
		_, _ = backoff.Retry(jctx, func() (struct{}, error) {
			var err error
			switch w.kind {
			case deliver:
				err = g.deliver(jctx, s)
			case step:
				err = g.step(jctx, s)
			}
			if err != nil && jctx.Err() == nil {
				log.Warn("a rolling export is held up; trying again", "err", err)
			}
			return struct{}{}, err
		}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 30 * time.Second, RandomizationFactor: 0.2,
		}))
		cancel()
		ended <- s.Order.ID
	}()
	return &job{work: w, cancel: cancel}
}
