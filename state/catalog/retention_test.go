package catalog

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"lockstitch/internal/seed"
	"lockstitch/state/segment"
)

// TestFloors raises a floor above random segments, in random parts, and asks it
// what a search over all rows' ranges says.
func TestFloors(t *testing.T) {
	seed.Each(t, 3, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 5))
		random := func() *Segment {
			s := &Segment{}
			for range 1 + r.IntN(3) {
				in := segment.SliceInfo{MaxTime: r.Int64N(50)}
				for range 1 + r.IntN(3) {
					in.Sources = append(in.Sources, segment.Stream{ID: segment.TopicID{byte(r.IntN(2))}}.Range(r.Int32N(3), 0, 1+r.Int64N(50)))
				}
				s.Slices = append(s.Slices, in)
			}
			return s
		}
		oldest, next := int64(0), make(map[segment.Partition]int64)
		var f Floor
		for range 30 {
			var below []*Segment
			for range r.IntN(3) {
				below = append(below, random())
			}
			before := f
			was := append([]FloorEnd(nil), f.Ends...)
			f = f.Above(below)
			if len(was) > 0 && !reflect.DeepEqual(before.Ends, was) {
				t.Fatalf("the floor before was changed")
			}
			for _, s := range below {
				for _, in := range s.Slices {
					oldest = max(oldest, in.MaxTime+1)
					for _, o := range in.Sources {
						k := o.Source().At()
						next[k] = max(next[k], o.Next)
					}
				}
				if !f.Covers(s) {
					t.Fatalf("%+v does not cover %+v", f, s)
				}
			}
			if f.OldestAvailable != oldest {
				t.Fatalf("oldest available %d, want %d", f.OldestAvailable, oldest)
			}
			for id := range 2 {
				for n := range int32(4) {
					k := segment.Partition{Topic: segment.TopicID{byte(id)}, N: n}
					if got := f.Next(k.Topic, k.N); got != next[k] {
						t.Fatalf("%v: %d, want %d", k, got, next[k])
					}
				}
			}
			s := random()
			want := true
			for _, in := range s.Slices {
				want = want && in.MaxTime < oldest
				for _, o := range in.Sources {
					want = want && o.Next <= next[o.Source().At()]
				}
			}
			if got := f.Covers(s); got != want {
				t.Fatalf("%+v covers %+v: %v", f, s, got)
			}
		}
	})
}

// TestViewKnowsTheFloors reads them from the topic, also anew.
func TestViewKnowsTheFloors(t *testing.T) {
	tp := newTopic(t, 1)
	v := tp.open()
	if got := v.Retention(); !reflect.DeepEqual(got, Retention{}) {
		t.Fatalf("%+v where nothing was removed", got)
	}
	want := Retention{At: 7, Refused: Floor{OldestAvailable: 9, Ends: []FloorEnd{{segment.TopicID{1}, 0, 3}, {segment.TopicID{1}, 1, 4}}}, Removed: Floor{OldestAvailable: 5}}
	tp.put((&Retention{At: 1}).Record("cat"))
	tp.put(want.Record("cat"))
	for _, v := range []*View{v, tp.open()} {
		if err := v.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := v.Retention(); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// TestAFloorCoversNoRowAtItsEdge: what has the time of oldest_available is still kept.
func TestAFloorCoversNoRowAtItsEdge(t *testing.T) {
	id := segment.TopicID{1}
	f := Floor{OldestAvailable: 1000, Ends: []FloorEnd{{id, 0, 50}}}
	for at, covered := range map[int64]bool{999: true, 1000: false} {
		s := &Segment{Slices: []segment.SliceInfo{{MaxTime: at, Sources: []segment.OffsetRange{segment.Stream{ID: id}.Range(0, 10, 50)}}}}
		if f.Covers(s) != covered {
			t.Errorf("a segment whose newest row is of %d is covered: %v", at, !covered)
		}
	}
}
