package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/exporter/rolling"
	"lockstitch/internal/bubble"
	"lockstitch/state/objects"
)

func TestDestinationsFromEverywhere(t *testing.T) {
	s, _, err := loadSettings(flagsOf(t, least...), nil, serveScope)
	if err != nil || len(s.Replica.Destinations) != 0 {
		t.Errorf("by default %v, %v; want none", s.Replica.Destinations, err)
	}
	file := writeFile(t, "c.yaml", `destinations:
- {name: lake, url: "s3://bucket/in?region=eu-north-1&endpoint=http://localhost:7070", accounts: [acme, "a:b|c"]}
- {name: disk, url: "file:///srv/exports", accounts: acme}
`)
	want := "[{lake s3://bucket/in?region=eu-north-1&endpoint=http://localhost:7070 [acme a:b|c]} {disk file:///srv/exports [acme]}]"
	if s, _, err = loadSettings(flagsOf(t, append(least, "--config="+file)...), nil, serveScope); err != nil || fmt.Sprint(s.Replica.Destinations) != want {
		t.Errorf("from a file %v, %v", s, err)
	}
	want = "[{lake s3://bucket?region=x [one two]} {disk file:///srv/exports [three]}]"
	const short = "lake:one|two:s3://bucket?region=x,disk:three:file:///srv/exports"
	if s, _, err = loadSettings(flagsOf(t, append(least, "--destinations="+short)...), nil, serveScope); err != nil || fmt.Sprint(s.Replica.Destinations) != want {
		t.Errorf("from a flag %v, %v", s, err)
	}
	if s, _, err = loadSettings(flagsOf(t, least...), []string{"LOCKSTITCH_DESTINATIONS=" + short}, serveScope); err != nil || fmt.Sprint(s.Replica.Destinations) != want {
		t.Errorf("from a variable %v, %v", s, err)
	}
}

func TestDestinationsRefused(t *testing.T) {
	for yaml, want := range map[string]string{
		`[{url: "s3://hunter2", accounts: [a]}]`:                                                   "name",
		`[{name: Lake!, url: "s3://hunter2", accounts: [a]}]`:                                      "lower-case",
		`[{name: x, url: "s3://hunter2", accounts: [a]}, {name: x, url: "s3://d", accounts: [a]}]`: "twice",
		`[{name: x, url: "s3://hunter2"}]`:                                                         "accounts",
		`[{name: x, url: "s3://hunter2", accounts: []}]`:                                           "accounts",
		`[{name: x, url: "s3://hunter2", accounts: [1]}]`:                                          "accounts must be a list of texts",
		`[{name: x, accounts: [a]}]`:                                                               "url must be",
		`[{name: x, url: "http://u:hunter2@h", accounts: [a]}]`:                                    "url must be",
		`[{name: x, url: "s3://hunter2", account: a}]`:                                             `there is no "account"`,
		`[{name: x, url: "s3://store/?sig=hunter2", accounts: [a]}]`:                               "store itself",
		`[{name: x, url: "s3://hunter2", accounts: [a, ""]}]`:                                      "none of them empty",
		`[x:a]`:     "NAME:ACCOUNT|ACCOUNT:URL",
		`{name: x}`: "must be a list",
	} {
		file := writeFile(t, "c.yaml", "store_url: s3://store?region=x\ndestinations: "+yaml+"\n")
		_, _, err := loadSettings(flagsOf(t, append(least, "--config="+file)...), nil, serveScope)
		if err == nil || !strings.Contains(err.Error(), "destinations") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", yaml, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

// What lies in the store is the store's: below segments/ a delivered file would be
// swept after a day, and below a destination around it an account of the store's
// name could have an order "segments".
func TestDestinationsAndTheStoreAreApart(t *testing.T) {
	for _, c := range []struct {
		store, destination string
		apart              bool
	}{
		{"s3://b", "s3://b/segments?region=x", false},
		{"s3://b/store?region=x", "s3://b/store/exports/", false},
		{"s3://b/acme", "s3://b", false},
		{"s3://b/acme/store", "s3://b/", false},
		{"s3://b/store", "s3://b", true},
		{"s3://b", "s3://b", false},
		{"s3://b", "s3://b/lake", true},
		{"s3://b", "s3://b/dead-letters/x", false},
		{"s3://b", "s3://b/lockstitch.json", false},
		{"s3://b/store", "s3://b/stores", true},
		{"s3://b/store", "s3://b/lake", true},
		{"s3://b", "s3://c/segments", true},
		{"s3://b", "gs://b/segments", true},
		{"file:///srv/objects", "file:///srv/./objects/segments", false},
		{"file:///srv/objects", "file://localhost/srv", true},
		{"file:///srv/acme", "file://localhost/srv", false},
		{"file:///srv/objects", "file:///srv/objects-out", true},
		{"", "file:///srv/data/objects/segments", false},
		{"", "file:///srv/data/out", true},
	} {
		args := append(least, "--data-dir=/srv/data", "--store-url="+c.store, "--destinations=lake:acme:"+c.destination)
		_, _, err := loadSettings(flagsOf(t, args...), nil, serveScope)
		if (err == nil) != c.apart || err != nil && !strings.Contains(err.Error(), "a path of its own") {
			t.Errorf("store %q, destination %q: %v", c.store, c.destination, err)
		}
	}
}

// A file goes to the destination that the settings name, for the accounts that
// they name, and for no others. Who reads it there is another user than the replica's.
func TestDeliveryToAConfiguredDestination(t *testing.T) {
	lake := t.TempDir()
	y := startSystem(t, t.TempDir(), func(s *Settings) {
		s.Replica.Destinations = []Destination{{Name: "lake", URL: "file://" + lake, Accounts: []string{"acme"}}}
	})
	if err := y.r.store.Put(t.Context(), "exports/f", []byte("file")); err != nil {
		t.Fatal(err)
	}
	f := rolling.File{Account: "acme", Name: "x", Order: "01JX", Number: 3, Object: "exports/f", Bytes: 4,
		SHA256: "3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80", PeriodEnd: time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)}
	if err := y.r.deliver(t.Context(), "lake", f); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x-3.csv.gz", "x-3.csv.gz.json", "x-3.json"} {
		info, err := os.Stat(filepath.Join(lake, "acme", "x", "01JX", "2026", "05", "01", name))
		if (err == nil) != (name != "x-3.csv.gz.json") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && info.Mode().Perm() != 0o644 {
			t.Errorf("%s has the mode %v", name, info.Mode())
		}
	}
	for _, c := range [][2]string{{"lake", "other"}, {"pond", "acme"}} {
		f.Account = c[1]
		if err := y.r.deliver(t.Context(), c[0], f); err == nil {
			t.Errorf("account %s may write to %s", c[1], c[0])
		}
	}
}

// TestADestinationThatIsAwayStopsNoReplica from starting: it holds up what goes there.
func TestADestinationThatIsAwayStopsNoReplica(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	y := startSystem(t, t.TempDir(), func(s *Settings) {
		s.Replica.Destinations = []Destination{{Name: "lake", URL: "file://" + file + "/x", Accounts: []string{"acme"}}}
	})
	f := rolling.File{Account: "acme", Name: "x", Order: "01JX", Number: 3, Object: "exports/f", PeriodEnd: time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)}
	if err := y.r.deliver(t.Context(), "lake", f); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("delivered: %v", err)
	}
}

// hanging is a store that does not answer, as on a mount whose server is away, until what
// it waits for is closed.
type hanging struct {
	objects.Store
	until  chan struct{}
	closed *atomic.Int64 // how many are
}

func (h hanging) Close() error {
	h.closed.Add(1)
	return h.Store.Close()
}

func (h hanging) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	<-h.until
	return h.Store.Open(ctx, name, off, n)
}

// A destination that hangs holds up neither a start nor an end, and has what is to go
// there when it is back.
func TestADestinationThatHangsHoldsUpItsDeliveriesAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		back := make(chan struct{})
		var opened, closed atomic.Int64
		store, err := objects.Open(t.Context(), "file://"+t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Put(t.Context(), "exports/f", []byte("file")); err != nil {
			t.Fatal(err)
		}
		read := make(chan struct{}) // what hangs once it is open
		slow := func(ctx context.Context, url string) (objects.Store, error) {
			opened.Add(1)
			<-back
			s, err := objects.OpenForOthers(ctx, url)
			return hanging{s, read, &closed}, err
		}
		lake := t.TempDir()
		log := newWatch("", nil)
		settings := []Destination{{Name: "lake", URL: "file://" + lake, Accounts: []string{"acme"}}, {Name: "pond", URL: "file://" + t.TempDir(), Accounts: []string{"acme"}}}
		start := func() *replica {
			begun := time.Now()
			r := &replica{store: store, metrics: newReplicaMetrics(nil, &Settings{}), destinations: openDestinations(t.Context(), slow, settings, slog.New(slog.NewTextHandler(log, nil)))}
			if took := time.Since(begun); took != destinationPatience {
				t.Errorf("the start took %s", took)
			}
			return r
		}
		f := rolling.File{Account: "acme", Name: "x", Order: "01JX", Number: 3, Object: "exports/f", Bytes: 4,
			SHA256: "3b9c358f36f0a31b6ad3e14f309c7cf198ac9246e8316f9ce543d5b19ac02b80", PeriodEnd: time.Date(2026, 5, 2, 0, 0, 0, 0, time.UTC)}

		start().destinations.close() // what it opens is closed when it is open

		r := start()
		if !strings.Contains(log.text(), "has not answered") {
			t.Errorf("nothing says so: %s", log.text())
		}
		for range 3 {
			if err := r.deliver(t.Context(), "lake", f); err == nil || !strings.Contains(err.Error(), "has not answered") {
				t.Errorf("delivered: %v", err)
			}
		}
		if n := opened.Load(); n != 4 {
			t.Errorf("opened %d times, want once for each replica and destination", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := r.deliver(ctx, "lake", f); !errors.Is(err, context.Canceled) {
			t.Errorf("called off while it is opened: %v", err)
		}
		if n := testutil.ToFloat64(r.metrics.deliveryFailed.WithLabelValues("lake")); n != 3 {
			t.Errorf("%v deliveries count as failed, want those that were not called off, 3", n)
		}
		close(back)
		synctest.Wait()
		if n := closed.Load(); n != 2 {
			t.Errorf("%d destinations of the replica that has ended are closed, want both", n)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := r.deliver(ctx, "lake", f); !errors.Is(err, context.Canceled) {
			t.Errorf("called off while it reads: %v", err)
		}
		if err := r.deliver(t.Context(), "lake", f); !errors.Is(err, errHangs) {
			t.Errorf("a delivery beside the one that was called off and hangs: %v", err)
		}
		close(read)
		synctest.Wait()
		if err := r.deliver(t.Context(), "lake", f); err != nil {
			t.Errorf("when it is back: %v", err)
		}
		if _, err := os.Stat(filepath.Join(lake, "acme", "x", "01JX", "2026", "05", "01", "x-3.json")); err != nil {
			t.Error(err)
		}
		r.destinations.close()
		if n := closed.Load(); n != 4 {
			t.Errorf("%d destinations are closed, want all four", n)
		}
	})
}
