package segment

import (
	"encoding/binary"
	"unsafe"

	"lockstitch/state/event"
	"lockstitch/state/profile"
)

const rowChunk = 1024 // rows in one piece of a buffer

// row is one kept event with codes instead of text.
type row struct {
	server, event, log, offset int64
	corr                       [16]byte // the UUID, or where the arena keeps the text
	account, section, profile  uint32
	snap                       uint32 // 0: undecorated
	source                     uint32
	size                       uint32 // bytes of text and snapshot, repeated or not
	cells                      [event.NumCells]uint32
	typ                        event.Type
	uuid                       bool // corr is the UUID itself
}

const rowSize = int64(unsafe.Sizeof(row{}))

// Buffer holds the kept rows of one lane between two cuts. It is used by one
// goroutine at a time. Text is interned: a cell whose value was seen before
// costs no allocation.
type Buffer struct {
	rows    [][]row // pieces of rowChunk
	n       int
	text    *interner // accounts, sections, profile ids, cells
	snaps   *interner // profile snapshots
	corr    arena     // correlation ids that are not UUIDs
	sources []Source
	last    int // the source found last
}

// NewBuffer returns an empty buffer.
func NewBuffer() *Buffer {
	return &Buffer{text: newInterner(), snaps: newInterner()}
}

// Add appends one kept event. It copies what it keeps, so that ev, snap and s
// may be reused. A nil snap means undecorated. logTime is the log time (ms) of
// the stream's partition at offset. Rows of one source come in offset order.
func (b *Buffer) Add(s *Stream, partition int32, offset, logTime int64, ev *event.Event, snap profile.Snapshot) {
	r := b.next()
	r.server, r.event, r.log, r.offset = ev.ServerTime, ev.EventTime, logTime, offset
	if u, ok := parseUUID(ev.CorrelationID); ok {
		r.corr, r.uuid = u, true
	} else {
		b.putCorrelation(r, ev.CorrelationID)
	}
	r.source = b.source(s, partition)
	r.typ = ev.Type
	r.account = b.text.code(ev.AccountID)
	r.section = b.text.code(ev.Section)
	r.profile = b.text.code(ev.ProfileID)
	size := len(ev.CorrelationID) + len(ev.AccountID) + len(ev.Section) + len(ev.ProfileID) + len(snap)
	for c := range ev.Cells {
		r.cells[c] = b.text.code(ev.Cells[c])
		size += len(ev.Cells[c])
	}
	r.snap = b.snaps.code(snap)
	r.size = uint32(size)
}

// next is one more row, with whatever it had before.
func (b *Buffer) next() *row {
	if b.n == len(b.rows)*rowChunk {
		b.rows = append(b.rows, make([]row, 0, rowChunk))
	}
	piece := &b.rows[b.n/rowChunk]
	*piece = (*piece)[:len(*piece)+1]
	b.n++
	return &(*piece)[len(*piece)-1]
}

// putCorrelation keeps a correlation id that is not a UUID.
func (b *Buffer) putCorrelation(r *row, text []byte) {
	at := b.corr.put(text)
	binary.LittleEndian.PutUint32(r.corr[0:], at.chunk)
	binary.LittleEndian.PutUint32(r.corr[4:], at.off)
	binary.LittleEndian.PutUint32(r.corr[8:], at.n)
	r.uuid = false
}

// correlation returns the text of a correlation id that is not a UUID.
func (b *Buffer) correlation(r *row) []byte {
	return b.corr.get(ref{
		chunk: binary.LittleEndian.Uint32(r.corr[0:]),
		off:   binary.LittleEndian.Uint32(r.corr[4:]),
		n:     binary.LittleEndian.Uint32(r.corr[8:]),
	})
}

func (b *Buffer) source(s *Stream, partition int32) uint32 {
	is := func(i int) bool {
		o := &b.sources[i]
		return o.Partition == partition && o.Incarnation == s.Incarnation && o.ID == s.ID && o.Topic == s.Topic
	}
	if b.last < len(b.sources) && is(b.last) {
		return uint32(b.last)
	}
	for i := range b.sources {
		if is(i) {
			b.last = i
			return uint32(i)
		}
	}
	b.last = len(b.sources)
	b.sources = append(b.sources, Source{Stream: *s, Partition: partition})
	return uint32(b.last)
}

func (b *Buffer) row(i int) *row { return &b.rows[i/rowChunk][i%rowChunk] }

// Rows is the number of rows added since the last Reset.
func (b *Buffer) Rows() int { return b.n }

// sealBytes is what Seal needs for each row and each distinct string on top of
// the objects it makes: sort entries, code translation.
const sealRowBytes, sealTextBytes = 40, 24

// Bytes is the memory held: rows, text, snapshots, tables with their spare
// room, and what Seal will need beside them for sorting. It bounds the memory
// of the process, so it counts capacity, not use.
func (b *Buffer) Bytes() int64 {
	held := int64(len(b.rows))*rowChunk*rowSize + int64(cap(b.rows))*24
	held += b.text.size() + b.snaps.size() + b.corr.held
	held += int64(cap(b.sources)) * 64
	held += int64(b.n)*sealRowBytes + int64(b.text.len()+b.snaps.len())*sealTextBytes
	return held
}

// Reset empties the buffer after a cut. It keeps some memory for the next rows, up to
// keep bytes.
func (b *Buffer) Reset(keep int64) {
	keep /= 4 // of each store
	pieces := min(len(b.rows), int(keep/(rowChunk*rowSize)))
	clear(b.rows[pieces:])
	b.rows = b.rows[:pieces]
	for i := range b.rows {
		b.rows[i] = b.rows[i][:0]
	}
	b.n, b.last = 0, 0
	b.sources = b.sources[:0]
	b.text.reset(keep)
	b.snaps.reset(keep)
	b.corr.reset(keep)
}
