package segment

import (
	"errors"
	"slices"
	"time"

	"lockstitch/state/profile"
)

// ErrTooLarge says that the rows of a Buffer do not fit into one object.
var ErrTooLarge = errors.New("segment: the directory of one object does not have room for all slices")

// Merge is Seal for rows that go into one object, of whatever hours they are: those of
// segments that it takes the place of. Errors: ErrTooLarge.
func Merge(b *Buffer) (Object, error) {
	if b.n == 0 {
		return Object{}, errors.New("segment: there is nothing to be merged")
	}
	e, err := newEncoder([]*Buffer{b})
	if err != nil {
		return Object{}, err
	}
	rows := make([]entry, b.n)
	for i := range rows {
		rows[i] = e.entry(0, i)
	}
	slices.SortFunc(rows, compareEntries)
	first := slices.MinFunc(rows, func(a, b entry) int { return int(a.server/hourMillis - b.server/hourMillis) })
	var out Object
	err = e.objects(time.UnixMilli(first.server-first.server%hourMillis).UTC(), rows, func(o Object) error {
		if out.Data != nil {
			return ErrTooLarge
		}
		out = o
		return nil
	})
	return out, err
}

// Take adds the rows of a slice that was opened whole, as they were added to the
// buffer that it was made of. It copies what it keeps, and checks the slice as Verify
// does. After an error, a *CorruptError, nothing was added.
func (b *Buffer) Take(s *Slice) error {
	if err := s.verify(); err != nil {
		return err
	}
	snaps, err := s.snapshots()
	if err != nil {
		return err
	}
	// Everything was decoded once and is kept. What a column says many times is looked
	// up once.
	type dictionary struct {
		rows, codes []uint32 // per row its entry, per entry its code in the buffer
		sizes       []int
	}
	var columns [numColumns]dictionary
	for c := range columns {
		from := s.columns[c].value
		d := dictionary{rows: from.Codes, codes: make([]uint32, len(from.Dict)), sizes: make([]int, len(from.Dict))}
		for i, text := range from.Dict {
			d.codes[i], d.sizes[i] = b.text.code(text), len(text)
		}
		columns[c] = d
	}
	snapCodes, snapSizes := make([]uint32, len(snaps)+1), make([]int, len(snaps)+1)
	for i, snap := range snaps {
		snapCodes[i+1], snapSizes[i+1] = b.snaps.code(snap), len(snap)
	}
	sources := make([]uint32, len(s.sources))
	for i := range s.sources {
		sources[i] = b.source(&s.sources[i].Stream, s.sources[i].Partition)
	}
	account := b.text.code([]byte(s.info.Account))
	for i := range s.info.Rows {
		r := b.next()
		r.server, r.event, r.log, r.offset = s.serverTimes.value[i], s.eventTimes.value[i], s.logTimes.value[i], s.offsets.value[i]
		r.source, r.typ, r.account = sources[s.sourceCodes.value[i]], s.types.value[i], account
		size := len(s.info.Account)
		uuid, other := s.correlation.value.at(i)
		if uuid != nil {
			r.corr, r.uuid = [16]byte(uuid), true
			size += 36
		} else {
			b.putCorrelation(r, other)
			size += len(other)
		}
		for c := range columns {
			at := columns[c].rows[i]
			size += columns[c].sizes[at]
			switch code := columns[c].codes[at]; c {
			case columnSection:
				r.section = code
			case columnProfile:
				r.profile = code
			default:
				r.cells[c-columnCells] = code
			}
		}
		snap := s.snapCodes.value[i]
		r.snap = snapCodes[snap]
		r.size = uint32(size + snapSizes[snap])
	}
	return nil
}

// snapshots puts the slice's profile snapshots together again.
func (s *Slice) snapshots() ([]profile.Snapshot, error) {
	if s.shape.snapshots == 0 {
		return nil, nil
	}
	d, err := s.snapshotDirectory()
	if err != nil {
		return nil, err
	}
	// What each column has, column by column, is dealt out to the snapshots.
	type part struct {
		snap, column uint32
		value        uint32 // of an attribute: its place in values
	}
	var parts []part
	var values []profile.Value
	ends := make([]uint32, s.shape.snapshots+1)
	add := func(p part) {
		parts = append(parts, p)
		ends[p.snap+1]++
	}
	for i := range d.columns {
		c := &d.columns[i]
		if c.kind != kindAttribute {
			has, err := s.members(c)
			if err != nil {
				return nil, err
			}
			for n := range s.shape.snapshots {
				if has.Has(n) {
					add(part{snap: uint32(n), column: uint32(i)})
				}
			}
			continue
		}
		v, err := s.values(c)
		if err != nil {
			return nil, err
		}
		for n, code := range v.Codes {
			if code > 0 {
				add(part{uint32(n), uint32(i), uint32(len(values)) + code - 1})
			}
		}
		values = append(values, v.Dict...)
	}
	for n := range s.shape.snapshots {
		ends[n+1] += ends[n]
	}
	next, of := slices.Clone(ends), make([]uint32, len(parts))
	for i, p := range parts {
		of[next[p.snap]] = uint32(i)
		next[p.snap]++
	}
	out := make([]profile.Snapshot, s.shape.snapshots)
	b := profile.NewBuilder(d.sections)
	for n := range out {
		for _, i := range of[ends[n]:ends[n+1]] {
			switch c := &d.columns[parts[i].column]; c.kind {
			case kindAttribute:
				b.Attribute(int(c.number), c.id, values[parts[i].value])
			case kindTag:
				b.Tag(int(c.number), c.id)
			default:
				b.Segment(c.id)
			}
		}
		out[n] = b.Snapshot([]byte(s.info.Account))
	}
	return out, nil
}
