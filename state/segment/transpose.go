package segment

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"lockstitch/state/profile"
)

// pageBytes is the size after which a page of snapshot columns ends. A page is
// what a reader unpacks to get at one column.
const pageBytes = 32 << 10

// What a snapshot column holds; stored, never renumbered.
const (
	kindAttribute = iota
	kindTag
	kindAudience
	numKinds
)

// How it is stored which snapshots have a value.
const (
	presentAll  = 0
	presentBits = 1
	presentList = 2
)

// snapColumn collects one attribute, tag or audience over the snapshots.
type snapColumn struct {
	kind    uint8
	section uint32   // its number
	id      []byte   // aliases the snapshots
	snaps   []uint32 // which have it, ascending
	codes   []uint32 // attributes: per entry of snaps
	dict    []uint32 // attributes: interned kind and value
}

// keepTransposed is how much memory a transposer keeps of each store.
const keepTransposed = 8 << 20

// transposer turns snapshots, which are rows, into columns. Columns know their section by
// its number: a name may be as long as a record, and that of thousands of columns.
type transposer struct {
	sections *interner // name → number; 0 is that of the empty one, which audiences have
	name     []byte    // the name looked up last, and its number
	number   uint32
	keys     *interner // kind, section, id → 1 + index in columns
	cols     []snapColumn
	values   *interner // column, kind, value
	local    []uint32  // per value: its code within its column
	expect   []uint32  // the columns of the snapshot before, in its order
	nth      int
	snap     uint32
	key      []byte
	out      []byte
}

func newTransposer() *transposer {
	return &transposer{sections: newInterner(), keys: newInterner(), values: newInterner()}
}

func (t *transposer) reset() {
	t.sections.reset(keepTransposed)
	t.name = nil
	t.keys.reset(keepTransposed)
	t.values.reset(keepTransposed)
	for i := range t.cols {
		c := &t.cols[i]
		*c = snapColumn{snaps: c.snaps[:0], codes: c.codes[:0], dict: c.dict[:0]}
	}
	// Thousands of columns of one odd slice are not kept.
	if cap(t.cols) > 1024 {
		t.cols = nil
	}
	t.cols, t.local, t.expect = t.cols[:0], append(t.local[:0], 0), t.expect[:0]
}

// add takes in one snapshot, which must stay unchanged until encode.
func (t *transposer) add(snap uint32, p []byte) {
	s := profile.Snapshot(p)
	t.snap, t.nth = snap, 0
	s.Attributes(t.attribute)
	s.Tags(t.tag)
	s.Segments(t.audience)
	t.expect = t.expect[:t.nth]
}

func (t *transposer) attribute(section, id []byte, v profile.Value) {
	ci := t.column(kindAttribute, t.section(section), id)
	c := &t.cols[ci]
	t.key = binary.LittleEndian.AppendUint32(t.key[:0], ci)
	t.key = append(append(t.key, byte(v.Kind)), v.Raw...)
	code := t.values.code(t.key)
	if int(code) == len(t.local) {
		t.local = append(t.local, uint32(len(c.dict)))
		c.dict = append(c.dict, code)
	}
	c.snaps = append(c.snaps, t.snap)
	c.codes = append(c.codes, t.local[code])
}

func (t *transposer) tag(section, id []byte) {
	c := &t.cols[t.column(kindTag, t.section(section), id)]
	c.snaps = append(c.snaps, t.snap)
}

func (t *transposer) audience(discriminator []byte) {
	c := &t.cols[t.column(kindAudience, 0, discriminator)]
	c.snaps = append(c.snaps, t.snap)
}

// section is the number of a section. A snapshot gives the very same bytes as its name with
// all that is in it, so they are read for the first of that only.
func (t *transposer) section(name []byte) uint32 {
	if len(name) == 0 {
		return 0
	}
	if len(name) != len(t.name) || &name[0] != &t.name[0] {
		t.name, t.number = name, t.sections.code(name)
	}
	return t.number
}

// column finds the column, trying first the one that stood here in the
// snapshot before: profiles of an account look alike.
func (t *transposer) column(kind uint8, section uint32, id []byte) uint32 {
	if t.nth < len(t.expect) {
		at := t.expect[t.nth]
		if c := &t.cols[at]; c.kind == kind && c.section == section && bytes.Equal(c.id, id) {
			t.nth++
			return at
		}
	}
	t.key = binary.LittleEndian.AppendUint32(append(t.key[:0], kind), section)
	t.key = append(t.key, id...)
	at := t.keys.code(t.key) - 1
	if int(at) == len(t.cols) {
		if len(t.cols) < cap(t.cols) {
			t.cols = t.cols[:at+1] // with the memory of its lists
		} else {
			t.cols = append(t.cols, snapColumn{})
		}
		c := &t.cols[at]
		c.kind, c.section, c.id = kind, section, id
	}
	t.expect = append(t.expect[:t.nth], at)
	t.nth++
	return at
}

// encode returns the directory of the columns and their pages. Both are valid
// until the next reset.
func (t *transposer) encode(snapshots int) (directory []byte, pages [][]byte) {
	if len(t.cols) == 0 {
		return nil, nil
	}
	ranks := t.sectionRanks()
	order := make([]int, len(t.cols))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return t.cols[a].compare(&t.cols[b], ranks) })

	var sections [][]byte
	listed := make([]uint32, len(ranks)) // per section: 1 + its index in sections
	for _, at := range order {
		if s := t.cols[at].section; listed[s] == 0 {
			sections = append(sections, t.sections.bytes(s))
			listed[s] = uint32(len(sections))
		}
	}
	directory = appendStrings(nil, len(sections), func(i int) []byte { return sections[i] })
	directory = binary.AppendUvarint(directory, uint64(len(order)))
	out := t.out[:0]
	var ends []int
	start := 0
	for _, at := range order {
		c := &t.cols[at]
		before := len(out)
		out = t.appendColumn(out, c, snapshots)
		if before > start && len(out)-start > pageBytes {
			ends = append(ends, before)
			start = before
		}
		directory = append(directory, c.kind)
		directory = binary.AppendUvarint(directory, uint64(listed[c.section]-1))
		directory = appendString(directory, c.id)
		directory = binary.AppendUvarint(directory, uint64(len(ends)))
		directory = binary.AppendUvarint(directory, uint64(len(out)-before))
	}
	ends = append(ends, len(out))
	start = 0
	for _, end := range ends {
		pages = append(pages, out[start:end])
		start = end
	}
	t.out = out
	return directory, pages
}

// sectionRanks gives, per section, its place in the order of their names.
func (t *transposer) sectionRanks() []uint32 {
	order := make([]uint32, t.sections.len())
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return bytes.Compare(t.sections.bytes(a), t.sections.bytes(b)) })
	ranks := make([]uint32, len(order))
	for i, s := range order {
		ranks[s] = uint32(i)
	}
	return ranks
}

func (c *snapColumn) compare(o *snapColumn, ranks []uint32) int {
	if d := cmp.Compare(c.kind, o.kind); d != 0 {
		return d
	}
	if d := cmp.Compare(ranks[c.section], ranks[o.section]); d != 0 {
		return d
	}
	return bytes.Compare(c.id, o.id)
}

func (t *transposer) appendColumn(dst []byte, c *snapColumn, snapshots int) []byte {
	dst = appendPresent(dst, c.snaps, snapshots)
	if c.kind != kindAttribute {
		return dst
	}
	value := func(i int) []byte { return t.values.bytes(c.dict[i])[4:] }
	kind := value(0)[0]
	mixed := false
	for i := range c.dict {
		mixed = mixed || value(i)[0] != kind
	}
	if mixed {
		dst = binary.AppendUvarint(append(dst, mixedKinds), uint64(len(c.dict)))
		for i := range c.dict {
			dst = append(dst, value(i)[0])
		}
	} else {
		dst = append(dst, kind)
	}
	dst = appendStrings(dst, len(c.dict), func(i int) []byte { return value(i)[1:] })
	return appendCodes(dst, c.codes, 0, uint32(len(c.dict)))
}

// mixedKinds stands where otherwise the one kind of all values stands.
const mixedKinds = 0xff

func appendPresent(dst []byte, snaps []uint32, snapshots int) []byte {
	if len(snaps) == snapshots {
		return append(dst, presentAll)
	}
	list := 0
	last := uint32(0)
	for _, s := range snaps {
		list += uvarintLen(uint64(s - last))
		last = s
	}
	if list+uvarintLen(uint64(len(snaps))) >= packedLen(snapshots, 1) {
		dst = append(dst, presentBits)
		start := len(dst)
		dst = append(dst, make([]byte, packedLen(snapshots, 1))...)
		for _, s := range snaps {
			dst[start+int(s>>3)] |= 1 << (s & 7)
		}
		return dst
	}
	dst = append(dst, presentList)
	dst = binary.AppendUvarint(dst, uint64(len(snaps)))
	last = 0
	for _, s := range snaps {
		dst = binary.AppendUvarint(dst, uint64(s-last))
		last = s
	}
	return dst
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
