package render

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strconv"

	"lockstitch/state/event"
	"lockstitch/state/segment"
)

// sheet is a slice prepared for one export: every dictionary entry already is
// the text of a finished cell with the delimiter behind it, so that a row is
// copied together. It keeps what rows need and lets go of the slice, which is
// several times as large. It does not change and may be used concurrently.
type sheet struct {
	times   []int64  // server_time
	events  []int64  // event_time
	offsets []int64  // in the row's partition
	sources []uint16 // index into limits and ranks
	limits  []limit
	ranks   []int32
	types   []event.Type
	profile []uint32 // per row: 0 undecorated, else 1 + snapshot
	pass    []bool   // per value of profile: what the filter says; nil: all pass
	parts   []part
	bytes   int64 // memory held
}

type partKind uint8

const (
	literal     partKind = iota // dict's first entry, in every row
	byRow                       // dict entry codes[row]
	byProfile                   // dict entry codes[profile], 0 being the absent value
	address                     // dict entry bySection[codes[row]][profile]
	correlation                 // dict entry row
	eventTime                   // numbers
	serverTime
	typeName
)

// part is one or, if literal, several neighbouring columns.
type part struct {
	kind      partKind
	dict      dictionary
	codes     []uint16 // enough: a slice has at most segment.MaxSliceRows different values
	bySection [][]uint32
}

// dictionary holds texts end to end.
type dictionary struct {
	text []byte
	ends []uint32 // entry i is text[ends[i]:ends[i+1]]
}

// newDictionary makes room for the entries and their text, delimiters and some
// quotes included, so that most dictionaries never grow.
func newDictionary(entries, text int) dictionary {
	return dictionary{text: make([]byte, 0, text+text/32+entries), ends: append(make([]uint32, 0, entries+1), 0)}
}

func textLength(entries [][]byte) (n int) {
	for _, e := range entries {
		n += len(e)
	}
	return n
}

// valueLength guesses the length of the values' cells: most are as long as what
// is stored.
func valueLength(column *segment.ValueColumn) (n int) {
	for i := range column.Dict {
		n += max(len(column.Dict[i].Raw), len("false"))
	}
	return n
}

// seal ends the entry whose text was just appended.
func (d *dictionary) seal(delimiter byte) {
	d.text = append(d.text, delimiter)
	d.ends = append(d.ends, uint32(len(d.text)))
}

func (d *dictionary) len() int { return len(d.ends) - 1 }

func newSheet(object string, info *segment.SliceInfo, s *segment.Slice, c *columns) (*sheet, error) {
	b := sheetBuilder{sheet: &sheet{}, columns: c, slice: s, last: len(defaultColumns) + len(c.attributes) + len(c.tags)}
	if err := b.build(object, info); err != nil {
		return nil, err
	}
	return b.sheet, nil
}

// key is a row's place in the order of the export.
type key struct {
	time   int64
	offset int64
	rank   int32
}

func (k key) less(o key) bool {
	if k.time != o.time {
		return k.time < o.time
	}
	if k.rank != o.rank {
		return k.rank < o.rank
	}
	return k.offset < o.offset
}

func (s *sheet) key(row int) key {
	return key{s.times[row], s.offsets[row], s.ranks[s.sources[row]]}
}

// search finds the first row that is not before k.
func (s *sheet) search(k key) int {
	return sort.Search(len(s.times), func(row int) bool { return !s.key(row).less(k) })
}

// shows tells whether the export holds the row.
func (s *sheet) shows(row int) bool {
	l := s.limits[s.sources[row]]
	if offset := s.offsets[row]; offset < l.after || offset >= l.barrier {
		return false
	}
	return s.pass == nil || s.pass[s.profile[row]]
}

// appendRow appends the row's line.
func (s *sheet) appendRow(dst []byte, row int) []byte {
	for i := range s.parts {
		p := &s.parts[i]
		var entry uint32
		switch p.kind {
		case literal:
			dst = append(dst, p.dict.text...)
			continue
		case byRow:
			entry = uint32(p.codes[row])
		case byProfile:
			if snapshot := s.profile[row]; snapshot != 0 {
				entry = uint32(p.codes[snapshot-1])
			}
		case address:
			if entries := p.bySection[p.codes[row]]; entries != nil {
				entry = entries[s.profile[row]]
			}
		case eventTime:
			dst = append(strconv.AppendInt(dst, s.events[row], 10), ',')
			continue
		case serverTime:
			dst = append(strconv.AppendInt(dst, s.times[row], 10), ',')
			continue
		case typeName:
			dst = append(append(dst, s.types[row].String()...), ',')
			continue
		case correlation:
			entry = uint32(row)
		}
		dst = append(dst, p.dict.text[p.dict.ends[entry]:p.dict.ends[entry+1]]...)
	}
	return dst
}

// rowLength is about how long a row's line is.
func (s *sheet) rowLength() int {
	const looked = 256
	step := max(1, len(s.times)/looked)
	var line []byte
	sum, n := 0, 0
	for row := 0; row < len(s.times); row += step {
		line = s.appendRow(line[:0], row)
		sum += len(line)
		n++
	}
	return sum / n
}

// sheetBuilder makes a sheet from a slice, column by column.
type sheetBuilder struct {
	*sheet
	*columns
	slice        *segment.Slice
	column, last int // columns added so far and in all
	scratch      []byte
}

func (b *sheetBuilder) build(object string, info *segment.SliceInfo) (err error) {
	s := b.slice
	if b.times, err = s.ServerTimes(); err != nil {
		return err
	}
	if b.events, err = s.EventTimes(); err != nil {
		return err
	}
	if b.offsets, err = s.Offsets(); err != nil {
		return err
	}
	if b.sources, err = s.SourceCodes(); err != nil {
		return err
	}
	if b.types, err = s.Types(); err != nil {
		return err
	}
	if b.profile, err = s.SnapshotCodes(); err != nil {
		return err
	}
	for _, source := range s.Sources() {
		rank, known := b.columns.ranks[source]
		if !known {
			return &segment.CorruptError{Object: object, Offset: info.Offset, Cause: fmt.Sprintf(
				"the slice has rows of %s-%d, which the catalog does not know of", source.Topic, source.Partition)}
		}
		b.sheet.ranks = append(b.sheet.ranks, rank)
		b.sheet.limits = append(b.sheet.limits, b.columns.limits[source.At()])
	}
	if err := b.evaluateFilter(); err != nil {
		return err
	}
	for _, c := range cellsBefore {
		if err := b.addCells(c); err != nil {
			return err
		}
	}
	if err := b.addAddress(); err != nil {
		return err
	}
	for _, c := range cellsBetween {
		if err := b.addCells(c); err != nil {
			return err
		}
	}
	b.add(part{kind: typeName})
	if err := b.addCorrelation(); err != nil {
		return err
	}
	b.add(part{kind: eventTime})
	b.add(part{kind: serverTime})
	for _, c := range cellsAfter {
		if err := b.addCells(c); err != nil {
			return err
		}
	}
	for _, a := range b.attributes {
		if err := b.addAttribute(a); err != nil {
			return err
		}
	}
	for _, t := range b.tags {
		if err := b.addTag(t.Section, t.VersionID); err != nil {
			return err
		}
	}
	b.bytes += int64(len(b.times)) * (3*8 + 4 + 2 + 1)
	for i := range b.parts {
		p := &b.parts[i]
		if int64(len(p.dict.text)) > math.MaxUint32 {
			return fmt.Errorf("render: a column of a slice of segment %s has %d bytes of text, more than can be addressed", object, len(p.dict.text))
		}
		b.bytes += int64(cap(p.dict.text)) + 4*int64(cap(p.dict.ends)) + 2*int64(cap(p.codes))
	}
	return nil
}

// delimiter is what stands behind the column that is added next.
func (b *sheetBuilder) delimiter() byte {
	if b.column == b.last-1 {
		return '\n'
	}
	return ','
}

// add appends a column. One whose cells are all the same becomes a literal, and
// literals side by side become one.
func (b *sheetBuilder) add(p part) {
	b.column++
	if p.kind <= address && p.dict.len() == 1 {
		p = part{kind: literal, dict: p.dict}
		if n := len(b.parts); n > 0 && b.parts[n-1].kind == literal {
			last := &b.parts[n-1].dict
			last.text = append(last.text, p.dict.text...)
			return
		}
	}
	b.parts = append(b.parts, p)
}

func (b *sheetBuilder) addCells(c event.Cell) error {
	column, err := b.slice.Cells(c)
	if err != nil {
		return err
	}
	delimiter := b.delimiter()
	d := newDictionary(len(column.Dict), textLength(column.Dict))
	for _, text := range column.Dict {
		d.text = appendCell(d.text, text, b.guard)
		d.seal(delimiter)
	}
	b.add(part{kind: byRow, dict: d, codes: narrow(column.Codes)})
	return nil
}

// narrow copies codes, each below segment.MaxSliceRows+1, into half the memory.
func narrow(codes []uint32) []uint16 {
	out := make([]uint16, len(codes))
	for i, c := range codes {
		out[i] = uint16(c)
	}
	return out
}

func (b *sheetBuilder) addCorrelation() error {
	delimiter := b.delimiter()
	rows := b.slice.Rows()
	d := newDictionary(rows, rows*len("00000000-0000-0000-0000-000000000000"))
	for row := range rows {
		var err error
		if b.scratch, err = b.slice.AppendCorrelation(b.scratch[:0], row); err != nil {
			return err
		}
		d.text = appendCell(d.text, b.scratch, b.guard)
		d.seal(delimiter)
	}
	b.add(part{kind: correlation, dict: d})
	return nil
}

// appendValues adds a column's values to the dictionary, as cells.
func (b *sheetBuilder) appendValues(d *dictionary, column *segment.ValueColumn, as valueType, delimiter byte) {
	for _, v := range column.Dict {
		var byRule bool
		b.scratch, byRule = appendValue(b.scratch[:0], as, v)
		d.text = appendCell(d.text, b.scratch, b.guard && !byRule)
		d.seal(delimiter)
	}
}

func (b *sheetBuilder) addAttribute(a attribute) error {
	column, err := b.slice.Attribute(a.section, a.version)
	if err != nil {
		return err
	}
	delimiter := b.delimiter()
	if column == nil {
		column = &segment.ValueColumn{}
	}
	d := newDictionary(1+len(column.Dict), valueLength(column))
	d.seal(delimiter)
	b.appendValues(&d, column, a.as, delimiter)
	b.add(part{kind: byProfile, dict: d, codes: narrow(column.Codes)})
	return nil
}

func (b *sheetBuilder) addTag(section, version string) error {
	bitmap, err := b.slice.Tag(section, version)
	if err != nil {
		return err
	}
	delimiter := b.delimiter()
	d := newDictionary(2, len("TAG"))
	d.seal(delimiter)
	var codes []uint16
	if len(bitmap) > 0 {
		d.text = append(d.text, "TAG"...)
		d.seal(delimiter)
		codes = make([]uint16, b.slice.Snapshots())
		for i := range codes {
			if bitmap.Has(i) {
				codes[i] = 1
			}
		}
	}
	b.add(part{kind: byProfile, dict: d, codes: codes})
	return nil
}

// addAddress adds the column of the primary e-mail address: per section of an
// event, the value of the first version for which the profile has one.
func (b *sheetBuilder) addAddress() error {
	sections, err := b.slice.Sections()
	if err != nil {
		return err
	}
	delimiter := b.delimiter()
	d := newDictionary(1, 0)
	d.seal(delimiter)
	p := part{kind: address, codes: narrow(sections.Codes), bySection: make([][]uint32, len(sections.Dict))}
	for i, section := range sections.Dict {
		for _, a := range b.email[string(section)] {
			column, err := b.slice.Attribute(a.section, a.version)
			if err != nil {
				return err
			}
			if column == nil {
				continue
			}
			if p.bySection[i] == nil {
				p.bySection[i] = make([]uint32, 1+b.slice.Snapshots())
				b.bytes += 4 * int64(len(p.bySection[i]))
			}
			d.text = slices.Grow(d.text, valueLength(column)+len(column.Dict))
			d.ends = slices.Grow(d.ends, len(column.Dict))
			base := uint32(d.len() - 1)
			b.appendValues(&d, column, a.as, delimiter)
			entries := p.bySection[i][1:]
			for snapshot, code := range column.Codes {
				if code != 0 && entries[snapshot] == 0 {
					entries[snapshot] = base + code
				}
			}
		}
	}
	p.dict = d
	b.add(p)
	return nil
}

// evaluateFilter decides once for each snapshot, and for rows without one.
func (b *sheetBuilder) evaluateFilter() error {
	if b.filter == nil {
		return nil
	}
	members := make([]segment.Bitmap, len(b.audiences))
	for i, discriminator := range b.audiences {
		var err error
		if members[i], err = b.slice.Audience(discriminator); err != nil {
			return err
		}
	}
	b.pass = make([]bool, 1+b.slice.Snapshots())
	b.bytes += int64(len(b.pass))
	b.pass[0] = b.filter.Eval(func(int) uint64 { return 0 })&1 != 0
	var passing segment.Bitmap
	for word := range (b.slice.Snapshots() + 63) / 64 {
		passing = append(passing, b.filter.Eval(func(i int) uint64 {
			if members[i] == nil { // nobody of the slice belongs to it
				return 0
			}
			return members[i][word]
		}))
	}
	for snapshot := range b.slice.Snapshots() {
		b.pass[snapshot+1] = passing.Has(snapshot)
	}
	return nil
}
