package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstitch/consumer"
	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// refused opens the system in dir, which must not start, and answers why.
func refused(t *testing.T, dir string, tweaks ...func(*Settings)) string {
	t.Helper()
	b, r, err := openDev(t.Context(), systemSettings(t, dir, tweaks...), slog.New(slog.DiscardHandler), devOptions{kafkaListen: "localhost:0", partitions: 3, sampleRate: 1})
	if err == nil {
		r.close()
		b.Close()
		t.Fatal("it starts")
	}
	return err.Error()
}

func TestAStoreBelongsToOneCatalog(t *testing.T) {
	ctx, dir, other := testContext(t), t.TempDir(), t.TempDir()
	y := startSystem(t, dir)
	y.produce(ctx, 11, 100)
	y.export(ctx, y.r.localURL(), anything...)
	infos, err := kafka.Describe(ctx, y.r.asker, y.s.Topics.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	if len(y.r.catalog.Segments()) == 0 {
		t.Fatal("nothing is stored")
	}
	id := segment.TopicID(infos[y.s.Topics.Catalog].ID).String()
	y.stop()
	file, want := filepath.Join(dir, "objects", ownerObject), `{"v":1,"catalog":"`+id+`"}`
	is := func(when string) {
		t.Helper()
		if text, err := os.ReadFile(file); err != nil || string(text) != want {
			t.Errorf("%s the store holds %q, want %s: %v", when, text, want, err)
		}
	}
	is("of a new system")
	startSystem(t, dir).stop()
	is("after a restart")

	anew := func(s *Settings) { s.Topics.Catalog = "another.catalog" }
	said := refused(t, dir, anew)
	for _, part := range []string{filepath.ToSlash(filepath.Join(dir, "objects")), "topic id " + id, "another.catalog has the id ", "store of its own", "delete the object lockstitch.json"} {
		if !strings.Contains(said, part) {
			t.Errorf("with another catalog it does not say %q: %s", part, said)
		}
	}
	is("after another catalog")

	// A store of before has no such object, and what the catalog knows.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	elsewhere := func(s *Settings) { s.Replica.StoreURL = "file://" + filepath.ToSlash(other) }
	if said := refused(t, dir, elsewhere); !strings.Contains(said, "store_url is another one") || !strings.Contains(said, "segments/") {
		t.Errorf("with an empty store: %s", said)
	}
	if _, err := os.Stat(filepath.Join(other, ownerObject)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty store was taken: %v", err)
	}
	taken := func(s *Settings) { s.Replica.StoreURL = "file://" + filepath.ToSlash(filepath.Join(dir, "objects")) }
	if said := refused(t, t.TempDir(), taken); !strings.Contains(said, "the catalog is new") || !strings.Contains(said, "segments/") {
		t.Errorf("a new system in a store of before: %s", said)
	}
	startSystem(t, dir).stop()
	is("of a system of before")

	for text, says := range map[string]string{`{"v":2,"catalog":"` + id + `"}`: "version 2, this program knows 1", `{"v":1`: "cannot be read"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if said := refused(t, dir); !strings.Contains(said, "its lockstitch.json") || !strings.Contains(said, says) {
			t.Errorf("with %s: %s", text, said)
		}
	}
}

// TestVerifySaysNothingOfSegmentsWithoutTheirStore: that it is away, or another system's,
// is no damage.
func TestVerifySaysNothingOfSegmentsWithoutTheirStore(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	y := startSystem(t, dir)
	for seed := range uint64(2) {
		y.produce(ctx, 13+seed, 100)
		y.export(ctx, y.r.localURL(), anything...)
	}
	segs := y.r.catalog.Segments()
	if len(segs) < 2 {
		t.Fatalf("%d segments are stored", len(segs))
	}
	root := filepath.Join(dir, "objects")
	verify := func(when, store string, says ...string) {
		t.Helper()
		status, out, errs := command(ctx, nil, "segments", "verify", "--brokers", y.b.addr, "--store-url", store)
		if status != 1 || strings.Contains(out, "BAD") || strings.Contains(errs, "damaged") {
			t.Errorf("%s: exit %d: %s%s", when, status, out, errs)
		}
		for _, text := range says {
			if !strings.Contains(errs, text) {
				t.Errorf("%s it does not say %q: %s", when, text, errs)
			}
		}
	}
	// It is away, but for the object that says whose it is.
	var asked sync.Map
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, ownerObject) {
			http.ServeFile(w, q, filepath.Join(root, ownerObject))
			return
		}
		asked.Store(q.URL.Path, true)
		w.WriteHeader(http.StatusForbidden) // which the store's client does not try again
	}))
	t.Cleanup(s3.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	verify("refused", "s3://b?region=x&use_path_style=true&endpoint="+s3.URL, "the store cannot be read: ", "nothing is known of the remaining segments")
	n := 0
	asked.Range(func(_, _ any) bool { n++; return true })
	if n != 1 {
		t.Errorf("%d segments were asked for of a store that is away", n)
	}

	// Nobody's, and without the newest segment: nothing is written into it.
	empty := t.TempDir()
	verify("another directory", "file://"+filepath.ToSlash(empty), "it has neither "+ownerObject)
	if _, err := os.Stat(filepath.Join(empty, ownerObject)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was taken: %v", err)
	}

	// Another catalog's.
	file := filepath.Join(root, ownerObject)
	if err := os.WriteFile(file, []byte(`{"v":1,"catalog":"`+segment.TopicID{9}.String()+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	verify("another system's", "file://"+filepath.ToSlash(root), "it belongs to the catalog with the topic id "+segment.TopicID{9}.String(), "--catalog-topic")

	// One of before stores had an owner stays so.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if status, out, errs := command(ctx, nil, "segments", "verify", "--brokers", y.b.addr, "--store-url", "file://"+filepath.ToSlash(root)); status != 0 {
		t.Errorf("of before: exit %d: %s%s", status, out, errs)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was taken: %v", err)
	}
}

// A copy of the store that has nothing of what was cut since names its catalog, too.
func TestAStoreWithoutTheNewestSegmentsIsTold(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	y := startSystem(t, dir)
	y.produce(ctx, 12, 100)
	y.export(ctx, y.r.localURL(), anything...)
	copied, err := objects.Open(ctx, "file://"+filepath.ToSlash(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = copied.Close() })
	for what, store := range map[string]objects.Store{"its own": y.r.store, "the copy": copied} {
		var said strings.Builder
		(&replica{log: slog.New(slog.NewTextHandler(&said, nil)), catalog: y.r.catalog, store: store}).lookForSegments(ctx)
		if told := strings.Contains(said.String(), "level=ERROR") && strings.Contains(said.String(), "segments/"); told != (what == "the copy") {
			t.Errorf("of %s: %q", what, said.String())
		}
	}
}

// A store that is away when a replica starts is asked again, and not swept before.
func TestAStoreThatIsAwayIsAskedAgain(t *testing.T) {
	dir := t.TempDir()
	var answers atomic.Bool
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodGet || q.URL.Path != "/b/"+ownerObject || !answers.Load() {
			w.WriteHeader(http.StatusForbidden) // which the store's client does not try again
			return
		}
		http.ServeFile(w, q, filepath.Join(dir, "objects", ownerObject))
	}))
	t.Cleanup(s3.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	startSystem(t, dir).stop()
	y := startSystem(t, dir, func(s *Settings) { s.Replica.StoreURL = "s3://b?region=x&use_path_style=true&endpoint=" + s3.URL })
	if err := y.r.askOwner(t.Context()); err == nil {
		t.Error("it would be swept")
	}
	answers.Store(true)
	if err := y.r.askOwner(t.Context()); err != nil {
		t.Error(err)
	}
}

// A store that becomes another catalog's while a replica works ends the replica: it would
// take that system's live segments for orphans.
func TestAReplicaEndsWhenItsStoreBecomesForeign(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir, before := t.TempDir(), tweakConsumer
	defer func() { tweakConsumer = before }()
	tweakConsumer = func(c *consumer.Config) { c.SweepEvery = 10 * time.Millisecond }
	b, r, err := openDev(ctx, systemSettings(t, dir), slog.New(slog.DiscardHandler), devOptions{kafkaListen: "localhost:0", partitions: 3, sampleRate: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	other := `{"v":1,"catalog":"` + segment.TopicID{9}.String() + `"}`
	if err := os.WriteFile(filepath.Join(dir, "objects", ownerObject), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(ctx); !errors.Is(err, consumer.ErrForeignStore) {
		t.Errorf("it ended with %v", err)
	}
}

// TestAGroupBelongsToOneCatalog, or two systems would share its partitions.
func TestAGroupBelongsToOneCatalog(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 11, 100)
	y.export(ctx, y.r.localURL(), anything...) // so it is in the group
	other := systemSettings(t, t.TempDir(), func(s *Settings) {
		s.Topics.Catalog, s.Topics.Reports = "another.catalog", "another.reports"
		s.Kafka.Brokers, s.Auth = y.s.Kafka.Brokers, y.s.Auth
	})
	if _, err := kafka.Create(ctx, y.r.asker, other.Topics.TopicNames(), kafka.CreateOptions{Partitions: 3, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	open := func() error {
		r, err := openReplica(ctx, other, slog.New(slog.DiscardHandler))
		if err == nil {
			r.close()
		}
		return err
	}
	err := open()
	for _, part := range []string{`group "lockstitch"`, "another.catalog", "a group of its own", "lockstitch at "} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("in the group of another system it does not say %q: %v", part, err)
		}
	}
	other.Replica.Group = "another"
	if err := open(); err != nil {
		t.Errorf("in a group of its own: %v", err)
	}
	y.stop()
}
