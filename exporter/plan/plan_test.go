package plan

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"lockstitch/internal/seed"
	"lockstitch/state/catalog"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

var topic = segment.TopicID{1}

func ref(object string, from, to int64, rows int) catalog.SliceRef {
	return catalog.SliceRef{SegmentID: object, Object: object, Info: &segment.SliceInfo{
		MinTime: from, MaxTime: to, Rows: rows,
		Sources: []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 0, 100)},
	}}
}

func question(start, end int64) *report.Question {
	q := &report.Question{StartAt: start, Barrier: []report.End{{TopicID: topic, Offset: 100}}}
	if end != math.MaxInt64 {
		q.EndAt = &end
	}
	return q
}

// check tests what every plan promises and returns the number of slice uses.
func check(t *testing.T, p Plan, q *report.Question) int {
	t.Helper()
	end := int64(math.MaxInt64)
	if q.EndAt != nil {
		end = *q.EndAt
	}
	uses, finished := 0, 0
	for i, piece := range p.Pieces {
		if piece.Start >= piece.End || piece.Start < q.StartAt || piece.End > end {
			t.Fatalf("piece %d is [%d, %d) in a window [%d, %d)", i, piece.Start, piece.End, q.StartAt, end)
		}
		if i > 0 && piece.Start < p.Pieces[i-1].End {
			t.Fatalf("piece %d begins at %d, before the end %d of the one before", i, piece.Start, p.Pieces[i-1].End)
		}
		for k, s := range piece.Slices {
			in := p.Slices[s].Info
			if in.MinTime >= piece.End || in.MaxTime < piece.Start {
				t.Fatalf("piece %d, [%d, %d), has slice [%d, %d]", i, piece.Start, piece.End, in.MinTime, in.MaxTime)
			}
			if k > 0 && in.MinTime < p.Slices[piece.Slices[k-1]].Info.MinTime {
				t.Fatalf("piece %d: its slices are not in order of time", i)
			}
		}
		uses += len(piece.Slices)
		finished += piece.Finished
	}
	if finished != len(p.Slices) {
		t.Fatalf("%d slices are finished by the end, of %d", finished, len(p.Slices))
	}
	// Every millisecond of every slice that is in the window is in a piece that
	// has the slice: the pieces with it are adjacent and reach over it.
	type cover struct{ from, to, last int64 }
	covers := make([]cover, len(p.Slices))
	for i, piece := range p.Pieces {
		for _, s := range piece.Slices {
			c := &covers[s]
			if c.to == 0 {
				c.from = piece.Start
			} else if c.to != piece.Start || c.last != int64(i-1) {
				t.Fatalf("slice %d: a gap between its pieces before %d", s, piece.Start)
			}
			c.to, c.last = piece.End, int64(i)
		}
	}
	for s, c := range covers {
		in := p.Slices[s].Info
		if c.from > max(in.MinTime, q.StartAt) || c.to <= min(in.MaxTime, end-1) {
			t.Fatalf("slice %d, [%d, %d], is covered from %d to %d only", s, in.MinTime, in.MaxTime, c.from, c.to)
		}
	}
	return uses
}

func TestPrune(t *testing.T) {
	low, high := ref("low", 10, 20, 5), ref("high", 10, 20, 5)
	low.Info.Sources = []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 0, 10)}
	high.Info.Sources = []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 100, 110)}
	other := ref("other", 10, 20, 5)
	other.Info.Sources = []segment.OffsetRange{segment.Stream{ID: topic}.Range(1, 0, 10)}
	anew := ref("anew", 10, 20, 5)
	anew.Info.Sources = []segment.OffsetRange{segment.Stream{ID: segment.TopicID{2}}.Range(0, 0, 10)}
	mixed := ref("mixed", 10, 20, 5)
	mixed.Info.Sources = append(other.Info.Sources[:1:1], segment.Stream{ID: topic}.Range(0, 99, 200))
	q := question(10, 21)
	q.After = []report.End{{TopicID: topic, Offset: 10}}
	refs := []catalog.SliceRef{low, high, other, anew, mixed, ref("before", 1, 9, 5), ref("behind", 21, 30, 5), ref("first", 1, 10, 5), ref("last", 20, 30, 5)}
	p := Make(refs, q, 0)
	var got []string
	for _, s := range p.Slices {
		got = append(got, s.Object)
	}
	if want := "[first mixed last]"; fmt.Sprint(got) != want {
		t.Errorf("planned %v, want %v", got, want)
	}
	check(t, p, q)
	if p := Make(refs, question(1000, 2000), 0); len(p.Pieces) != 0 || len(p.Slices) != 0 {
		t.Errorf("an empty window has %d pieces", len(p.Pieces))
	}
}

func TestSliceBoundariesArePieceBoundaries(t *testing.T) {
	var refs []catalog.SliceRef
	for i := range int64(100) {
		refs = append(refs, ref(fmt.Sprint(i), i*1000, i*1000+900, 8192))
	}
	q := question(0, math.MaxInt64)
	p := Make(refs, q, 32768)
	if uses := check(t, p, q); uses != 100 {
		t.Errorf("100 slices that do not overlap are needed %d times", uses)
	}
	if n := len(p.Pieces); n < 20 || n > 50 {
		t.Errorf("%d pieces of about 32768 rows from 819200", n)
	}
}

// A piece has as much fewer rows as they are longer, and Rows counts rows all the same.
func TestLongRows(t *testing.T) {
	var refs []catalog.SliceRef
	for i := range int64(100) {
		refs = append(refs, ref(fmt.Sprint(i), i*1000, i*1000+999, 1000))
	}
	q := question(0, math.MaxInt64)
	p := Make(refs, q, 10_000)
	weights := make([]float64, len(p.Slices))
	for i := range weights {
		weights[i] = map[bool]float64{true: 1, false: 10}[i < 50]
	}
	p.Divide(10_000, weights)
	check(t, p, q)
	short, long, rows := 0, 0, int64(0)
	for _, piece := range p.Pieces {
		rows += piece.Rows
		if piece.End <= 50_000 {
			short++
		} else {
			long++
		}
	}
	if short < 4 || short > 6 || long < 48 || long > 52 || rows < 99_900 || rows > 100_000 {
		t.Errorf("%d pieces of short rows, %d of long ones, %d rows", short, long, rows)
	}
}

func TestOneMoment(t *testing.T) {
	var refs []catalog.SliceRef
	for i := range 50 {
		refs = append(refs, ref(fmt.Sprint(i), 5, 5, 8192))
	}
	q := question(0, 10)
	if p := Make(refs, q, 1000); len(p.Pieces) != 1 {
		t.Errorf("one millisecond was divided into %d pieces", len(p.Pieces))
	} else {
		check(t, p, q)
	}
}

func TestRandom(t *testing.T) {
	seed.Each(t, 300, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 3))
		var refs []catalog.SliceRef
		span := 1 + r.Int64N(100_000)
		for i := range 1 + r.IntN(60) {
			from := r.Int64N(span)
			refs = append(refs, ref(fmt.Sprint(i), from, from+r.Int64N(1+span/(1+r.Int64N(20))), 1+r.IntN(8192)))
		}
		q := question(r.Int64N(span), math.MaxInt64)
		if r.IntN(2) == 0 {
			end := q.StartAt + 1 + r.Int64N(span)
			q.EndAt = &end
		}
		rows := 1 + r.IntN(50_000)
		p := Make(refs, q, rows)
		check(t, p, q)
		weights := make([]float64, len(p.Slices))
		for i := range weights {
			weights[i] = 1 + 15*r.Float64()
		}
		p.Divide(rows, weights)
		check(t, p, q)
	})
}

func TestManySlices(t *testing.T) {
	for name, overlap := range map[string]int64{"side by side": 1, "hundreds at once": 300, "all at once": 100_000} {
		var refs []catalog.SliceRef
		const n = 100_000
		for i := range int64(n) {
			refs = append(refs, ref(fmt.Sprint(i), i*100, (i+overlap)*100-1, 4096))
		}
		q := question(0, math.MaxInt64)
		begin := time.Now()
		p := Make(refs, q, 0)
		took := time.Since(begin)
		uses := check(t, p, q)
		if most := n*4096/minRowsPerSlice + n; uses > most {
			t.Errorf("%s: %d slice uses, at most %d are wanted", name, uses, most)
		}
		t.Logf("%s: %d pieces, %d uses, %v", name, len(p.Pieces), uses, took)
	}
}
