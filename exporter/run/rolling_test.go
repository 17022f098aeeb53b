package run

import (
	"compress/gzip"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/internal/seed"
	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// growing is an event topic of several partitions whose kept rows become durable
// cut by cut.
type growing struct {
	*world
	r    *rand.Rand
	ends []report.End
	rows map[string]place // what was kept for acme, by correlation id
}

type place struct {
	time, offset int64
	part         int // index into ends, which is the order of rows of one time
}

func newGrowing(w *world, partitions int32) *growing {
	g := &growing{world: w, r: seed.Rand(w.t), rows: make(map[string]place)}
	g.add(topicID, partitions)
	return g
}

// madeAnew is the id of the topic after it was deleted and made anew.
var madeAnew = segment.TopicID{2}

func (g *growing) add(topic segment.TopicID, partitions int32) {
	for p := range partitions {
		g.ends = append(g.ends, report.End{Topic: "events", TopicID: topic, Partition: p})
	}
}

// cut stores about n records more in every partition, in some perhaps none: rows of
// acme, some of them late, those of another account, and records of which nothing
// was kept.
func (g *growing) cut(n int) {
	g.t.Helper()
	g.extend(func() int { return g.r.IntN(2*n + 1) })
}

// fill is a cut of exactly n records in every partition.
func (g *growing) fill(n int) {
	g.t.Helper()
	g.extend(func() int { return n })
}

func (g *growing) extend(records func() int) {
	g.t.Helper()
	var bufs []*segment.Buffer
	for i := range g.ends {
		e := &g.ends[i]
		buf := segment.NewBuffer()
		for range records() {
			at := place{time: 1_790_000_000_000 + e.Offset*10 + g.r.Int64N(50), offset: e.Offset, part: i}
			if g.r.IntN(10) == 0 {
				at.time -= 86400_000 * g.r.Int64N(30)
			}
			ev := &event.Event{CorrelationID: fmt.Appendf(nil, "%08x-%d-%d", g.r.Uint32(), i, e.Offset), AccountID: []byte("acme"), Section: []byte("s"), ServerTime: at.time}
			e.Offset++
			switch g.r.IntN(6) {
			case 0:
				continue // a duplicate, or poison
			case 1:
				ev.AccountID = []byte("other")
			default:
				g.rows[string(ev.CorrelationID)] = at
			}
			stream := segment.Stream{Topic: "events", ID: e.TopicID}
			if e.TopicID == madeAnew {
				stream.Incarnation = 1
			}
			buf.Add(&stream, e.Partition, at.offset, 0, ev, nil)
		}
		bufs = append(bufs, buf)
	}
	g.seal(bufs, g.ends)
}

// after asks for what was kept between two positions.
func (g *growing) after(tab *report.Table, after, barrier []report.End) *report.Report {
	g.t.Helper()
	r, err := tab.Submit(g.t.Context(), &report.Request{
		ID: ulid.Make().String(), Account: "acme", CreatedAt: time.Now().UTC(), Body: []byte("{}"),
		Question:        report.Question{Rolling: true, After: after, Barrier: slices.Clone(barrier)},
		BarrierDeadline: time.Now().Add(time.Hour),
	}, 100)
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

// correlations are the correlation ids of a report's file, in its order.
func (g *growing) correlations(rep *report.Report) (ids []string) {
	g.t.Helper()
	rd, err := g.store.Open(g.t.Context(), rep.Result.Object, 0, -1)
	if err != nil {
		g.t.Fatal(err)
	}
	defer rd.Close()
	z, err := gzip.NewReader(rd)
	if err != nil {
		g.t.Fatal(err)
	}
	lines, err := csv.NewReader(z).ReadAll()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, l := range lines[1:] {
		if g.rows[l[9]].time != must(strconv.ParseInt(l[11], 10, 64)) {
			g.t.Fatalf("row %v was not kept with this time: %+v", l, g.rows[l[9]])
		}
		ids = append(ids, l[9])
	}
	return ids
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// offset is where a position stands in one of the partitions.
func (g *growing) offset(at []report.End, part int) int64 {
	return offsetOf(at, g.ends[part])
}

func offsetOf(at []report.End, of report.End) int64 {
	for _, e := range at {
		if e.TopicID == of.TopicID && e.Partition == of.Partition {
			return e.Offset
		}
	}
	return 0
}

// A client goes from cursor to cursor while the log grows, late events come,
// partitions are added and the topic is made anew, with files so small that most end early: every row is in exactly one file, and
// each file holds what lies between its two positions, in order.
func TestAWalkHoldsEveryRowOnce(t *testing.T) {
	const maxBytes = 1500
	g := newGrowing(newWorld(t), 3)
	tab := g.table()
	g.runner(tab, g.store, func(c *Config) { c.MaxBytes = maxBytes })
	var after []report.End
	seen := make(map[string]bool)
	files, early := 0, 0
	step := func() bool {
		rep := g.await(tab, g.after(tab, after, g.ends).Request.ID, report.StatusCompleted)
		through, res := rep.Through(), rep.Result
		if res.Bytes > maxBytes || res.More != (res.Through != nil) {
			t.Errorf("file %d has %d bytes, more %v through %v", files, res.Bytes, res.More, res.Through)
		}
		if res.More && res.Bytes < maxBytes/2 {
			t.Errorf("file %d ended early with %d bytes of %d", files, res.Bytes, maxBytes)
		}
		if !res.More && !slices.Equal(through, g.ends) {
			t.Errorf("file %d ends at %v, not at the barrier %v", files, through, g.ends)
		}
		var last place
		ids := g.correlations(rep)
		for i, id := range ids {
			at := g.rows[id]
			if seen[id] {
				t.Fatalf("row %s %+v is in file %d again", id, at, files)
			}
			seen[id] = true
			if at.offset < g.offset(after, at.part) || at.offset >= g.offset(through, at.part) {
				t.Errorf("file %d holds %+v and reaches from %v to %v", files, at, after, through)
			}
			if i > 0 && (at.time < last.time || at.time == last.time && (at.part < last.part || at.part == last.part && at.offset <= last.offset)) {
				t.Errorf("file %d has %+v behind %+v", files, at, last)
			}
			last = at
		}
		missing := 0
		for id, at := range g.rows {
			if at.offset >= g.offset(after, at.part) && at.offset < g.offset(through, at.part) && !seen[id] {
				missing++
			}
		}
		if missing > 0 || int64(len(ids)) != res.Rows {
			t.Errorf("file %d: %d of its rows are missing, it has %d, its result says %d", files, missing, len(ids), res.Rows)
		}
		moved := int64(0)
		for _, e := range through {
			d := e.Offset - offsetOf(after, e)
			if d < 0 {
				t.Errorf("file %d goes back in partition %d of topic %v", files, e.Partition, e.TopicID)
			}
			moved += d
		}
		if res.More && moved == 0 {
			t.Errorf("file %d got nowhere", files)
		}
		files++
		if res.More {
			early++
		}
		after = through
		return res.More
	}
	for round := range 6 {
		switch round {
		case 2: // partitions are added
			g.ends = append(g.ends, report.End{Topic: "events", TopicID: topicID, Partition: 3})
		case 4:
			g.add(madeAnew, 2)
		}
		for range 1 + g.r.IntN(3) {
			g.cut(20 + g.r.IntN(60))
		}
		for range g.r.IntN(3) {
			step()
		}
	}
	g.cut(5)
	for step() {
	}
	if len(seen) != len(g.rows) || early < 3 {
		t.Errorf("%d of %d rows in %d files, %d of which ended early", len(seen), len(g.rows), files, early)
	}
	if step(); len(seen) != len(g.rows) {
		t.Error("a file with nothing new has rows")
	}
}

// A cluster restored from a backup: the log ends before the cursor.
func TestACursorBeyondTheBarrierIsKept(t *testing.T) {
	w := newWorld(t)
	w.commit(20)
	g := newGrowing(w, 1)
	g.ends[0].Offset = 20
	tab := w.table()
	w.runner(tab, w.store, nil)
	gone := report.End{TopicID: segment.TopicID{9}, Partition: 4, Offset: 3}
	rep := w.await(tab, g.after(tab, []report.End{{TopicID: topicID, Offset: 50}, gone}, g.ends).Request.ID, report.StatusCompleted)
	if got := rep.Through(); rep.Result.Rows != 0 || rep.Result.More || len(got) != 2 || got[0].Offset != 50 || got[1] != gone {
		t.Errorf("%d rows, through %v", rep.Result.Rows, got)
	}
}

// What cannot be divided any more ends in an error, at the first row that fits no
// file.
func TestARowThatFitsNoFile(t *testing.T) {
	g := newGrowing(newWorld(t), 2)
	for len(g.rows) < 40 {
		g.cut(20)
	}
	tab := g.table()
	stop := g.runner(tab, g.store, nil)
	header := g.await(tab, g.after(tab, nil, nil).Request.ID, report.StatusCompleted).Result.Bytes
	stop()
	for _, more := range []int64{10, -10} {
		stop := g.runner(tab, g.store, func(c *Config) { c.MaxBytes = header + more })
		for after := []report.End(nil); ; {
			rep := g.await(tab, g.after(tab, after, g.ends).Request.ID, report.StatusCompleted, report.StatusError)
			if p := rep.Result.Problem; p != nil {
				if p.Type != "/problems/file-too-large" {
					t.Errorf("problem %+v", p)
				}
				break
			}
			if !rep.Result.More || rep.Result.Rows > 0 || more < 0 {
				t.Fatalf("a file of %d bytes was made: %+v", rep.Result.Bytes, rep.Result)
			}
			after = rep.Through()
		}
		stop()
	}
}

// However wrong the guess of what would fit, the way becomes shorter each time,
// down to a single offset.
func TestShortenEnds(t *testing.T) {
	r := seed.Rand(t)
	for range 200 {
		var after, end []report.End
		var refs []catalog.SliceRef
		for p := range 1 + r.Int32N(4) {
			e := report.End{TopicID: topicID, Partition: p, Offset: r.Int64N(int64(1) << r.IntN(50))}
			end = append(end, e)
			for range r.IntN(4) {
				from := r.Int64N(e.Offset + 1)
				rows := 1 + r.IntN(segment.MaxSliceRows)
				refs = append(refs, catalog.SliceRef{Info: &segment.SliceInfo{Rows: rows, Sources: []segment.OffsetRange{segment.Stream{ID: topicID}.Range(p, from, from+int64(rows)+r.Int64N(1<<20))}}})
			}
			if r.IntN(3) > 0 {
				e.Offset = r.Int64N(e.Offset + 10)
				after = append(after, e)
			}
		}
		length := func(at []report.End) (n int64) {
			for _, e := range at {
				n += max(0, e.Offset-offsetOf(after, e))
			}
			return n
		}
		fits, tries := []float64{0, 0.1, 0.5, 0.999, 1}[r.IntN(5)], 0
		for now := length(end); ; tries++ {
			next, ok := shorten(after, end, refs, fits)
			if !ok {
				if now > 1 {
					t.Fatalf("%d offsets between %v and %v cannot be divided", now, after, end)
				}
				break
			}
			for i := range next {
				if from := min(offsetOf(after, next[i]), end[i].Offset); next[i].Offset < from || next[i].Offset > end[i].Offset {
					t.Fatalf("%v is not between %v and %v", next, after, end)
				}
			}
			if n := length(next); n >= now || n < 1 {
				t.Fatalf("from %d to %d offsets", now, n)
			} else {
				now, end = n, next
			}
			if tries > 2000 {
				t.Fatalf("still %d offsets after %d tries", now, tries)
			}
		}
	}
}
