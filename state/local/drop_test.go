package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/internal/seed"
	"lockstitch/state/segment"
)

// TestDroppedLanesAreGone, and their room on the disk, while the lanes beside them keep
// what they have.
func TestDroppedLanesAreGone(t *testing.T) {
	r := seed.Rand(t)
	dir := filepath.Join(t.TempDir(), "d")
	db := openToLoad(t, dir)
	const horizon, entries, profiles = 1000, 60_000, 5_000
	id := segment.TopicID{1}
	fill := func(n int32) {
		t.Helper()
		l := db.Lane(n)
		d := l.LoadDedup(entries, horizon)
		defer func() { _ = d.Close() }()
		if err := d.Add(randomEntries(r, entries, horizon)); err != nil {
			t.Fatal(err)
		}
		if err := d.Finish(context.Background(), func(int32, DedupKey) {}); err != nil {
			t.Fatal(err)
		}
		if err := l.WriteDedup(nil, horizon, map[segment.TopicID]DedupMarker{id: {Next: 1}}); err != nil {
			t.Fatal(err)
		}
		b := l.NewProfileBatch()
		for i := range profiles {
			if err := b.Put(fmt.Appendf(nil, "p%d", i), Version{Offset: int64(i), Time: 1, Snapshot: snapshot(t, "a")}, math.MinInt64); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Commit(ProfileMarker{Next: profiles, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int32{0, 1, 255, 256} {
		fill(n)
	}
	// Lanes of which only entries are there, or only a marker of them.
	if err := db.Lane(7).WriteDedup([]DedupEntry{{DedupKey{1}, 10, 500}}, horizon, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Lane(8).WriteDedup(nil, horizon, map[segment.TopicID]DedupMarker{id: {Next: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := db.p.Flush(); err != nil {
		t.Fatal(err)
	}
	stored := func(want ...int32) {
		t.Helper()
		if got, err := db.Stored(); err != nil || !slices.Equal(got, want) {
			t.Errorf("stored are the lanes %v, %v; want %v", got, err, want)
		}
	}
	stored(0, 1, 7, 8, 255, 256)
	before := db.p.Metrics().Total().TablesSize
	if err := db.Drop([]int32{1, 7, 8, 256}); err != nil {
		t.Fatal(err)
	}
	stored(0, 255)
	for deadline := time.Now().Add(30 * time.Second); db.p.Metrics().Total().TablesSize > before*6/10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes on disk with four lanes, %d with two", before, db.p.Metrics().Total().TablesSize)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openToLoad(t, dir)
	defer func() { _ = db.Close() }()
	stored(0, 255)
	if lanes, err := db.Lanes(); err != nil || !slices.Equal(lanes, []int32{0, 255}) {
		t.Errorf("lanes %v, %v", lanes, err)
	}
	for n, want := range map[int32]int{0: profiles, 1: 0, 255: profiles, 256: 0} {
		got, keys := 0, 0
		for i := range profiles {
			if v, _, err := db.Lane(n).Versions(fmt.Appendf(nil, "p%d", i), 1, 1<<20); err != nil {
				t.Fatal(err)
			} else if len(v) > 0 {
				got++
			}
		}
		for gen := range int32(4) {
			if err := db.Lane(n).ScanDedup(gen, func(DedupKey) bool { keys++; return true }); err != nil {
				t.Fatal(err)
			}
		}
		if got != want || (keys > 0) != (want > 0) {
			t.Errorf("lane %d has %d profiles, want %d, and %d keys", n, got, want, keys)
		}
	}
	// What comes back begins anew.
	fill(1)
	stored(0, 1, 255)
}

// TestACrashWhileLanesAreDropped leaves each lane whole, to be dropped again, or gone.
func TestACrashWhileLanesAreDropped(t *testing.T) {
	r := seed.Rand(t)
	const dropped = 5
	open := func(disk vfs.FS) *DB {
		t.Helper()
		db, err := Open("/", "cluster", "group", Options{FS: disk, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	id := segment.TopicID{1}
	for range 20 {
		disk := vfs.NewCrashableMem()
		db := open(disk)
		for n := range int32(dropped + 1) {
			b := db.Lane(n).NewProfileBatch()
			err := b.Put([]byte("p"), Version{Offset: 1, Time: 1, Snapshot: snapshot(t, "a")}, math.MinInt64)
			if err == nil {
				err = b.Commit(ProfileMarker{Next: 2, At: time.Now()})
			}
			if err == nil {
				err = db.Lane(n).WriteDedup([]DedupEntry{{DedupKey{1}, 10, 500}}, 1000, map[segment.TopicID]DedupMarker{id: {Next: 11}})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := db.p.Flush(); err != nil {
			t.Fatal(err)
		}
		lanes := []int32{0, 1, 2, 3, 4}[:1+r.IntN(dropped)]
		if err := db.Drop(lanes); err != nil {
			t.Fatal(err)
		}
		if r.IntN(2) == 0 {
			db.background.Wait()
		}
		left := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = open(left)
		stored, err := db.Stored()
		if err != nil || !slices.Contains(stored, dropped) {
			t.Fatalf("stored are %v, %v", stored, err)
		}
		for _, n := range stored {
			l := db.Lane(n)
			_, profiles, err1 := l.ProfileMarker()
			versions, _, err2 := l.Versions([]byte("p"), 1, 1<<20)
			_, entries, err3 := l.DedupMarker(id)
			_, entry, err4 := l.LookupDedup(0, DedupKey{1})
			if err := errors.Join(err1, err2, err3, err4); err != nil || !profiles || len(versions) != 1 || !entries || !entry {
				t.Errorf("lane %d has a part of its state: %v %v %v %v, %v", n, profiles, len(versions), entries, entry, err)
			}
		}
		if err := db.Drop(stored); err != nil {
			t.Fatal(err)
		}
		if again, err := db.Stored(); err != nil || len(again) > 0 {
			t.Errorf("stored are %v, %v", again, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
