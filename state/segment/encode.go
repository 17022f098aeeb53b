package segment

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"lockstitch/state/event"
)

// encoder turns sorted rows into slices. Its scratch memory is reused from
// slice to slice.
type encoder struct {
	*packer
	buffers     []*Buffer
	text, snaps *union
	accountRank []uint32   // by common text code
	sources     []Source   // of all buffers, sorted
	sourceRank  [][]uint32 // per buffer
	localText   stamps
	localSnap   stamps
	localSource stamps
	transposer  *transposer
	snapCodes   []uint32 // per row: 0, or its snapshot's place in snapList + 1
	snapList    []uint32 // common codes

	rows   []*row
	codes  [numColumns][]uint32
	dicts  [numColumns][]uint32 // common codes
	raw    []byte
	body   []byte
	blocks []block
}

func newEncoder(buffers []*Buffer) (*encoder, error) {
	k, err := newPacker()
	if err != nil {
		return nil, err
	}
	e := &encoder{packer: k, buffers: buffers, transposer: newTransposer()}
	var texts, snaps []*interner
	for _, b := range buffers {
		texts, snaps = append(texts, b.text), append(snaps, b.snaps)
	}
	e.text, e.snaps = newUnion(texts), newUnion(snaps)
	e.localText.at = make([]struct{ epoch, code uint32 }, e.text.len())
	e.localSnap.at = make([]struct{ epoch, code uint32 }, e.snaps.len())
	if err := e.rankSources(); err != nil {
		return nil, err
	}
	e.localSource.at = make([]struct{ epoch, code uint32 }, len(e.sources))
	e.rankAccounts()
	return e, nil
}

func (e *encoder) rankSources() error {
	for _, b := range e.buffers {
		e.sources = append(e.sources, b.sources...)
	}
	slices.SortFunc(e.sources, Source.Compare)
	e.sources = slices.Compact(e.sources)
	for i := 1; i < len(e.sources); i++ {
		if a, b := e.sources[i-1], e.sources[i]; a.Compare(b) == 0 {
			return fmt.Errorf("segment: incarnation %d of topic %s has two ids, %s and %s", a.Incarnation, a.Topic, a.ID, b.ID)
		}
	}
	for _, b := range e.buffers {
		ranks := make([]uint32, len(b.sources))
		for i, s := range b.sources {
			at, _ := slices.BinarySearchFunc(e.sources, s, Source.Compare)
			ranks[i] = uint32(at)
		}
		e.sourceRank = append(e.sourceRank, ranks)
	}
	return nil
}

func (e *encoder) rankAccounts() {
	e.accountRank = make([]uint32, e.text.len())
	var seen []uint32
	for bi, b := range e.buffers {
		for i := range b.n {
			if c := e.text.code(bi, b.row(i).account); e.accountRank[c] == 0 {
				e.accountRank[c] = 1
				seen = append(seen, c)
			}
		}
	}
	slices.SortFunc(seen, func(a, b uint32) int { return slices.Compare(e.text.bytes(a), e.text.bytes(b)) })
	for i, c := range seen {
		e.accountRank[c] = uint32(i)
	}
}

// slice appends one slice made of the rows, which transpose has taken in, to dst.
func (e *encoder) slice(dst []byte, rows []entry) ([]byte, SliceInfo, error) {
	e.body, e.blocks, e.rows = e.body[:0], e.blocks[:0], e.rows[:0]
	for _, r := range rows {
		e.rows = append(e.rows, e.buffers[r.buffer].row(int(r.row)))
	}
	info := SliceInfo{
		Account: string(e.text.bytes(e.text.code(int(rows[0].buffer), e.rows[0].account))),
		Rows:    len(rows), MinTime: rows[0].server, MaxTime: rows[len(rows)-1].server, Offset: int64(len(dst)),
	}
	sources := e.sourceTable(rows, &info)
	e.columns(rows)
	if err := e.keys(rows, &info, sources); err != nil {
		return nil, info, err
	}
	keys := len(e.body)
	if err := e.cells(); err != nil {
		return nil, info, err
	}
	shape, err := e.snapshots()
	if err != nil {
		return nil, info, err
	}

	dir := appendSliceDirectory(nil, &info, shape, e.blocks)
	info.KeysLength = int64(sliceHead + len(dir) + keys)
	info.Length = int64(sliceHead + len(dir) + len(e.body))
	dst = appendSliceHead(dst, dir)
	return append(append(dst, dir...), e.body...), info, nil
}

func (e *encoder) block(raw []byte, try bool) error {
	body, b, err := e.pack(e.body, raw, try)
	if err != nil {
		return err
	}
	e.body, e.blocks = body, append(e.blocks, b)
	return nil
}

// sourceTable fills info.Sources and returns each row's index in it.
func (e *encoder) sourceTable(rows []entry, info *SliceInfo) []uint32 {
	var seen []uint32
	e.localSource.start()
	for _, r := range rows {
		if at := &e.localSource.at[r.source]; at.epoch != e.localSource.epoch {
			at.epoch = e.localSource.epoch
			seen = append(seen, r.source)
		}
	}
	slices.Sort(seen)
	for i, s := range seen {
		e.localSource.at[s].code = uint32(i)
		src := e.sources[s]
		info.Sources = append(info.Sources, src.Range(src.Partition, math.MaxInt64, 0))
	}
	codes := make([]uint32, len(rows))
	for i, r := range rows {
		codes[i] = e.localSource.at[r.source].code
		s := &info.Sources[codes[i]]
		s.Min, s.Next = min(s.Min, r.offset), max(s.Next, r.offset+1)
	}
	return codes
}

// columns translates the text codes of the rows into a dictionary and codes
// for each column, in the order of first appearance.
func (e *encoder) columns(rows []entry) {
	for c := range numColumns {
		e.localText.start()
		codes, dict := e.codes[c][:0], e.dicts[c][:0]
		for i, r := range e.rows {
			var own uint32
			switch c {
			case columnSection:
				own = r.section
			case columnProfile:
				own = r.profile
			default:
				own = r.cells[c-columnCells]
			}
			common := e.text.code(int(rows[i].buffer), own)
			at := &e.localText.at[common]
			if at.epoch != e.localText.epoch {
				at.epoch, at.code = e.localText.epoch, uint32(len(dict))
				dict = append(dict, common)
			}
			codes = append(codes, at.code)
		}
		e.codes[c], e.dicts[c] = codes, dict
	}
}

// keys writes the blocks that OpenKeys needs.
func (e *encoder) keys(rows []entry, info *SliceInfo, sources []uint32) error {
	if err := e.block(e.activities(), true); err != nil {
		return err
	}
	types := make([]uint32, len(e.rows))
	for i, r := range e.rows {
		types[i] = uint32(r.typ)
	}
	if err := e.codeBlock(appendCodes(e.raw[:0], types, 0, uint32(event.NumTypes))); err != nil {
		return err
	}
	if err := e.codeBlock(appendCodes(e.raw[:0], sources, 0, uint32(len(info.Sources)))); err != nil {
		return err
	}

	last := make([]int64, len(info.Sources))
	for i, s := range info.Sources {
		last[i] = s.Min
	}
	raw := e.raw[:0]
	for i, r := range rows {
		raw = binary.AppendUvarint(raw, zigzag(r.offset-last[sources[i]]))
		last[sources[i]] = r.offset
	}
	if err := e.block(raw, true); err != nil {
		return err
	}
	raw = raw[:0]
	time := info.MinTime
	for _, r := range rows {
		raw = binary.AppendUvarint(raw, uint64(r.server-time))
		time = r.server
	}
	if err := e.block(raw, true); err != nil {
		return err
	}
	raw = raw[:0]
	for i := range last {
		last[i] = info.MinTime
	}
	for i, r := range e.rows {
		raw = binary.AppendUvarint(raw, zigzag(r.log-last[sources[i]]))
		last[sources[i]] = r.log
	}
	if err := e.block(raw, true); err != nil {
		return err
	}
	e.raw = raw
	return e.correlations(rows)
}

func (e *encoder) correlations(rows []entry) error {
	raw := e.raw[:0]
	var others []int
	for i, r := range e.rows {
		if r.uuid {
			raw = append(raw, r.corr[:]...)
		} else {
			others = append(others, i)
		}
	}
	// UUIDs are random: trying to compress them costs time for nothing.
	if err := e.block(raw, false); err != nil {
		return err
	}
	raw = raw[:0]
	if len(others) > 0 {
		raw = appendBits(raw, len(rows), func(i int) bool { return e.rows[i].uuid })
		raw = appendStrings(raw, len(others), func(i int) []byte {
			at := others[i]
			return e.buffers[rows[at].buffer].correlation(e.rows[at])
		})
	}
	e.raw = raw
	return e.block(raw, true)
}

// codeBlock writes a code vector; all zeros is an empty block.
func (e *encoder) codeBlock(raw []byte) error {
	e.raw = raw
	if len(raw) == 1 && raw[0] == codesZero {
		raw = nil
	}
	return e.block(raw, true)
}

// cells writes event times and the dictionary columns.
func (e *encoder) cells() error {
	raw := e.raw[:0]
	for _, r := range e.rows {
		raw = binary.AppendUvarint(raw, zigzag(r.event-r.server))
	}
	e.raw = raw
	if err := e.block(raw, true); err != nil {
		return err
	}
	for c := range numColumns {
		dict := e.dicts[c]
		raw = e.raw[:0]
		if len(dict) > 1 || dict[0] != 0 {
			raw = appendStrings(raw, len(dict), func(i int) []byte { return e.text.bytes(dict[i]) })
		}
		e.raw = raw
		if err := e.block(raw, true); err != nil {
			return err
		}
		raw = appendCodes(e.raw[:0], e.codes[c], 0, uint32(len(dict)))
		if len(raw) > 2 {
			for o := range c {
				if len(e.dicts[o]) == len(dict) && slices.Equal(e.codes[o], e.codes[c]) {
					raw = append(raw[:0], codesSame, byte(o))
					break
				}
			}
		}
		if err := e.codeBlock(raw); err != nil {
			return err
		}
	}
	return nil
}

// transpose turns the snapshots of the rows into columns and answers how many rows it
// has taken in: all, unless the columns get too many, or long values too much text.
func (e *encoder) transpose(rows []entry) int {
	e.snapCodes, e.snapList = e.snapCodes[:0], e.snapList[:0]
	e.localSnap.start()
	e.transposer.reset()
	long, values := 0, &e.transposer.values.refs
	for i, r := range rows {
		b := e.buffers[r.buffer]
		common := e.snaps.code(int(r.buffer), b.row(int(r.row)).snap)
		if common == 0 {
			e.snapCodes = append(e.snapCodes, 0)
			continue
		}
		at := &e.localSnap.at[common]
		if at.epoch != e.localSnap.epoch {
			before := len(*values)
			e.transposer.add(uint32(len(e.snapList)), e.snaps.bytes(common))
			for _, v := range (*values)[before:] {
				long += max(0, int(v.n)-ordinaryText)
			}
			if i > 0 && (len(e.transposer.cols) > maxSnapColumns || long > maxLongText) {
				return e.transpose(rows[:i])
			}
			e.snapList = append(e.snapList, common)
			at.epoch, at.code = e.localSnap.epoch, uint32(len(e.snapList))
		}
		e.snapCodes = append(e.snapCodes, at.code)
	}
	return len(rows)
}

// snapshots writes the row→snapshot codes and the columns that transpose has made of
// the snapshots, and returns how many there are.
func (e *encoder) snapshots() (snapShape, error) {
	limit := uint32(len(e.snapList)) + 1
	raw := appendCodes(e.raw[:0], e.snapCodes, 1, limit)
	if len(raw) > 1 {
		if other := appendFollow(nil, e.snapCodes, e.codes[columnProfile], limit); len(other) < len(raw) {
			raw = append(raw[:0], other...)
		}
	}
	if err := e.codeBlock(raw); err != nil {
		return snapShape{}, err
	}
	t := e.transposer
	directory, pages := t.encode(len(e.snapList))
	if err := e.block(directory, true); err != nil {
		return snapShape{}, err
	}
	for _, p := range pages {
		if err := e.block(p, true); err != nil {
			return snapShape{}, err
		}
	}
	shape := snapShape{snapshots: len(e.snapList), columns: len(t.cols)}
	for i := range t.cols {
		shape.values += len(t.cols[i].dict)
	}
	return shape, nil
}
