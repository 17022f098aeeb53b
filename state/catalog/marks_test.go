package catalog

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/seed"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// TestMarkIsTheFirstOffsetThatReachedTheTime asks for many times on random
// series of marks, written hour by hour and the newest hour again and again,
// and compares with a search through all marks.
func TestMarkIsTheFirstOffsetThatReachedTheTime(t *testing.T) {
	seed.Each(t, 5, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		v := &View{st: newState()}
		id := segment.TopicID{1}
		type mark struct{ minute, offset int64 }
		var all []mark
		m := Marks{TopicID: id, Partition: 3, Hour: -1}
		minute, offset := int64(29_000_000), int64(0)
		var first int64
		for range 300 {
			minute += 1 + rng.Int64N(1+rng.Int64N(200))
			offset += 1 + rng.Int64N(1+rng.Int64N(1<<30))
			all = append(all, mark{minute, offset})
			if minute/60 != m.Hour {
				m = Marks{TopicID: id, Partition: 3, Hour: minute / 60}
			}
			if first == 0 {
				first = m.Hour
			}
			m.Add(minute, offset)
			rec, err := m.Record("cat")
			if err == nil {
				err = v.st.decode(rec)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		ask := func(minute int64) {
			t.Helper()
			want, wantOK := int64(0), false
			for _, x := range all {
				if x.minute >= minute {
					want, wantOK = x.offset, true
					break
				}
			}
			got, ok := v.Mark(id, 3, time.Unix(minute*60, 0))
			if got != want || ok != wantOK {
				t.Fatalf("minute %d: offset %d, %v; want %d, %v", minute, got, ok, want, wantOK)
			}
		}
		ask(-5)
		for _, x := range all {
			ask(x.minute - 1)
			ask(x.minute)
			ask(x.minute + 1)
		}
		newest, ok := v.NewestMarks(id, 3)
		if !ok || newest.Hour != m.Hour || len(newest.Minutes) != len(m.Minutes) || newest.Offsets[0] != m.Offsets[0] {
			t.Errorf("newest marks %+v, want %+v", newest, m)
		}
		// Hours that are removed do not answer any more.
		cut := (first + m.Hour) / 2
		old := v.OldMarks(id, 3, cut, 1000)
		if len(old) == 0 || old[0].Hour != first || len(v.OldMarks(id, 3, cut, 1)) != 1 {
			t.Fatalf("%d hours before %d, want some from %d on", len(old), cut, first)
		}
		for i := range old {
			if err := v.st.decode(old[i].Tombstone("cat")); err != nil {
				t.Fatal(err)
			}
		}
		for len(all) > 0 && all[0].minute/60 < cut {
			all = all[1:]
		}
		ask(first * 60)
		ask(cut * 60)
	})
}

// dayOfMarks are the records of the marks of a day of a partition: in each minute
// events come as they do by chance, so many on average.
func dayOfMarks(tb testing.TB, rng *rand.Rand, partition int32, day int64, aMinute float64) (out []*kgo.Record) {
	tb.Helper()
	offset := day * int64(aMinute) * 24 * hourMinutes
	for hour := day * 24; hour < (day+1)*24; hour++ {
		m := Marks{TopicID: segment.TopicID{1}, Partition: partition, Hour: hour}
		for minute := hour * hourMinutes; minute < (hour+1)*hourMinutes; minute++ {
			m.Add(minute, offset)
			offset += max(1, int64(aMinute+math.Sqrt(aMinute)*rng.NormFloat64()))
		}
		rec, err := m.Record("cat")
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestMarksAreSmall: they are kept as long as segments, for every minute of every
// partition.
func TestMarksAreSmall(t *testing.T) {
	s := newState()
	for _, r := range dayOfMarks(t, rand.New(rand.NewPCG(1, 1)), 0, 20_000, 1_000) {
		if err := s.decode(r); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, h := range s.marks[partitionKey(segment.TopicID{1}, 0)] {
		n += len(h.packed)
	}
	if most := 24 * hourMinutes * 3 / 2; n == 0 || n > most {
		t.Errorf("the marks of a day take %d bytes, want at most %d", n, most)
	}
}

// BenchmarkMarks says what a View keeps for a day of a partition, everything
// included, and the processor time of reading its records.
func BenchmarkMarks(b *testing.B) {
	for _, aMinute := range []float64{1, 1_000, 100_000} {
		b.Run(fmt.Sprintf("events=%.0f", aMinute), func(b *testing.B) {
			s, rng := newState(), rand.New(rand.NewPCG(1, 1))
			before, days, spent := heap(), int64(0), time.Duration(0)
			for b.Loop() {
				records := dayOfMarks(b, rng, int32(days%16), 20_000+days/16, aMinute)
				began := cpu(b)
				for _, r := range records {
					if err := s.decode(r); err != nil {
						b.Fatal(err)
					}
				}
				spent += cpu(b) - began
				days++
			}
			b.ReportMetric(float64(heap()-before)/float64(days), "B/partition-day")
			b.ReportMetric(float64(spent.Microseconds())/float64(days), "cpu-µs/partition-day")
			runtime.KeepAlive(s)
		})
	}
}

func TestMarksOfOtherPartitionsDoNotAnswer(t *testing.T) {
	v := &View{st: newState()}
	m := Marks{TopicID: segment.TopicID{1}, Partition: 3, Hour: 10}
	m.Add(605, 7)
	rec, err := m.Record("cat")
	if err == nil {
		err = v.st.decode(rec)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := v.Mark(segment.TopicID{1}, 3, time.Unix(605*60, 0)); !ok || got != 7 {
		t.Errorf("mark %d, %v, want 7", got, ok)
	}
	if _, ok := v.Mark(segment.TopicID{1}, 4, time.Unix(0, 0)); ok {
		t.Error("another partition answers")
	}
	if _, ok := v.Mark(segment.TopicID{2}, 3, time.Unix(0, 0)); ok {
		t.Error("another topic answers")
	}
	if _, ok := v.NewestMarks(segment.TopicID{2}, 3); ok {
		t.Error("another topic has marks")
	}
}

func TestDamagedMarksAreRefused(t *testing.T) {
	for key, value := range map[string]string{
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/5":                   `{"v":2,"minutes":[5,5],"offsets":[1,2]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/6":                   `{"v":2,"minutes":[5,6],"offsets":[2,2]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/7":                   `{"v":2,"minutes":[5,6],"offsets":[2]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/8":                   `{"v":2,"minutes":[],"offsets":[]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/9":                   `{"v":2,"minutes":[60],"offsets":[0]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/10":                  `{"v":2,"minutes":[-1],"offsets":[0]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/11":                  `{"v":2,"minutes":[0],"offsets":[-1]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/-1":                  `{"v":2,"minutes":[0],"offsets":[0]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/9223372036854775807": `{"v":2,"minutes":[0],"offsets":[0]}`,
		"m/AAAAAAAAAAAAAAAAAAAAAA/1/x":                   `{"v":2,"minutes":[0],"offsets":[0]}`,
		"m/5":                                            `{"v":2,"minutes":[0],"offsets":[0]}`,
	} {
		s := newState()
		err := s.decode(kafka.Stamp(&kgo.Record{Key: []byte(key), Value: []byte(value)}))
		if damaged := (*kafka.DamagedError)(nil); !errors.As(err, &damaged) {
			t.Errorf("%s %s: %v", key, value, err)
		}
	}
}
