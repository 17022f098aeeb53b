package run

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstitch/internal/bubble"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// later closes c once it is called, or when the test ends, before what was begun
// until now is stopped.
func (w *world) later(c chan struct{}) (open func()) {
	open = sync.OnceFunc(func() { close(c) })
	w.t.Cleanup(open)
	return open
}

// TestALongReportHoldsUpNoStep: while as many reports are rendered as may be, steps of
// standing orders are, too.
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

// TestNobodyWaitsForAResult: a report whose result cannot be written holds up no other.
func TestNobodyWaitsForAResult(t *testing.T) {
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

// turnstile lets one file after the other be stored, and tells whose is begun.
type turnstile struct {
	objects.Store
	begun chan string // accounts
	next  chan struct{}
}

func (s *turnstile) Create(ctx context.Context, name string) (objects.Writer, error) {
	w, err := s.Store.Create(ctx, name)
	s.begun <- strings.Split(name, "/")[1]
	<-s.next
	return w, err
}

// TestNoAccountWaitsBehindAnother: however many files of an account wait, those of another
// are rendered next.
func TestNoAccountWaitsBehindAnother(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.commit(5)
		tab, slow := w.table(), &turnstile{w.store, make(chan string, 100), make(chan struct{})}
		w.runner(tab, slow, func(c *Config) { c.Parallel = 2 })
		w.later(slow.next)
		for i := range 20 {
			w.submitStep(tab, 5, func(s *report.Step) { s.Name = fmt.Sprint("o", i) })
		}
		for range 10 {
			w.submit(tab, 5, time.Hour)
		}
		begun := func() string {
			t.Helper()
			synctest.Wait()
			select {
			case account := <-slow.begun:
				return account
			default:
				t.Fatal("no file is rendered")
				return ""
			}
		}
		for range 3 { // at a time
			begun()
		}
		w.account = "other"
		files := []*report.Report{w.submitStep(tab, 5, func(s *report.Step) { s.EmptyFiles = true }), w.submit(tab, 5, time.Hour)}
		for _, r := range files { // its job waits
			w.await(tab, r.Request.ID, report.StatusProcessing)
		}
		theirs := 0
		for n := 0; theirs < len(files) && n < 3; n++ {
			slow.next <- struct{}{}
			if begun() == w.account {
				theirs++
			}
		}
		if theirs < len(files) {
			t.Errorf("when every file that was being rendered has ended, %d of %d of another account have begun", theirs, len(files))
		}
	})
}

// TestTurns: "a/1" is a report of account a, "A/1" a step of it; two reports may be rendered
// at a time.
func TestTurns(t *testing.T) {
	type step struct{ join, end, come string }
	for name, steps := range map[string][]step{
		"one file more than reports": {
			{"a/1 a/2 a/3 A/4 A/5", "", "a/1 a/2 A/4"},
			{"", "A/4", "A/5"},
			{"", "a/1", "a/3"},
		},
		"steps may be all": {
			{"A/1 A/2 A/3 A/4 a/5", "", "A/1 A/2 A/3"},
			{"", "A/1 A/2", "a/5 A/4"},
		},
		"accounts in turn": {
			{"A/1 A/2 A/3 A/4 A/5 A/6 B/1 B/2 C/1", "", "A/1 A/2 A/3"},
			{"", "A/1 A/2 A/3", "B/1 C/1 A/4"},
			{"", "B/1 C/1 A/4", "B/2 A/5 A/6"},
		},
		"long reports are fewer than short ones of others": {
			{"a/1 a/2 a/3 b/1 b/2 b/3", "", "a/1 a/2"},
			{"", "a/1 b/1 b/2 b/3", "b/1 b/2 b/3 a/3"},
		},
		"long reports hold up no steps of their account": {
			{"a/1 a/2 A/1 B/1 B/2 A/2 A/3", "", "a/1 a/2 A/1"},
			{"", "A/1 B/1 A/2 B/2", "B/1 A/2 B/2 A/3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			turns, queues, waiting := newTurns(2), make(map[string]*queue), make(map[string]chan struct{})
			var come []string
			look := func() { // whose turn has come
				for _, name := range slices.Sorted(maps.Keys(waiting)) {
					select {
					case <-waiting[name]:
						come = append(come, name)
						delete(waiting, name)
					default:
					}
				}
			}
			for i, s := range steps {
				for _, name := range strings.Fields(s.join) {
					account, _, _ := strings.Cut(name, "/")
					lower := strings.ToLower(account)
					queues[name], waiting[name] = turns.join(lower, account != lower)
					look()
				}
				for _, name := range strings.Fields(s.end) {
					turns.end(queues[name])
					look()
				}
				if got := strings.Join(come, " "); got != s.come {
					t.Errorf("step %d: the turn comes of %q, want %q", i+1, got, s.come)
				}
				come = nil
			}
		})
	}
}

// TestWhoGoesLeavesNoGap: a job that ends while it waits takes nobody's turn, and one that
// ends as its turn comes gives it back.
func TestWhoGoesLeavesNoGap(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		turns := newTurns(1)
		end, err := turns.wait(t.Context(), "a", false)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := turns.wait(ctx, "b", false)
			gone <- err
		}()
		synctest.Wait()
		_, next := turns.join("b", false)
		cancel()
		if err := <-gone; err == nil {
			t.Error("it is the turn of two reports")
		}
		end()
		select {
		case <-next:
			turns.end(turns.queues[0])
		default:
			t.Error("a report waits for nothing")
		}
		for range 100 { // with an end and a turn to choose from
			if end, err := turns.wait(ctx, "a", false); err == nil {
				end()
			}
		}
		if turns.files != 2 || turns.reports != 1 || len(turns.queues) > 0 {
			t.Errorf("%d files and %d reports may be rendered, %d queues are left", turns.files, turns.reports, len(turns.queues))
		}
	})
}
