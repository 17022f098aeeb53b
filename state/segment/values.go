package segment

import (
	"bytes"
	"cmp"
	"math/bits"
	"sort"

	"lockstitch/state/profile"
)

// ValueColumn holds the values of one attribute over the snapshots of a slice:
// snapshot i has none where Codes[i] is 0, else Dict[Codes[i]-1].
type ValueColumn struct {
	Dict  []profile.Value
	Codes []uint32
}

// Bitmap is a set of snapshots. The nil one is empty.
type Bitmap []uint64

// Has tells whether snapshot i is in the set.
func (b Bitmap) Has(i int) bool {
	return i >= 0 && i>>6 < len(b) && b[i>>6]>>(i&63)&1 != 0
}

// Count is the number of snapshots in the set.
func (b Bitmap) Count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// snapDirectory lists the snapshot columns of a slice, sorted, and their sections.
type snapDirectory struct {
	sections [][]byte
	columns  []snapPlace
}

type snapPlace struct {
	kind        uint8
	number      uint32 // of the section: its index in the list
	section, id []byte
	page        uint32
	off, length uint32
}

// compare looks at the sections only if they are two: a name may be long, and that of
// thousands of columns. Two of one name are in no order.
func (a *snapPlace) compare(b *snapPlace) int {
	if a.kind != b.kind {
		return cmp.Compare(a.kind, b.kind)
	}
	if a.number != b.number {
		return bytes.Compare(a.section, b.section)
	}
	return bytes.Compare(a.id, b.id)
}

// find returns the index of a column or -1.
func (d *snapDirectory) find(kind uint8, section, id string) int {
	last, order := -1, 0 // the section that was compared last, and what came of it
	i, found := sort.Find(len(d.columns), func(i int) int {
		c := &d.columns[i]
		if c.kind != kind {
			return cmp.Compare(kind, c.kind)
		}
		if int(c.number) != last {
			last, order = int(c.number), compareText(section, c.section)
		}
		if order != 0 {
			return order
		}
		return compareText(id, c.id)
	})
	if !found {
		return -1
	}
	return i
}

// compareText copies neither.
func compareText(a string, b []byte) int {
	switch {
	case a == string(b):
		return 0
	case a < string(b):
		return -1
	}
	return 1
}

func (s *Slice) snapshotDirectory() (*snapDirectory, error) {
	return s.snapColumns.get(func() (*snapDirectory, error) {
		p, err := s.unpack(blockSnapshotDirectory)
		if err != nil {
			return nil, err
		}
		d, err := s.takeSnapDirectory(p)
		if err != nil {
			return nil, s.damaged(blockSnapshotDirectory, err)
		}
		return d, nil
	})
}

func (s *Slice) takeSnapDirectory(p []byte) (*snapDirectory, error) {
	d := &snapDirectory{}
	if len(p) == 0 {
		if len(s.pages) != 0 || s.shape.columns != 0 {
			return nil, errLong
		}
		return d, nil
	}
	var err error
	if d.sections, p, err = takeStrings(p, len(p)); err != nil {
		return nil, err
	}
	count, p, err := takeUvarint(p)
	if err != nil {
		return nil, err
	}
	if count != uint64(s.shape.columns) || count > uint64(len(p)) { // an entry takes five bytes at least
		return nil, errNumber
	}
	d.columns = make([]snapPlace, count)
	used := make([]uint64, len(s.pages))
	for i := range d.columns {
		c := &d.columns[i]
		if len(p) == 0 {
			return nil, errShort
		}
		c.kind, p = p[0], p[1:]
		var section, page, length uint64
		if section, p, err = takeUvarint(p); err != nil {
			return nil, err
		}
		if c.id, p, err = takeString(p); err != nil {
			return nil, err
		}
		if page, p, err = takeUvarint(p); err != nil {
			return nil, err
		}
		if length, p, err = takeUvarint(p); err != nil {
			return nil, err
		}
		if c.kind >= numKinds || section >= uint64(len(d.sections)) || page >= uint64(len(s.pages)) || length > maxBlockBytes {
			return nil, errNumber
		}
		c.number, c.section = uint32(section), d.sections[section]
		c.page, c.off, c.length = uint32(page), uint32(used[page]), uint32(length)
		if used[page] += length; used[page] > uint64(s.blocks[blockPages+int(page)].raw) {
			return nil, errNumber
		}
		if i > 0 && d.columns[i-1].compare(c) >= 0 {
			return nil, errNumber
		}
	}
	for page, n := range used {
		if n != uint64(s.blocks[blockPages+page].raw) {
			return nil, errLong
		}
	}
	if len(p) != 0 {
		return nil, errLong
	}
	return d, nil
}

// snapColumn returns the bytes of a snapshot column.
func (s *Slice) snapColumn(c *snapPlace) ([]byte, error) {
	page, err := s.pages[c.page].get(func() ([]byte, error) { return s.unpack(blockPages + int(c.page)) })
	if err != nil {
		return nil, err
	}
	return page[c.off : c.off+c.length], nil
}

func (s *Slice) snapDamaged(c *snapPlace, err error) error {
	i := blockPages + int(c.page)
	return s.corrupt(int64(s.blocks[i].off), "block %d: column %q of section %q: %v", i, c.id, c.section, err)
}

// lookup finds a snapshot column; -1: no snapshot has it.
func (s *Slice) lookup(kind uint8, section, id string) (*snapDirectory, int, error) {
	if s.only > 0 {
		return nil, -1, errNotThere
	}
	d, err := s.snapshotDirectory()
	if err != nil {
		return nil, -1, err
	}
	return d, d.find(kind, section, id), nil
}

// kept returns the cache entry of a snapshot column, making it when needed.
func kept[T any](s *Slice, cache *map[int]*once[T], i int) *once[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *cache == nil {
		*cache = map[int]*once[T]{}
	}
	o := (*cache)[i]
	if o == nil {
		o = &once[T]{}
		(*cache)[i] = o
	}
	return o
}

// Attribute returns the values of the attribute with a version id in a section,
// nil if no snapshot has it.
func (s *Slice) Attribute(section, versionID string) (*ValueColumn, error) {
	d, i, err := s.lookup(kindAttribute, section, versionID)
	if err != nil || i < 0 {
		return nil, err
	}
	return kept(s, &s.valueColumns, i).get(func() (*ValueColumn, error) { return s.values(&d.columns[i]) })
}

// Tag returns the snapshots that have the tag of a section, nil if none has.
func (s *Slice) Tag(section, versionID string) (Bitmap, error) {
	return s.bitmap(kindTag, section, versionID)
}

// Audience returns the snapshots that are members of an audience, nil if none
// is.
func (s *Slice) Audience(discriminator string) (Bitmap, error) {
	return s.bitmap(kindAudience, "", discriminator)
}

func (s *Slice) bitmap(kind uint8, section, id string) (Bitmap, error) {
	d, i, err := s.lookup(kind, section, id)
	if err != nil || i < 0 {
		return nil, err
	}
	return kept(s, &s.bitmaps, i).get(func() (Bitmap, error) { return s.members(&d.columns[i]) })
}

// members decodes the column of a tag or an audience.
func (s *Slice) members(c *snapPlace) (Bitmap, error) {
	p, err := s.snapColumn(c)
	if err != nil {
		return nil, err
	}
	b, rest, err := takePresent(p, s.shape.snapshots)
	if err == nil && len(rest) != 0 {
		err = errLong
	}
	if err != nil {
		return nil, s.snapDamaged(c, err)
	}
	return b, nil
}

// values decodes the column of an attribute.
func (s *Slice) values(c *snapPlace) (*ValueColumn, error) {
	p, err := s.snapColumn(c)
	if err != nil {
		return nil, err
	}
	v, err := takeValues(p, s.shape.snapshots)
	if err != nil {
		return nil, s.snapDamaged(c, err)
	}
	return v, nil
}

func takeValues(p []byte, snapshots int) (*ValueColumn, error) {
	present, p, err := takePresent(p, snapshots)
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, errShort
	}
	kind, p := p[0], p[1:]
	var kinds []byte
	if kind == mixedKinds {
		if kinds, p, err = takeString(p); err != nil {
			return nil, err
		}
	}
	texts, p, err := takeStrings(p, snapshots)
	if err != nil {
		return nil, err
	}
	if kinds != nil && len(kinds) != len(texts) {
		return nil, errNumber
	}
	v := &ValueColumn{Dict: make([]profile.Value, len(texts)), Codes: make([]uint32, snapshots)}
	for i, t := range texts {
		k := kind
		if kinds != nil {
			k = kinds[i]
		}
		if k > byte(profile.False) {
			return nil, errNumber
		}
		v.Dict[i] = profile.Value{Kind: profile.ValueKind(k), Raw: t}
	}
	codes, p, err := takeCodes(p, present.Count(), 0, uint32(len(texts)))
	if err != nil {
		return nil, err
	}
	if len(p) != 0 {
		return nil, errLong
	}
	if len(codes) == snapshots {
		for i, c := range codes {
			v.Codes[i] = c + 1
		}
		return v, nil
	}
	for w, word := range present {
		for ; word != 0; word &= word - 1 {
			v.Codes[w<<6+bits.TrailingZeros64(word)] = codes[0] + 1
			codes = codes[1:]
		}
	}
	return v, nil
}

// takePresent reads which of the snapshots have a value: at least one.
func takePresent(p []byte, snapshots int) (Bitmap, []byte, error) {
	if len(p) == 0 || snapshots == 0 {
		return nil, nil, errShort
	}
	mode, p := p[0], p[1:]
	b := make(Bitmap, (snapshots+63)/64)
	switch mode {
	case presentAll:
		for i := range b {
			b[i] = ^uint64(0)
		}
		if tail := snapshots & 63; tail != 0 {
			b[len(b)-1] = 1<<tail - 1
		}
	case presentBits:
		size := packedLen(snapshots, 1)
		if len(p) < size {
			return nil, nil, errShort
		}
		for i, v := range p[:size] {
			b[i>>3] |= uint64(v) << (8 * (i & 7))
		}
		if tail := snapshots & 63; tail != 0 && b[len(b)-1]>>tail != 0 {
			return nil, nil, errNumber
		}
		p = p[size:]
	case presentList:
		n, rest, err := takeUvarint(p)
		if err != nil {
			return nil, nil, err
		}
		p = rest
		if n > uint64(snapshots) {
			return nil, nil, errNumber
		}
		at := uint64(0)
		for i := range n {
			var d uint64
			if d, p, err = takeUvarint(p); err != nil {
				return nil, nil, err
			}
			if d >= uint64(snapshots) || i > 0 && d == 0 {
				return nil, nil, errNumber
			}
			if at += d; at >= uint64(snapshots) {
				return nil, nil, errNumber
			}
			b[at>>6] |= 1 << (at & 63)
		}
	default:
		return nil, nil, errMode
	}
	return b, p, nil
}
