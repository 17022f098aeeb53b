// Package plan divides an export into pieces of time that can be rendered
// independently of each other.
//
// The pieces of a plan are disjoint, in order of time, and together hold every
// slice that may have a row to show. Where a piece ends is a matter of
// convenience: the bytes of an export do not depend on it.
package plan

import (
	"cmp"
	"math"
	"slices"

	"lockstitch/state/catalog"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// DefaultRows is how many rows a piece has, roughly, unless told otherwise.
const DefaultRows = 48 << 10

// minRowsPerSlice bounds the size of a plan by the number of rows, however many
// slices overlap: a piece has at least so many rows for each of its slices.
const minRowsPerSlice = 64

// Piece is a stretch of server_time, Start <= t < End in ms, and the slices
// that may have rows in it, in order of their first row's time.
type Piece struct {
	Start, End int64
	Slices     []int32 // indices into Plan.Slices
	Rows       int64   // estimate, as if the rows of a slice were spread evenly
	// Finished counts the slices that no later piece needs.
	Finished int
}

// Plan is what an export has to read.
type Plan struct {
	Slices     []catalog.SliceRef // in order of (first time, object, position in it)
	Pieces     []Piece
	start, end int64 // the window
}

// Part says which part of the plan's rows, 0 to 1, lies before a piece of it and
// in the given part of the piece.
func (p *Plan) Part(piece *Piece, part float64) float64 {
	var before, all float64
	for i := range p.Pieces {
		if &p.Pieces[i] == piece {
			before = all + part*float64(piece.Rows)
		}
		all += float64(p.Pieces[i].Rows)
	}
	if all == 0 {
		return 0
	}
	return min(1, max(0, before/all))
}

// Make plans the export of the slices for the question. rows is the wanted size
// of a piece (<= 0: DefaultRows). Slices that cannot contribute a row (outside of
// the window, at or above the barrier, or below the cursor throughout) are left
// out. The argument is not changed.
func Make(refs []catalog.SliceRef, q *report.Question, rows int) Plan {
	if rows <= 0 {
		rows = DefaultRows
	}
	start, end := q.StartAt, int64(math.MaxInt64)
	if q.EndAt != nil {
		end = *q.EndAt
	}
	barrier, after := offsets(q.Barrier), offsets(q.After)
	p := Plan{start: start, end: end}
	for _, ref := range refs {
		if in := ref.Info; in.Rows > 0 && in.MinTime < end && in.MaxTime >= start && contributes(in, barrier, after) {
			p.Slices = append(p.Slices, ref)
		}
	}
	slices.SortFunc(p.Slices, func(a, b catalog.SliceRef) int {
		return cmp.Or(cmp.Compare(a.Info.MinTime, b.Info.MinTime), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Info.Offset, b.Info.Offset))
	})
	p.divide(float64(rows), nil)
	return p
}

// Divide makes the pieces anew for rows that differ in length: a row of slice i counts
// as weights[i] of those that a piece is to have.
func (p *Plan) Divide(rows int, weights []float64) {
	p.Pieces = nil
	p.divide(float64(rows), weights)
}

func offsets(ends []report.End) map[segment.Partition]int64 {
	m := make(map[segment.Partition]int64, len(ends))
	for _, e := range ends {
		m[e.At()] = e.Offset
	}
	return m
}

// contributes tells whether the slice has a row between the cursor and the
// barrier. A partition that the barrier does not know did not exist when the
// export was requested.
func contributes(in *segment.SliceInfo, barrier, after map[segment.Partition]int64) bool {
	for i := range in.Sources {
		s := &in.Sources[i]
		src := s.Source()
		k := src.At()
		if max(s.Min, after[k]) < min(s.Next, barrier[k]) {
			return true
		}
	}
	return false
}

// divide makes the pieces by sweeping over time: between two moments at which a
// slice begins or ends, rows come at a constant rate, and a piece ends where
// enough have come together. A piece that is nearly full ends early at a moment
// that cuts through no slice, so that few slices are needed by two pieces.
func (p *Plan) divide(target float64, weights []float64) {
	if len(p.Slices) == 0 {
		return
	}
	start, end := p.start, p.end
	clip := func(i int32) (first, next int64) {
		in := p.Slices[i].Info
		first, next = max(in.MinTime, start), end
		if in.MaxTime < end { // else MaxTime+1 might overflow
			next = in.MaxTime + 1
		}
		return first, next
	}
	rate := func(i int32) (rows, weighed float64) {
		in := p.Slices[i].Info
		rows = float64(in.Rows) / (float64(in.MaxTime) - float64(in.MinTime) + 1)
		if weights == nil {
			return rows, rows
		}
		return rows, rows * weights[i]
	}
	// begin and leave: the slices in order of their first and of their last
	// moment within the window.
	begin := make([]int32, len(p.Slices))
	for i := range begin {
		begin[i] = int32(i)
	}
	leave := slices.Clone(begin)
	slices.SortStableFunc(leave, func(a, b int32) int {
		_, x := clip(a)
		_, y := clip(b)
		return cmp.Compare(x, y)
	})

	now, _ := clip(begin[0])
	pieceStart, filled, perMs := now, 0.0, 0.0 // filled and perMs are weighed
	rows, rowsPerMs := 0.0, 0.0
	var active []int32 // that the piece being made needs and that have not left
	var members []int32
	finish := func(at int64) {
		piece := Piece{Start: pieceStart, End: at, Slices: members, Rows: int64(rows)}
		still := active[:0]
		for _, i := range active {
			if _, next := clip(i); next > at {
				still = append(still, i)
			}
		}
		active = still
		piece.Finished = len(members) - len(active)
		p.Pieces = append(p.Pieces, piece)
		members = slices.Clone(active)
		pieceStart, filled, rows = at, 0, 0
	}
	open := 0
	for len(leave) > 0 {
		_, event := clip(leave[0])
		if len(begin) > 0 {
			if first, _ := clip(begin[0]); first < event {
				event = first
			}
		}
		for now < event {
			// Among many slices a piece grows, so that each is needed by few pieces.
			enough := max(target, minRowsPerSlice*float64(open))
			room := enough - filled
			full := now + 1
			if room > perMs { // at least one millisecond
				full = event
				if room < perMs*float64(event-now) {
					full = now + int64(room/perMs)
				}
			}
			full = min(max(full, now+1), event)
			filled += perMs * float64(full-now)
			rows += rowsPerMs * float64(full-now)
			now = full
			if filled >= enough-1 {
				finish(now)
			}
		}
		for len(leave) > 0 {
			if _, next := clip(leave[0]); next != now {
				break
			}
			r, w := rate(leave[0])
			rowsPerMs, perMs = rowsPerMs-r, perMs-w
			leave = leave[1:]
			open--
		}
		if open == 0 {
			rowsPerMs, perMs = 0, 0 // what rounding has left
			if filled >= target*3/4 {
				finish(now)
			}
		}
		for len(begin) > 0 {
			if first, _ := clip(begin[0]); first != now {
				break
			}
			r, w := rate(begin[0])
			rowsPerMs, perMs = rowsPerMs+r, perMs+w
			active = append(active, begin[0])
			members = append(members, begin[0])
			begin = begin[1:]
			open++
		}
	}
	if len(members) > 0 {
		finish(now)
	}
}
