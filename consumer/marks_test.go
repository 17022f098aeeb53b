package consumer

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

var seedFlag = flag.Uint64("seed", 0, "run the random tests with this seed")

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
func (w *world) checkMarks(cat *catalog.View, hint string) {
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
				w.t.Fatalf("partition %d at %v: offset %d, %v; want %d, %v %s", p, at, got, ok, want, wantOK, hint)
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
	seeds := []uint64{1, 2, 3, 4}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			hint := fmt.Sprintf("(again: go test ./consumer -run TestMarksAreThoseOfTheLog -seed %d)", seed)
			w := newWorld(t)
			c := newClock(w, seed)
			dirs := []string{t.TempDir(), t.TempDir()}
			for part := range 3 {
				r := w.start(filepath.Join(dirs[part%2], "d"), func(c *Config) { c.FlushInterval = time.Millisecond })
				c.write(60)
				w.settle(r.cat)
				w.checkMarks(r.cat, hint)
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
			}
			w.checkMarks(w.caughtUp(), hint)
		})
	}
}

// TestCrashAtEveryStepKeepsTheMarks lets a replica die within an hour, as each
// step of a cut begins; another with an empty disk completes the hour.
func TestCrashAtEveryStepKeepsTheMarks(t *testing.T) {
	for _, step := range []string{StepUpload, StepBegin, StepProduce, StepOffsets, StepCommit, StepLocal, StepDone} {
		t.Run(strings.TrimPrefix(step, "cut/"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
			c := newClock(w, 11)
			line := &cable{}
			armed, died, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
			var once sync.Once
			a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
				c.Kafka = append(append([]kgo.Opt{}, c.Kafka...), kgo.Dialer(line.dial))
				c.SessionTimeout, c.TransactionTimeout = time.Second, time.Second
				c.Hook = func(at string) {
					select {
					case <-armed:
						if at == step {
							once.Do(func() {
								line.sever()
								close(died)
								<-release
							})
						}
					default:
					}
				}
			})
			c.write(30)
			w.settle(a.cat)
			close(armed)
			c.write(30)
			<-died
			b := w.start(filepath.Join(t.TempDir(), "b"), nil)
			c.write(30)
			w.settle(b.cat)
			close(release)
			if err := a.stop(); err != nil {
				t.Log("the zombie ended with:", err)
			}
			w.settle(b.cat)
			w.checkMarks(b.cat, step)
		})
	}
}

// TestMarksOfABacklogComeInShares lets a lane have room for two hours a cut. Its
// log crosses twenty, and months of silence remove the oldest in the end.
func TestMarksOfABacklogComeInShares(t *testing.T) {
	l := &lane{hourLimit: 2}
	for range 2 {
		l.inputs = append(l.inputs, &input{stream: &segment.Stream{Topic: "e"}})
	}
	l.inputs[0].reach(hours(1), 5)
	l.inputs[0].reach(hours(1)+1, 6)
	if l.full() {
		t.Error("one hour fills the room for two")
	}
	l.inputs[1].reach(hours(9), 1)
	if !l.full() {
		t.Error("two hours of two topics do not fill the room for two")
	}
	for _, in := range l.inputs {
		in.marks.committed()
	}
	l.inputs[0].reach(hours(1)+60_000, 7)
	if l.full() || len(l.inputs[0].marks.hours) != 1 || len(l.inputs[0].marks.hours[0].Offsets) != 2 {
		t.Errorf("after a cut the hour goes on: %+v", l.inputs[0].marks)
	}
}

func hours(n int64) int64 { return n * 3_600_000 }
