package consumer

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/seed"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// clock writes events with Kafka times of its own, which wander over hours and
// fall back at times.
type clock struct {
	w    *world
	rng  *rand.Rand
	prod *kgo.Client // puts a record where it says
	txn  *kgo.Client
	at   [lanes]time.Time
	n    int
}

func newClock(w *world, seed uint64) *clock {
	c := &clock{w: w, rng: rand.New(rand.NewPCG(seed, 7)),
		prod: w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite()),
		txn:  w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("upstream")),
	}
	for p := range c.at {
		c.at[p] = time.Date(2026, 5, 1, 10, 17+p, 3, 0, time.UTC)
	}
	return c
}

// record is the next record of a partition: an event, now and then a retry or
// poison.
func (c *clock) record(p int) *kgo.Record {
	step := []time.Duration{time.Second, 20 * time.Second, 3 * time.Minute, 5 * time.Hour}[c.rng.IntN(4)]
	if step == 5*time.Hour && c.rng.IntN(4) > 0 {
		step = time.Minute
	}
	c.at[p] = c.at[p].Add(time.Duration(c.rng.Int64N(int64(step))))
	at := c.at[p]
	if c.rng.IntN(4) == 0 {
		at = at.Add(-time.Duration(c.rng.Int64N(int64(2 * time.Hour))))
	}
	if c.rng.IntN(10) > 0 {
		c.n++
	}
	value := fmt.Sprintf(`{"correlation_id":"k%d","type":"SENT","account_id":"acme","section":"s1","activity_id":"a1"}`, c.n)
	if c.rng.IntN(8) == 0 {
		value = "{broken"
	}
	return &kgo.Record{Topic: "email-events", Partition: int32(p), Key: []byte("p1"), Value: []byte(value), Timestamp: at}
}

// write appends n records to the partitions, and transactions among them.
func (c *clock) write(n int) {
	c.w.t.Helper()
	for range n {
		p := c.rng.IntN(lanes)
		if c.rng.IntN(12) > 0 {
			if err := c.prod.ProduceSync(c.w.t.Context(), c.record(p)).FirstErr(); err != nil {
				c.w.t.Fatal(err)
			}
			continue
		}
		// An aborted record, of a time far ahead, must not count; nor may the
		// markers that end transactions, which bear the time of now.
		end := []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort}[c.rng.IntN(2)]
		r := c.record(p)
		if end == kgo.TryAbort {
			r.Timestamp = r.Timestamp.Add(100 * time.Hour)
		}
		if err := c.txn.BeginTransaction(); err != nil {
			c.w.t.Fatal(err)
		}
		if err := c.txn.ProduceSync(c.w.t.Context(), r).FirstErr(); err != nil {
			c.w.t.Fatal(err)
		}
		if err := c.txn.EndTransaction(c.w.t.Context(), end); err != nil {
			c.w.t.Fatal(err)
		}
	}
}

// reached is the model: for a partition's committed data records, in order,
// the offset and the log time there.
type reached struct {
	offset  int64
	logTime int64
}

func (w *world) model(topic string) map[int32][]reached {
	w.t.Helper()
	ends, err := kafka.Ends(w.t.Context(), w.prod, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	cl := w.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	left := make(map[int32]int64)
	for _, e := range ends[topic] {
		if e.End > 0 {
			left[e.Partition] = e.End
		}
	}
	out := make(map[int32][]reached)
	for len(left) > 0 {
		fs := cl.PollFetches(w.t.Context())
		if err := fs.Err(); err != nil {
			w.t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if r.Attrs.IsControl() {
				return
			}
			at := r.Timestamp.UnixMilli()
			if before := out[r.Partition]; len(before) > 0 {
				at = max(at, before[len(before)-1].logTime)
			}
			out[r.Partition] = append(out[r.Partition], reached{r.Offset, at})
		})
	}
	return out
}

// checkMarks compares the catalog's marks with what the log says.
func (w *world) checkMarks(cat *catalog.View) {
	w.t.Helper()
	infos, err := kafka.Describe(w.t.Context(), w.prod, "email-events")
	if err != nil {
		w.t.Fatal(err)
	}
	id := segment.TopicID(infos["email-events"].ID)
	asked := 0
	for p, log := range w.model("email-events") {
		last := log[len(log)-1].logTime / 60_000
		for minute := log[0].logTime/60_000 - 2; minute <= last+2; minute++ {
			want, wantOK := int64(0), false
			for _, r := range log {
				if r.logTime/60_000 >= minute {
					want, wantOK = r.offset, true
					break
				}
			}
			at := time.Unix(60*minute, 0).UTC()
			got, ok := cat.Mark(id, p, at)
			if got != want || ok != wantOK {
				w.t.Fatalf("partition %d at %v: offset %d, %v; want %d, %v", p, at, got, ok, want, wantOK)
			}
			asked++
		}
	}
	if asked == 0 {
		w.t.Fatal("the log holds nothing to compare with")
	}
}

// TestMarksAreThoseOfTheLog writes random logs in three parts, the seams within
// an hour: after each another replica goes on, the second on an empty disk, the
// third on the first one's.
func TestMarksAreThoseOfTheLog(t *testing.T) {
	seed.Each(t, 3, func(t *testing.T, seed uint64) {
		t.Parallel()
		w := newWorld(t)
		c := newClock(w, seed)
		dirs := []string{t.TempDir(), t.TempDir()}
		for part := range 3 {
			r := w.start(filepath.Join(dirs[part%2], "d"), func(c *Config) { c.FlushInterval = time.Millisecond })
			c.write(60)
			w.settle(r.cat)
			w.checkMarks(r.cat)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
		}
		w.checkMarks(w.caughtUp())
	})
}

func TestFirstDataRecordIsAMark(t *testing.T) {
	in := &input{stream: &segment.Stream{Topic: "e"}}
	in.reach(5, 3) // in the first minute of 1970, where a log time begins
	in.reach(7, 4)
	if m := in.marks.hours; len(m) != 1 || m[0].Hour != 0 || len(m[0].Offsets) != 1 || m[0].Offsets[0] != 3 {
		t.Errorf("marks %+v, want one at offset 3", m)
	}
}

// TestMarksOfABacklogComeInShares: a lane that has its share of hours for one cut
// processes nothing more until the cut; nothing is lost by it.
func TestMarksOfABacklogComeInShares(t *testing.T) {
	if testing.Short() {
		t.Skip("much to compute")
	}
	t.Parallel()
	w := newWorld(t)
	c := newClock(w, 1)
	const hours = hoursPerCut/lanes + 50
	var records []*kgo.Record
	for p := range int32(lanes) {
		for i := range hours {
			value := fmt.Sprintf(`{"correlation_id":"k%d","type":"SENT","account_id":"acme","section":"s1","activity_id":"a1","server_time":1}`, i)
			records = append(records, &kgo.Record{Topic: "email-events", Partition: p, Key: []byte("p1"), Value: []byte(value),
				Timestamp: time.Date(2026, 1, 1, i, 5, 0, 0, time.UTC)})
		}
	}
	if err := c.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	// The flush interval leaves time to process all of it in one go.
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.FlushInterval = 2 * time.Second })
	w.settle(r.cat)
	w.checkMarks(r.cat)
	for cut, n := range w.marksPerCut(func(*kgo.Record) bool { return true }) {
		if n > hoursPerCut {
			t.Errorf("cut %d carries %d mark records, more than %d", cut, n, hoursPerCut)
		}
	}
}

// marksPerCut counts some of the mark records of each transaction in the catalog.
func (w *world) marksPerCut(some func(*kgo.Record) bool) []int {
	w.t.Helper()
	ends, err := kafka.Ends(w.t.Context(), w.prod, w.topics.Catalog)
	if err != nil {
		w.t.Fatal(err)
	}
	cl := w.client(kgo.ConsumeTopics(w.topics.Catalog), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.KeepControlRecords())
	out := []int{0}
	for next := int64(0); next < ends[w.topics.Catalog][0].End; {
		fs := cl.PollFetches(w.t.Context())
		if err := fs.Err(); err != nil {
			w.t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			switch {
			case r.Attrs.IsControl():
				out = append(out, 0)
			case strings.HasPrefix(string(r.Key), "m/") && some(r):
				out[len(out)-1]++
			}
		})
	}
	return out
}

// TestOldMarksAreForgotten lets the log be silent for longer than marks are kept.
func TestOldMarksAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := newClock(w, 1)
	put := func(at time.Time) {
		t.Helper()
		r := &kgo.Record{Topic: "email-events", Key: []byte("p1"), Value: []byte("{broken"), Timestamp: at}
		if err := c.prod.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	first := time.Date(2025, 1, 1, 12, 0, 0, 0, time.UTC)
	put(first)
	put(first.Add(30 * 24 * time.Hour))
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.settle(r.cat)
	w.checkMarks(r.cat)
	put(first.Add(400*24*time.Hour + (keepMarks+1)*time.Hour))
	w.settle(r.cat)
	infos, err := kafka.Describe(t.Context(), w.prod, "email-events")
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := r.cat.Mark(infos["email-events"].ID, 0, first); !ok || got != 1 {
		t.Errorf("the mark of the forgotten hour is %d, %v; want that of the oldest kept, 1", got, ok)
	}
}

// TestMarksThatNobodyReadsAreForgotten: those of a topic that was taken off the list and
// of an earlier incarnation, once the rows of their hours are gone; nothing else of them.
func TestMarksThatNobodyReadsAreForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.topics.Events
	both := append(slices.Clone(one), "old-events")
	w.topics.Events = both
	if _, err := kafka.Create(t.Context(), w.prod, w.topics, kafka.CreateOptions{Partitions: lanes, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	p := newPast(w)
	put := func(topic string, part int32, days ...int) {
		t.Helper()
		for _, d := range days {
			r := p.record(part, p.ago(d), fmt.Sprint(topic, d))
			r.Topic = topic
			if err := p.prod.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	infos, err := kafka.Describe(t.Context(), w.prod, both...)
	if err != nil {
		t.Fatal(err)
	}
	off, live := segment.TopicID(infos["old-events"].ID), segment.TopicID(infos["email-events"].ID)
	first := func(cat *catalog.View, id segment.TopicID, part int32, want int64) func() bool {
		return func() bool {
			got, ok := cat.Mark(id, part, p.ago(50).Truncate(time.Hour))
			return ok && got == want
		}
	}
	noticed := func(c *Config) { shortLived(c); c.RemovalNotice = time.Hour }

	r := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) { noticed(c); c.Retention = 400 * day })
	// Each in a segment of its own, which are as old as their newest rows.
	for _, d := range []int{40, 30, 12} {
		put("old-events", 0, d)
		w.settle(r.cat)
	}
	for part, d := range []int{40, 40} {
		put("email-events", int32(part), d)
		w.settle(r.cat)
	}
	put("email-events", 0, 0)
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	// More than one cut removes, of a topic of long ago.
	var many []*kgo.Record
	for i := range int64(unreadPerCut + 500) {
		m := catalog.Marks{TopicID: segment.TopicID{1}, Partition: 1, Hour: 10_000 + i}
		m.Add(60*m.Hour, i)
		rec, err := m.Record(w.topics.Catalog)
		if err != nil {
			t.Fatal(err)
		}
		many = append(many, rec)
	}
	if err := w.prod.ProduceSync(t.Context(), many...).FirstErr(); err != nil {
		t.Fatal(err)
	}

	// What has expired is announced, by a retention that may be too short by mistake.
	w.topics.Events = one
	r = w.start(filepath.Join(t.TempDir(), "b"), noticed)
	p.await(r.cat, "marks of long ago are there", func() bool {
		return r.cat.Retention().At > 0 && len(r.cat.OldMarks(segment.TopicID{1}, 1, 1<<40, 1)) == 0
	})
	if !first(r.cat, off, 0, 0)() || !first(r.cat, live, 1, 0)() {
		t.Error("marks are forgotten of hours of which rows are stored")
	}
	for cut, n := range w.marksPerCut(func(r *kgo.Record) bool { return r.Value == nil }) {
		if n > unreadPerCut+oldPerCut {
			t.Errorf("cut %d removes %d hours", cut, n)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = w.start(filepath.Join(t.TempDir(), "c"), shortLived)
	p.await(r.cat, "the marks of a topic that is not read are not forgotten", first(r.cat, off, 0, 2))
	if !first(r.cat, live, 1, 0)() {
		t.Error("the marks of a partition that is read are forgotten")
	}
	w.remake("email-events", lanes)
	w.adopt()
	p.await(r.cat, "the marks of an earlier incarnation are not forgotten", func() bool {
		_, ok := r.cat.NewestMarks(live, 1)
		return !ok
	})
	if m, ok := r.cat.NewestMarks(live, 0); !ok || m.Hour != p.ago(0).Unix()/3600 {
		t.Errorf("newest marks of the earlier incarnation %+v, %v", m, ok)
	}
	cat := w.caughtUp()
	for id, next := range map[segment.TopicID]int64{off: 3, live: 2} {
		pos, _ := cat.Position(id, 0)
		if _, ok := cat.FirstEnds(id, 0); pos.Next != next || !ok {
			t.Errorf("position %+v, first ends %v", pos, ok)
		}
	}
	if !first(cat, off, 0, 2)() {
		t.Error("the catalog read anew has other marks")
	}
}
