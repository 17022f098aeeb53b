package consumer

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/internal/seed"
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

// TestKeysAreNotReadForNothing: a lane reads its keys into the filters as far as these have
// room, and no key at all where there is none.
func TestKeysAreNotReadForNothing(t *testing.T) {
	const keys, horizon, at = 200_000, 1000, 5000
	rng, fs := seed.Rand(t), &countsReads{FS: vfs.NewMem()}
	open := func() *local.DB {
		db, err := local.Open("/d", "c", "g", local.Options{FS: fs, Log: quietLog})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	db := open()
	entries := make([]local.DedupEntry, keys)
	for i := range entries {
		binary.BigEndian.PutUint64(entries[i].Key[:], rng.Uint64())
		entries[i].Offset, entries[i].LogTime = int64(i), at
	}
	load := db.Lane(0).LoadDedup(keys, horizon)
	err := load.Add(entries)
	if err == nil {
		_, err = newDedup(db.Lane(0), horizon, enoughForBlooms()).take(t.Context(), load)
	}
	if err != nil {
		t.Fatal(err)
	}
	read := func(memory int64) int64 {
		t.Helper()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = open() // with nothing in its cache
		before, m := fs.bytes.Load(), &bloomMemory{}
		m.left.Store(memory)
		d := newDedup(db.Lane(0), horizon, m)
		if err := d.load([]int64{at}); err != nil {
			t.Fatal(err)
		}
		bytes := fs.bytes.Load() - before
		for i := range 1000 {
			if again, err := d.duplicate(entries[i].Key, keys, at); !again || err != nil {
				t.Fatalf("with %d bytes a duplicate is not known: %v", memory, err)
			}
		}
		return bytes
	}
	all := read(1 << 20)
	if none, some := read(0), read(100<<10); none > all/10 || some < all/8 || some > all/2 {
		t.Errorf("%d bytes are read where there is no room, %d where there is for a quarter, %d where there is for all", none, some, all)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// countsReads counts the bytes that are read of its files.
type countsReads struct {
	vfs.FS
	bytes atomic.Int64
}

func (c *countsReads) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	return countedFile{f, &c.bytes}, nil
}

type countedFile struct {
	vfs.File
	bytes *atomic.Int64
}

func (f countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.bytes.Add(int64(n))
	return n, err
}
