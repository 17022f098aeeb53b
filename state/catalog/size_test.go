package catalog

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/segment"
)

// TestSourcesAreSmall: each slice has one for every partition that it has rows of.
func TestSourcesAreSmall(t *testing.T) {
	const segments, sources = 200, 170
	s := newState()
	before := heap()
	for i := range segments {
		if err := s.decode(segmentRecord(t, i, sources, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if got := int64(heap()-before) / (segments * sources); got > 80 {
		t.Errorf("a source takes %d bytes, want at most 80", got)
	}
	runtime.KeepAlive(s)
}

// BenchmarkSegments says what a View keeps for a segment, everything included, and the
// processor time of reading its record, by the partitions and the accounts that it has
// rows of, every account in every partition.
func BenchmarkSegments(b *testing.B) {
	for _, size := range []struct{ sources, accounts int }{{4, 1}, {4, 20}, {170, 1}, {170, 20}} {
		b.Run(fmt.Sprintf("sources=%d/accounts=%d", size.sources, size.accounts), func(b *testing.B) {
			s := newState()
			before, n, spent := heap(), 0, time.Duration(0)
			for b.Loop() {
				records := make([]*kgo.Record, 100)
				for i := range records {
					records[i] = segmentRecord(b, n, size.sources, size.accounts)
					n++
				}
				began := cpu(b)
				for _, r := range records {
					if err := s.decode(r); err != nil {
						b.Fatal(err)
					}
				}
				spent += cpu(b) - began
			}
			b.ReportMetric(float64(heap()-before)/float64(n), "B/segment")
			b.ReportMetric(float64(spent.Microseconds())/float64(n), "cpu-µs/segment")
			runtime.KeepAlive(s)
		})
	}
}

// BenchmarkReplaced is the processor time of reading the record of a merged segment, as a
// start does: it does not grow with their number.
func BenchmarkReplaced(b *testing.B) {
	for _, n := range []int{1000, 8000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			records := make([]*kgo.Record, n)
			for i := range records {
				id := ulid.Make().String()
				seg := &Segment{ID: id, Object: "segments/" + id}
				for range MaxReplaced {
					seg.Replaces = append(seg.Replaces, ulid.Make().String())
				}
				var err error
				if records[i], err = seg.Record("cat"); err != nil {
					b.Fatal(err)
				}
			}
			spent := time.Duration(0)
			for b.Loop() {
				s := newState()
				began := cpu(b)
				for _, r := range records {
					if err := s.decode(r); err != nil {
						b.Fatal(err)
					}
				}
				spent += cpu(b) - began
			}
			b.ReportMetric(float64(spent.Microseconds())/float64(b.N*n), "cpu-µs/record")
		})
	}
}

// BenchmarkSlicesSince lists all slices that have rows of a partition, as a lane does that
// has nothing on its disk.
func BenchmarkSlicesSince(b *testing.B) {
	const segments, accounts = 5000, 20
	v := &View{st: newState()}
	for n := range segments {
		if err := v.st.decode(segmentRecord(b, n, 1, accounts)); err != nil {
			b.Fatal(err)
		}
	}
	all := segment.Stream{Topic: "email-events-0", ID: segment.TopicID{1}}.Range(0, 0, math.MaxInt64)
	found, spent := 0, time.Duration(0)
	for b.Loop() {
		began := cpu(b)
		found += len(v.SlicesSince(all, 0))
		spent += cpu(b) - began
	}
	if found != b.N*segments*accounts {
		b.Fatalf("%d slices were found", found)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/float64(found), "cpu-ns/slice")
}

// TestRemovedRangesTakeNoMemory: the oldest go from the front of a list.
func TestRemovedRangesTakeNoMemory(t *testing.T) {
	const n = 100_000
	list, all := longList(n)
	before := heap()
	for _, r := range all[:n-10] {
		list.remove(r)
	}
	if freed := int64(before) - int64(heap()); len(list.ranges) != 10 || freed < n*20 {
		t.Errorf("%d bytes are free when %d ranges of %d are left", freed, len(list.ranges), n)
	}
	runtime.KeepAlive(list)
	runtime.KeepAlive(all)
}

// BenchmarkRemove is the processor time of removing one of the oldest ranges of a partition,
// as retention does, with as many others; and one of the newest, as merging does.
func BenchmarkRemove(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		for _, from := range []string{"oldest", "newest"} {
			b.Run(fmt.Sprintf("%s/of=%d", from, n), func(b *testing.B) {
				list, left := longList(n)
				removed, spent := 0, time.Duration(0)
				for b.Loop() {
					if len(left) < n/2 {
						list, left = longList(n)
					}
					part := left[:n/1000]
					if from == "newest" {
						part = left[len(left)-n/1000:]
						left = left[:len(left)-n/1000]
					} else {
						left = left[n/1000:]
					}
					began := cpu(b)
					for i := range part {
						list.remove(part[i^1]) // not quite in order
					}
					spent += cpu(b) - began
					removed += len(part)
				}
				b.ReportMetric(float64(spent.Nanoseconds())/float64(removed), "cpu-ns/range")
			})
		}
	}
}

// longList is one of so many ranges, which it answers, too, in order.
func longList(n int) (rangeList, []offsetRange) {
	seg := &Segment{Slices: make([]segment.SliceInfo, n)}
	list, sources := rangeList{}, make([]segment.OffsetRange, n)
	all := make([]offsetRange, n)
	for i := range all {
		sources[i] = segment.Stream{}.Range(0, int64(i), int64(i)+1)
		seg.Slices[i].Sources = sources[i : i+1]
		all[i] = offsetRange{segment: seg, slice: int32(i)}
		list.insert(all[i])
	}
	return list, all
}

// segmentRecord is that of the nth segment of a replica that reads ten topics.
func segmentRecord(tb testing.TB, n, sources, accounts int) *kgo.Record {
	tb.Helper()
	id := ulid.Make().String()
	seg := Segment{ID: id, Object: "segments/2026050100/" + id, Bytes: 1 << 20, SHA256: strings.Repeat("0", 64), Cut: id, LogTime: 1_795_479_459_139}
	for a := range accounts {
		s := slice(fmt.Sprintf("account-%d", a), 1_795_479_456_466, 1_795_479_459_139)
		s.Sources = nil
		for i := range sources {
			topic := i * 10 / sources
			from := 1_000_000_000 + int64(n)*1000 + int64(a)
			s.Sources = append(s.Sources, segment.Stream{Topic: fmt.Sprintf("email-events-%d", topic), ID: segment.TopicID{1, byte(topic)}}.Range(int32(i), from, from+500))
		}
		seg.Slices = append(seg.Slices, s)
	}
	rec, err := seg.Record("cat")
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}

// cpu is the processor time of the process, heap what is live.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
