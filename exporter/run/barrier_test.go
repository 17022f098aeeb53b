package run

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/retained"
	"lockstitch/state/catalog"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// TestStepDoesNotWaitForWhatIsLostWithItsTopic: a boundary may be fixed, and the
// topic made anew before it is reached. Once nobody can cut of the earlier one,
// the standing order goes on; a report would be short.
func TestStepDoesNotWaitForWhatIsLostWithItsTopic(t *testing.T) {
	w := newWorld(t)
	r, err := New(Config{Kafka: w.opts, Topic: "reports"}, Deps{Reports: w.table(), Catalog: w.catalog, Store: w.store, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	anew := segment.TopicID{2}
	floor := catalog.Floor{Ends: []catalog.FloorEnd{{TopicID: topicID, Next: 3}}} // that the order began at
	barrier := report.Later([]report.End{{Topic: "events", TopicID: topicID, Offset: 10}}, retained.Beginning(floor))
	step := &report.Report{Request: &report.Request{Step: &report.Step{}, Question: report.Question{Barrier: barrier}}}
	plain := &report.Report{Request: &report.Request{Question: report.Question{Barrier: barrier}}}
	waits := func(when string, wantStep, wantPlain int) {
		t.Helper()
		if err := w.catalog.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, s := r.waitingFor(step, slices.Clone(barrier))
		_, p := r.waitingFor(plain, slices.Clone(barrier))
		if s.total != wantStep || p.total != wantPlain {
			t.Errorf("%s: the step waits for %d partitions, the report for %d; want %d, %d", when, s.total, p.total, wantStep, wantPlain)
		}
	}
	w.put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{topicID}}).Record("catalog"))
	w.put((&catalog.Position{Topic: "events", TopicID: topicID, Next: 7}).Record("catalog"))
	waits("in the first topic", 1, 1)
	w.put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{topicID, anew}}).Record("catalog"))
	waits("while an owner of the lane may still cut", 1, 1)
	w.put((&catalog.Position{Topic: "events", TopicID: anew, Next: 0}).Record("catalog"))
	waits("after the lane has gone on", 0, 1)
	barrier[0].TopicID = anew
	waits("for the present topic", 1, 1)
}

// TestWaitingForThousandsOfPartitions: a report names some of them and counts all, and
// looks again only at those that it still waits for.
func TestWaitingForThousandsOfPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		tab := w.table()
		const most = 2048
		at := time.Now().UTC()
		q := report.Question{CompleteThrough: at}
		for n := range int32(most) {
			q.Barrier = append(q.Barrier, report.End{Topic: "events", TopicID: topicID, Partition: n, Offset: 5})
		}
		rep, err := tab.Submit(t.Context(), &report.Request{
			ID: ulid.Make().String(), Account: "acme", CreatedAt: at, Body: []byte("{}"), Question: q, BarrierDeadline: at.Add(time.Minute),
		}, 0)
		if err != nil {
			t.Fatal(err)
		}
		stop := w.runner(tab, w.store, nil)
		shows := func(total int, first int32) {
			t.Helper()
			time.Sleep(3 * waitingEvery)
			p := &report.Progress{}
			if r, _ := tab.Get("acme", rep.Request.ID); r.Progress != nil {
				p = r.Progress
			}
			if p.WaitsFor() != total || len(p.Waiting) != report.MaxWaiting || p.Waiting[0].Partition != first {
				t.Errorf("waits for %d, want %d; %d are named: %.200v", p.WaitsFor(), total, len(p.Waiting), p.Waiting)
			}
		}
		shows(most, 0)
		w.put((&catalog.Position{Topic: "events", TopicID: topicID, Next: 5}).Record("catalog"))
		shows(most-1, 1)
		time.Sleep(time.Minute)
		rep = w.await(tab, rep.Request.ID, report.StatusError)
		if p := rep.Result.Problem; !strings.HasSuffix(p.Detail, fmt.Sprintf(" and %d more.", most-1-10)) {
			t.Errorf("%.2000s", p.Detail)
		}
		stop()

		r := w.idle(tab, w.store)
		left, what := r.waitingFor(rep, slices.Clone(q.Barrier))
		if len(left) != most-1 || what.total != most-1 {
			t.Errorf("%d are left, %d waited for", len(left), what.total)
		}
	})
}

// TestAProgressThatCannotBeWrittenIsTold, once.
func TestAProgressThatCannotBeWrittenIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		tab := w.table()
		rep := w.submit(tab, 5, time.Hour)
		var log bytes.Buffer
		r := w.idle(tab, w.store)
		r.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		show := r.newProgress(t.Context(), rep)
		show.set(report.Progress{Waiting: []report.Waiting{{Reason: strings.Repeat("x", 2<<20)}}})
		time.Sleep(10 * showEvery)
		show.stop()
		if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, rep.Request.ID) {
			t.Errorf("logged %q", got)
		}
	})
}
