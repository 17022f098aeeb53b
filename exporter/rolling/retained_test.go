package rolling

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/state/catalog"
	"lockstitch/state/report"
)

// TestHeldUpForLongerThanEventsAreKept: an order that would skip what retention
// has removed stops and says so, also when it is changed to what it is. Another
// one from the beginning, and a first file that was held up, begin at the floor.
func TestHeldUpForLongerThanEventsAreKept(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, func(d *Deps) { d.Floor = func() catalog.Floor { return w.catalog.Retention().Refused } })
	paused := w.order(time.Minute, nil)
	unborn := w.order(time.Minute, func(o *report.Order) { o.Name = "unborn" })
	pause := func(s *report.Standing, on bool) {
		t.Helper()
		if err := w.table.PauseOrder(t.Context(), account, s.Order.ID, on); err != nil {
			t.Fatal(err)
		}
	}
	pause(unborn, true)
	for i := range 3 {
		w.produce(0, noon.Add(time.Duration(i)*time.Minute), fmt.Sprint("a", i))
		w.produce(1, noon.Add(time.Duration(i)*time.Minute), fmt.Sprint("b", i))
		w.commit()
	}
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(paused.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	pause(paused, true)

	// The first two cuts go, that of the second period with them.
	if err := w.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := w.catalog.Segments()[:2]
	floor := catalog.Floor{}.Above(old)
	w.put((&catalog.Retention{Refused: floor, Removed: floor}).Record("catalog"))
	for _, s := range old {
		w.put(s.Tombstone("catalog"), nil)
	}
	if err := w.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.set(noon.Add(3*time.Minute + Grace))
	pause(paused, false)
	stopped := func(revision string) func(*report.Standing) bool {
		return func(s *report.Standing) bool { return s.Trouble != nil && s.Trouble.Revision == revision }
	}
	s := w.await(paused.Order.ID, "its trouble", stopped(paused.Settings.Revision))
	if p := s.Trouble.Problem; p.Type != "/problems/no-longer-kept" || p.OldestAvailable != floor.OldestAvailable || !strings.Contains(p.Detail, "Delete it and create it anew") || s.Seq() != 1 {
		t.Errorf("trouble %+v after %d steps", p, s.Seq())
	}
	same := report.Settings{Revision: ulid.Make().String(), Every: time.Minute, Body: []byte("{}")}
	if err := w.table.ChangeOrder(t.Context(), account, paused.Order.ID, same); err != nil {
		t.Fatal(err)
	}
	if s = w.await(paused.Order.ID, "its trouble after the change", stopped(same.Revision)); s.Seq() != 1 || len(w.files(paused.Order.ID)) != 1 {
		t.Errorf("%d steps, %d files; want one", s.Seq(), len(w.files(paused.Order.ID)))
	}

	pause(unborn, false)
	anew := w.order(time.Minute, func(o *report.Order) { o.Name = "anew" })
	for _, o := range []*report.Standing{unborn, anew} {
		w.clock.set(noon.Add(5*time.Minute + Grace))
		s := w.await(o.Order.ID, "all there is", doneTo(noon.Add(4*time.Minute)))
		var got []string
		for _, f := range w.files(o.Order.ID) {
			got = append(got, w.ids(f)...)
		}
		if fmt.Sprint(got) != "[a2 b2]" || s.Trouble != nil {
			t.Errorf("%s holds %v, want what is kept; %+v", o.Order.Name, got, s.Trouble)
		}
	}
}

// TestAnOrderThatIsUpToDateGoesOn: the floor itself is not below the floor.
func TestAnOrderThatIsUpToDateGoesOn(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, func(d *Deps) { d.Floor = func() catalog.Floor { return w.catalog.Retention().Refused } })
	o := w.order(time.Minute, nil)
	w.produce(0, noon, "a")
	w.produce(1, noon, "b")
	w.commit()
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	if err := w.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	floor := catalog.Floor{}.Above(w.catalog.Segments())
	w.put((&catalog.Retention{Refused: floor, Removed: floor}).Record("catalog"))
	w.produce(0, noon.Add(90*time.Second), "c")
	w.commit()
	if err := w.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.set(noon.Add(2*time.Minute + Grace))
	w.await(o.Order.ID, "the second boundary", doneTo(noon.Add(2*time.Minute)))
	w.onceEach(o.Order.ID)
}
