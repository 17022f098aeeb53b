package catalog

import (
	"iter"
	"slices"

	"lockstitch/state/segment"
)

// account is what a View knows of one account: its slices, and for each partition of
// the event topics the ranges of offsets that their rows come from.
//
// The ranges are there so that a file of a short way through the input is planned
// without looking at what else is stored. They take 24 bytes for each source of
// a slice, about 28 with the room that a list grows into; the source itself takes
// 24 in SliceInfo, the rest of a slice 190 (BenchmarkSegments).
type account struct {
	slices slicesByTime
	ranges map[segment.Partition]rangeList
}

// rangeList is a list of ranges from near whose front one is removed at little cost, however
// long it is: retention removes a thousand of the oldest with each of its cuts, while nobody
// can read the catalog.
type rangeList struct {
	ranges
	before int // places that its memory has in front of it, at the most
}

// ranges are those of one partition, in order of their ends. A cut takes all
// offsets of a partition that the cuts before it left, so that only ranges of
// one cut overlap, those of different hours; but nothing here rests on that, only
// how many ranges are looked at in vain: a range over several cuts, of a slice
// that was put together from theirs, is no error.
type ranges []offsetRange

// offsetRange is a source of a slice.
type offsetRange struct {
	segment       *Segment
	slice, source int32 // index into segment.Slices, and into the Sources there
	// least is the lowest offset of this range and of all behind it: it never
	// falls along the list.
	least int64
}

func (r *offsetRange) info() *segment.SliceInfo { return &r.segment.Slices[r.slice] }

func (r *offsetRange) offsets() *segment.OffsetRange { return &r.info().Sources[r.source] }

func (r *offsetRange) ref() SliceRef { return r.segment.ref(r.info()) }

// in are the account's ranges that have an offset of another one.
func (a *account) in(within segment.OffsetRange) iter.Seq[*offsetRange] {
	return func(yield func(*offsetRange) bool) {
		found := a.ranges[within.Source().At()].between(within.Min, within.Next)
		for i := range found {
			if r := &found[i]; r.offsets().Min < within.Next && !yield(r) {
				return
			}
		}
	}
}

// behind is the index of the first range that ends above the offset.
func (l ranges) behind(offset int64) int {
	i, _ := slices.BinarySearchFunc(l, offset, func(r offsetRange, offset int64) int {
		if r.offsets().Next > offset {
			return 1
		}
		return -1
	})
	return i
}

// between is the stretch of the list that holds every range with an offset o,
// from <= o < to. Those that end above to may have none.
func (l ranges) between(from, to int64) ranges {
	if from >= to {
		return nil
	}
	l = l[l.behind(from):]
	n, _ := slices.BinarySearchFunc(l, to, func(r offsetRange, to int64) int {
		if r.least >= to {
			return 1
		}
		return -1
	})
	return l[:n]
}

func (l *rangeList) insert(r offsetRange) {
	i := l.behind(r.offsets().Next)
	r.least = -1 // not known yet
	l.ranges = slices.Insert(l.ranges, i, r)
	l.settle(i)
}

func (l *rangeList) remove(r offsetRange) {
	i := l.behind(r.offsets().Next - 1)
	for i < len(l.ranges) && (l.ranges[i].segment != r.segment || l.ranges[i].slice != r.slice || l.ranges[i].source != r.source) {
		i++
	}
	switch n := len(l.ranges); {
	case i == n:
		return
	case i >= n/2:
		l.ranges = slices.Delete(l.ranges, i, i+1)
	default: // those before it move, and the list begins one place later
		copy(l.ranges[1:], l.ranges[:i])
		l.ranges[0] = offsetRange{}
		l.ranges = l.ranges[1:]
		if l.before++; l.before >= n {
			l.ranges, l.before = slices.Clone(l.ranges), 0
		}
	}
	l.settle(i - 1)
}

// settle makes least true from a changed place to the front, as far as it is
// not.
func (l ranges) settle(i int) {
	for ; i >= 0; i-- {
		least := l[i].offsets().Min
		if i+1 < len(l) {
			least = min(least, l[i+1].least)
		}
		if l[i].least == least {
			return
		}
		l[i].least = least
	}
}

// add takes the segment into the accounts that it has slices of.
func (s *state) add(seg *Segment) {
	for i := range seg.Slices {
		in := &seg.Slices[i]
		a := s.accounts[in.Account]
		if a == nil {
			a = &account{ranges: make(map[segment.Partition]rangeList)}
			s.accounts[in.Account] = a
		}
		a.slices.insert(place{seg, in})
		for j := range in.Sources {
			k := in.Sources[j].Source().At()
			l := a.ranges[k]
			l.insert(offsetRange{segment: seg, slice: int32(i), source: int32(j)})
			a.ranges[k] = l
		}
	}
}

// drop undoes add.
func (s *state) drop(seg *Segment) {
	for i := range seg.Slices {
		in := &seg.Slices[i]
		a := s.accounts[in.Account]
		a.slices.remove(place{seg, in})
		for j := range in.Sources {
			k := in.Sources[j].Source().At()
			l := a.ranges[k]
			l.remove(offsetRange{segment: seg, slice: int32(i), source: int32(j)})
			if a.ranges[k] = l; len(l.ranges) == 0 {
				delete(a.ranges, k)
			}
		}
		if len(a.slices) == 0 {
			delete(s.accounts, in.Account)
		}
	}
}

// SlicesIn lists the slices of an account that may hold rows of the given ranges
// of offsets, each slice once, in the order of Slices. A topic's name does not
// count. The work is that of what is found, however much is stored.
func (v *View) SlicesIn(account string, within []segment.OffsetRange) []SliceRef {
	v.mu.RLock()
	defer v.mu.RUnlock()
	a := v.st.accounts[account]
	if a == nil {
		return nil
	}
	var out []SliceRef
	seen := make(map[*segment.SliceInfo]bool)
	for _, w := range within {
		for r := range a.in(w) {
			if in := r.info(); !seen[in] {
				seen[in] = true
				out = append(out, r.ref())
			}
		}
	}
	inOrder(out)
	return out
}

// SlicesSince lists the slices of all accounts that may hold rows of a range of
// offsets with a log time of at least oldest (ms), in no order: there may be millions.
// The work is that of SlicesIn for every account.
func (v *View) SlicesSince(within segment.OffsetRange, oldest int64) []SliceRef {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []SliceRef
	for _, a := range v.st.accounts {
		for r := range a.in(within) {
			if t := r.segment.LogTime; t == 0 || t >= oldest {
				out = append(out, r.ref())
			}
		}
	}
	return out
}
