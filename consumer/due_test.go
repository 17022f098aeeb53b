package consumer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"lockstitch/internal/seed"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// requests are those that are pending.
type requests []*report.Report

func (r *requests) Pending() []*report.Report { return *r }
func (r *requests) Changed() <-chan struct{}  { return nil }

// ask adds a request that waits for so many first offsets of partitions 0, 1, ….
func (r *requests) ask(id string, offsets ...int64) {
	q := &report.Request{ID: id}
	for n, o := range offsets {
		q.Question.Barrier = append(q.Question.Barrier, report.End{TopicID: segment.TopicID{1}, Partition: int32(n), Offset: o})
	}
	*r = append(*r, &report.Report{Request: q})
}

func waitsFor(r *requests) *Consumer {
	return &Consumer{
		cfg: Config{MemoryBytes: 1 << 20, FlushInterval: time.Hour}, deps: Deps{Reports: r},
		barriers: make(map[segment.Partition]int64), awaited: make(map[string]bool),
	}
}

// TestNoBarrierIsMissed, and few are kept of requests that are over: none of theirs if
// there are less than 16 others.
func TestNoBarrierIsMissed(t *testing.T) {
	seed.Each(t, 20, func(t *testing.T, n uint64) {
		rng := rand.New(rand.NewPCG(n, 5))
		var asked requests
		c := waitsFor(&asked)
		limit := 1 + rng.IntN(64)
		for i := range 1000 {
			for len(asked) > 0 && rng.IntN(limit) < len(asked) {
				at := rng.IntN(len(asked))
				asked = slices.Delete(asked, at, at+1)
			}
			asked.ask(fmt.Sprint(i), rng.Int64N(1000), rng.Int64N(1000))
			c.readBarriers()
			want := make(map[segment.Partition]int64)
			for _, r := range asked {
				for _, e := range r.Request.Question.Barrier {
					want[e.At()] = max(want[e.At()], e.Offset)
				}
			}
			for at, offset := range want {
				if c.barriers[at] < offset {
					t.Fatalf("a request waits for %d of %v, and nobody knows", offset, at)
				}
			}
			if over := len(c.awaited) - len(asked); over > len(asked)/16 || over == 0 && !maps.Equal(c.barriers, want) {
				t.Fatalf("of %d requests that are over and %d that are not: %v, want %v", over, len(asked), c.barriers, want)
			}
		}
		asked = nil
		if c.readBarriers(); len(c.barriers)+len(c.awaited) != 0 {
			t.Fatalf("nobody waits, and there are %v", c.barriers)
		}
	})
}

// TestABarrierThatIsLeftOver makes one cut too many at the most: a request among many was
// cancelled before it was reached.
func TestABarrierThatIsLeftOver(t *testing.T) {
	var asked requests
	c := waitsFor(&asked)
	in := &input{stream: &segment.Stream{ID: segment.TopicID{1}}}
	l := &lane{stage: ready, inputs: []*input{in}}
	c.lanes = map[int32]*lane{0: l}
	for i := range 20 {
		asked.ask(fmt.Sprint(i), 3)
	}
	asked.ask("cancelled", 10)
	c.readBarriers()
	asked = asked[:20]
	in.committed.Next, in.pos.Next = 9, 9
	cuts := 0
	for now := time.Now(); in.pos.Next < 20; now = now.Add(time.Second) {
		in.pos.Next++
		l.touch(now)
		c.readBarriers()
		if c.cutDue(now) {
			cuts++
			c.lastCut, in.committed.Next, l.dirty = now, in.pos.Next, false
		}
	}
	if cuts != 1 || c.barriers[segment.Partition{Topic: segment.TopicID{1}}] != 10 {
		t.Errorf("%d cuts are made for the barriers %v", cuts, c.barriers)
	}
}

// BenchmarkBarriers is what a turn takes to know the barriers of a thousand requests that
// wait for 2,048 partitions, and what each of them takes once, when it comes and goes.
func BenchmarkBarriers(b *testing.B) {
	const pending, partitions = 1000, 2048
	offsets := make([]int64, partitions)
	var asked requests
	for i := range pending {
		asked.ask(fmt.Sprint(i), offsets...)
	}
	c := waitsFor(&asked)
	c.readBarriers()
	b.Run("turn", func(b *testing.B) {
		for b.Loop() {
			c.readBarriers()
		}
	})
	b.Run("another", func(b *testing.B) {
		n := 0
		for b.Loop() {
			n++
			asked = asked[1:]
			asked.ask(fmt.Sprint("another ", n), offsets...)
			c.readBarriers()
		}
	})
}
