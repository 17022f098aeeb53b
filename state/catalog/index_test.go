package catalog

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/bubble"
	"lockstitch/internal/seed"
	"lockstitch/state/segment"
)

// history is a random catalog: cuts that each take the next offsets of some
// partitions, with rows of several accounts and late ones; segments that are
// removed, and such that another one replaces.
type history struct {
	t      *testing.T
	r      *rand.Rand
	look   func(*history) // compares what the view says with what was written
	v      *View
	ends   map[segment.Partition]int64
	lived  []*Segment
	made   int
	topics []segment.OffsetRange // one for each partition, without offsets
}

var historyAccounts = []string{"acme", "other", "rare"}

func newHistory(t *testing.T, r *rand.Rand, look func(*history)) *history {
	h := &history{t: t, r: r, look: look, v: &View{st: newState()}, ends: make(map[segment.Partition]int64)}
	for topic := range 1 + r.IntN(2) {
		for n := range 1 + r.Int32N(3) {
			h.topics = append(h.topics, segment.Stream{Topic: "e", Incarnation: topic, ID: segment.TopicID{byte(topic)}}.Range(n, 0, 0))
		}
	}
	return h
}

func (h *history) apply(r *kgo.Record, err error) {
	h.t.Helper()
	if err == nil {
		err = h.v.st.decode(r)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) write(slices []segment.SliceInfo, replaces ...string) {
	h.t.Helper()
	h.made++
	seg := &Segment{ID: fmt.Sprintf("%06d", h.made), Object: fmt.Sprintf("segments/%d", h.made), LogTime: int64(h.made % 50), Slices: slices, Replaces: replaces}
	for i := range seg.Slices {
		seg.Slices[i].Offset, seg.Slices[i].Length = int64(100*i), 100
	}
	h.apply(seg.Record("cat"))
	h.lived = append(h.lived, seg)
}

func (h *history) remove(i int) *Segment {
	h.t.Helper()
	seg := h.lived[i]
	h.apply(seg.Tombstone("cat"), nil)
	h.lived = slices.Delete(h.lived, i, i+1)
	return seg
}

// cut spreads the next offsets of each partition over slices of one hour or
// several, in one segment or two.
func (h *history) cut() {
	h.t.Helper()
	type place struct {
		account string
		hour    int64
	}
	rows := make(map[place][]segment.OffsetRange)
	for _, src := range h.topics {
		k := src.Source().At()
		for range h.r.IntN(12) {
			at := h.ends[k]
			h.ends[k]++
			p := place{historyAccounts[min(h.r.IntN(8)/3, 2)], int64(h.made) + h.r.Int64N(1+h.r.Int64N(4))}
			if h.r.IntN(4) == 0 {
				continue // nothing was kept
			}
			i := slices.IndexFunc(rows[p], func(o segment.OffsetRange) bool { return o.Source() == src.Source() })
			if i < 0 {
				src.Min = at
				i, rows[p] = len(rows[p]), append(rows[p], src)
			}
			rows[p][i].Next = at + 1
		}
	}
	var parts [2][]segment.SliceInfo
	for p, sources := range rows {
		half := int(p.hour) % 2
		from, to := h.times(p.hour)
		parts[half] = append(parts[half], segment.SliceInfo{Account: p.account, Rows: 1, MinTime: from, MaxTime: to, Sources: sources})
	}
	for _, part := range parts {
		if len(part) > 0 {
			h.write(part)
		}
	}
}

// merge puts all slices of an account and an hour of two segments into one.
func (h *history) merge() {
	h.t.Helper()
	a := h.r.IntN(len(h.lived) - 1)
	var merged []segment.SliceInfo
	for _, s := range append(slices.Clone(h.lived[a].Slices), h.lived[a+1].Slices...) {
		i := slices.IndexFunc(merged, func(m segment.SliceInfo) bool { return m.Account == s.Account })
		if i < 0 {
			s.Sources = slices.Clone(s.Sources)
			merged = append(merged, s)
			continue
		}
		m := &merged[i]
		m.MinTime, m.MaxTime = min(m.MinTime, s.MinTime), max(m.MaxTime, s.MaxTime)
		for _, o := range s.Sources {
			j := slices.IndexFunc(m.Sources, func(x segment.OffsetRange) bool { return x.Source() == o.Source() })
			if j < 0 {
				m.Sources = append(m.Sources, o)
				continue
			}
			m.Sources[j].Min, m.Sources[j].Next = min(m.Sources[j].Min, o.Min), max(m.Sources[j].Next, o.Next)
		}
		slices.SortFunc(m.Sources, func(x, y segment.OffsetRange) int { return x.Source().Compare(y.Source()) })
	}
	gone := slices.Clone(h.lived[a : a+2])
	h.lived = slices.Delete(h.lived, a, a+2)
	h.write(merged, gone[0].ID, gone[1].ID)
	for _, seg := range gone {
		if h.r.IntN(2) == 0 {
			h.look(h)
		}
		if h.v.Live(seg.ID) || h.v.Replaced(seg.ID) == 0 {
			h.t.Fatalf("segment %s, which was replaced: live %v, replaced at %d", seg.ID, h.v.Live(seg.ID), h.v.Replaced(seg.ID))
		}
		h.apply(seg.Tombstone("cat"), nil)
	}
}

// check asks for the rows between two positions and compares with a look at every
// slice.
func (h *history) check() {
	h.t.Helper()
	for _, a := range h.v.st.accounts {
		for k, list := range a.ranges {
			l, least := list.ranges, int64(math.MaxInt64)
			for i := len(l) - 1; i >= 0; i-- {
				o := l[i].offsets()
				least = min(least, o.Min)
				if l[i].least != least || i > 0 && l[i-1].offsets().Next > o.Next {
					h.t.Fatalf("partition %v: range %d of %d, %+v, is out of order or has not %d as the least offset but %d", k, i, len(l), o, least, l[i].least)
				}
			}
		}
	}
	var within []segment.OffsetRange
	for _, src := range h.topics {
		end := h.ends[src.Source().At()]
		src.Min = h.r.Int64N(end + 2)
		src.Next = src.Min + h.r.Int64N(end+2-src.Min)
		if h.r.IntN(5) > 0 {
			within = append(within, src)
		}
	}
	for _, w := range within {
		oldest := h.r.Int64N(60)
		want, got := make(map[string]bool), make(map[string]bool)
		for _, seg := range h.lived {
			for _, s := range seg.Slices {
				if (seg.LogTime == 0 || seg.LogTime >= oldest) && slices.ContainsFunc(s.Sources, func(o segment.OffsetRange) bool {
					return o.Source() == w.Source() && max(o.Min, w.Min) < min(o.Next, w.Next)
				}) {
					want[fmt.Sprint(seg.Object, "+", s.Offset)] = true
				}
			}
		}
		for _, ref := range h.v.SlicesSince(w, oldest) {
			got[fmt.Sprint(ref.Object, "+", ref.Info.Offset)] = true
		}
		if !maps.Equal(got, want) {
			h.t.Fatalf("slices within %+v since %d: %v, want %v", w, oldest, got, want)
		}
	}
	for _, account := range historyAccounts {
		var want []string
		for _, seg := range h.lived {
			for _, s := range seg.Slices {
				if s.Account == account && slices.ContainsFunc(s.Sources, func(o segment.OffsetRange) bool {
					return slices.ContainsFunc(within, func(w segment.OffsetRange) bool {
						return o.Source() == w.Source() && max(o.Min, w.Min) < min(o.Next, w.Next)
					})
				}) {
					want = append(want, fmt.Sprint(seg.Object, "+", s.Offset))
				}
			}
		}
		var got []string
		refs := h.v.SlicesIn(account, within)
		for _, ref := range refs {
			got = append(got, fmt.Sprint(ref.Object, "+", ref.Info.Offset))
		}
		all := slices.DeleteFunc(h.v.Slices(account, 0, math.MaxInt64), func(s SliceRef) bool { return !slices.Contains(refs, s) })
		if !slices.Equal(all, refs) {
			h.t.Fatalf("slices of %s in another order than all of them: %v", account, got)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			h.t.Fatalf("slices of %s within %+v: %v, want %v", account, within, got, want)
		}
	}
}

func TestSlicesInFindsWhatASearchFinds(t *testing.T) { everyStep(t, (*history).check) }

// everyStep looks at every step of random catalogs.
func everyStep(t *testing.T, look func(*history)) {
	seed.Each(t, 5, func(t *testing.T, seed uint64) {
		h := newHistory(t, rand.New(rand.NewPCG(seed, 3)), look)
		for range 100 {
			switch n := h.r.IntN(10); {
			case n < 6:
				h.cut()
			case n < 7 && len(h.lived) > 0:
				h.remove(h.r.IntN(len(h.lived)))
			case n < 9 && len(h.lived) > 1:
				h.merge()
			case len(h.lived) > 0: // written again, as compaction of the log may show it
				h.apply(h.lived[h.r.IntN(len(h.lived))].Record("cat"))
			}
			for range 2 {
				h.look(h)
			}
		}
		for len(h.lived) > 0 {
			h.remove(0)
		}
		if n := len(h.v.st.accounts); n != 0 {
			t.Errorf("%d accounts are left of a catalog without segments", n)
		}
	})
}

// What is looked at for rows at the end of the input, or in the midst of it, are
// the slices of the cuts that they came with, however many others there are.
func TestSlicesInLooksAtNothingElse(t *testing.T) {
	const rows, late = 10, 3 // a cut has, and the slices of late rows among them
	v := &View{st: newState()}
	cuts := int64(0)
	cut := func() {
		t.Helper()
		seg := &Segment{ID: fmt.Sprintf("%06d", cuts)}
		for i := range int64(1 + late) {
			s := slice("acme", cuts-10*i+1000, cuts-10*i+1000)
			s.Sources[0].Min, s.Sources[0].Next = cuts*rows+i, (cuts+1)*rows-i
			seg.Slices = append(seg.Slices, s)
		}
		cuts++
		rec, err := seg.Record("cat")
		if err == nil {
			err = v.st.decode(rec)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	source := slice("", 0, 0).Sources[0]
	for range 1000 {
		cut()
		l := v.st.accounts["acme"].ranges[source.Source().At()].ranges
		for _, first := range []int64{cuts - 1, cuts / 2, 0} {
			if looked := len(l.between(first*rows, (first+1)*rows)); looked != 1+late {
				t.Fatalf("of %d cuts, %d ranges were looked at for those of cut %d, want %d", cuts, looked, first, 1+late)
			}
		}
		if looked := len(l.between(cuts*rows, math.MaxInt64)); looked != 0 {
			t.Fatalf("%d ranges were looked at for what has not come yet", looked)
		}
	}
}

// TestReplacedIsRememberedForAWhile, for the sweeper, and not for ever; what may be
// forgotten is looked for every hour, not with each of the records that a start reads.
func TestReplacedIsRememberedForAWhile(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		st := newState()
		put := func(made time.Time, replaces string) string {
			id := ulid.MustNew(uint64(made.UnixMilli()), ulid.DefaultEntropy()).String()
			rec, err := (&Segment{ID: id, Object: "segments/" + id, Replaces: []string{replaces}}).Record("cat")
			if err == nil {
				err = st.decode(rec)
			}
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		remembered := func(want ...string) {
			t.Helper()
			if got := slices.Sorted(maps.Keys(st.replaced)); !slices.Equal(got, want) {
				t.Errorf("remembered: %v, want %v", got, want)
			}
		}
		at := time.Now().Add(-24 * time.Hour)
		put(time.Now().Add(-96*time.Hour), "a")
		put(at, "b")
		if remembered("b"); st.replaced["b"] != at.UnixMilli() {
			t.Errorf("remembered: %v", st.replaced)
		}
		time.Sleep(48 * time.Hour) // three days, and no more
		put(time.Now(), "c")
		remembered("b", "c")
		time.Sleep(forgetEvery - 1)
		put(time.Now(), "d")
		remembered("b", "c", "d")
		time.Sleep(time.Nanosecond)
		last := put(time.Now(), "e")
		if remembered("c", "d", "e"); len(st.segments[last].Replaces) != 0 {
			t.Errorf("the segment remembers %v, too", st.segments[last].Replaces)
		}
	})
}
