package consumer

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"lockstitch/state/catalog"
	"lockstitch/state/segment"
)

// picker chooses segments to be merged. A segment belongs to an hour and a day by its
// newest row's log time; those of an hour that is over are merged first, and those of
// a day that is over again. So retention removes what it did, a day later at most. One
// goroutine at a time uses it.
type picker struct {
	spans  []time.Duration      // hour and day
	rows   int                  // the most that one segment gets
	bytes  int64                // and that it is made of
	future time.Duration        // a row that is further ahead keeps its segment for as long
	left   map[string]time.Time // segments that cannot be merged, and since when
}

func newPicker(cfg *Config) *picker {
	return &picker{
		spans: cfg.MergeSpans, rows: int(cfg.MemoryBytes / 4096), bytes: cfg.MemoryBytes / 32,
		future: cfg.MergeFuture, left: make(map[string]time.Time),
	}
}

// maxLeft bounds what is remembered of segments that cannot be merged.
const maxLeft = 10_000

// leave lets segments alone for a while.
func (p *picker) leave(segments ...*catalog.Segment) {
	for id, since := range p.left {
		if time.Since(since) > mergePatience || len(p.left) > maxLeft {
			delete(p.left, id)
		}
	}
	for _, s := range segments {
		p.left[s.ID] = time.Now()
	}
}

func (p *picker) isLeft(id string) bool {
	since, ok := p.left[id]
	return ok && time.Since(since) < mergePatience
}

// spanOf is which span a segment belongs to, and whether that is over by Kafka's time over
// (ms). Of one that was sealed two spans ago by the machine's clock now (ms), and whose
// newest row is still to come by Kafka's, a broker's clock was ahead: rows that come behind
// such a one are as new (contract 2.1). It belongs to the span that it was sealed in.
func spanOf(s *catalog.Segment, span, now, over int64) (of group, is bool) {
	at := s.Newest() / span
	if (at+1)*span+span/8 <= over {
		return group{at, false}, true
	}
	return group{s.Sealed() / span, true}, s.Sealed() < now-2*span
}

// group is a span, of the newest rows or of when the segments were sealed.
type group struct {
	at     int64
	sealed bool
}

// before is an order: the oldest spans first.
func (g group) before(other group) int {
	if g.at == other.at && g.sealed != other.sealed {
		if other.sealed {
			return -1
		}
		return 1
	}
	return cmp.Compare(g.at, other.at)
}

// pick chooses those that are merged next, of the oldest span first and small ones first,
// nil if there are none; in which order it gets the segments does not count. Spans are over
// by Kafka's time over (ms), see spanOf; what is older than expired (ms) is left to retention.
func (p *picker) pick(segments []*catalog.Segment, now, over, expired int64) []*catalog.Segment {
	for _, span := range p.spans {
		groups := make(map[group][]candidate)
		for _, s := range segments {
			at, is := spanOf(s, span.Milliseconds(), now, over)
			if !is || s.Newest() < expired || p.isLeft(s.ID) {
				continue
			}
			c, small := p.candidate(s)
			if !small {
				continue
			}
			groups[at] = append(groups[at], c)
		}
		for _, at := range slices.SortedFunc(maps.Keys(groups), group.before) {
			if found := p.choose(groups[at]); len(found) > 1 {
				return found
			}
		}
	}
	return nil
}

// candidate is a segment that may be merged.
type candidate struct {
	*catalog.Segment
	rows int
}

// candidate tells whether a segment is small, and without rows of the future.
func (p *picker) candidate(s *catalog.Segment) (candidate, bool) {
	c := candidate{Segment: s}
	for i := range s.Slices {
		in := &s.Slices[i]
		if p.future < math.MaxInt64 && in.MaxTime > s.Newest()+p.future.Milliseconds() {
			return c, false
		}
		c.rows += in.Rows
	}
	return c, c.rows <= p.rows/2 && s.Bytes <= p.bytes/2
}

// choose takes as many as fit into one segment, small ones first. None is much larger
// than all others together: so a row is written again a number of times that grows
// with the logarithm of the segments only, however they trickle in.
func (p *picker) choose(from []candidate) []*catalog.Segment {
	slices.SortFunc(from, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.rows, b.rows), cmp.Compare(a.ID, b.ID)) })
	rows, bytes, n := 0, int64(0), 0
	size := newDirectorySize()
	for _, c := range from {
		if n == catalog.MaxReplaced || rows+c.rows > p.rows || bytes+c.Bytes > p.bytes || !size.add(c.Segment) {
			break
		}
		rows, bytes, n = rows+c.rows, bytes+c.Bytes, n+1
	}
	for n > 1 && from[n-1].rows > 2*(rows-from[n-1].rows) {
		n--
		rows -= from[n].rows
	}
	if n < 2 {
		return nil
	}
	out := make([]*catalog.Segment, n)
	for i := range out {
		out[i] = from[i].Segment
	}
	return out
}

// directorySize guesses how large the directory gets of what segments are merged into.
type directorySize struct {
	accounts map[string]*accountSize
	bytes    int
}

type accountSize struct {
	rows, slices int
	sources      map[segment.Partition]struct{}
	streams      map[segment.TopicID]int // bytes, about
}

func newDirectorySize() *directorySize {
	return &directorySize{accounts: make(map[string]*accountSize)}
}

// sliceJSON, streamJSON and sourceJSON are bytes, about. What gets larger than the guess
// after all is segment.ErrTooLarge, and half of it is tried.
const sliceJSON, streamJSON, sourceJSON = 120, 48, 25

// add takes a segment in, and tells whether it still fits.
func (d *directorySize) add(s *catalog.Segment) bool {
	for i := range s.Slices {
		in := &s.Slices[i]
		a := d.accounts[in.Account]
		if a == nil {
			a = &accountSize{sources: make(map[segment.Partition]struct{}), streams: make(map[segment.TopicID]int)}
			d.accounts[in.Account] = a
		}
		d.bytes -= a.size(in.Account)
		a.rows += in.Rows
		a.slices = 1 + a.rows/(segment.MaxSliceRows/2)
		for _, r := range in.Sources {
			src := r.Source()
			a.sources[src.At()] = struct{}{}
			a.streams[src.ID] = streamJSON + len(src.Topic)
		}
		d.bytes += a.size(in.Account)
	}
	return d.bytes <= segment.MaxDirectoryBytes && len(d.accounts) <= segment.MaxDirectorySlices
}

func (a *accountSize) size(account string) int {
	n := sliceJSON + len(account) + sourceJSON*len(a.sources)
	for _, bytes := range a.streams {
		n += bytes
	}
	return a.slices * n
}
