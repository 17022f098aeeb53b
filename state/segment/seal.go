package segment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

const (
	// MaxSliceRows is the greatest number of rows of a slice.
	MaxSliceRows = 8192
	// MaxObjects is how many objects a Seal makes, unless their directories
	// would grow over MaxDirectorySlices or MaxDirectoryBytes.
	MaxObjects = 16
	// MaxDirectorySlices is the greatest number of slices of an object.
	MaxDirectorySlices = 2000
	// MaxDirectoryBytes bounds the JSON of an object's slices, so that its
	// catalog record stays below 512 KiB.
	MaxDirectoryBytes = 400 << 10

	bigHour        = 64 << 10 // rows from which on an hour has an object of its own
	hourBreak      = 1024     // rows from which on a slice ends with its hour
	maxSliceText   = 16 << 20 // bytes of text, repeated or not, after which a slice ends early
	maxLongText    = 1 << 20  // the same of what its different texts have beyond ordinaryText each
	ordinaryText   = 64
	maxSnapColumns = 32 << 10 // attributes, tags and audiences above which a slice has no second row: half a KiB each
	hourMillis     = 3_600_000
)

// Object is one sealed segment, ready to be stored. Data is owned by the
// receiver.
type Object struct {
	FirstHour time.Time // the earliest hour of server_time in it, UTC
	LogTime   int64     // the greatest log time (ms) of its rows
	Data      []byte
	Slices    []SliceInfo
}

// entry is what a row is sorted by, and where it is.
type entry struct {
	server, offset  int64
	account, source uint32 // ranks over all buffers
	buffer, row     uint32
}

func compareEntries(a, b entry) int {
	if c := cmp.Compare(a.account, b.account); c != 0 {
		return c
	}
	if c := cmp.Compare(a.server, b.server); c != 0 {
		return c
	}
	if c := cmp.Compare(a.source, b.source); c != 0 {
		return c
	}
	return cmp.Compare(a.offset, b.offset)
}

// Seal encodes the rows of all buffers into objects and passes each to emit in
// turn; an error of emit ends it and is returned. Buffers are not changed: a
// cut that failed seals them again. The same rows give the same objects,
// however they are spread over buffers.
//
// An object holds whole hours of server_time: a big hour alone, small ones
// together, at most MaxObjects unless a directory would get too big.
func Seal(buffers []*Buffer, emit func(Object) error) error {
	buffers = slices.DeleteFunc(slices.Clone(buffers), func(b *Buffer) bool { return b.n == 0 })
	if len(buffers) == 0 {
		return nil
	}
	e, err := newEncoder(buffers)
	if err != nil {
		return err
	}
	groups, starts := e.group()
	for g, hour := range starts {
		rows := groups[g]
		slices.SortFunc(rows, compareEntries)
		if err := e.objects(time.UnixMilli(hour*hourMillis).UTC(), rows, emit); err != nil {
			return err
		}
	}
	return nil
}

// group divides the rows into the hours that share an object, in the order of
// time, and says with which hour each group begins.
func (e *encoder) group() (groups [][]entry, starts []int64) {
	counts := map[int64]int{}
	total := 0
	for _, b := range e.buffers {
		for i := range b.n {
			counts[b.row(i).server/hourMillis]++
			total++
		}
	}
	hours := make([]int64, 0, len(counts))
	for h := range counts {
		hours = append(hours, h)
	}
	slices.Sort(hours)

	// At most MaxObjects/2-1 groups are full; at most one that is not stands
	// before each full one, and one at the end.
	full := max(bigHour, total/(MaxObjects/2-1)+1)
	var sizes []int
	open := false
	of := make(map[int64]int, len(hours))
	for _, h := range hours {
		n := counts[h]
		if !open || n >= full {
			starts, sizes = append(starts, h), append(sizes, 0)
		}
		sizes[len(sizes)-1] += n
		of[h] = len(sizes) - 1
		open = sizes[len(sizes)-1] < full
	}

	all := make([]entry, total)
	groups = make([][]entry, len(sizes))
	at := 0
	for g, n := range sizes {
		groups[g] = all[at : at : at+n]
		at += n
	}
	for bi, b := range e.buffers {
		lastHour, g := int64(-1), 0
		for i := range b.n {
			r := e.entry(bi, i)
			if h := r.server / hourMillis; h != lastHour {
				lastHour, g = h, of[h]
			}
			groups[g] = append(groups[g], r)
		}
	}
	return groups, starts
}

// entry is that of row i of a buffer.
func (e *encoder) entry(buffer, i int) entry {
	r := e.buffers[buffer].row(i)
	return entry{server: r.server, offset: r.offset,
		account: e.accountRank[e.text.code(buffer, r.account)], source: e.sourceRank[buffer][r.source],
		buffer: uint32(buffer), row: uint32(i)}
}

// objects encodes the sorted rows of one group.
func (e *encoder) objects(hour time.Time, rows []entry, emit func(Object) error) error {
	var o Object
	directory := 0
	flush := func() error {
		if len(o.Slices) == 0 {
			return nil
		}
		o.FirstHour = hour
		o.Data = appendFooter(o.Data, o.Slices)
		done := o
		o, directory = Object{}, 0
		return emit(done)
	}
	for len(rows) > 0 {
		n, err := e.sliceRows(rows)
		if err != nil {
			return err
		}
		n = e.transpose(rows[:n])
		if o.Data == nil {
			o.Data = appendHeader(nil)
		}
		before := len(o.Data)
		data, info, err := e.slice(o.Data, rows[:n])
		if err != nil {
			return err
		}
		text, err := json.Marshal(info)
		if err != nil {
			return fmt.Errorf("segment: directory entry: %w", err)
		}
		if size := len(text) + 1; directory+size > MaxDirectoryBytes || len(o.Slices) == MaxDirectorySlices {
			o.Data = data[:before]
			last := slices.Clone(data[before:])
			if err := flush(); err != nil {
				return err
			}
			data = appendHeader(nil)
			info.Offset = int64(len(data))
			data = append(data, last...)
		}
		o.Data, o.Slices = data, append(o.Slices, info)
		directory += len(text) + 1
		for _, r := range rows[:n] {
			o.LogTime = max(o.LogTime, e.buffers[r.buffer].row(int(r.row)).log)
		}
		rows = rows[n:]
	}
	return flush()
}

// sliceRows is how many of the sorted rows make up the next slice.
//
// Long texts end it early, as an export has many slices in memory that overlap in
// time, each with the different texts of a column, and reads those again that it has no
// room for. Texts of ordinary length do not count, so that with them a slice has
// MaxSliceRows.
func (e *encoder) sliceRows(rows []entry) (int, error) {
	first := rows[0]
	text, long := 0, 0
	e.localText.start()
	sources := map[uint32]struct{}{}
	for i := range min(len(rows), MaxSliceRows) {
		r := rows[i]
		if i > 0 && compareEntries(rows[i-1], r) == 0 {
			s := e.sources[r.source]
			return 0, fmt.Errorf("segment: offset %d of %s[%d] was added twice", r.offset, s.Topic, s.Partition)
		}
		if r.account != first.account || i >= hourBreak && r.server/hourMillis != rows[i-1].server/hourMillis {
			return i, nil
		}
		size := int(e.buffers[r.buffer].row(int(r.row)).size)
		text, long = text+size, long+e.longCells(r)
		if i > 0 && (text > maxSliceText || long > maxLongText) {
			return i, nil
		}
		if i == 0 || r.source != rows[i-1].source {
			if sources[r.source] = struct{}{}; len(sources) > maxSources {
				return i, nil
			}
		}
	}
	return min(len(rows), MaxSliceRows), nil
}

// longCells is what the row's cells and correlation id have beyond ordinaryText each,
// without those that were asked about since localText has started.
func (e *encoder) longCells(at entry) (long int) {
	b := e.buffers[at.buffer]
	r := b.row(int(at.row))
	if !r.uuid {
		long = max(0, len(b.correlation(r))-ordinaryText)
	}
	for _, own := range r.cells {
		if own == 0 || b.text.refs[own].n <= ordinaryText {
			continue
		}
		if seen := &e.localText.at[e.text.code(int(at.buffer), own)]; seen.epoch != e.localText.epoch {
			seen.epoch = e.localText.epoch
			long += int(b.text.refs[own].n) - ordinaryText
		}
	}
	return long
}
