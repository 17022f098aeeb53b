package render

import (
	"context"
	"math"
	"slices"

	"lockstitch/exporter/plan"
	"lockstitch/exporter/stitch"
)

// chunk is a finished part of a piece.
type chunk struct {
	stitch.Piece
	rows int64
}

// worker renders one piece after another.
type worker struct {
	library    *library
	plan       *plan.Plan
	limit      int // bytes of text that a stretch may have, but for its last row
	stretch    stretch
	compressor *compressor
	spare      func() []byte // memory for a chunk
	asked      []bool        // per slice of the piece: the stretch has it or does without
}

// render passes on the chunks of a piece in order. It takes as much of the piece
// at a time as fits into a stretch: usually all of it.
func (w *worker) render(ctx context.Context, p *plan.Piece, emit func(chunk) error) error {
	finished := make([]bool, len(p.Slices))
	finish := func(before int64) {
		for i, index := range p.Slices {
			if !finished[i] && w.plan.Slices[index].Info.MaxTime < before {
				finished[i] = true
				w.library.finish(index)
			}
		}
	}
	end := key{time: p.End}
	for from := (key{time: p.Start}); from.less(end); {
		to, err := w.collect(ctx, p, from, end)
		if err != nil {
			return err
		}
		finish(to.time)
		if len(w.stretch.rows) > 0 {
			piece, err := w.compressor.compress(w.spare(), w.stretch.merge)
			if err != nil {
				return err
			}
			if err := emit(chunk{piece, int64(len(w.stretch.rows))}); err != nil {
				return err
			}
		}
		from = to
	}
	finish(math.MaxInt64)
	return nil
}

// collect fills the stretch with the rows from <= key < to, where to is end or,
// if they are too many, as much less as is needed.
//
// Slices are taken in order of their first row's time, so that those that begin later
// are not read if to is lowered. But of those that have begun before from, one that the
// library has goes first: workers that are at neighbouring pieces, which need mostly the
// same slices, so come to read them together.
func (w *worker) collect(ctx context.Context, p *plan.Piece, from, end key) (to key, err error) {
	w.stretch.reset()
	to = end
	w.asked = append(w.asked[:0], make([]bool, len(p.Slices))...)
	var next *loan // the slice after the one being read, on its way
	defer func() {
		if next != nil {
			w.library.giveBack(next)
		}
	}()
	first := 0 // all slices before have been asked for
	choose := func() (index int32, ok bool) {
		for ; first < len(p.Slices); first++ {
			if !w.asked[first] && w.overlaps(p.Slices[first], from, to) {
				break
			}
		}
		if first == len(p.Slices) {
			return 0, false
		}
		index, ok = w.library.there(func(index int32) bool {
			at, in := slices.BinarySearch(p.Slices, index)
			return in && !w.asked[at] && w.plan.Slices[index].Info.MinTime <= from.time && w.overlaps(index, from, to)
		})
		if !ok {
			index = p.Slices[first]
		}
		return index, true
	}
	for {
		if err := ctx.Err(); err != nil {
			return to, err
		}
		current := next
		next = nil
		if current != nil && !w.overlaps(current.index, from, to) {
			w.library.giveBack(current)
			current = nil
		}
		if current == nil {
			index, ok := choose()
			if !ok {
				return to, nil
			}
			current = w.library.borrow(index)
		}
		at, _ := slices.BinarySearch(p.Slices, current.index)
		w.asked[at] = true
		// behind is a time before which no later slice of the piece has a row.
		behind := end
		if index, ok := choose(); ok {
			behind.time = min(behind.time, w.plan.Slices[p.Slices[first]].Info.MinTime)
			next = w.library.prefetch(index)
		}
		s, err := current.wait()
		if err == nil {
			to = w.read(s, from, to, behind)
		}
		w.library.giveBack(current)
		if err != nil {
			return to, err
		}
	}
}

// overlaps tells whether the slice may have rows from <= key < to.
func (w *worker) overlaps(index int32, from, to key) bool {
	in := w.plan.Slices[index].Info
	return in.MaxTime >= from.time && (key{time: in.MinTime}).less(to)
}

// read adds the slice's rows from <= key < to to the stretch. When the stretch
// is full it lowers to, which it returns: to the next row if no row of a later
// slice can come before that, else to the middle of what is there.
func (w *worker) read(s *sheet, from, to, behind key) key {
	t := &w.stretch
	t.begin()
	last := s.search(to)
	for row := s.search(from); row < last; row++ {
		if !s.shows(row) {
			continue
		}
		t.text = s.appendRow(t.text, row)
		t.add(s.key(row))
		if len(t.text) <= w.limit || len(t.rows) < 2 {
			continue
		}
		lower := behind
		if row+1 < last && s.key(row+1).less(lower) {
			lower = s.key(row + 1)
		}
		if t.below(lower) < len(t.rows)/2 {
			var ok bool
			if lower, ok = t.median(); !ok {
				continue // all keys are equal: no place to divide
			}
		}
		if lower.less(to) {
			to = lower
			t.truncate(to)
			last = s.search(to)
		}
	}
	return to
}
