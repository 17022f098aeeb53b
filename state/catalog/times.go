package catalog

import (
	"cmp"
	"iter"
	"math"
	"math/bits"
	"slices"
	"strings"

	"lockstitch/state/segment"
)

// slicesByTime are the slices of an account, so that those of a window are listed without a
// look at what else is stored. Most slices are short, but one late row makes one as long as
// it is late, of which there may be some in every cut: a single list would have to be
// searched by the longest of all. So there is one for each doubling of length.
type slicesByTime []slicesOfALength

// slicesOfALength are those with at least half as many ms from the first row to the last as
// the length, and less than all of it, in order of their ends.
//
// They stand in runs of up to maxRun, none of them empty, so that one comes or goes in the
// midst of a million at little cost: cuts mostly bring the newest of an account, but those of
// an import may be of any time. A slice takes 16 bytes (BenchmarkSegments).
type slicesOfALength struct {
	length int64 // ms, a power of 2; that of slices of one moment is 1
	runs   [][]place
}

const maxRun = 64

// place is a slice, and the segment that it is in.
type place struct {
	segment *Segment
	info    *segment.SliceInfo
}

// ends compares the place's end with a time (ms).
func (p place) ends(t int64) int { return cmp.Compare(p.info.MaxTime, t) }

// compare orders places by their ends. Those of one segment with the same end are equal: they
// come and go together.
func (p place) compare(o place) int {
	if c := p.ends(o.info.MaxTime); c != 0 {
		return c
	}
	return strings.Compare(p.segment.ID, o.segment.ID)
}

// between are those that may have start <= their last row and their first row < end (ms).
// Those that begin at end or later are among them in vain: they all have the moment half a
// length behind end, so that there are not many.
func (l *slicesOfALength) between(start, end int64) iter.Seq[place] {
	behind := min(end, math.MaxInt64-l.length) + l.length
	return func(yield func(place) bool) {
		i, _ := slices.BinarySearchFunc(l.runs, start, func(run []place, start int64) int {
			return run[len(run)-1].ends(start)
		})
		for _, run := range l.runs[i:] {
			from, _ := slices.BinarySearchFunc(run, start, place.ends)
			for _, p := range run[from:] {
				if p.info.MaxTime >= behind || !yield(p) {
					return
				}
			}
		}
	}
}

// find is where a place stands, or would: in which run, and where there.
func (l *slicesOfALength) find(p place) (run, at int, found bool) {
	run, _ = slices.BinarySearchFunc(l.runs, p, func(run []place, p place) int { return run[len(run)-1].compare(p) })
	if run == len(l.runs) && run > 0 {
		run-- // behind the last of all
	}
	if run < len(l.runs) {
		at, found = slices.BinarySearchFunc(l.runs[run], p, place.compare)
	}
	return run, at, found
}

func (l *slicesOfALength) insert(p place) {
	i, at, _ := l.find(p)
	switch {
	case i == len(l.runs) || at == maxRun: // the first of all, or behind the last run, which is full
		l.runs = append(l.runs, []place{p})
		return
	case len(l.runs[i]) == maxRun:
		const half = maxRun / 2
		l.runs = slices.Insert(l.runs, i+1, slices.Clone(l.runs[i][half:]))
		l.runs[i] = slices.Clone(l.runs[i][:half])
		if at > half {
			i, at = i+1, at-half
		}
	}
	l.runs[i] = slices.Insert(l.runs[i], at, p)
}

func (l *slicesOfALength) remove(p place) {
	i, at, found := l.find(p)
	if !found {
		return
	}
	run := slices.Delete(l.runs[i], at, at+1)
	switch {
	case len(run) == 0:
		l.runs = slices.Delete(l.runs, i, i+1)
		return
	case len(run) < cap(run)/4:
		run = slices.Clone(run)
	}
	l.runs[i] = run
}

func (s *slicesByTime) insert(p place) {
	i := s.of(p)
	if i < 0 {
		i = len(*s)
		*s = append(*s, slicesOfALength{length: lengthOf(p)})
	}
	(*s)[i].insert(p)
}

func (s *slicesByTime) remove(p place) {
	i := s.of(p)
	if i < 0 {
		return
	}
	if (*s)[i].remove(p); len((*s)[i].runs) == 0 {
		*s = slices.Delete(*s, i, i+1)
	}
}

// of is the index of the list that a slice belongs to; -1: there is none yet.
func (s *slicesByTime) of(p place) int {
	length := lengthOf(p)
	return slices.IndexFunc(*s, func(l slicesOfALength) bool { return l.length == length })
}

func lengthOf(p place) int64 { return 1 << bits.Len64(uint64(p.info.MaxTime-p.info.MinTime)) }

// Slices lists the slices of an account that may hold rows with start <=
// server_time < end (ms; math.MaxInt64: no upper end), in order of their first
// row. The work is that of what is found, however much is stored.
func (v *View) Slices(account string, start, end int64) []SliceRef {
	v.mu.RLock()
	var out []SliceRef
	if a := v.st.accounts[account]; a != nil {
		for i := range a.slices {
			for p := range a.slices[i].between(start, end) {
				if p.info.MinTime < end {
					out = append(out, p.segment.ref(p.info))
				}
			}
		}
	}
	v.mu.RUnlock()
	inOrder(out)
	return out
}

// inOrder sorts slices by their first row.
func inOrder(refs []SliceRef) {
	slices.SortFunc(refs, func(a, b SliceRef) int {
		return cmp.Or(cmp.Compare(a.Info.MinTime, b.Info.MinTime), cmp.Compare(a.SegmentID, b.SegmentID), cmp.Compare(a.Info.Offset, b.Info.Offset))
	})
}
