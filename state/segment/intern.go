package segment

import (
	"bytes"

	"github.com/zeebo/xxh3"
)

// chunkSize is the size of an arena's chunks; longer strings get one of their
// own.
const chunkSize = 64 << 10

// arena keeps copies of byte strings in chunks that never move.
type arena struct {
	chunks [][]byte
	used   int   // chunks[used-1] is written to, those behind it are empty spares
	held   int64 // bytes of capacity
}

// ref is where an arena keeps a string. It holds no pointer, so that the
// garbage collector need not look at millions of them.
type ref struct {
	chunk, off, n uint32
}

func (a *arena) put(p []byte) ref {
	if len(p) == 0 {
		return ref{}
	}
	if a.used == 0 || cap(a.chunks[a.used-1])-len(a.chunks[a.used-1]) < len(p) {
		if len(p) > chunkSize || a.used == len(a.chunks) {
			size := max(chunkSize, len(p))
			a.chunks = append(a.chunks, nil)
			copy(a.chunks[a.used+1:], a.chunks[a.used:])
			a.chunks[a.used] = make([]byte, 0, size)
			a.held += int64(size)
		}
		a.used++
	}
	last := a.used - 1
	off := len(a.chunks[last])
	a.chunks[last] = append(a.chunks[last], p...)
	return ref{chunk: uint32(last), off: uint32(off), n: uint32(len(p))}
}

// get returns the string; it aliases the arena.
func (a *arena) get(r ref) []byte {
	if r.n == 0 {
		return nil
	}
	return a.chunks[r.chunk][r.off : r.off+r.n : r.off+r.n]
}

// reset forgets everything and keeps chunks of the common size up to keep bytes.
func (a *arena) reset(keep int64) {
	kept := a.chunks[:0]
	var held int64
	for _, c := range a.chunks {
		if cap(c) == chunkSize && held+chunkSize <= keep {
			kept = append(kept, c[:0])
			held += chunkSize
		}
	}
	clear(a.chunks[len(kept):])
	a.chunks, a.used, a.held = kept, 0, held
}

// interner gives equal byte strings equal codes: 0 for the empty one, then 1,
// 2 … in the order in which they are first seen.
type interner struct {
	arena
	refs   []ref
	hashes []uint32
	table  []uint32 // open addressing: code, 0 is free; len is a power of two
}

func newInterner() *interner {
	return &interner{refs: make([]ref, 1, 64), hashes: make([]uint32, 1, 64), table: make([]uint32, 128)}
}

// code returns p's code, copying p when it is new. It allocates nothing when p
// was seen before.
func (t *interner) code(p []byte) uint32 {
	if len(p) == 0 {
		return 0
	}
	return t.codeHashed(p, fold(xxh3.Hash(p)))
}

func fold(h uint64) uint32 { return uint32(h ^ h>>32) }

func (t *interner) codeHashed(p []byte, h uint32) uint32 {
	mask := uint32(len(t.table) - 1)
	i := h & mask
	for {
		c := t.table[i]
		if c == 0 {
			break
		}
		if t.hashes[c] == h && bytes.Equal(t.get(t.refs[c]), p) {
			return c
		}
		i = (i + 1) & mask
	}
	c := uint32(len(t.refs))
	t.refs = append(t.refs, t.put(p))
	t.hashes = append(t.hashes, h)
	t.table[i] = c
	if len(t.refs)*4 > len(t.table)*3 {
		t.grow()
	}
	return c
}

func (t *interner) grow() {
	t.table = make([]uint32, 2*len(t.table))
	mask := uint32(len(t.table) - 1)
	for c := 1; c < len(t.refs); c++ {
		i := t.hashes[c] & mask
		for t.table[i] != 0 {
			i = (i + 1) & mask
		}
		t.table[i] = uint32(c)
	}
}

// bytes returns the string of a code; it aliases the interner.
func (t *interner) bytes(c uint32) []byte { return t.get(t.refs[c]) }

// len is the number of codes, the empty string's included.
func (t *interner) len() int { return len(t.refs) }

// size is the memory held.
func (t *interner) size() int64 {
	return t.held + int64(cap(t.refs))*12 + int64(cap(t.hashes))*4 + int64(cap(t.table))*4 + int64(cap(t.chunks))*24
}

func (t *interner) reset(keep int64) {
	t.arena.reset(keep / 2)
	if int64(cap(t.table))*4+int64(cap(t.refs))*16 > keep/2 {
		t.refs, t.hashes, t.table = make([]ref, 1, 64), make([]uint32, 1, 64), make([]uint32, 128)
		return
	}
	if len(t.refs)*8 < len(t.table) {
		// Few codes in a big table: taking them out one by one is cheaper.
		mask := uint32(len(t.table) - 1)
		for c := 1; c < len(t.refs); c++ {
			i := t.hashes[c] & mask
			for t.table[i] != uint32(c) {
				i = (i + 1) & mask
			}
			t.table[i] = 0
		}
	} else {
		clear(t.table)
	}
	t.refs, t.hashes = t.refs[:1], t.hashes[:1]
}
