package rolling

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/exporter/auth"
	"lockstitch/exporter/cursor"
	"lockstitch/exporter/run"
	"lockstitch/internal/seed"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

var codec = cursor.New([]auth.Key{{ID: "k", Secret: []byte("0123456789abcdef0123456789abcdef")}})

func TestEveryPeriodWithRowsBecomesAFile(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	w.produce(0, noon.Add(-time.Hour), "before")
	o := w.order(time.Minute, nil)
	w.produce(0, noon.Add(10*time.Second), "first")
	w.produce(1, noon.Add(59*time.Second), "second")
	w.produce(1, noon.Add(60*time.Second), "third")
	w.commit()
	w.clock.set(noon.Add(3*time.Minute + Grace))
	w.await(o.Order.ID, "the third boundary", doneTo(noon.Add(3*time.Minute)))
	files := w.files(o.Order.ID)
	if len(files) != 2 {
		t.Fatalf("%d files, want two: the third period has no rows", len(files))
	}
	if got := fmt.Sprint(w.ids(files[1])); got != "[third]" {
		t.Errorf("the second file holds %s", got)
	}
	if p := files[1].Request.Step; !p.PeriodStart.Equal(noon.Add(time.Minute)) || !p.PeriodEnd.Equal(noon.Add(2*time.Minute)) {
		t.Errorf("the second file is about %s to %s", p.PeriodStart, p.PeriodEnd)
	}
	w.onceEach(o.Order.ID)
	// Nothing is stored for a period without rows.
	if n := w.objects(); n != 2 {
		t.Errorf("%d objects for two files", n)
	}
}

func TestStartNowLeavesOutWhatWasBefore(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	w.produce(0, noon.Add(-time.Hour), "before")
	w.clock.set(noon.Add(20 * time.Second))
	o := w.order(time.Minute, func(o *report.Order) {
		o.From = []report.End{{Topic: "events", TopicID: topicID, Offset: 1}, {Topic: "events", TopicID: topicID, Partition: 1}}
	})
	w.produce(0, noon.Add(30*time.Second), "after")
	w.commit()
	w.clock.set(noon.Add(time.Minute + Grace))
	s := w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	if got := fmt.Sprint(w.ids(s.Last)); got != "[after]" {
		t.Errorf("the first file holds %s", got)
	}
	if !s.Last.Request.Step.PeriodStart.Equal(noon.Add(20 * time.Second)) {
		t.Errorf("the first period begins at %s", s.Last.Request.Step.PeriodStart)
	}
}

func TestEmptyFiles(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles = true })
	w.clock.set(noon.Add(3*time.Minute + Grace))
	w.await(o.Order.ID, "the third boundary", doneTo(noon.Add(3*time.Minute)))
	if n := len(w.files(o.Order.ID)); n != 3 {
		t.Errorf("%d files, want one for each of three periods", n)
	}
}

func TestNothingIsMadeBeforeTheBoundaryAndAClockMayGoBack(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles = true })
	now := noon.Add(time.Minute + Grace)
	w.clock.set(now.Add(-time.Nanosecond))
	w.clock.set(now)
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	w.clock.set(noon)
	w.clock.set(now)
	w.clock.set(now.Add(time.Minute))
	s := w.await(o.Order.ID, "the second boundary", doneTo(noon.Add(2*time.Minute)))
	if s.Seq() != 2 {
		t.Errorf("%d steps for two periods", s.Seq())
	}
}

// A change holds from the next boundary on; a pause stops between two files and
// loses nothing.
func TestChangePauseResume(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	o := w.order(time.Minute, nil)
	other := w.order(time.Minute, func(o *report.Order) { o.Name = "other" })
	w.produce(0, noon, "a")
	w.commit()
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	if err := w.table.PauseOrder(t.Context(), account, o.Order.ID, true); err != nil {
		t.Fatal(err)
	}
	w.produce(0, noon.Add(70*time.Second), "b")
	w.commit()
	w.clock.set(noon.Add(7*time.Minute + Grace))
	w.await(other.Order.ID, "12:07", doneTo(noon.Add(7*time.Minute)))
	change := report.Settings{Revision: ulid.Make().String(), Every: 5 * time.Minute, Body: []byte("{}")}
	if err := w.table.ChangeOrder(t.Context(), account, o.Order.ID, change); err != nil {
		t.Fatal(err)
	}
	if s, _ := w.table.Order(o.Order.ID); s.Seq() != 1 {
		t.Errorf("a paused order made step %d", s.Seq())
	}
	if err := w.table.PauseOrder(t.Context(), account, o.Order.ID, false); err != nil {
		t.Fatal(err)
	}
	s := w.await(o.Order.ID, "12:05", doneTo(noon.Add(5*time.Minute)))
	if p := s.Last.Request.Step; !p.PeriodStart.Equal(noon.Add(time.Minute)) || p.Seq != 2 {
		t.Errorf("step %d is about %s to %s", p.Seq, p.PeriodStart, p.PeriodEnd)
	}
	w.onceEach(o.Order.ID)
}

// What no longer resolves stops the order until it is changed; so does a step
// that ends in an error. Nothing is lost by either.
func TestErrorAndGoingOn(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	w.refuseWith(&Refusal{report.Problem{Type: "/problems/invalid-request", Detail: "there is no attribute 7"}})
	o := w.order(time.Minute, nil)
	w.produce(0, noon, "a")
	w.commit()
	w.clock.set(noon.Add(2*time.Minute + Grace))
	stopped := func(s *report.Standing) bool { return s.Trouble != nil }
	s := w.await(o.Order.ID, "an error", stopped)
	if s.Trouble.Problem.Detail != "there is no attribute 7" || s.Seq() != 0 {
		t.Errorf("trouble %+v after %d steps", s.Trouble, s.Seq())
	}
	w.refuseWith(nil)
	change := func() {
		t.Helper()
		c := report.Settings{Revision: ulid.Make().String(), Every: time.Minute, Body: []byte("{}")}
		if err := w.table.ChangeOrder(t.Context(), account, o.Order.ID, c); err != nil {
			t.Fatal(err)
		}
	}
	change()
	w.await(o.Order.ID, "12:02", doneTo(noon.Add(2*time.Minute)))

	// The segment goes missing, and comes back.
	w.produce(0, noon.Add(150*time.Second), "b")
	object, data := w.commitAndLose()
	w.clock.set(noon.Add(3*time.Minute + Grace))
	s = w.await(o.Order.ID, "an error", stopped)
	if s.Trouble.Problem.Type != "/problems/stored-data-damaged" || s.Seq() != 3 || s.Last.Request.Step.Seq != 2 {
		t.Errorf("trouble %+v after %d steps", s.Trouble, s.Seq())
	}
	barrier := fmt.Sprint(s.Newest.Request.Question.Barrier)
	if err := w.store.Put(t.Context(), object, data); err != nil {
		t.Fatal(err)
	}
	// An event of the period that came only now does not move its boundary.
	w.produce(1, noon.Add(151*time.Second), "c")
	w.commit()
	change()
	s = w.await(o.Order.ID, "12:03", doneTo(noon.Add(3*time.Minute)))
	if got := fmt.Sprint(s.Last.Request.Question.Barrier); got != barrier {
		t.Errorf("the boundary moved from %s to %s", barrier, got)
	}
	w.clock.set(noon.Add(4*time.Minute + Grace))
	w.await(o.Order.ID, "12:04", doneTo(noon.Add(4*time.Minute)))
	w.onceEach(o.Order.ID)
}

// A segment that an upgraded replica has stored is one that a replica which was not
// cannot read. The order waits, is not in error, and goes on by itself.
func TestANewerSegmentStopsNoOrder(t *testing.T) {
	w := newWorld(t)
	attempts := make(chan struct{}, 1000)
	w.runner(w.table, func(c *run.Config) {
		c.Hook = func(step string) {
			if step == run.StepRender {
				attempts <- struct{}{}
			}
		}
	})
	w.generator(w.table, nil)
	o := w.order(time.Minute, nil)
	w.produce(0, noon, "a")
	object, data := w.commitAndLose()
	newer, slice := bytes.Clone(data), w.catalog.Segments()[0].Slices[0].Offset
	newer[slice+4] = 2
	newer[slice+12] ^= 1 // the checksum is another one
	if err := w.store.Put(t.Context(), object, newer); err != nil {
		t.Fatal(err)
	}
	w.clock.set(noon.Add(time.Minute + Grace))
	for range 3 {
		w.happens("another attempt", attempts)
	}
	if s, _ := w.table.Order(o.Order.ID); s.Trouble != nil || s.Newest == nil || s.Newest.Result != nil {
		t.Fatalf("the order did not wait: %+v", s)
	}
	if err := errors.Join(w.store.Delete(t.Context(), object), w.store.Put(t.Context(), object, data)); err != nil {
		t.Fatal(err)
	}
	w.await(o.Order.ID, "12:01", doneTo(noon.Add(time.Minute)))
	w.onceEach(o.Order.ID)
}

// Names of definitions may have grown since an order was accepted, until the next
// request cannot be stored. The order says so instead of trying for ever.
func TestARequestThatCannotBeStored(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, func(d *Deps) {
		d.Resolve = func(context.Context, string, []byte) (report.Question, error) {
			return report.Question{Tags: []report.TagColumn{{Section: "s", VersionID: "1", Name: strings.Repeat("x", report.MaxRequest)}}}, nil
		}
	})
	o := w.order(time.Minute, nil)
	w.clock.set(noon.Add(time.Minute + Grace))
	s := w.await(o.Order.ID, "its trouble", func(s *report.Standing) bool { return s.Trouble != nil || s.Newest != nil })
	if s.Trouble == nil || s.Trouble.Problem.Type != "/problems/invalid-request" || !strings.Contains(s.Trouble.Problem.Detail, fmt.Sprint(report.MaxRequest)) || s.Newest != nil {
		t.Errorf("%d steps, trouble %+v", s.Seq(), s.Trouble)
	}
}

// Where positions take the room, fewer attributes help nobody.
func TestTooManyPartitionsAreNamed(t *testing.T) {
	w := newWorld(t)
	w.generator(w.table, func(d *Deps) {
		d.Boundary = func(context.Context, time.Time) ([]report.End, error) {
			ends := make([]report.End, 10_000)
			for i := range ends {
				ends[i] = report.End{Topic: "email-events", Partition: int32(i), Offset: 1 << 40}
			}
			return ends, nil
		}
	})
	o := w.order(time.Minute, nil)
	w.clock.set(noon.Add(time.Minute + Grace))
	s := w.await(o.Order.ID, "its trouble", func(s *report.Standing) bool { return s.Trouble != nil || s.Newest != nil })
	if s.Trouble == nil || !strings.Contains(s.Trouble.Problem.Detail, "10000 partitions") || strings.Contains(s.Trouble.Problem.Detail, "attributes") {
		t.Errorf("trouble %+v, want one that names the number of partitions and no attributes", s.Trouble)
	}
}

// Too big a period is divided: its files follow each other and have one period.
func TestTooBigAPeriodBecomesSeveralFiles(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, func(c *run.Config) { c.MaxBytes = 1500 })
	w.generator(w.table, nil)
	o := w.order(time.Minute, nil)
	for i := range 300 {
		w.produce(i%2, noon, ulid.Make().String())
	}
	w.commit()
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	files := w.files(o.Order.ID)
	if len(files) < 3 {
		t.Fatalf("%d files of 300 rows within 1500 bytes", len(files))
	}
	for i, f := range files {
		if !f.Request.Step.PeriodEnd.Equal(noon.Add(time.Minute)) || f.Result.More != (i < len(files)-1) {
			t.Errorf("file %d is about %s, more %t", i+1, f.Request.Step.PeriodEnd, f.Result.More)
		}
	}
	w.onceEach(o.Order.ID)
}

func TestADeletedOrderEndsAndItsFilesGo(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	o := w.order(time.Minute, nil)
	w.produce(0, noon, "a")
	w.commit()
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	// A step waits for its barrier while the order is deleted.
	w.produce(0, noon.Add(90*time.Second), "b")
	w.clock.set(noon.Add(2*time.Minute + Grace))
	w.await(o.Order.ID, "its second step", func(s *report.Standing) bool { return s.Seq() == 2 })
	if err := w.table.DeleteOrder(t.Context(), account, o.Order.ID); err != nil {
		t.Fatal(err)
	}
	if n := len(w.table.Pending()); n != 0 {
		t.Errorf("%d steps of a deleted order are pending", n)
	}
	for {
		changed := w.table.Changed()
		if w.objects() == 0 {
			break
		}
		w.happens("the removal of the files", changed)
	}
	again := w.order(time.Minute, nil)
	w.commit()
	w.clock.set(noon.Add(3*time.Minute + Grace))
	s := w.await(again.Order.ID, "12:03", doneTo(noon.Add(3*time.Minute)))
	if s.Files() != 1 || len(w.ids(s.Last)) != 2 {
		t.Errorf("the name used again: %d files", s.Files())
	}
}

// Random input, clock, restarts of either part and owners that do not know of
// each other: all files together are the events once each.
func TestEveryEventIsInExactlyOneFile(t *testing.T) {
	rnd := seed.Rand(t)
	w := newWorld(t)
	tables := []*report.Table{w.table, w.open()}
	start := func(i int) (stops [2]func()) {
		stops[0] = w.generator(tables[i], nil)
		stops[1] = w.runner(tables[i], func(c *run.Config) { c.MaxBytes = 1000 + rnd.Int64N(1000) })
		return stops
	}
	parts := [][2]func(){start(0), start(1)}
	o := w.order(time.Minute, nil)
	now := noon
	var last [lanes]time.Time
	for range 40 {
		now = now.Add(time.Duration(rnd.Int64N(int64(40 * time.Second))))
		for range rnd.IntN(20) {
			p := rnd.IntN(lanes)
			at := now.Add(-time.Duration(rnd.Int64N(int64(time.Second))))
			if at.Before(last[p]) { // log time does not go back
				at = last[p]
			}
			last[p] = at
			w.produce(p, at, ulid.Make().String())
		}
		if rnd.IntN(3) > 0 {
			w.commit()
		}
		w.clock.set(now)
		if rnd.IntN(5) == 0 {
			i := rnd.IntN(len(parts))
			for _, stop := range parts[i] {
				stop()
			}
			parts[i] = start(i)
		}
	}
	w.commit()
	end := nextBoundary(now, time.Minute)
	w.clock.set(end.Add(Grace))
	w.await(o.Order.ID, "the end", doneTo(end))
	w.onceEach(o.Order.ID)
	if s, _ := w.table.Order(o.Order.ID); s.Files() < 5 {
		t.Errorf("only %d files", s.Files())
	}
}

// A replica that does not know yet that an order was paused or changed makes no step
// of it as it was: it reads what was acknowledged before.
func TestAPauseOrAChangeHoldsForAStepUnderWay(t *testing.T) {
	w := newWorld(t)
	g, err := New(Deps{Reports: w.table, Slots: all{}, Boundary: w.boundary, Resolve: w.resolve, Clock: w.clock, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := w.open()
	for name, act := range map[string]func(id string) error{
		"as it was": func(string) error { return nil },
		"paused":    func(id string) error { return elsewhere.PauseOrder(t.Context(), account, id, true) },
		"changed": func(id string) error {
			return elsewhere.ChangeOrder(t.Context(), account, id, report.Settings{Revision: ulid.Make().String(), Every: time.Minute, Body: []byte("{}")})
		},
	} {
		s := w.order(time.Minute, func(o *report.Order) { o.Name = strings.ReplaceAll(name, " ", "-") })
		if err := elsewhere.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := act(s.Order.ID); err != nil {
			t.Fatal(err)
		}
		w.clock.set(Next(s).End.Add(Grace))
		if err := g.step(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if now, _ := w.table.Order(s.Order.ID); (now.Newest != nil) != (name == "as it was") {
			t.Errorf("%s: the newest step is %d", name, now.Seq())
		}
	}
}

// Two replicas that both think the order theirs, at the same moment: one of two
// steps counts, whoever comes late.
func TestTwoOwnersSubmitTheSameStep(t *testing.T) {
	w := newWorld(t)
	var both sync.WaitGroup
	both.Add(2)
	boundary := func(ctx context.Context, at time.Time) ([]report.End, error) {
		both.Done()
		both.Wait() // both have decided before either writes
		return w.boundary(ctx, at)
	}
	other := w.open()
	w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles = true })
	if err := other.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.clock.set(noon.Add(time.Minute + Grace))
	for _, tab := range []*report.Table{w.table, other} {
		w.generator(tab, func(d *Deps) { d.Boundary = boundary })
	}
	both.Wait()
	w.runner(w.table, nil)
	o := w.table.Orders(all{}.Mine)[0]
	s := w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	if err := w.table.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.Seq() != 1 || s.Files() != 1 || len(w.table.Pending()) != 0 {
		t.Errorf("step %d, %d files, %d pending", s.Seq(), s.Files(), len(w.table.Pending()))
	}
}

// A destination that fails holds its own order back and nobody else, and gets
// every file once it is back, in order.
func TestDelivery(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	var mu sync.Mutex
	down := true
	var got []string
	tried := make(chan struct{}, 1000)
	stop := w.generator(w.table, func(d *Deps) {
		d.Cursors = codec
		d.Deliver = func(_ context.Context, destination string, f File) error {
			mu.Lock()
			defer mu.Unlock()
			tried <- struct{}{}
			if down {
				return errors.New("bucket away")
			}
			got = append(got, fmt.Sprintf("%s %d", destination, f.Number))
			return nil
		}
	})
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles, o.Settings.Destination = true, "lake" })
	other := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles, o.Name = true, "other" })
	w.clock.set(noon.Add(3*time.Minute + Grace))
	w.await(other.Order.ID, "12:03", doneTo(noon.Add(3*time.Minute)))
	for range 3 {
		w.happens("a try at delivering", tried)
	}
	s, _ := w.table.Order(o.Order.ID)
	if files, since := Lag(s, w.clock.Now()); s.Files() != 1 || s.Delivered.Number != 0 || files != 3 || since < 2*time.Minute {
		t.Errorf("%d files, %d delivered, %d and %s behind", s.Files(), s.Delivered.Number, files, since)
	}
	mu.Lock()
	down = false
	mu.Unlock()
	w.await(o.Order.ID, "three files delivered", func(s *report.Standing) bool { return s.Delivered.Number == 3 })
	stop()
	if text := strings.Join(got, ", "); text != "lake 1, lake 2, lake 3" {
		t.Errorf("delivered %s", text)
	}
}

// TestAFileThatIsGoneBeforeItsDelivery stops its order, which says so; changed, it tries
// again, and goes on behind the file when it is to have no destination any more.
func TestAFileThatIsGoneBeforeItsDelivery(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	dest, err := objects.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.generator(w.table, func(d *Deps) {
		d.Cursors = codec
		d.Deliver = func(ctx context.Context, _ string, f File) error {
			if err := w.store.Delete(ctx, f.Object); err != nil && !errors.Is(err, objects.ErrNotExist) {
				t.Error(err)
			}
			return Deliver(ctx, dest, w.store, f)
		}
	})
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles, o.Settings.Destination = true, "lake" })
	w.clock.set(noon.Add(2*time.Minute + Grace))
	settings := o.Settings
	for range 2 {
		w.await(o.Order.ID, "an error", func(s *report.Standing) bool {
			return s.Trouble != nil && s.Trouble.Revision == settings.Revision && s.Trouble.Problem == *report.Damaged.Problem(s.Trouble.Problem.Detail) && s.Files() == 1
		})
		settings.Revision = ulid.Make().String()
		if err := w.table.ChangeOrder(t.Context(), account, o.Order.ID, settings); err != nil {
			t.Fatal(err)
		}
	}
	settings.Revision, settings.Destination = ulid.Make().String(), ""
	if err := w.table.ChangeOrder(t.Context(), account, o.Order.ID, settings); err != nil {
		t.Fatal(err)
	}
	w.await(o.Order.ID, "the second file", func(s *report.Standing) bool { return s.Files() == 2 && s.Trouble == nil })
}

// TestADeliveryThatWasMadeElsewhereIsNotRepeated by a replica that has not read of it.
func TestADeliveryThatWasMadeElsewhereIsNotRepeated(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	stop := w.generator(w.table, func(d *Deps) {
		d.Cursors = codec
		d.Deliver = func(context.Context, string, File) error { return errors.New("away") }
	})
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles, o.Settings.Destination = true, "lake" })
	w.clock.set(noon.Add(time.Minute + Grace))
	s := w.await(o.Order.ID, "a file", func(s *report.Standing) bool { return s.Files() == 1 })
	stop()
	if err := w.table.WriteDelivered(t.Context(), account, o.Order.ID, 1); err != nil {
		t.Fatal(err)
	}
	g, err := New(Deps{Reports: w.table, Slots: all{}, Boundary: w.boundary, Resolve: w.resolve, Clock: w.clock, Log: quiet, Cursors: codec,
		Deliver: func(context.Context, string, File) error { t.Error("delivered again"); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.deliver(t.Context(), s); err != nil { // s is what a table knew that was behind
		t.Fatal(err)
	}
}

// Also on a replica that works on none of them, as all are where the group cannot be joined.
func TestLagMetrics(t *testing.T) {
	w := newWorld(t)
	reg := prometheus.NewRegistry()
	w.generator(w.table, func(d *Deps) { d.Registerer, d.Slots = reg, none{} })
	o := w.order(time.Minute, nil)
	paused := w.order(time.Minute, func(o *report.Order) { o.Name = "paused" })
	if err := w.table.PauseOrder(t.Context(), account, paused.Order.ID, true); err != nil {
		t.Fatal(err)
	}
	is := func(files, seconds string) {
		t.Helper()
		want := ""
		for name, v := range map[string]string{"files": files, "seconds": seconds} {
			if v != "" {
				want += "# TYPE lockstitch_rolling_lag_" + name + " gauge\nlockstitch_rolling_lag_" + name + `{account="acme",order="o"} ` + v + "\n"
			}
		}
		text := strings.ReplaceAll(want, "# TYPE lockstitch_rolling_lag_files", "# HELP lockstitch_rolling_lag_files Periods of a rolling export that are over and not exported and delivered yet.\n# TYPE lockstitch_rolling_lag_files")
		text = strings.ReplaceAll(text, "# TYPE lockstitch_rolling_lag_seconds", "# HELP lockstitch_rolling_lag_seconds Time since the end of the first period of a rolling export that is not exported and delivered yet; 0 when there is none.\n# TYPE lockstitch_rolling_lag_seconds")
		if err := testutil.GatherAndCompare(reg, strings.NewReader(text), "lockstitch_rolling_lag_files", "lockstitch_rolling_lag_seconds"); err != nil {
			t.Error(err)
		}
	}
	is("", "") // what the table shows may be long done
	if err := w.table.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	is("0", "0")
	w.clock.set(noon.Add(150 * time.Second))
	is("2", "90")
	if err := w.table.DeleteOrder(t.Context(), account, o.Order.ID); err != nil {
		t.Fatal(err)
	}
	is("", "")
}

// A replica dies at each step of making and delivering a file, and what it has
// done until then stays. The next one goes on.
func TestCrashAtEveryStep(t *testing.T) {
	for _, at := range []string{"resolve", "boundary", "request written", "step finished", "file at the destination", "delivery written"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			dies := make(chan struct{})
			var once sync.Once
			lake := make(map[int64]string) // as Deliver does: again without effect, never another
			var mu sync.Mutex
			deps := func(d *Deps, crash string) {
				die := func(ctx context.Context, now bool) error {
					if !now || crash != at {
						return nil
					}
					once.Do(func() { close(dies) })
					<-ctx.Done() // nothing more comes from it
					return ctx.Err()
				}
				d.Cursors = codec
				d.Resolve = func(ctx context.Context, account string, body []byte) (report.Question, error) {
					if err := die(ctx, at == "resolve"); err != nil {
						return report.Question{}, err
					}
					return w.resolve(ctx, account, body)
				}
				d.Boundary = func(ctx context.Context, t time.Time) ([]report.End, error) {
					if err := die(ctx, at == "boundary"); err != nil {
						return nil, err
					}
					return w.boundary(ctx, t)
				}
				d.Deliver = func(ctx context.Context, _ string, f File) error {
					mu.Lock()
					if have, there := lake[f.Number]; there && have != f.SHA256 {
						t.Errorf("file %d is delivered with other bytes", f.Number)
					}
					lake[f.Number] = f.SHA256
					mu.Unlock()
					return die(ctx, at == "file at the destination")
				}
			}
			o := w.order(time.Minute, func(o *report.Order) { o.Settings.Destination = "lake" })
			w.produce(0, noon, "a")
			w.produce(1, noon.Add(70*time.Second), "b")
			w.commit()
			w.clock.set(noon.Add(2*time.Minute + Grace))
			dead := w.open()
			stop := w.generator(dead, func(d *Deps) { deps(d, at) })
			var stopRunner func()
			switch at {
			case "request written":
				w.await(o.Order.ID, at, func(s *report.Standing) bool { return s.Seq() == 1 })
			case "step finished":
				mu.Lock() // so that it gets no further
				stopRunner = w.runner(dead, nil)
				w.await(o.Order.ID, at, func(s *report.Standing) bool { return s.Files() == 1 })
				mu.Unlock()
			case "delivery written":
				stopRunner = w.runner(dead, nil)
				w.await(o.Order.ID, at, func(s *report.Standing) bool { return s.Delivered.Number == 1 })
			default:
				stopRunner = w.runner(dead, nil)
				w.happens("its death", dies)
			}
			stop()
			if stopRunner != nil {
				stopRunner()
			}
			w.generator(w.table, func(d *Deps) { deps(d, "") })
			w.runner(w.table, nil)
			w.await(o.Order.ID, "both files delivered", func(s *report.Standing) bool { return s.Delivered.Number == 2 })
			w.onceEach(o.Order.ID)
			mu.Lock()
			defer mu.Unlock()
			for _, f := range w.files(o.Order.ID) {
				if lake[f.Files()] != f.Result.SHA256 {
					t.Errorf("file %d is not at the destination", f.Files())
				}
			}
		})
	}
}

// asked passes on for when the generator has itself woken.
type asked struct {
	*testClock
	at chan time.Time
}

func (a asked) At(t time.Time) (<-chan time.Time, func()) {
	select {
	case a.at <- t:
	default:
	}
	return a.testClock.At(t)
}

// TestOrdersAreLookedAtWhateverTheClockShows: a clock that is days behind may be set
// right while the generator waits for the next boundary, and no timer tells of that.
func TestOrdersAreLookedAtWhateverTheClockShows(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles = true })
	behind := noon.Add(-48 * time.Hour)
	w.clock.set(behind)
	clock := asked{w.clock, make(chan time.Time, 1)}
	w.generator(w.table, func(d *Deps) { d.Clock = clock })
	if at := <-clock.at; at.After(behind.Add(time.Minute)) {
		t.Errorf("at %s it would look at the orders at %s again", behind, at)
	}
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
}

// TestStepsDoNotRunAheadOfKafka: a machine whose clock is weeks ahead fixes no
// boundary that has not come, but for that of the first step.
func TestStepsDoNotRunAheadOfKafka(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	kafka := &testClock{now: noon.Add(time.Minute)}
	held := make(chan struct{}, 1)
	w.generator(w.table, func(d *Deps) {
		d.Time = func(context.Context, string, string) (time.Time, error) {
			select {
			case held <- struct{}{}:
			default:
			}
			return kafka.Now(), nil
		}
	})
	o := w.order(time.Minute, func(o *report.Order) { o.Settings.EmptyFiles = true })
	w.clock.set(noon.Add(21 * 24 * time.Hour))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	for range 3 {
		<-held
	}
	if s, _ := w.table.Order(o.Order.ID); s.Seq() != 1 {
		t.Errorf("%d steps for one period by Kafka's clock", s.Seq())
	}
	kafka.set(noon.Add(2 * time.Minute))
	w.await(o.Order.ID, "the second boundary", doneTo(noon.Add(2*time.Minute)))
	for range 3 {
		<-held
	}
	if s, _ := w.table.Order(o.Order.ID); s.Seq() != 2 {
		t.Errorf("%d steps for two periods by Kafka's clock", s.Seq())
	}
}
