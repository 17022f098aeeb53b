package consumer

import (
	"encoding/binary"
	"sync/atomic"

	"lockstitch/state/local"
)

// bloom answers "certainly not seen" for deduplication keys. It is a chain of
// blocked Bloom filters (one cache line a key, 16 bits a key), each twice the
// size of the one before, so that memory follows the number of keys. Keys that
// are added in their order go to one cache line after the other.
//
// Where the memory that all have together does not suffice for the next filter, a
// bloom gives back what it has and answers "perhaps" from then on, and Pebble is
// asked for every key.
type bloom struct {
	filters []bloomFilter
	room    int // keys that the last filter still takes
	memory  *bloomMemory
	taken   int64 // bytes
	given   bool  // back: it has no filters any more
}

// bloomMemory is what the blooms of all lanes may take together, in bytes.
type bloomMemory struct{ left atomic.Int64 }

func (m *bloomMemory) take(bytes int64) bool {
	if m.left.Add(-bytes) >= 0 {
		return true
	}
	m.left.Add(bytes)
	return false
}

type bloomFilter struct {
	blocks [][8]uint64
}

const (
	bloomFirstKeys   = 1 << 14
	bloomBlockBytes  = 64
	bloomKeysABlock  = 32
	bloomMaxDoubling = 12
)

// add is false once nothing need be added any more.
func (b *bloom) add(k local.DedupKey) bool {
	if b.room == 0 {
		b.grow(bloomFirstKeys << min(len(b.filters), bloomMaxDoubling))
	}
	if b.given {
		return false
	}
	b.room--
	f := b.filters[len(b.filters)-1]
	i, bits := bloomPlace(k, len(f.blocks))
	block := &f.blocks[i]
	for w := range block {
		block[w] |= 1 << (bits & 63)
		bits >>= 6
	}
	return true
}

// grow makes a filter that the next n keys go to.
func (b *bloom) grow(n int) {
	blocks := (n + bloomKeysABlock - 1) / bloomKeysABlock
	bytes := int64(blocks) * bloomBlockBytes
	if b.given || !b.memory.take(bytes) {
		b.release()
		return
	}
	b.taken += bytes
	b.filters = append(b.filters, bloomFilter{blocks: make([][8]uint64, blocks)})
	b.room = blocks * bloomKeysABlock
}

// release gives back the memory; every key may have been seen then.
func (b *bloom) release() {
	b.memory.left.Add(b.taken)
	b.filters, b.room, b.taken, b.given = nil, 0, 0, true
}

func (b *bloom) has(k local.DedupKey) bool {
	if b.given {
		return true
	}
next:
	for i := len(b.filters) - 1; i >= 0; i-- {
		f := b.filters[i]
		at, bits := bloomPlace(k, len(f.blocks))
		block := &f.blocks[at]
		for w := range block {
			if block[w]&(1<<(bits&63)) == 0 {
				continue next
			}
			bits >>= 6
		}
		return true
	}
	return false
}

// bloomPlace picks a block by one half of the key and one bit in each of its
// eight words by the other.
func bloomPlace(k local.DedupKey, blocks int) (int, uint64) {
	hi, lo := binary.BigEndian.Uint64(k[:8]), binary.BigEndian.Uint64(k[8:])
	return int((hi >> 32) * uint64(blocks) >> 32), lo
}
