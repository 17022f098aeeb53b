package catalog

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"lockstitch/state/segment"
)

const hourMillis = int64(time.Hour / time.Millisecond)

// times are those of the first and the last row of a slice of an hour: often the same, and
// those of others; but late rows may be as late as they like, and a few lie in the future.
func (h *history) times(hour int64) (from, to int64) {
	to = (500_000 + hour) * hourMillis
	if h.r.IntN(2) == 0 {
		to += h.r.Int64N(hourMillis)
	}
	if h.r.IntN(20) == 0 {
		to += h.r.Int64N(1 << h.r.IntN(47))
	}
	if h.r.IntN(2) == 0 {
		return to, to
	}
	return max(0, to-h.r.Int64N(1<<h.r.IntN(47))), to
}

// window asks for the slices of windows, also of such as begin or end with a slice, and
// compares with a walk over all.
func (h *history) window() {
	h.t.Helper()
	edge := func() int64 {
		if len(h.lived) == 0 || h.r.IntN(4) == 0 {
			return h.r.Int64N(1 << h.r.IntN(48))
		}
		of := h.lived[h.r.IntN(len(h.lived))].Slices
		from, to := of[h.r.IntN(len(of))].MinTime, of[h.r.IntN(len(of))].MaxTime
		return []int64{from, to}[h.r.IntN(2)] + h.r.Int64N(3) - 1
	}
	name := func(refs []SliceRef) (names []string) {
		for _, r := range refs {
			names = append(names, fmt.Sprint(r.SegmentID, "+", r.Info.Offset))
		}
		return names
	}
	for _, account := range historyAccounts {
		start, end := edge(), edge()
		if start > end {
			start, end = end, start
		}
		if h.r.IntN(4) == 0 {
			end = math.MaxInt64
		}
		if got, want := h.v.Slices(account, start, end), walk(h.v, account, start, end); !slices.Equal(got, want) {
			h.t.Fatalf("slices of %s in [%d,%d): %v, want %v", account, start, end, name(got), name(want))
		}
	}
}

// walk is Slices, by a look at everything that is stored.
func walk(v *View, account string, start, end int64) (out []SliceRef) {
	for _, s := range v.st.segments {
		for i := range s.Slices {
			if in := &s.Slices[i]; in.Account == account && in.MaxTime >= start && in.MinTime < end {
				out = append(out, s.ref(in))
			}
		}
	}
	inOrder(out)
	return out
}

func TestSlicesFindsWhatAWalkFinds(t *testing.T) { everyStep(t, (*history).window) }

// TestSlicesLooksAtLittleElse: a window looks in vain at no more slices than some other
// moment would find, of each length those that hold it, however many are stored.
func TestSlicesLooksAtLittleElse(t *testing.T) {
	const inVain = 2 + 60/10 + 1 + 24*60/100 + 1 + 1 // short ones, an hour long, a day, 1970
	v := &View{st: newState()}
	for stored := 1; stored <= 10_000; stored++ {
		last := addMinute(v, stored-1)
		if stored%1000 > 0 {
			continue
		}
		for _, start := range []int64{0, last / 3, last / 2, last - hourMillis, last} {
			for _, end := range []int64{start + 1, start + hourMillis, start + 24*hourMillis, math.MaxInt64} {
				looked := 0
				for i := range v.st.accounts["acme"].slices {
					for range v.st.accounts["acme"].slices[i].between(start, end) {
						looked++
					}
				}
				if found := len(v.Slices("acme", start, end)); looked > found+inVain {
					t.Fatalf("of %d slices, %d were looked at for the %d in [%d,%d), want at most %d", stored, looked, found, start, end, found+inVain)
				}
			}
		}
	}
}

// BenchmarkSlices lists the slices of a day, with so many stored, and compares with a walk over
// all. Metrics: slices found, the processor time of each; the median of walk / Slices, one
// after the other.
func BenchmarkSlices(b *testing.B) {
	for _, stored := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint("of=", stored), func(b *testing.B) {
			v, last := &View{st: newState()}, int64(0)
			for n := range stored {
				last = addMinute(v, n)
			}
			const times = 100
			start, found := last/2, 0
			var listing, ratio []float64
			for b.Loop() {
				began := cpu(b)
				for range times {
					found = len(v.Slices("acme", start, start+24*hourMillis))
				}
				middle := cpu(b)
				if n := len(walk(v, "acme", start, start+24*hourMillis)); n != found {
					b.Fatalf("%d slices were found of %d", found, n)
				}
				one := float64((middle - began).Nanoseconds()) / times
				listing = append(listing, one)
				ratio = append(ratio, float64((cpu(b)-middle).Nanoseconds())/one)
			}
			slices.Sort(listing)
			slices.Sort(ratio)
			b.ReportMetric(float64(found), "slices")
			b.ReportMetric(listing[len(listing)/2]/float64(found), "cpu-ns/slice")
			b.ReportMetric(ratio[len(ratio)/2], "ratio")
		})
	}
}

// addMinute adds the segment of the nth minute since 1970 with a slice of its rows: every
// tenth has one that is an hour late, every hundredth a day, and one that of 1970. It answers
// the time of the last row (ms).
func addMinute(v *View, n int) int64 {
	from, to := int64(n)*60_000, int64(n)*60_000+50_000
	switch {
	case n == 5000:
		from = 0
	case n%100 == 0:
		from = max(0, from-24*hourMillis)
	case n%10 == 0:
		from = max(0, from-hourMillis)
	}
	seg := &Segment{ID: fmt.Sprintf("%07d", n), Slices: []segment.SliceInfo{slice("acme", from, to)}}
	v.st.segments[seg.ID] = seg
	v.st.add(seg)
	return to
}
