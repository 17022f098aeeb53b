package rolling

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/exporter/retained"
	"lockstitch/internal/bubble"
	"lockstitch/internal/seed"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

var midnight = time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)

const partitions = 3

// logs are event topics at a broker, and a catalog that says how far they were
// processed.
type logs struct {
	t      *testing.T
	broker *kfake.Cluster
	cat    *catalog.View
	prod   *kgo.Client
	opts   []kgo.Opt
	topics []string
	times  map[string][][]int64 // topic → partition → Kafka time (ms) by offset
}

func newLogs(t *testing.T, topics ...string) *logs {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "catalog"), kfake.SeedTopics(partitions, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	l := &logs{t: t, broker: c, topics: topics, times: make(map[string][][]int64)}
	if l.cat, err = catalog.Open(t.Context(), catalog.Config{Opts: opts, Topic: "catalog", Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.cat.Close)
	if l.prod, err = kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.prod.Close)
	l.opts = opts
	for _, topic := range topics {
		l.times[topic] = make([][]int64, partitions)
	}
	return l
}

// put appends a record of a Kafka time (ms).
func (l *logs) put(topic string, partition int32, times ...int64) {
	l.t.Helper()
	var rs []*kgo.Record
	for _, at := range times {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: partition, Value: []byte("x"), Timestamp: time.UnixMilli(at)})
	}
	l.times[topic][partition] = append(l.times[topic][partition], times...)
	l.produce(rs...)
}

func (l *logs) produce(rs ...*kgo.Record) {
	l.t.Helper()
	if err := l.prod.ProduceSync(l.t.Context(), rs...).FirstErr(); err != nil {
		l.t.Fatal(err)
	}
}

// process writes to the catalog that a partition was processed up to next, with
// the marks of what is below.
func (l *logs) process(topic string, partition int32, next int64) {
	l.t.Helper()
	id := l.id(topic)
	hours := make(map[int64]*catalog.Marks)
	reached := int64(-1)
	for offset, at := range l.times[topic][partition][:next] {
		minute := catalog.MinuteOf(at)
		if minute <= reached {
			continue
		}
		reached = minute
		m := hours[minute/60]
		if m == nil {
			m = &catalog.Marks{TopicID: id, Partition: partition, Hour: minute / 60}
			hours[minute/60] = m
		}
		m.Add(minute, int64(offset))
	}
	for _, m := range hours {
		l.record(m.Record("catalog"))
	}
	l.record((&catalog.Position{Topic: topic, TopicID: id, Partition: partition, Next: next}).Record("catalog"))
}

func (l *logs) record(r *kgo.Record, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	l.produce(r)
}

func (l *logs) id(topic string) segment.TopicID {
	l.t.Helper()
	infos, err := kafka.Describe(l.t.Context(), l.prod, topic)
	if err != nil {
		l.t.Fatal(err)
	}
	return infos[topic].ID
}

func (l *logs) boundary(t time.Time, before ...report.End) map[string]int64 {
	l.t.Helper()
	ends, err := Boundary(l.t.Context(), l.cat, l.prod, l.topics, t)
	if err != nil {
		l.t.Fatal(err)
	}
	out := make(map[string]int64)
	for _, e := range report.Later(ends, before) { // as a step has it
		k := fmt.Sprintf("%s/%s/%d", e.Topic, e.TopicID, e.Partition)
		if _, twice := out[k]; twice {
			l.t.Fatalf("%s stands twice in %v", k, ends)
		}
		out[k] = e.Offset
	}
	return out
}

// TestBoundaryIsTheSameFromMarksAndFromTheIndex asks for the boundaries of
// random logs while more and more of them is processed. Kafka's times rise, as
// they do where the brokers stamp them, so that all answers must be the same:
// the first record that has reached the time, or the end.
func TestBoundaryIsTheSameFromMarksAndFromTheIndex(t *testing.T) {
	seed.Each(t, 3, func(t *testing.T, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 5))
		l := newLogs(t, "a", "b")
		done := make(map[string][]int64)
		for _, topic := range l.topics {
			done[topic] = make([]int64, partitions)
			for p := range int32(partitions) {
				at := midnight.UnixMilli() + rng.Int64N(600_000)
				var times []int64
				for range rng.IntN(40) * min(int(p), 1) { // one has nothing
					at += rng.Int64N([]int64{1000, 90_000, 7_200_000}[rng.IntN(3)])
					times = append(times, at)
				}
				l.put(topic, p, times...)
			}
		}
		for range 8 {
			for range 40 {
				ask := midnight.Add(time.Duration(rng.IntN(24*60)) * time.Minute)
				want := make(map[string]int64)
				for _, topic := range l.topics {
					for p, times := range l.times[topic] {
						k := fmt.Sprintf("%s/%s/%d", topic, l.id(topic), p)
						want[k] = int64(len(times))
						for offset, at := range times {
							if at >= ask.UnixMilli() {
								want[k] = int64(offset)
								break
							}
						}
					}
				}
				if got := l.boundary(ask); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Fatalf("boundary of %v with %v processed:\n%v\nwant\n%v", ask, done, got, want)
				}
			}
			for _, topic := range l.topics {
				for p, times := range l.times[topic] {
					next := min(int64(len(times)), done[topic][p]+rng.Int64N(12))
					l.process(topic, int32(p), next)
					done[topic][p] = next
				}
			}
		}
	})
}

// TestBoundaryIsNotBelowThePosition: the index knows an aborted record whose
// time has come; what was processed below it stays on the earlier side.
func TestBoundaryIsNotBelowThePosition(t *testing.T) {
	l := newLogs(t, "a")
	txn, err := kgo.NewClient(append(l.opts[:1:1], kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("upstream"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Close()
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	late := midnight.Add(time.Hour)
	if err := txn.ProduceSync(t.Context(), &kgo.Record{Topic: "a", Value: []byte("x"), Timestamp: late}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := txn.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	l.produce(&kgo.Record{Topic: "a", Value: []byte("x"), Timestamp: midnight}, // offset 2, behind the marker
		&kgo.Record{Topic: "a", Value: []byte("x"), Timestamp: midnight})
	id := l.id("a")
	k := fmt.Sprintf("a/%s/0", id)
	if got := l.boundary(late)[k]; got != 0 {
		t.Errorf("before anything is processed the boundary is %d, want what the index says, 0", got)
	}
	m := &catalog.Marks{TopicID: id, Hour: catalog.MinuteOf(midnight.UnixMilli()) / 60}
	m.Add(catalog.MinuteOf(midnight.UnixMilli()), 2)
	l.record(m.Record("catalog"))
	l.record((&catalog.Position{Topic: "a", TopicID: id, Next: 3}).Record("catalog"))
	if got := l.boundary(late)[k]; got != 3 {
		t.Errorf("the boundary is %d, want the position, 3", got)
	}
	if got := l.boundary(midnight)[k]; got != 2 {
		t.Errorf("the boundary of a marked minute is %d, want the mark, 2", got)
	}
}

func TestBoundaryIsNotBelowTheOneBefore(t *testing.T) {
	l := newLogs(t, "a")
	l.put("a", 0, midnight.UnixMilli(), midnight.Add(time.Hour).UnixMilli())
	id, gone := l.id("a"), segment.TopicID{9}
	got := l.boundary(midnight.Add(time.Minute),
		report.End{Topic: "a", TopicID: id, Partition: 0, Offset: 2},
		report.End{Topic: "a", TopicID: id, Partition: 7, Offset: 5},
		report.End{Topic: "removed", TopicID: gone, Partition: 1, Offset: 4})
	want := map[string]int64{
		fmt.Sprintf("a/%s/0", id): 2, fmt.Sprintf("a/%s/1", id): 0, fmt.Sprintf("a/%s/2", id): 0,
		fmt.Sprintf("a/%s/7", id): 5, fmt.Sprintf("removed/%s/1", gone): 4,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("boundary %v\nwant     %v", got, want)
	}
}

// TestBoundaryNamesTheTopicsOfAFloor: a floor has no names of topics. By its name a
// step that waits for an end learns that the topic was made anew.
func TestBoundaryNamesTheTopicsOfAFloor(t *testing.T) {
	l := newLogs(t, "a")
	l.put("a", 0, midnight.UnixMilli(), midnight.Add(time.Hour).UnixMilli())
	id := l.id("a")
	floor := catalog.Floor{Ends: []catalog.FloorEnd{{TopicID: id, Partition: 0, Next: 1}}}
	got := l.boundary(midnight.Add(2*time.Hour), retained.Beginning(floor)...)
	want := map[string]int64{fmt.Sprintf("a/%s/0", id): 2, fmt.Sprintf("a/%s/1", id): 0, fmt.Sprintf("a/%s/2", id): 0}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("boundary %v\nwant     %v", got, want)
	}
}

func TestBoundaryOfATopicMadeAnew(t *testing.T) {
	l := newLogs(t, "a")
	first := l.id("a")
	l.record((&catalog.Adopted{Topic: "a", IDs: []segment.TopicID{first}}).Record("catalog"))
	l.put("a", 1, midnight.UnixMilli(), midnight.Add(time.Hour).UnixMilli(), midnight.Add(2*time.Hour).UnixMilli())
	l.process("a", 1, 3)
	adm := kadm.NewClient(l.prod)
	if _, err := adm.DeleteTopics(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(t.Context(), partitions, 1, nil, "a"); err != nil {
		t.Fatal(err)
	}
	fresh, err := kgo.NewClient(append(l.opts[:1:1], kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	l.prod = fresh
	second := l.id("a")
	if second == first {
		t.Fatal("the topic was not made anew")
	}
	l.times["a"] = make([][]int64, partitions)
	l.put("a", 1, midnight.Add(3*time.Hour).UnixMilli())
	if ends, err := Boundary(t.Context(), l.cat, l.prod, l.topics, midnight); err == nil {
		t.Errorf("a boundary in a topic that was not adopted: %v", ends)
	}
	l.record((&catalog.Adopted{Topic: "a", IDs: []segment.TopicID{first, second}}).Record("catalog"))
	for _, c := range []struct {
		at       time.Time
		old, new int64
	}{
		{midnight, 0, 0},
		{midnight.Add(time.Hour), 1, 0},
		{midnight.Add(3 * time.Hour), 3, 0}, // the earlier one ends where it was left
		{midnight.Add(4 * time.Hour), 3, 1},
	} {
		got := l.boundary(c.at)
		if o, n := got[fmt.Sprintf("a/%s/1", first)], got[fmt.Sprintf("a/%s/1", second)]; o != c.old || n != c.new {
			t.Errorf("boundary of %v: %d in the earlier topic, %d in the present one; want %d, %d", c.at, o, n, c.old, c.new)
		}
	}
}

// TestBoundaryOfATopicTakenOffTheList, which may be gone by then: what was kept of it is
// in files until it ends.
func TestBoundaryOfATopicTakenOffTheList(t *testing.T) {
	l := newLogs(t, "old", "new")
	old := l.id("old")
	l.put("old", 1, midnight.UnixMilli(), midnight.Add(time.Hour).UnixMilli(), midnight.Add(2*time.Hour).UnixMilli())
	l.record((&catalog.FirstEnds{Topic: "old", TopicID: old, Partition: 1}).Record("catalog"))
	l.process("old", 1, 3)
	if _, err := kadm.NewClient(l.prod).DeleteTopics(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	l.topics = []string{"new"}
	for _, c := range []struct {
		at   time.Time
		want int64
	}{{midnight, 0}, {midnight.Add(time.Hour), 1}, {midnight.Add(2 * time.Hour), 2}, {midnight.Add(3 * time.Hour), 3}} {
		got := l.boundary(c.at)
		if at, named := got[fmt.Sprintf("old/%s/1", old)]; at != c.want || !named {
			t.Errorf("boundary of %v: %d in the topic that was taken off, want %d", c.at, at, c.want)
		}
	}
	// An order that is further behind than marks are kept has what is left in a file.
	for hour, want := range []int64{1, 2, 3} {
		m := catalog.Marks{TopicID: old, Partition: 1, Hour: midnight.Unix()/3600 + int64(hour)}
		l.record(m.Tombstone("catalog"), nil)
		if at := l.boundary(midnight)[fmt.Sprintf("old/%s/1", old)]; at != want {
			t.Errorf("boundary where the marks of %d hours are forgotten: %d, want %d", hour+1, at, want)
		}
	}
}

func TestNoBoundary(t *testing.T) {
	l := newLogs(t, "a")
	if ends, err := Boundary(t.Context(), l.cat, l.prod, l.topics, midnight.Add(time.Second)); err == nil {
		t.Errorf("a boundary between minutes: %v", ends)
	}
	if ends, err := Boundary(t.Context(), l.cat, l.prod, []string{"a", "missing"}, midnight); err == nil {
		t.Errorf("a boundary in a topic that does not exist: %v", ends)
	}
	l.broker.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		l.broker.KeepControl()
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.(*kmsg.ListOffsetsRequest).Topics {
			st := kmsg.NewListOffsetsResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewListOffsetsResponseTopicPartition()
				sp.Partition = rp.Partition
				if rp.Timestamp >= 0 {
					sp.ErrorCode = kerr.TopicAuthorizationFailed.Code
				}
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	if ends, err := Boundary(t.Context(), l.cat, l.prod, l.topics, midnight); err == nil {
		t.Errorf("a boundary although the index did not answer: %v", ends)
	}
}

// TestOrdersShareTheReadingOfTheirBoundary: all that are due at a minute ask at once. What
// is shared nobody changes, and each has it nowhere below where its file begins.
func TestOrdersShareTheReadingOfTheirBoundary(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const orders = 1000
		var read atomic.Int64
		g := &Generator{readings: kafka.NewShared[int64, []report.End]()}
		defer g.readings.Close(nil)
		g.deps.Boundary = func(_ context.Context, at time.Time) ([]report.End, error) {
			read.Add(1)
			time.Sleep(10 * time.Millisecond)
			return []report.End{{Topic: "a", Offset: at.Unix()}}, nil
		}
		var all sync.WaitGroup
		for n := range int64(orders) {
			for _, at := range []int64{0, 60} {
				all.Go(func() {
					ends, err := g.boundary(t.Context(), time.Unix(at, 0), []report.End{{Offset: n}})
					if want := max(n, at); err != nil || len(ends) != 1 || ends[0].Offset != want || ends[0].Topic != "a" {
						t.Errorf("%v, %v; want %d", ends, err, want)
					}
				})
			}
		}
		all.Wait()
		if got := read.Load(); got > 4 {
			t.Errorf("%d orders read two boundaries %d times", orders, got)
		}
	})
}
