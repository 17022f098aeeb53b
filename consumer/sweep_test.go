package consumer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/objects"
)

// agedStore says of all objects but the young ones that they are two days old, and
// lets nobody read one of them, or delete some.
type agedStore struct {
	objects.Store
	young  map[string]bool
	locked string
	held   func(name string) bool // nil: none cannot be deleted
	asked  int                    // how often somebody wanted to delete one of those
}

var errLocked = errors.New("the object is locked")

func (s *agedStore) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if name == s.locked {
		return nil, errLocked
	}
	return s.Store.Open(ctx, name, off, n)
}

func (s *agedStore) Delete(ctx context.Context, name string) error {
	if s.held != nil && s.held(name) {
		s.asked++
		return errLocked
	}
	return s.Store.Delete(ctx, name)
}

func (s *agedStore) List(ctx context.Context, prefix string, fn func(objects.Info) error) error {
	return s.Store.List(ctx, prefix, func(i objects.Info) error {
		if !s.young[i.Name] {
			i.ModTime = i.ModTime.Add(-48 * time.Hour)
		}
		return fn(i)
	})
}

// sweepTwice looks twice, and answers how many objects the second look took. The
// first takes none.
func sweepTwice(t *testing.T, c *Consumer) int {
	t.Helper()
	s := sweeper{Consumer: c}
	first, err := s.sweep(t.Context())
	second, err2 := s.sweep(t.Context())
	if err != nil || err2 != nil || first != 0 {
		t.Fatalf("%d objects are swept at the first look; %v, %v", first, err, err2)
	}
	return second
}

// TestStoresClockIsSetAhead between the upload of an object and its commit: by the
// time that the listing tells it is older than any cut then.
func TestStoresClockIsSetAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	aged := &agedStore{Store: w.store, young: make(map[string]bool)}
	w.store = aged
	r := w.start(t.TempDir()+"/d", nil)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	uploaded := "segments/493200/" + ulid.Make().String()
	ahead := "segments/493200/" + ulid.Make().String()
	aged.young[ahead] = true
	for _, name := range []string{uploaded, ahead} {
		if err := w.store.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	s := sweeper{Consumer: r.c, apart: 30 * time.Minute}
	for range 2 { // the second look comes too soon, as after a process stood still
		if n, err := s.sweep(t.Context()); n != 0 || err != nil {
			t.Errorf("swept %d, %v", n, err)
		}
	}
	if len(s.seen) != 1 || s.seen[uploaded].IsZero() {
		t.Errorf("seen: %v", s.seen)
	}
	s.seen[uploaded] = time.Now().Add(-time.Hour)
	if n, err := s.sweep(t.Context()); n != 1 || err != nil || len(s.seen) != 0 {
		t.Errorf("swept %d an hour later, %v", n, err)
	}
}

// TestSweeperTakesOldOrphansOnly, and nothing while the catalog cannot be read:
// what it names is not known then.
func TestSweeperTakesOldOrphansOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	aged := &agedStore{Store: w.store, young: make(map[string]bool)}
	w.store = aged
	r := w.start(t.TempDir()+"/d", nil)
	for _, id := range []string{"c1", "c2", "c3"} {
		w.event("p1", id, "SENT")
		w.settle(r.cat)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	old, young := "segments/493200/"+ulid.Make().String(), "segments/493200/"+ulid.Make().String()
	aged.young[young] = true
	for _, name := range []string{old, young, "exports/acme/x/y.csv.gz", "dead-letters/email-events/0/1-" + ulid.Make().String()} {
		if err := w.store.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	names := func() map[string]bool {
		all := make(map[string]bool)
		if err := w.store.List(t.Context(), "", func(i objects.Info) error { all[i.Name] = true; return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := names()
	cat := w.catalog()
	c, err := New(Config{Kafka: w.opts, Topics: w.topics, DataDir: t.TempDir() + "/e"}, Deps{Store: w.store, Catalog: cat, Reports: r.c.deps.Reports, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if n := sweepTwice(t, c); n != 1 {
		t.Errorf("swept %d", n)
	}
	after := names()
	for name := range before {
		if after[name] == (name == old) {
			t.Errorf("%s is there: %v", name, after[name])
		}
	}
	if len(before) < 7 || len(w.rows(w.caughtUp())) != 3 {
		t.Errorf("%d objects, rows %v", len(before), w.rows(cat))
	}
	// A record of a segment that cannot be read.
	seg := *cat.Segments()[0]
	rec, err := seg.Record(w.topics.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	rec.Value = []byte(strings.Replace(string(rec.Value), `"bytes":`, `"bytes":1`, 1))
	if err := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner())).ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	delete(aged.young, young)
	aged.young[old] = true
	if err := w.store.Put(t.Context(), old, []byte("x")); err != nil {
		t.Fatal(err)
	}
	var damaged *kafka.DamagedError
	s := sweeper{Consumer: c, seen: map[string]time.Time{young: {}}}
	if n, err := s.sweep(t.Context()); n != 0 || !errors.As(err, &damaged) || damaged.Topic != w.topics.Catalog {
		t.Errorf("swept %d by a damaged catalog: %v", n, err)
	}
	if !names()[young] {
		t.Error("an object is gone")
	}
}

// TestSweeperSparesAnotherSystem whose store it was given: to its catalog, all that
// lies there is nobody's. Orphans of its own go, unless they are of a version of which
// it can tell nothing.
func TestSweeperSparesAnotherSystem(t *testing.T) {
	t.Parallel()
	production, staging := newWorld(t), newWorld(t)
	aged := &agedStore{Store: production.store, young: make(map[string]bool)}
	production.store, staging.store = aged, aged
	var said strings.Builder
	staging.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelError}))
	var replicas []*replica
	for _, w := range []*world{production, staging} {
		r := w.start(t.TempDir()+"/d", nil)
		w.event("p1", "c1", "SENT")
		w.settle(r.cat)
		replicas = append(replicas, r)
	}
	for _, r := range replicas {
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	live := production.caughtUp().Segments()[0].Object
	own := staging.caughtUp().Segments()[0].Object
	aged.young[own] = true
	r, err := staging.store.Open(t.Context(), own, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	orphan, newer := "segments/493200/"+ulid.Make().String(), "segments/493200/"+ulid.Make().String()
	if err := staging.store.Put(t.Context(), orphan, data); err != nil {
		t.Fatal(err)
	}
	other := append(append(bytes.Clone(data[:4]), 2), "all else is another format's"...)
	if err := staging.store.Put(t.Context(), newer, other); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{Kafka: staging.opts, Topics: staging.topics, DataDir: t.TempDir() + "/e"}, Deps{Store: staging.store, Catalog: staging.catalog(),
		Reports: replicas[1].c.deps.Reports, Log: staging.log, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if n := sweepTwice(t, c); n != 1 {
		t.Errorf("swept %d", n)
	}
	for name, want := range map[string]error{live: nil, own: nil, newer: nil, orphan: objects.ErrNotExist} {
		if _, err := staging.store.Stat(t.Context(), name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if !strings.Contains(said.String(), "is store_url that of another system?") || !strings.Contains(said.String(), "count=2") || !strings.Contains(said.String(), live) && !strings.Contains(said.String(), newer) {
		t.Errorf("said: %s", said.String())
	}
	// Of two more one cannot be read: it stays, and holds up no other.
	aged.locked = "segments/000000/" + ulid.Make().String()
	for _, name := range []string{aged.locked, orphan} {
		if err := staging.store.Put(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	s := sweeper{Consumer: c, seen: map[string]time.Time{aged.locked: {}, orphan: {}}}
	if n, err := s.sweep(t.Context()); n != 1 || !errors.Is(err, errLocked) {
		t.Errorf("swept %d beside an object that cannot be read: %v", n, err)
	}
}

// TestAnOrphanThatCannotBeDeletedHoldsUpNoOther, however many there are. While nothing can
// be deleted, which is the store's failure, few are tried.
func TestAnOrphanThatCannotBeDeletedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	young := "segments/493200/" + ulid.Make().String() // the store's time
	aged := &agedStore{Store: w.store, young: map[string]bool{young: true}}
	w.store = aged
	r := w.start(t.TempDir()+"/d", nil)
	r.awaitReady(t)
	seen := map[string]time.Time{young: {}}
	for len(seen) < 101 {
		seen["segments/493200/"+ulid.Make().String()] = time.Time{}
	}
	for name := range seen {
		if err := w.store.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	list := func() {
		t.Helper()
		left = nil
		if err := w.store.List(t.Context(), "segments/", func(i objects.Info) error {
			if i.Name != young {
				left = append(left, i.Name)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	list()
	away, free := true, left[95:]
	aged.held = func(name string) bool { return away || !slices.Contains(free, name) }
	sweep := func() {
		t.Helper()
		s := sweeper{Consumer: r.c, seen: maps.Clone(seen)}
		if _, err := s.sweep(t.Context()); !errors.Is(err, errLocked) {
			t.Fatalf("swept: %v", err)
		}
		list()
	}
	if sweep(); aged.asked == 0 || aged.asked > 40 || len(left) != 100 {
		t.Errorf("while nothing can be deleted %d of 100 are tried, %d are left", aged.asked, len(left))
	}
	away = false
	for try := 0; len(left) > 95; try++ {
		if sweep(); try > 200 {
			t.Fatalf("%d objects are left, of which 95 cannot be deleted", len(left))
		}
	}
}

// TestAStoreThatIsAnothersIsNotSwept: the other one may read the same topics.
func TestAStoreThatIsAnothersIsNotSwept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(t.TempDir()+"/d", nil)
	r.awaitReady(t)
	r.c.deps.Owned = func(context.Context) error { return ErrForeignStore }
	s := sweeper{Consumer: r.c}
	if n, err := s.sweep(t.Context()); n != 0 || !errors.Is(err, ErrForeignStore) {
		t.Errorf("%d objects swept, %v", n, err)
	}
	r.c.sweepLoop(t.Context()) // which ends the replica
	<-r.done
	if err := r.stop(); !errors.Is(err, ErrForeignStore) {
		t.Errorf("it ended with %v", err)
	}
}
