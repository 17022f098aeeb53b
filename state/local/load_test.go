package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/internal/seed"
	"lockstitch/state/segment"
)

// randomEntries are entries in two generations; some keys repeat, with other
// offsets.
func randomEntries(r *rand.Rand, n int, horizon int64) []DedupEntry {
	out := make([]DedupEntry, n)
	for i := range out {
		e := &out[i]
		if i > 0 && r.IntN(10) == 0 {
			e.Key = out[r.IntN(i)].Key
		} else {
			for b := range e.Key {
				e.Key[b] = byte(r.UintN(256))
			}
		}
		e.Offset, e.LogTime = int64(i), horizon+r.Int64N(2*horizon)
	}
	return out
}

// openToLoad opens a database that sorts little at a time.
func openToLoad(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(dir, "cluster", "group", Options{LoadBytes: 256 << 10, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestLoadedEntries: what is loaded, in any order and however much, is what
// writes in the order of the offsets leave.
func TestLoadedEntries(t *testing.T) {
	r := seed.Rand(t)
	const horizon = 1000
	for _, c := range []struct {
		name            string
		entries, expect int
		tables          bool
	}{
		{"a batch", 500, 500, false},
		{"tables", loadLeast + r.IntN(1000), loadLeast, true},
		{"more than expected", 20_000, 10, true},
		{"buckets", 30_000, 30_000, true},
		{"many buckets for few", 15_000, 100_000, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			db := openToLoad(t, dir)
			defer func() { _ = db.Close() }()
			all := randomEntries(r, c.entries, horizon)
			want := db.Lane(1)
			if err := want.WriteDedup(all, horizon, nil); err != nil {
				t.Fatal(err)
			}
			l := db.Lane(2)
			d := l.LoadDedup(c.expect, horizon)
			mixed := slices.Clone(all)
			r.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			for part := range slices.Chunk(mixed, 8192) {
				if err := d.Add(part); err != nil {
					t.Fatal(err)
				}
			}
			if (d.s.file != nil) != c.tables {
				t.Errorf("it is in a file: %v", d.s.file != nil)
			}
			type seen struct {
				gen int32
				key DedupKey
			}
			got := make(map[seen]bool)
			var last DedupKey
			if err := d.Finish(t.Context(), func(gen int32, k DedupKey) {
				if slices.Compare(k[:], last[:]) < 0 {
					t.Fatalf("key %x after %x", k, last)
				}
				last = k
				got[seen{gen, k}] = true
			}); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			n, there := 0, make(map[seen]bool)
			for gen := int32(1); gen <= 2; gen++ {
				if err := l.ScanDedup(gen, func(k DedupKey) bool { there[seen{gen, k}] = true; return true }); err != nil {
					t.Fatal(err)
				}
				if err := want.ScanDedup(gen, func(k DedupKey) bool {
					n++
					if !got[seen{gen, k}] || !there[seen{gen, k}] {
						t.Fatalf("generation %d: %x was not told of or is not there", gen, k)
					}
					if n%20 > 0 {
						return true
					}
					a, _, _ := want.LookupDedup(gen, k)
					b, ok, err := l.LookupDedup(gen, k)
					if err != nil || !ok || a != b {
						t.Fatalf("generation %d: %+v, want %+v: %v", gen, b, a, err)
					}
					return true
				}); err != nil {
					t.Fatal(err)
				}
			}
			if n != len(got) || n != len(there) {
				t.Errorf("%d keys were told of and %d are there, want %d", len(got), len(there), n)
			}
			if m := db.p.Metrics(); (m.Ingest.Count > 0) != c.tables {
				t.Errorf("tables: %v", m.Ingest.Count > 0)
			}
			if left, err := os.ReadDir(filepath.Join(dir, loadDir)); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
		})
	}
}

// TestLoadedVersions: what is loaded of the profiles is what batches leave, and
// what no event can ask for is not there.
func TestLoadedVersions(t *testing.T) {
	r := seed.Rand(t)
	for _, c := range []struct {
		versions int
		floor    int64
	}{{100, math.MinInt64}, {100, 50}, {10_000, math.MinInt64}, {10_000, 5_000}} {
		t.Run(fmt.Sprintf("%d from %d", c.versions, c.floor), func(t *testing.T) {
			db := openToLoad(t, filepath.Join(t.TempDir(), "d"))
			defer func() { _ = db.Close() }()
			batch, load := db.Lane(1).NewProfileBatch(), db.Lane(2).LoadProfiles(int64(c.versions))
			snap := snapshot(t, strings.Repeat("x", 300))
			ids := c.versions / 3
			var times []int64
			for i := range c.versions {
				id := fmt.Appendf(nil, "p%d", r.IntN(ids))
				v := Version{Offset: int64(i), Time: int64(i - i%(c.versions/20)), Snapshot: snap} // many at the floor
				if r.IntN(10) == 0 {
					v.Snapshot = nil
				}
				times = append(times, v.Time)
				if err := batch.Put(id, v, math.MinInt64); err != nil {
					t.Fatal(err)
				}
				if err := load.Put(id, v); err != nil {
					t.Fatal(err)
				}
			}
			m := ProfileMarker{TopicID: segment.TopicID{1}, Next: int64(len(times))}
			if err := batch.Commit(m); err != nil {
				t.Fatal(err)
			}
			if err := batch.Close(); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := db.Lane(2).ProfileMarker(); ok || err != nil {
				t.Fatal("there is a marker before what it claims", err)
			}
			if err := load.Finish(m, c.floor); err != nil {
				t.Fatal(err)
			}
			if err := load.Close(); err != nil {
				t.Fatal(err)
			}
			if got, ok, err := db.Lane(2).ProfileMarker(); !ok || err != nil || got != m {
				t.Errorf("marker %+v %v", got, err)
			}
			for range 100 {
				id := fmt.Sprint("p", r.IntN(ids))
				want, err := versionsOf(db.Lane(1), id)
				if err != nil {
					t.Fatal(err)
				}
				for j := range want {
					if want[j].Time <= c.floor {
						want = want[:j+1]
						break
					}
				}
				got, err := versionsOf(db.Lane(2), id)
				if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("%s: %d versions, want %d: %v", id, len(got), len(want), err)
				}
			}
		})
	}
}

// TestLoadCalledOff: a load that is called off, at whatever point, leaves
// nothing.
func TestLoadCalledOff(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	db := openToLoad(t, dir)
	defer func() { _ = db.Close() }()
	all := randomEntries(rand.New(rand.NewPCG(1, 1)), 30_000, 1000)
	for _, after := range []int{0, 1, len(all) / 2} {
		ctx, cancel := context.WithCancel(t.Context())
		d := db.Lane(0).LoadDedup(len(all), 1000)
		if err := d.Add(all); err != nil {
			t.Fatal(err)
		}
		n := 0
		err := d.Finish(ctx, func(int32, DedupKey) {
			if n++; n >= after {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("called off after %d entries: %v", after, err)
		}
		cancel()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.Add(all); err != nil { // whoever reads has not heard of it
			t.Fatal(err)
		}
		for gen := int32(1); gen <= 2; gen++ {
			if err := db.Lane(0).ScanDedup(gen, func(k DedupKey) bool { t.Fatalf("%x is there", k); return false }); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := os.ReadDir(filepath.Join(dir, loadDir)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	}
}

// TestCrashDuringALoad: whatever a power loss leaves of a load, at whatever
// moment, no marker claims it before all of it is there, and its files go.
func TestCrashDuringALoad(t *testing.T) {
	const horizon = 1000
	r := rand.New(rand.NewPCG(1, 1))
	all := randomEntries(r, 30_000, horizon)
	id := segment.TopicID{1}
	disk := vfs.NewCrashableMem()
	open := func(fs vfs.FS) *DB {
		db, err := Open("/d", "cluster", "group", Options{LoadBytes: 256 << 10, FS: fs, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open(disk)
	var left []*vfs.MemFS
	crash := func() {
		for survive := 0; survive <= 100; survive += 50 {
			left = append(left, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rand.New(rand.NewPCG(uint64(len(left)), 2))}))
		}
	}
	l := db.Lane(0)
	d := l.LoadDedup(1000, horizon)
	crash()
	if err := d.Add(all); err != nil {
		t.Fatal(err)
	}
	crash()
	n := 0
	if err := d.Finish(t.Context(), func(int32, DedupKey) {
		if n++; n%10_000 == 0 {
			crash()
		}
	}); err != nil {
		t.Fatal(err)
	}
	crash()
	if err := l.WriteDedup(nil, horizon, map[segment.TopicID]DedupMarker{id: {Next: 1}}); err != nil {
		t.Fatal(err)
	}
	crash()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	left = append(left, disk)
	claimed := 0
	for i, fs := range left {
		db := open(fs)
		_, ok, err := db.Lane(0).DedupMarker(id)
		if err != nil {
			t.Fatal(err)
		}
		there := 0
		for gen := int32(1); gen <= 2; gen++ {
			if err := db.Lane(0).ScanDedup(gen, func(DedupKey) bool { there++; return true }); err != nil {
				t.Fatal(err)
			}
		}
		if ok {
			claimed++
			if there != n {
				t.Errorf("crash %d: the marker claims %d entries, %d are there", i, n, there)
			}
		}
		if files, err := fs.List("/d/" + loadDir); err != nil || len(files) > 0 {
			t.Errorf("crash %d: %v is left of the load: %v", i, files, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if claimed == 0 || n < 20_000 {
		t.Errorf("%d of %d claim %d entries", claimed, len(left), n)
	}
}
