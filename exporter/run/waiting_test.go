package run

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// count counts the requests of some kinds that come to the broker.
func (w *world) count(keys ...kmsg.Key) *atomic.Int64 {
	n := new(atomic.Int64)
	for _, key := range keys {
		w.broker.ControlKey(key.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			n.Add(1)
			return nil, nil, false
		})
	}
	return n
}

// TestWaitingCostsNoMoreForMoreReports: why reports wait is asked for all of them at
// once, and nothing is written of those for which nothing changes. They notice at once
// when their barrier is reached.
func TestWaitingCostsNoMoreForMoreReports(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		asked, written := w.count(kmsg.Metadata, kmsg.ListOffsets), w.count(kmsg.Produce)
		tab := w.table()
		w.runner(tab, w.store, func(c *Config) { c.Profiles = "profiles" })
		const most, seconds = 50, 20
		var all []*report.Report
		var one int64
		for _, n := range []int{1, most} {
			for len(all) < n {
				all = append(all, w.submit(tab, 5, time.Hour))
			}
			time.Sleep(3 * waitingEvery) // all have been shown, with the reason
			asked.Store(0)
			written.Store(0)
			time.Sleep(seconds * time.Second)
			if n == 1 {
				one = asked.Load()
			}
			if got := asked.Load(); got == 0 || got > one+seconds/4 {
				t.Errorf("%d requests of %d reports that wait, %d of one", got, n, one)
			}
			if got := written.Load(); got > 0 {
				t.Errorf("%d records of %d reports for which nothing has changed", got, n)
			}
		}
		r, _ := tab.Get("acme", all[most-1].Request.ID)
		if p := r.Progress; p == nil || len(p.Waiting) != 1 || !strings.Contains(p.Waiting[0].Reason, "transaction is open at offset 0") {
			t.Errorf("it shows %+v", p)
		}
		began := time.Now()
		w.commit(5)
		w.await(tab, all[0].Request.ID, report.StatusCompleted)
		for _, r := range all {
			w.await(tab, r.Request.ID, report.StatusCompleted)
		}
		if took := time.Since(began); took > showEvery {
			t.Errorf("%d reports take %v once their barrier is reached", most, took)
		}
	})
}

// records counts what has been written to the reports.
func (w *world) records() (n int64) {
	w.t.Helper()
	ends, err := kafka.Ends(w.t.Context(), w.prod, "reports")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range ends["reports"] {
		n += e.End
	}
	return n
}

// TestWhatChangesIsShown: a rendering that moves twice a second, a report that only
// waits every few seconds, and within the first ones sooner.
func TestWhatChangesIsShown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		tab := w.table()
		rep := w.submit(tab, 1000, time.Hour)
		const changes = 600 // in a minute: several for each look at them
		shows := func(what string, want int64, change func(i int)) {
			t.Helper()
			before := w.records()
			for i := range changes {
				change(i + 1)
				time.Sleep(time.Minute / changes)
			}
			if got := w.records() - before; got > want || got < want*3/4 {
				t.Errorf("%s: %d records in a minute, want about %d", what, got, want)
			}
		}
		stop := w.runner(tab, w.store, nil)
		shows("waiting", int64(time.Minute/waitingEvery)+4, func(i int) {
			w.put((&catalog.Position{Topic: "events", TopicID: topicID, Next: int64(i)}).Record("catalog"))
		})
		stop()
		if r, _ := tab.Get("acme", rep.Request.ID); r.Progress.Waiting[0].Position < changes-int64(2*waitingEvery*changes/time.Minute) {
			t.Errorf("it shows %+v, and has come to %d", r.Progress, changes)
		}
		show := w.idle(tab, w.store).newProgress(t.Context(), rep)
		defer show.stop()
		shows("rendering", int64(time.Minute/showEvery), func(i int) { show.set(report.Progress{SegmentsDone: i, SegmentsTotal: changes}) })
	})
}

// TestReasonsForWaiting: of several the one that an operator can do something about.
func TestReasonsForWaiting(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		r := w.idle(w.table(), w.store)
		r.cfg.Profiles = "profiles"
		because := func(want string) {
			t.Helper()
			waiting := waiting{named: []report.Waiting{{Topic: "events", Offset: 1, Reason: "not processed yet"}, {Topic: "gone", Offset: 1, Reason: "unknown"}}}
			found := r.look(t.Context(), map[string][]int32{"events": {0}, "gone": {0}})
			if got := found.explain(waiting).named; got[0].Reason != want || got[1].Reason != "unknown" {
				t.Errorf("%q, want %q; %q of a topic that is gone", got[0].Reason, want, got[1].Reason)
			}
		}
		open := func(topic string) (end func()) {
			t.Helper()
			cl, err := kgo.NewClient(append(w.opts[:2:2], kgo.TransactionalID(topic))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(cl.Close)
			if err := errors.Join(cl.BeginTransaction(), cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("{}")}).FirstErr()); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
					t.Fatal(err)
				}
			}
		}
		end := open("events")
		because("a producer's transaction is open at offset 0")
		end()
		because("not processed yet")
		open("profiles")
		because("a producer's transaction is open on profiles/0 at offset 0, and the events wait for their profiles")
		w.put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{topicID}}).Record("catalog"))
		if err := w.catalog.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		because("the topic was made anew and is not adopted")
	})
}
