package local

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

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
			if err := db.Lane(n).ScanDedup(gen, func(DedupKey) { keys++ }); err != nil {
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
