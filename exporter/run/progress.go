package run

import (
	"context"
	"sync"
	"time"

	"lockstitch/state/report"
)

// showEvery is how often a running report's progress is written. A report that
// is done sooner writes none.
const showEvery = 500 * time.Millisecond

// progress writes how far a report is, for all replicas to show.
type progress struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu  sync.Mutex
	cur report.Progress
}

func (r *Runner) newProgress(ctx context.Context, rep *report.Report) *progress {
	ctx, cancel := context.WithCancel(ctx)
	p := &progress{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(showEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			p.mu.Lock()
			cur := p.cur
			p.mu.Unlock()
			cur.At = time.Now().UTC()
			if err := r.deps.Reports.WriteProgress(ctx, rep.Request.Account, rep.Request.ID, cur); err != nil && ctx.Err() == nil {
				r.log.Debug("progress was not written", "report", rep.Request.ID, "err", err)
			}
		}
	}()
	return p
}

func (p *progress) set(g report.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cur = g
}

func (p *progress) waiting(w []report.Waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cur.Waiting = w
}

func (p *progress) stop() {
	p.cancel()
	<-p.done
}
