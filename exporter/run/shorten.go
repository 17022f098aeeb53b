package run

import (
	"sort"

	"lockstitch/state/catalog"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// steps is into how many parts the way from one position to another is divided
// in search of the place where a file ends.
const steps = 1 << 16

// margin is which part of the rows that would have fitted is tried: shorter
// stretches compress a little worse, and that the rows of a slice are spread
// evenly over its offsets is a guess.
const margin = 0.9

// shorten finds a position between after and end for a file that does not fit
// up to end, of whose rows about the part fits would have fitted. In every
// partition it goes the same part of the way, so that files of a walk cover about
// the same time in all of them. The result is above after in at least one
// partition and below end in at least one; false if nothing lies between.
func shorten(after, end []report.End, slices []catalog.SliceRef, fits float64) ([]report.End, bool) {
	w := newWay(after, end)
	if w.offsets(steps) <= 1 {
		return nil, false
	}
	w.count(slices)
	wanted := w.rows(steps) * fits * margin
	n := min(steps-1, sort.Search(steps, func(n int) bool { return w.rows(int64(n)) > wanted })-1)
	out := w.at(int64(n))
	if w.offsets(int64(n)) == 0 { // the smallest step there is
		for i := range out {
			if w.room[i] > 0 {
				out[i].Offset++
				break
			}
		}
	}
	return out, true
}

// way is what lies between two positions.
type way struct {
	end     []report.End
	from    []int64 // for each of end, where the way begins there
	room    []int64 // and how long it is
	parts   map[partition]int
	stretch []stretch
}

type partition struct {
	topic segment.TopicID
	n     int32
}

// stretch is a range of offsets of one partition that rows of a slice are from.
type stretch struct {
	part      int // index into end
	min, next int64
	density   float64 // rows for each offset
}

func newWay(after, end []report.End) *way {
	w := &way{end: end, from: make([]int64, len(end)), room: make([]int64, len(end)), parts: make(map[partition]int, len(end))}
	for i, e := range end {
		w.parts[partition{e.TopicID, e.Partition}] = i
	}
	for _, e := range after {
		if i, known := w.parts[partition{e.TopicID, e.Partition}]; known {
			w.from[i] = e.Offset
		}
	}
	for i, e := range end {
		w.from[i] = min(w.from[i], e.Offset) // after may lie beyond
		w.room[i] = e.Offset - w.from[i]
	}
	return w
}

// count takes the slices' rows to be spread evenly over their offsets.
func (w *way) count(slices []catalog.SliceRef) {
	for _, ref := range slices {
		offsets := int64(0)
		for _, s := range ref.Info.Sources {
			offsets += s.Next - s.Min
		}
		for _, s := range ref.Info.Sources {
			if i, known := w.parts[partition{s.TopicID, s.Partition}]; known && s.Next > w.from[i] && s.Min < w.end[i].Offset {
				w.stretch = append(w.stretch, stretch{i, s.Min, s.Next, float64(ref.Info.Rows) / float64(offsets)})
			}
		}
	}
}

// to is how many offsets of a partition the first n steps are, rounded down.
func (w *way) to(part int, n int64) int64 {
	d := w.room[part]
	return d/steps*n + d%steps*n/steps
}

// at is the position n steps on the way.
func (w *way) at(n int64) []report.End {
	out := make([]report.End, len(w.end))
	for i, e := range w.end {
		out[i] = e
		out[i].Offset = w.from[i] + w.to(i, n)
	}
	return out
}

// offsets counts those of the first n steps.
func (w *way) offsets(n int64) (offsets int64) {
	for i := range w.room {
		offsets += w.to(i, n)
	}
	return offsets
}

// rows guesses how many rows the first n steps have.
func (w *way) rows(n int64) (rows float64) {
	for i := range w.stretch {
		s := &w.stretch[i]
		if offsets := min(s.next, w.from[s.part]+w.to(s.part, n)) - max(s.min, w.from[s.part]); offsets > 0 {
			rows += float64(offsets) * s.density
		}
	}
	return rows
}
