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
	"lockstitch/internal/bubble"
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
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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

// TestTheLogSaysWhatAReportWaitsFor, whose it is and why: after a minute, and every five
// minutes after that, however much the catalog changes meanwhile.
func TestTheLogSaysWhatAReportWaitsFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		tab := w.table()
		var log logged
		w.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
		stop := w.runner(tab, w.store, func(c *Config) { c.Profiles = "profiles" })
		rep, step := w.submit(tab, 1000, time.Hour), w.submitStep(tab, 1000, func(s *report.Step) { s.Seq, s.Files = 1, 3 })
		began, next := time.Now(), int64(0)
		until := func(at time.Duration) {
			for time.Since(began) < at {
				time.Sleep(10 * time.Second)
				next++
				w.put((&catalog.Position{Topic: "events", TopicID: topicID, Next: next}).Record("catalog"))
			}
		}
		until(tellAfter - 10*time.Second)
		told := func() (of [2]int) {
			synctest.Wait() // nobody writes to the log
			for line := range strings.Lines(log.String()) {
				for i, r := range []*report.Report{rep, step} {
					if strings.Contains(line, "report="+r.Request.ID) && strings.Contains(line, "waits for its input") {
						of[i]++
					}
				}
			}
			return of
		}
		if got := told(); got != [2]int{} {
			t.Errorf("within the first minute: %d lines", got)
		}
		for n := range 3 {
			until(tellAfter + time.Duration(n)*tellEvery + 20*time.Second) // the runner has begun a little later
			if got := told(); got != [2]int{n + 1, n + 1} {
				t.Errorf("after %v: %d lines", time.Since(began), got)
			}
		}
		w.commit(1000)
		for _, r := range []*report.Report{rep, step} {
			w.await(tab, r.Request.ID, report.StatusCompleted)
		}
		stop()
		for _, want := range []string{
			"level=WARN msg=\"a report waits for its input\" component=runner report=" + rep.Request.ID + " account=acme for=\"events/0 (at ",
			" of 1000: a producer's transaction is open at offset 0).\"",
			" report=" + step.Request.ID + " account=acme order=o number=4 for=\"events/0 (at ",
			"msg=\"report finished\" component=runner report=" + rep.Request.ID + " account=acme rows=",
			"msg=\"report finished\" component=runner report=" + step.Request.ID + " account=acme order=o number=4 rows=",
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("nothing says %s in\n%s", want, log.String())
			}
		}
	})
}
