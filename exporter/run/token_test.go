package run

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstitch/internal/bubble"
	"lockstitch/state/report"
)

// later closes c once it is called, or when the test ends, before what was begun
// until now is stopped.
func (w *world) later(c chan struct{}) (open func()) {
	open = sync.OnceFunc(func() { close(c) })
	w.t.Cleanup(open)
	return open
}

// TestALongReportHoldsUpNoStep: while reports have all their tokens, steps of standing
// orders are rendered.
func TestALongReportHoldsUpNoStep(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.commit(5)
		tab, slow := w.table(), newGate(w.store)
		reg := prometheus.NewRegistry()
		w.reg = reg
		stop := w.runner(tab, slow, nil)
		open := w.later(slow.open)
		long := w.submit(tab, 5, time.Hour)
		w.happens("a report is rendered", slow.reached)
		next := w.submit(tab, 5, time.Hour)
		w.await(tab, w.submitStep(tab, 5).Request.ID, report.StatusCompleted)
		if r, _ := tab.Get("acme", next.Request.ID); !r.Pending() {
			t.Error("two reports are rendered at a time")
		}
		open()
		for _, r := range []*report.Report{long, next} {
			w.await(tab, r.Request.ID, report.StatusCompleted)
		}
		stop()
		if reports, steps := took(t, reg, kindReport).GetSampleCount(), took(t, reg, kindRolling).GetSampleCount(); reports != 2 || steps != 1 {
			t.Errorf("%d reports and %d files of rolling exports are counted", reports, steps)
		}
	})
}

// TestReportsAtATime: as many are rendered as the setting says.
func TestReportsAtATime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.commit(5)
		tab, slow := w.table(), newGate(w.store)
		w.runner(tab, slow, func(c *Config) { c.Parallel = 2 })
		open := w.later(slow.open)
		long := w.submit(tab, 5, time.Hour)
		w.happens("a report is rendered", slow.reached)
		w.await(tab, w.submit(tab, 5, time.Hour).Request.ID, report.StatusCompleted)
		open()
		w.await(tab, long.Request.ID, report.StatusCompleted)
	})
}

// TestAResultIsWrittenWithoutAToken: a report whose result cannot be written holds up
// no other.
func TestAResultIsWrittenWithoutAToken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.commit(5)
		tab := w.table()
		reached, opened := make(chan struct{}), make(chan struct{})
		var first atomic.Bool
		w.runner(tab, w.store, func(c *Config) {
			c.Hook = func(step string) {
				if step == StepResult && first.CompareAndSwap(false, true) {
					close(reached)
					<-opened
				}
			}
		})
		open := w.later(opened)
		held := w.submit(tab, 5, time.Hour)
		w.happens("a result is about to be written", reached)
		w.await(tab, w.submit(tab, 5, time.Hour).Request.ID, report.StatusCompleted)
		open()
		w.await(tab, held.Request.ID, report.StatusCompleted)
	})
}
