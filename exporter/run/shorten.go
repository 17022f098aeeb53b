package run

import (
	"math/bits"

	"lockstitch/state/catalog"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

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
	if !w.divisible() {
		return nil, false
	}
	w.count(slices)
	part := whole / 2 // if nothing is known of the rows
	if all := w.rows(whole); all > 0 {
		part = 0
		for bit := whole / 2; bit > 0; bit /= 2 {
			if w.rows(part+bit) <= all*fits*margin {
				part += bit
			}
		}
	}
	return w.at(part), true
}

// whole is all of the way: parts of it are counted so finely that not an offset
// lies between two.
const whole = uint64(1) << 62

// way is what lies between two positions.
type way struct {
	end     []report.End
	from    []int64                   // for each of end, where the way begins there
	room    []int64                   // and how long it is
	index   map[segment.Partition]int // into end
	stretch []stretch
}

// stretch is a range of offsets of one partition that rows of a slice are from.
type stretch struct {
	partition int // index into end
	min, next int64
	density   float64 // rows for each offset
}

func newWay(after, end []report.End) *way {
	w := &way{end: end, from: make([]int64, len(end)), room: make([]int64, len(end)), index: make(map[segment.Partition]int, len(end))}
	for i, e := range end {
		w.index[e.At()] = i
	}
	for _, e := range after {
		if i, known := w.index[e.At()]; known {
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
			src := s.Source()
			if i, known := w.index[src.At()]; known && s.Next > w.from[i] && s.Min < w.end[i].Offset {
				w.stretch = append(w.stretch, stretch{i, s.Min, s.Next, float64(ref.Info.Rows) / float64(offsets)})
			}
		}
	}
}

// to is how many offsets of a partition a part of the way is, rounded down.
func (w *way) to(i int, part uint64) int64 {
	high, low := bits.Mul64(uint64(w.room[i]), part)
	return int64(high<<2 | low>>62) // divided by whole
}

// divisible tells whether the way has more than one offset.
func (w *way) divisible() bool {
	offsets := int64(0)
	for _, room := range w.room {
		offsets += min(room, 2)
	}
	return offsets > 1
}

// at is the position after a part of the way, one offset at least.
func (w *way) at(part uint64) []report.End {
	out := make([]report.End, len(w.end))
	first, moved := -1, false
	for i, e := range w.end {
		offsets := w.to(i, part)
		out[i] = e
		out[i].Offset = w.from[i] + offsets
		moved = moved || offsets > 0
		if first < 0 && w.room[i] > 0 {
			first = i
		}
	}
	if !moved {
		out[first].Offset++
	}
	return out
}

// rows guesses how many rows a part of the way has.
func (w *way) rows(part uint64) (rows float64) {
	for i := range w.stretch {
		s := &w.stretch[i]
		from := w.from[s.partition]
		if offsets := min(s.next, from+w.to(s.partition, part)) - max(s.min, from); offsets > 0 {
			rows += float64(offsets) * s.density
		}
	}
	return rows
}
