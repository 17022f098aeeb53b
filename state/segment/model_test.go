package segment

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"lockstitch/state/event"
	"lockstitch/state/profile"
)

// testRow is what is added and what must come back.
type testRow struct {
	source      Source
	offset, log int64
	ev          event.Event
	snap        profile.Snapshot
}

func (r *testRow) add(b *Buffer) {
	b.Add(&r.source.Stream, r.source.Partition, r.offset, r.log, &r.ev, r.snap)
}

func compareRows(a, b testRow) int {
	return cmp.Or(bytes.Compare(a.ev.AccountID, b.ev.AccountID), cmp.Compare(a.ev.ServerTime, b.ev.ServerTime),
		a.source.Compare(b.source), cmp.Compare(a.offset, b.offset))
}

type testProfile struct {
	Account  string                 `json:"account_id"`
	Sections map[string]testSection `json:"sections"`
	Segments []string               `json:"segments"`
}

type testSection struct {
	Attributes map[string]any `json:"attributes"`
	Tags       []string       `json:"tags"`
}

func (p *testProfile) snapshot(t testing.TB) profile.Snapshot {
	value, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	snap, dropped, err := profile.Decode([]byte("p"), value)
	if err != nil || dropped != 0 {
		t.Fatal(err, dropped)
	}
	return snap
}

// randomText gives texts of every shape, often repeated ones.
func randomText(r *rand.Rand, atLeast int) []byte {
	for {
		var b []byte
		switch r.IntN(12) {
		case 0:
		case 1:
			b = []byte("\xef\xbb\xbfa,\"b\"\r\nc\x00d")
		case 2:
			b = []byte("été 🎉 שלום")
		case 3:
			b = bytes.Repeat([]byte{byte('a' + r.IntN(26))}, r.IntN(5000))
		case 4, 5:
			b = strconv.AppendUint(nil, r.Uint64(), 10)
		default:
			b = fmt.Appendf(nil, "value %d", r.IntN(20))
		}
		if len(b) >= atLeast {
			return b
		}
	}
}

func randomUUID(r *rand.Rand) []byte {
	var u [16]byte
	for i := range u {
		u[i] = byte(r.Uint32())
	}
	return appendUUID(nil, u[:])
}

func randomCorrelation(r *rand.Rand) []byte {
	u := randomUUID(r)
	switch r.IntN(8) {
	case 0:
		return bytes.ToUpper(u)
	case 1:
		b := randomText(r, 1)
		return b[:min(len(b), 256)]
	case 2:
		u[r.IntN(36)] = "-g0Z"[r.IntN(4)]
		return u
	}
	return u
}

func randomSnapshots(t testing.TB, r *rand.Rand, n int) []profile.Snapshot {
	var out []profile.Snapshot
	for range n {
		p := testProfile{Account: "acme", Sections: map[string]testSection{}}
		for range r.IntN(3) {
			s := testSection{Attributes: map[string]any{}}
			for range r.IntN(8) {
				var v any
				switch r.IntN(5) {
				case 0:
					v = r.IntN(2) == 0
				case 1:
					v = json.Number(strconv.FormatFloat(r.NormFloat64(), 'g', -1, 64))
				default:
					v = string(randomText(r, 0))
				}
				s.Attributes[strconv.Itoa(1+r.IntN(30))] = v
			}
			for range r.IntN(4) {
				s.Tags = append(s.Tags, strconv.Itoa(1+r.IntN(10)))
			}
			p.Sections[fmt.Sprintf("section-%d", r.IntN(3))] = s
		}
		for range r.IntN(4) {
			p.Segments = append(p.Segments, fmt.Sprintf("audience-%d", r.IntN(6)))
		}
		out = append(out, p.snapshot(t))
	}
	return out
}

// randomRows makes rows of several streams, partitions and accounts over the
// given number of hours.
func randomRows(t testing.TB, r *rand.Rand, n, hours int) []testRow {
	snaps := append(randomSnapshots(t, r, 1+r.IntN(60)), nil)
	var sources []Source
	for i := range 1 + r.IntN(5) {
		sources = append(sources, Source{Stream{Topic: fmt.Sprintf("events%d", i/2), Incarnation: i % 2, ID: TopicID{byte(i), 7}}, int32(r.IntN(4))})
	}
	slices.SortFunc(sources, Source.Compare)
	offsets := make([]int64, len(sources))
	for i := range offsets {
		offsets[i] = r.Int64N(1 << 40)
	}
	accounts := 1 + r.IntN(4)
	start := int64(1_700_000_000_000)
	if r.IntN(4) == 0 {
		start = 0
	}
	span := int64(max(1, hours) * hourMillis)
	var rows []testRow
	for i := range n {
		si := r.IntN(len(sources))
		offsets[si] += 1 + r.Int64N(3)
		row := testRow{source: sources[si], offset: offsets[si], snap: snaps[r.IntN(len(snaps))]}
		row.ev = event.Event{Type: event.Type(r.IntN(int(event.NumTypes))), CorrelationID: randomCorrelation(r),
			AccountID: fmt.Appendf(nil, "account-%d-é", r.IntN(accounts)), Section: fmt.Appendf(nil, "section-%d", r.IntN(3)),
			ProfileID: fmt.Appendf(nil, "p%d", r.IntN(1+n/3)), ServerTime: start + int64(i)*span/int64(n) + r.Int64N(2000)}
		row.ev.EventTime = [...]int64{0, row.ev.ServerTime - r.Int64N(10000), math.MinInt64, math.MaxInt64, -1}[r.IntN(5)]
		row.log = row.ev.ServerTime + r.Int64N(1000)
		for c := range row.ev.Cells {
			if r.IntN(3) > 0 {
				row.ev.Cells[c] = randomText(r, 0)
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// spread adds the rows to so many buffers, keeping the order of a source.
func spread(r *rand.Rand, rows []testRow, buffers int) []*Buffer {
	var out []*Buffer
	for range buffers {
		out = append(out, NewBuffer())
	}
	of := map[Source]*Buffer{}
	for i := range rows {
		s := rows[i].source
		if of[s] == nil {
			of[s] = out[r.IntN(buffers)]
		}
		rows[i].add(of[s])
	}
	return out
}

func seal(t testing.TB, buffers ...*Buffer) []Object {
	t.Helper()
	var out []Object
	if err := Seal(buffers, func(o Object) error { out = append(out, o); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func openAll(t testing.TB, objects []Object) []*Slice {
	t.Helper()
	var out []*Slice
	for _, o := range objects {
		newest := int64(0)
		for i := range o.Slices {
			info := &o.Slices[i]
			s, err := OpenSlice("test", info, o.Data[info.Offset:info.Offset+info.Length])
			if err != nil {
				t.Fatal(err)
			}
			times, err := s.LogTimes()
			if err != nil {
				t.Fatal(err)
			}
			newest = max(newest, slices.Max(times))
			out = append(out, s)
		}
		if o.LogTime != newest {
			t.Errorf("an object says the log time %d, its newest row %d", o.LogTime, newest)
		}
	}
	return out
}

// read decodes a slice's rows back, snapshots excepted.
func (s *Slice) readRows(t testing.TB) []testRow {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := s.ServerTimes()
	check(err)
	evt, err := s.EventTimes()
	check(err)
	log, err := s.LogTimes()
	check(err)
	types, err := s.Types()
	check(err)
	src, err := s.SourceCodes()
	check(err)
	off, err := s.Offsets()
	check(err)
	section, err := s.Sections()
	check(err)
	profiles, err := s.column(columnProfile)
	check(err)
	var cells [event.NumCells]*Column
	for c := range cells {
		cells[c], err = s.Cells(event.Cell(c))
		check(err)
	}
	out := make([]testRow, s.Rows())
	for i := range out {
		r := &out[i]
		r.source, r.offset, r.log = s.Sources()[src[i]], off[i], log[i]
		r.ev = event.Event{Type: types[i], AccountID: []byte(s.info.Account), Section: section.Dict[section.Codes[i]],
			ProfileID: profiles.Dict[profiles.Codes[i]], EventTime: evt[i], ServerTime: server[i]}
		r.ev.CorrelationID, err = s.AppendCorrelation(nil, i)
		check(err)
		for c := range cells {
			r.ev.Cells[c] = cells[c].Dict[cells[c].Codes[i]]
		}
	}
	return out
}

// same compares everything but the snapshots.
func (r *testRow) same(o *testRow) string {
	diff := func(what string, a, b any) string { return fmt.Sprintf("%s: %v, want %v", what, a, b) }
	switch {
	case r.source != o.source || r.offset != o.offset || r.log != o.log:
		return diff("place", []any{r.source, r.offset, r.log}, []any{o.source, o.offset, o.log})
	case r.ev.Type != o.ev.Type || r.ev.EventTime != o.ev.EventTime || r.ev.ServerTime != o.ev.ServerTime:
		return diff("type and times", []any{r.ev.Type, r.ev.EventTime, r.ev.ServerTime}, []any{o.ev.Type, o.ev.EventTime, o.ev.ServerTime})
	case !bytes.Equal(r.ev.AccountID, o.ev.AccountID) || !bytes.Equal(r.ev.Section, o.ev.Section) ||
		!bytes.Equal(r.ev.ProfileID, o.ev.ProfileID) || !bytes.Equal(r.ev.CorrelationID, o.ev.CorrelationID):
		return diff("ids", r.ev, o.ev)
	}
	for c := range r.ev.Cells {
		if !bytes.Equal(r.ev.Cells[c], o.ev.Cells[c]) {
			return diff(cellNames[c], r.ev.Cells[c], o.ev.Cells[c])
		}
	}
	return ""
}
