package rolling

import (
	"compress/gzip"
	"context"
	"encoding/csv"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/run"
	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

const (
	account = "acme"
	lanes   = 2
)

var (
	topicID = segment.TopicID{1}
	quiet   = slog.New(slog.DiscardHandler)
	noon    = time.Date(2020, 5, 1, 12, 0, 0, 0, time.UTC) // before the broker's time, in which no order is of the future
)

// testClock stands still until it is set.
type testClock struct {
	mu     sync.Mutex
	now    time.Time
	alarms map[chan time.Time]time.Time
}

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) At(t time.Time) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if !t.After(c.now) {
		ch <- c.now
		return ch, func() {}
	}
	c.alarms[ch] = t
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.alarms, ch)
	}
}

func (c *testClock) set(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
	for ch, t := range c.alarms {
		if !t.After(now) {
			ch <- now
			delete(c.alarms, ch)
		}
	}
}

// all is the share of a replica that has every work slot.
type all struct{}

func (all) Mine(string) bool         { return true }
func (all) Changed() <-chan struct{} { return nil }

// none are the slots of a replica that has joined no group.
type none struct{ all }

func (none) Mine(string) bool { return false }

// logged is one event as Kafka has it.
type logged struct {
	at time.Time // Kafka time
	id string
}

// world is a broker with the catalog and the reports, a store, and events in
// partitions whose Kafka times the test chooses.
type world struct {
	t       *testing.T
	opts    []kgo.Opt
	store   objects.Store
	catalog *catalog.View
	prod    *kgo.Client
	clock   *testClock
	table   *report.Table

	mu     sync.Mutex
	events [lanes][]logged
	stored [lanes]int
	refuse error // of resolving
}

func newWorld(t *testing.T) *world {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "catalog"), kfake.SeedTopics(2, "reports"),
		kfake.SeedTopics(lanes, "events"), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &world{t: t, opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, clock: &testClock{now: noon, alarms: map[chan time.Time]time.Time{}}}
	if w.store, err = objects.Open(t.Context(), "file://"+t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	if w.catalog, err = catalog.Open(t.Context(), catalog.Config{Opts: w.opts, Topic: "catalog", Log: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.catalog.Close)
	if w.prod, err = kgo.NewClient(append(w.opts[:1:1], kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.prod.Close)
	w.table = w.open()
	return w
}

func (w *world) open() *report.Table {
	w.t.Helper()
	tab, err := report.Open(w.t.Context(), report.Config{Opts: w.opts, Topic: "reports", Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(tab.Close)
	return tab
}

// produce adds an event with a Kafka time.
func (w *world) produce(partition int, at time.Time, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events[partition] = append(w.events[partition], logged{at, id})
}

func (w *world) put(r *kgo.Record, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.prod.ProduceSync(w.t.Context(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// commit stores what was produced and moves the positions behind it. The events'
// own times run backwards: they are all late.
func (w *world) commit() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var bufs []*segment.Buffer
	for p := range lanes {
		buf := segment.NewBuffer()
		for o := w.stored[p]; o < len(w.events[p]); o++ {
			ev := &event.Event{CorrelationID: []byte(w.events[p][o].id), AccountID: []byte(account), Section: []byte("s"), ServerTime: 1_000_000 - int64(o)}
			buf.Add(&segment.Stream{Topic: "events", ID: topicID}, int32(p), int64(o), 0, ev, nil)
		}
		if w.stored[p] < len(w.events[p]) {
			bufs = append(bufs, buf)
		}
		w.stored[p] = len(w.events[p])
	}
	if len(bufs) == 0 {
		return
	}
	err := segment.Seal(bufs, func(o segment.Object) error {
		id := ulid.Make().String()
		if err := w.store.Put(w.t.Context(), "segments/"+id, o.Data); err != nil {
			return err
		}
		w.put((&catalog.Segment{ID: id, Object: "segments/" + id, Slices: o.Slices}).Record("catalog"))
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for p := range lanes {
		w.put((&catalog.Position{Topic: "events", TopicID: topicID, Partition: int32(p), Next: int64(w.stored[p])}).Record("catalog"))
	}
}

// boundary is what the contract says a boundary is.
func (w *world) boundary(_ context.Context, at time.Time) ([]report.End, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []report.End
	for p := range lanes {
		o := 0
		for o < len(w.events[p]) && w.events[p][o].at.Before(at) {
			o++
		}
		out = append(out, report.End{Topic: "events", TopicID: topicID, Partition: int32(p), Offset: int64(o)})
	}
	return out, nil
}

func (w *world) resolve(context.Context, string, []byte) (report.Question, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return report.Question{}, w.refuse
}

func (w *world) refuseWith(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = err
}

// part runs something until stop is called.
func (w *world) part(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *world) generator(tab *report.Table, tweak func(*Deps)) (stop func()) {
	w.t.Helper()
	deps := Deps{Reports: tab, Slots: all{}, Boundary: w.boundary, Resolve: w.resolve, Clock: w.clock, Log: quiet}
	if tweak != nil {
		tweak(&deps)
	}
	g, err := New(deps)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.part(g.Run)
}

func (w *world) runner(tab *report.Table, tweak func(*run.Config)) (stop func()) {
	w.t.Helper()
	cfg := run.Config{Kafka: w.opts, Topic: "reports", SessionTimeout: 500 * time.Millisecond, Workers: 1, Group: ulid.Make().String()}
	if tweak != nil {
		tweak(&cfg)
	}
	r, err := run.New(cfg, run.Deps{Reports: tab, Catalog: w.catalog, Store: w.store, Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.part(r.Run)
}

// order creates a standing order as of the clock.
func (w *world) order(every time.Duration, tweak func(*report.Order)) *report.Standing {
	w.t.Helper()
	o := &report.Order{
		ID: ulid.Make().String(), Account: account, Name: "o", CreatedAt: w.clock.Now(),
		Settings: report.Settings{Revision: ulid.Make().String(), Every: every, Body: []byte("{}")},
	}
	if tweak != nil {
		tweak(o)
	}
	s, err := w.table.CreateOrder(w.t.Context(), o, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// await waits until the order is as wished.
func (w *world) await(id, wish string, as func(*report.Standing) bool) *report.Standing {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	for {
		changed := w.table.Changed()
		s, ok := w.table.Order(id)
		if ok && as(s) {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.t.Fatalf("the order never came to %s: %+v", wish, s)
		}
	}
}

// happens waits for a channel.
func (w *world) happens(what string, ch <-chan struct{}) {
	w.t.Helper()
	late := time.NewTimer(60 * time.Second)
	defer late.Stop()
	select {
	case <-ch:
	case <-late.C:
		w.t.Fatalf("%s never happened", what)
	}
}

// doneTo tells whether the period that ends at a time is done.
func doneTo(end time.Time) func(*report.Standing) bool {
	return func(s *report.Standing) bool {
		return s.Last != nil && !s.Last.Result.More && !s.Last.Request.Step.PeriodEnd.Before(end)
	}
}

// ids are the events of a file in order.
func (w *world) ids(r *report.Report) (ids []string) {
	w.t.Helper()
	rd, err := w.store.Open(w.t.Context(), r.Result.Object, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rd.Close()
	z, err := gzip.NewReader(rd)
	if err != nil {
		w.t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, row := range rows[1:] {
		ids = append(ids, row[9])
	}
	return ids
}

// files are the files of an order, whose numbers must have no gaps.
func (w *world) files(id string) []*report.Report {
	w.t.Helper()
	files := w.table.Files(id, 0, 1<<20, time.Now())
	for i, f := range files {
		if f.Files() != int64(i+1) {
			w.t.Fatalf("file %d has number %d", i+1, f.Files())
		}
	}
	return files
}

// onceEach checks that the files together hold the events that the world has
// below the end of the last one, once each, and that periods and positions join.
func (w *world) onceEach(id string) {
	w.t.Helper()
	times := make(map[string]int)
	files := w.files(id)
	for i, f := range files {
		for _, e := range w.ids(f) {
			times[e]++
		}
		if len(f.Request.Body) > 0 {
			w.t.Errorf("file %d has the body of its order's settings", i+1)
		}
		if i > 0 && f.Request.Step.PeriodStart.Before(files[i-1].Request.Step.PeriodStart) {
			w.t.Errorf("file %d is about a period before that of file %d", i+1, i)
		}
	}
	s, _ := w.table.Order(id)
	want := 0
	for _, e := range s.Last.Through() {
		for _, ev := range w.events[e.Partition][:e.Offset] {
			want++
			if times[ev.id] != 1 {
				w.t.Errorf("event %s is in %d files", ev.id, times[ev.id])
			}
		}
	}
	if want != len(times) {
		w.t.Errorf("the files hold %d events, want %d", len(times), want)
	}
}

// objects counts the stored files.
func (w *world) objects() (n int) {
	w.t.Helper()
	if err := w.store.List(w.t.Context(), "exports/", func(objects.Info) error { n++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// commitAndLose is commit, after which the new segment's object is missing.
func (w *world) commitAndLose() (object string, data []byte) {
	w.t.Helper()
	w.commit()
	if err := w.catalog.CatchUp(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	segments := w.catalog.Segments()
	object = segments[len(segments)-1].Object
	rd, err := w.store.Open(w.t.Context(), object, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rd.Close()
	if data, err = io.ReadAll(rd); err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.Delete(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
	return object, data
}
