package consumer

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"lockstitch/internal/seed"
	"lockstitch/state/local"
)

// enoughForBlooms is memory for what tests have.
func enoughForBlooms() *bloomMemory {
	m := &bloomMemory{}
	m.left.Store(1 << 30)
	return m
}

// TestBloomsStayWithinTheirMemory, however many keys there are, and know every key.
func TestBloomsStayWithinTheirMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	t.Parallel()
	rng := seed.Rand(t)
	for range 20 {
		all := rng.Int64N(4 << 20)
		m := &bloomMemory{}
		m.left.Store(all)
		var blooms []*bloom
		var keys [][]local.DedupKey
		for range 1 + rng.IntN(3) {
			b := &bloom{memory: m}
			if rng.IntN(2) == 0 {
				b.grow(rng.IntN(100_000))
			}
			var ks []local.DedupKey
			for range rng.IntN(200_000) {
				var k local.DedupKey
				binary.BigEndian.PutUint64(k[:8], rng.Uint64())
				binary.BigEndian.PutUint64(k[8:], rng.Uint64())
				b.add(k)
				ks = append(ks, k)
				if m.left.Load() < 0 {
					t.Fatalf("%d bytes too many are taken of %d", -m.left.Load(), all)
				}
			}
			blooms, keys = append(blooms, b), append(keys, ks)
		}
		for i, b := range blooms {
			for _, k := range keys[i] {
				if !b.has(k) {
					t.Fatal("a key is not known")
				}
			}
			var bytes int64
			for _, f := range b.filters {
				bytes += int64(len(f.blocks)) * bloomBlockBytes
			}
			if bytes != b.taken {
				t.Errorf("%d bytes are in use, %d taken", bytes, b.taken)
			}
			b.release()
			b.release()
		}
		if left := m.left.Load(); left != all {
			t.Errorf("%d bytes of %d are left at the end", left, all)
		}
	}
}

// TestDuplicatesAreKnownWithoutBlooms: Pebble is asked then. And what lanes have had
// comes back when they go.
func TestDuplicatesAreKnownWithoutBlooms(t *testing.T) {
	t.Parallel()
	for _, memory := range []int64{0, 1 << 20} {
		t.Run(fmt.Sprint(memory, " bytes"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dir := filepath.Join(t.TempDir(), "d")
			for range 2 { // from the disk, too
				r := w.start(dir, func(c *Config) { c.FlushInterval = 20 * time.Millisecond; c.MemoryBytes = 4 * memory })
				if memory == 0 {
					r.c.blooms.left.Store(0)
				}
				r.awaitReady(t)
				for range 2 {
					w.event("p1", "c1", "SENT")
					w.event("p1", "c2", "SENT")
					w.settle(r.cat)
				}
				r.await(t, "the duplicates are not looked up", func(*Consumer) bool {
					n, err := w.counter(r, "lockstitch_dedup_lookups_total")
					return err == nil && n >= 2
				})
				r.await(t, "", func(c *Consumer) bool {
					if left := c.blooms.left.Load(); (left == memory) != (memory == 0) {
						t.Errorf("%d bytes are left of %d", left, memory)
					}
					for n := range c.lanes {
						c.drop(n)
					}
					if left := c.blooms.left.Load(); left != memory {
						t.Errorf("without lanes %d bytes are left of %d", left, memory)
					}
					return true
				})
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
			}
			if rows := w.rows(w.caughtUp()); len(rows) != 2 {
				t.Errorf("rows %v", rows)
			}
		})
	}
}
