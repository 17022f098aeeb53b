package consumer

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/state/local"
	"lockstitch/state/segment"
)

func openLane(t *testing.T) *local.Lane {
	t.Helper()
	db, err := local.Open("/d", "c", "g", local.Options{FS: vfs.NewMem(), Log: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db.Lane(0)
}

// TestTheHorizonIncludesItsEdge (contract 2.1), for entries in memory and on disk.
func TestTheHorizonIncludesItsEdge(t *testing.T) {
	d, k := newDedup(openLane(t), 1000, enoughForBlooms()), local.DedupKey{1}
	d.keep(k, 7, 5000)
	for _, where := range []string{"in memory", "on disk"} {
		for at, want := range map[int64]bool{5000: true, 6000: true, 6001: false} {
			if got, err := d.duplicate(k, 8, at); got != want || err != nil {
				t.Errorf("%s, kept at 5000 and again at %d: %v, %v", where, at, got, err)
			}
		}
		if err := d.commit(map[segment.TopicID]local.DedupMarker{}, 5000); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatNoEventCanAskForIsForgotten: entries beyond the horizon go from the disk, and the
// memory of their filters is given back.
func TestWhatNoEventCanAskForIsForgotten(t *testing.T) {
	const horizon = 1000
	mem := enoughForBlooms()
	all := mem.left.Load()
	lane, k := openLane(t), local.DedupKey{1}
	d := newDedup(lane, horizon, mem)
	for _, at := range []int64{5000, 5000 + 3*horizon} {
		d.keep(k, at, at)
		if err := d.commit(map[segment.TopicID]local.DedupMarker{}, at); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]bool{5000: false, 5000 + 3*horizon: true} {
		if _, ok, err := lane.LookupDedup(local.Generation(at, horizon), k); ok != want || err != nil {
			t.Errorf("the entry of %d is there: %v, %v", at, ok, err)
		}
	}
	if b := d.blooms[local.Generation(5000+3*horizon, horizon)]; len(d.blooms) != 1 || b == nil || all-mem.left.Load() != b.taken {
		t.Errorf("%d filters take %d bytes", len(d.blooms), all-mem.left.Load())
	}
}
