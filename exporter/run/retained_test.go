package run

import (
	"compress/gzip"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/retained"
	"lockstitch/state/catalog"
	"lockstitch/state/report"
)

// window asks for a window of time up to the present ends.
func (g *growing) window(tab *report.Table, start int64) *report.Report {
	g.t.Helper()
	r, err := tab.Submit(g.t.Context(), &report.Request{
		ID: ulid.Make().String(), Account: "acme", CreatedAt: time.Now().UTC(), Body: []byte("{}"),
		Question:        report.Question{StartAt: start, Barrier: slices.Clone(g.ends)},
		BarrierDeadline: time.Now().Add(time.Hour),
	}, 100)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// text is what a report's file holds.
func (g *growing) text(tab *report.Table, rep *report.Report) string {
	g.t.Helper()
	rep = g.await(tab, rep.Request.ID, report.StatusCompleted, report.StatusError)
	if rep.Result.Problem != nil {
		g.t.Fatalf("%+v", rep.Result.Problem)
	}
	rd, err := g.store.Open(g.t.Context(), rep.Result.Object, 0, -1)
	if err != nil {
		g.t.Fatal(err)
	}
	defer rd.Close()
	return string(must(io.ReadAll(must(gzip.NewReader(rd)))))
}

// TestRetentionAndReports: what begins at the floor or above has the same bytes
// before and after the removal; what begins below it is served as long as its
// segments are there, and then ends in an error that says from when on everything
// is, although it was accepted before.
func TestRetentionAndReports(t *testing.T) {
	g := newGrowing(newWorld(t), 2)
	tab := g.table()
	g.fill(40)
	g.fill(40)
	if err := g.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := g.catalog.Segments()
	g.fill(40)
	g.fill(40)
	floor := catalog.Floor{}.Above(old)
	if len(old) < 2 || floor.OldestAvailable == 0 || len(floor.Ends) != 2 {
		t.Fatalf("%d segments below %+v", len(old), floor)
	}
	beginning := retained.Beginning(floor)
	lower := func(i int) []report.End {
		at := slices.Clone(beginning)
		at[i].Offset--
		return at
	}
	elsewhere := append(slices.Clone(beginning), report.End{TopicID: madeAnew, Offset: 1})
	gone := catalog.Floor{OldestAvailable: floor.OldestAvailable, Ends: append(slices.Clone(floor.Ends), catalog.FloorEnd{TopicID: madeAnew, Next: 9})}
	above := map[string]func() *report.Report{
		"window":                        func() *report.Report { return g.window(tab, floor.OldestAvailable) },
		"cursor":                        func() *report.Report { return g.after(tab, beginning, g.ends) },
		"cursor of a topic that is not": func() *report.Report { return g.after(tab, elsewhere, g.ends) },
		"no way in a partition":         func() *report.Report { return g.after(tab, lower(0), g.ends[1:]) },
	}
	below := map[string]func() *report.Report{
		"window":                 func() *report.Report { return g.window(tab, floor.OldestAvailable-1) },
		"cursor":                 func() *report.Report { return g.after(tab, lower(0), g.ends) },
		"cursor, last partition": func() *report.Report { return g.after(tab, lower(1), g.ends) },
		"everything":             func() *report.Report { return g.after(tab, nil, g.ends) },
		"cursor, one partition":  func() *report.Report { return g.after(tab, beginning[:1], g.ends) },
	}
	stop := g.runner(tab, g.store, nil)
	was := make(map[string]string)
	for name, ask := range above {
		was[name] = g.text(tab, ask())
	}
	// Announced: everything is still there.
	g.put((&catalog.Retention{At: 1, Refused: gone}).Record("catalog"))
	for _, ask := range below {
		g.text(tab, ask())
	}
	stop()

	accepted := make(map[string]*report.Report)
	for name, ask := range below {
		accepted[name] = ask()
	}
	g.put((&catalog.Retention{At: 1, Refused: gone, Removed: gone}).Record("catalog"))
	for _, s := range old {
		g.put(s.Tombstone("catalog"), nil)
		if err := g.store.Delete(t.Context(), s.Object); err != nil {
			t.Fatal(err)
		}
	}
	g.runner(tab, g.store, nil)
	for name, rep := range accepted {
		rep = g.await(tab, rep.Request.ID, report.StatusError, report.StatusCompleted)
		if p := rep.Result.Problem; p == nil || p.Type != "/problems/no-longer-kept" || p.Status != 410 || p.OldestAvailable != floor.OldestAvailable || rep.Result.Object != "" {
			t.Errorf("%s: %+v, %+v", name, rep.Result, p)
		}
	}
	for name, ask := range above {
		if got := g.text(tab, ask()); got != was[name] {
			t.Errorf("%s: the file was\n%s\nand is\n%s", name, was[name], got)
		}
	}
	kept := 0
	for _, at := range g.rows {
		if at.offset >= floor.Next(topicID, int32(at.part)) {
			kept++
		}
	}
	rep := g.await(tab, g.after(tab, beginning, g.ends).Request.ID, report.StatusCompleted)
	if got := g.correlations(rep); len(got) != kept || kept == 0 || kept == len(g.rows) {
		t.Errorf("%d rows from the beginning, want %d of %d", len(got), kept, len(g.rows))
	}
}

// TestARemovalUnderWayIsSeen: the floor stands before the first of the slices has
// gone. Whether they are still there does not matter then.
func TestARemovalUnderWayIsSeen(t *testing.T) {
	g := newGrowing(newWorld(t), 1)
	tab := g.table()
	g.fill(40)
	if err := g.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := g.catalog.Segments()
	floor := catalog.Floor{}.Above(old)
	g.runner(tab, g.store, nil)
	g.put((&catalog.Retention{Refused: floor, Removed: floor}).Record("catalog"))
	rep := g.window(tab, 0) // all slices are listed
	if rep = g.await(tab, rep.Request.ID, report.StatusError, report.StatusCompleted); rep.Result.Problem == nil || rep.Result.Problem.OldestAvailable != floor.OldestAvailable {
		t.Errorf("%+v", rep.Result)
	}
}
