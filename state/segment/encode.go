package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"lockstitch/state/event"
)

// union gives one set of codes to the strings of several interners.
type union struct {
	in     []*interner
	codes  [][]uint32 // per interner: own code → common code; nil with a single one
	origin []struct{ in, code uint32 }
}

func newUnion(in []*interner) *union {
	u := &union{in: in}
	if len(in) == 1 {
		return u
	}
	total := 0
	for _, t := range in {
		total += t.len()
	}
	size := 128
	for size*3 < total*4 {
		size *= 2
	}
	table := make([]uint32, size)
	mask := uint32(size - 1)
	u.origin = make([]struct{ in, code uint32 }, 1, total)
	u.codes = make([][]uint32, len(in))
	for ti, t := range in {
		codes := make([]uint32, t.len())
		for c := 1; c < t.len(); c++ {
			h := t.hashes[c]
			i := h & mask
			for table[i] != 0 {
				o := u.origin[table[i]]
				if u.in[o.in].hashes[o.code] == h && string(u.bytes(table[i])) == string(t.bytes(uint32(c))) {
					break
				}
				i = (i + 1) & mask
			}
			if table[i] == 0 {
				table[i] = uint32(len(u.origin))
				u.origin = append(u.origin, struct{ in, code uint32 }{uint32(ti), uint32(c)})
			}
			codes[c] = table[i]
		}
		u.codes[ti] = codes
	}
	return u
}

func (u *union) len() int {
	if u.codes == nil {
		return u.in[0].len()
	}
	return len(u.origin)
}

func (u *union) code(in int, c uint32) uint32 {
	if u.codes == nil {
		return c
	}
	return u.codes[in][c]
}

func (u *union) bytes(c uint32) []byte {
	if u.codes == nil {
		return u.in[0].bytes(c)
	}
	o := u.origin[c]
	return u.in[o.in].bytes(o.code)
}

// stamps maps common codes to a slice's own without being cleared in between.
type stamps struct {
	at    []struct{ epoch, code uint32 }
	epoch uint32
}

func (s *stamps) start() {
	s.epoch++
	if s.epoch == 0 {
		clear(s.at)
		s.epoch = 1
	}
}

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

// slice appends one slice made of the rows to dst.
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
	shape, err := e.snapshots(rows)
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
		info.Sources = append(info.Sources, OffsetRange{Topic: src.Topic, Incarnation: src.Incarnation, TopicID: src.ID,
			Partition: src.Partition, Min: math.MaxInt64})
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

// snapshots writes the row→snapshot codes and the snapshots turned into
// columns, and returns how many there are.
func (e *encoder) snapshots(rows []entry) (snapShape, error) {
	codes := make([]uint32, len(rows))
	var list []uint32
	e.localSnap.start()
	for i, r := range e.rows {
		common := e.snaps.code(int(rows[i].buffer), r.snap)
		if common == 0 {
			continue
		}
		at := &e.localSnap.at[common]
		if at.epoch != e.localSnap.epoch {
			list = append(list, common)
			at.epoch, at.code = e.localSnap.epoch, uint32(len(list))
		}
		codes[i] = at.code
	}
	limit := uint32(len(list)) + 1
	raw := appendCodes(e.raw[:0], codes, 1, limit)
	if len(raw) > 1 {
		if other := appendFollow(nil, codes, e.codes[columnProfile], limit); len(other) < len(raw) {
			raw = append(raw[:0], other...)
		}
	}
	if err := e.codeBlock(raw); err != nil {
		return snapShape{}, err
	}
	t := e.transposer
	t.reset()
	for i, c := range list {
		t.add(uint32(i), e.snaps.bytes(c))
	}
	directory, pages := t.encode(len(list))
	if err := e.block(directory, true); err != nil {
		return snapShape{}, err
	}
	for _, p := range pages {
		if err := e.block(p, true); err != nil {
			return snapShape{}, err
		}
	}
	shape := snapShape{snapshots: len(list), columns: len(t.cols)}
	for i := range t.cols {
		shape.values += len(t.cols[i].dict)
	}
	return shape, nil
}

// The fixed parts of an object and of a slice.
const (
	version      = 1
	objectHead   = 8
	objectTail   = 16
	sliceHead    = 16
	objectMagic  = "LSOB"
	trailerMagic = "LSOE"
	sliceMagic   = "LSSL"
)

func appendHeader(dst []byte) []byte {
	return append(append(dst, objectMagic...), version, 0, 0, 0)
}

func appendSliceHead(dst, dir []byte) []byte {
	start := len(dst)
	dst = append(append(dst, sliceMagic...), version, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(dir)))
	crc := crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, dir)
	return binary.LittleEndian.AppendUint32(dst, crc)
}

// appendInfo writes what a slice's own directory and the object's have in
// common.
func appendInfo(dst []byte, info *SliceInfo) []byte {
	dst = appendString(dst, []byte(info.Account))
	dst = binary.AppendUvarint(dst, uint64(info.Rows))
	dst = binary.AppendUvarint(dst, uint64(info.MinTime))
	dst = binary.AppendUvarint(dst, uint64(info.MaxTime-info.MinTime))
	dst = binary.AppendUvarint(dst, uint64(len(info.Sources)))
	for _, s := range info.Sources {
		dst = appendString(dst, []byte(s.Topic))
		dst = binary.AppendUvarint(dst, uint64(s.Incarnation))
		dst = append(dst, s.TopicID[:]...)
		dst = binary.AppendUvarint(dst, uint64(s.Partition))
		dst = binary.AppendUvarint(dst, uint64(s.Min))
		dst = binary.AppendUvarint(dst, uint64(s.Next-s.Min))
	}
	return dst
}

// snapShape is how much there is to the snapshots of a slice: a reader must
// know before it unpacks them what they will hold.
type snapShape struct {
	snapshots int // distinct ones
	columns   int // attributes, tags and audiences that any of them has
	values    int // entries of the attributes' dictionaries together
}

func appendSliceDirectory(dst []byte, info *SliceInfo, shape snapShape, blocks []block) []byte {
	dst = appendInfo(dst, info)
	dst = binary.AppendUvarint(dst, uint64(shape.snapshots))
	dst = binary.AppendUvarint(dst, uint64(shape.columns))
	dst = binary.AppendUvarint(dst, uint64(shape.values))
	dst = binary.AppendUvarint(dst, uint64(len(blocks)))
	for _, b := range blocks {
		dst = b.append(dst)
	}
	return dst
}

// appendFooter writes the object's directory and trailer behind its slices.
func appendFooter(dst []byte, slices []SliceInfo) []byte {
	start := len(dst)
	dst = binary.AppendUvarint(dst, uint64(len(slices)))
	for i := range slices {
		dst = appendInfo(dst, &slices[i])
		dst = binary.AppendUvarint(dst, uint64(slices[i].Offset))
		dst = binary.AppendUvarint(dst, uint64(slices[i].Length))
		dst = binary.AppendUvarint(dst, uint64(slices[i].KeysLength))
	}
	n := len(dst) - start
	dst = append(dst, version, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, trailerMagic...)
}
