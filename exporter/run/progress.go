package run

import (
	"context"
	"slices"
	"sync"
	"time"

	"lockstitch/state/report"
)

const (
	// showEvery is how often the progress of a running report is written, if it has
	// moved. A report that is done sooner writes none.
	showEvery = 500 * time.Millisecond
	// waitingEvery is how often at most that of a report is which only waits; sooner
	// only within the first seconds, in which it is found out why.
	waitingEvery = 5 * time.Second
)

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
		begun := time.Now()
		var shown report.Progress // what was written last,
		var at time.Time          // and when; zero: nothing yet
		told := false             // that it could not be written
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			cur := p.get()
			switch {
			case at.IsZero(), moved(cur, shown):
			case cur.WaitingTotal == shown.WaitingTotal && slices.Equal(cur.Waiting, shown.Waiting), time.Since(at) < min(waitingEvery, at.Sub(begun)):
				continue
			}
			now := time.Now()
			cur.At = now.UTC()
			if err := r.deps.Reports.WriteProgress(ctx, rep.Request.Account, rep.Request.ID, cur); err == nil {
				shown, at = cur, now
			} else if ctx.Err() == nil && !told {
				told = true
				r.logOf(rep).Warn("the progress of a report cannot be written", "err", err)
			}
		}
	}()
	return p
}

// moved tells whether the rendering has.
func moved(a, b report.Progress) bool {
	return a.SegmentsDone != b.SegmentsDone || a.SegmentsTotal != b.SegmentsTotal || a.Rows != b.Rows || a.Bytes != b.Bytes
}

func (p *progress) get() report.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cur
}

func (p *progress) set(g report.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cur = g
}

// waiting shows what is waited for; w is not changed any more.
func (p *progress) waiting(w waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cur.Waiting, p.cur.WaitingTotal = w.named, w.total
}

func (p *progress) stop() {
	p.cancel()
	<-p.done
}
