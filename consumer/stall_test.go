package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/objects"
)

// keyIn is a key whose records go to a partition.
func keyIn(n int32) string {
	for i := 0; ; i++ {
		if k := fmt.Sprintf("p%d", i); partitionOfKey(k) == n {
			return k
		}
	}
}

// noOffsets answers a ListOffsets with an error for each partition.
func noOffsets(kreq kmsg.Request, why *kerr.Error) kmsg.Response {
	resp := kreq.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, rt := range kreq.(*kmsg.ListOffsetsRequest).Topics {
		st := kmsg.NewListOffsetsResponseTopic()
		st.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			sp := kmsg.NewListOffsetsResponseTopicPartition()
			sp.Partition, sp.ErrorCode = rp.Partition, why.Code
			st.Partitions = append(st.Partitions, sp)
		}
		resp.Topics = append(resp.Topics, st)
	}
	return resp
}

// TestAProfilePartitionWithoutAnEndStopsNoOtherLane: the leader of one profile
// partition does not tell its end, and events of its lane wait for that.
func TestAProfilePartitionWithoutAnEndStopsNoOtherLane(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		var away atomic.Bool
		away.Store(true)
		w.broker.ControlKey(kmsg.ListOffsets.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			req := kreq.(*kmsg.ListOffsetsRequest)
			resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
			ours := false
			for _, rt := range req.Topics {
				st := kmsg.NewListOffsetsResponseTopic()
				st.Topic = rt.Topic
				for _, rp := range rt.Partitions {
					sp := kmsg.NewListOffsetsResponseTopicPartition()
					sp.Partition, sp.Timestamp, sp.LeaderEpoch, sp.Offset = rp.Partition, -1, 0, 0
					if rt.Topic == w.topics.Profiles && rp.Partition == 0 {
						ours = true
						sp.ErrorCode = kerr.KafkaStorageError.Code
					}
					st.Partitions = append(st.Partitions, sp)
				}
				resp.Topics = append(resp.Topics, st)
			}
			return resp, nil, ours && away.Load()
		})
		w.event(keyIn(0), "c0", "SENT")
		r.await(t, "no event waits", func(c *Consumer) bool { return len(c.lanes[0].waiting) > 0 })
		w.event(keyIn(1), "c1", "SENT")
		r.await(t, "the other lane's event is not processed", func(c *Consumer) bool { return c.lanes[1].inputs[0].pos.Next == 1 })
		away.Store(false)
		w.settle(r.cat)
		if got := strings.Join(w.rows(r.cat), "\n"); got != "c0 SENT -\nc1 SENT -" {
			t.Errorf("rows:\n%s", got)
		}
	})
}

// TestWhatWaitsHoldsNoWholeAnswer: records alias the answer that they came in, with
// those of other lanes, and a lane may wait for its profiles for long.
func TestWhatWaitsHoldsNoWholeAnswer(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		answer := []byte("key value name header")
		b := newBatch(nil, []*kgo.Record{{Key: answer[:3], Value: answer[4:9], Headers: []kgo.RecordHeader{{Key: "name", Value: answer[15:]}}}})
		b.stay(time.Now())
		b.stay(time.Now().Add(stayLimit))
		clear(answer)
		if r := b.records[0]; string(r.Key) != "key" || string(r.Value) != "value" || string(r.Headers[0].Value) != "header" {
			t.Errorf("a record that waits is %q, %q, %q once its answer is gone", r.Key, r.Value, r.Headers)
		}

		w := newVirtualWorld(t)
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		hanging := w.client(kgo.TransactionalID("hanging"))
		if err := hanging.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := hanging.ProduceSync(t.Context(), &kgo.Record{Topic: w.topics.Profiles, Key: []byte("p1"), Value: []byte(profileOf("v"))}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		w.event("p1", "c1", "SENT")
		r.await(t, "no event waits on memory of its own", func(c *Consumer) bool {
			l := c.lanes[partitionOfKey("p1")]
			return len(l.waiting) > 0 && l.waiting[0].own
		})
		if err := hanging.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		w.settle(r.cat)
		if got := w.rows(r.cat); len(got) != 1 || got[0] != "c1 SENT v" {
			t.Errorf("rows %v", got)
		}
	})
}

// TestMalformedProfilesAreReadWithinTheMemory while the store is away and no cut takes
// them as dead letters.
func TestMalformedProfilesAreReadWithinTheMemory(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		flaky := &flakyStore{Store: w.store}
		w.store = flaky
		r := w.start("/d", func(c *Config) { c.FS, c.MemoryBytes = vfs.NewMem(), 4<<20 })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		flaky.fail(true)
		w.event("p1", "c1", "SENT")
		const profiles, size = 4_000, 1_000
		var records []*kgo.Record
		for i := range profiles {
			records = append(records, &kgo.Record{Topic: w.topics.Profiles, Key: fmt.Appendf(nil, "p%d", i), Value: []byte(strings.Repeat("x", size))})
		}
		if err := w.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // virtual: all that can be read is
		r.await(t, "nothing is held", func(c *Consumer) bool {
			// What came with one poll comes on top.
			if held, limit := c.bufferedBytes(), c.bufferLimit(); held > 2*limit+1<<20 {
				t.Errorf("%d bytes are held, %d are allowed", held, limit)
			}
			return c.bufferedBytes() > 0
		})
		flaky.fail(false)
		w.settle(r.cat)
		if n := len(w.deadLetters()); n != profiles {
			t.Errorf("%d dead letters of %d", n, profiles)
		}
	})
}

// silentStore never answers a Put; it says when one hangs.
type silentStore struct {
	objects.Store
	hangs chan struct{}
}

func (s *silentStore) Put(ctx context.Context, _ string, _ []byte) error {
	select {
	case s.hangs <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

// TestASilentStoreHoldsUpNoRebalance: not even one that takes nothing from the
// replica. The group waits for what it is told, and puts out who does not come back.
func TestASilentStoreHoldsUpNoRebalance(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		silent := &silentStore{w.store, make(chan struct{}, 1)}
		w.store = silent
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		as := membershipOf(r.c.group)
		w.event("p1", "c1", "SENT")
		<-silent.hangs
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 4*revokeGrace)
		defer cancel()
		r.c.tell(ctx, command{as: as})
		if took := time.Since(begun); took > 2*revokeGrace {
			t.Errorf("what the group says was heard after %v", took)
		}
	})
}

// A partition without a leader is waited for when ends are asked, and all the time that
// there was for it went from the look at the topics.
func TestAPartitionWithoutALeaderHidesNothing(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t, 9093, 9094)
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		var asked atomic.Int32
		w.broker.ControlKey(kmsg.ListOffsets.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			asked.Add(1)
			return noOffsets(kreq, kerr.LeaderNotAvailable), nil, true
		})
		r.await(t, "no end is asked for", func(*Consumer) bool { return asked.Load() > 0 })
		r.c.balancer.again.Store(true)
		r.await(t, "nobody looks at the topics", func(c *Consumer) bool { return !c.balancer.again.Load() })
	})
}

// TestASilentBrokerIsNotWaitedForInTurn: where transactions are open upstream, any
// number of partitions have an end that brings no record, and a broker may not answer.
func TestASilentBrokerIsNotWaitedForInTurn(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		var probes atomic.Int32
		w.broker.ControlKey(kmsg.Fetch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			if kreq.(*kmsg.FetchRequest).MaxWaitMillis > 0 {
				return nil, nil, false
			}
			probes.Add(1)
			return nil, nil, true // and none ever
		})
		end := w.openTransaction("email-events", keyIn(0), "{}")
		defer end(kgo.TryAbort)
		longest := time.Duration(0)
		for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(10 * time.Millisecond) {
			asked := time.Now()
			r.await(t, "the loop does not answer", func(*Consumer) bool { return true })
			longest = max(longest, time.Since(asked))
		}
		if probes.Load() == 0 || longest > 2*probeLimit {
			t.Errorf("with %d probes, the loop answered after %v", probes.Load(), longest)
		}
	})
}

// TestARefusedTransactionalIDIsTold, at each attempt, and holds up nothing but cuts.
func TestARefusedTransactionalIDIsTold(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		log := &logged{}
		w.log = slog.New(slog.NewTextHandler(log, nil))
		var allowed atomic.Bool
		w.broker.ControlKey(kmsg.InitProducerID.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			resp := kreq.ResponseKind().(*kmsg.InitProducerIDResponse)
			resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
			id := kreq.(*kmsg.InitProducerIDRequest).TransactionalID
			return resp, nil, id != nil && strings.HasPrefix(*id, "lockstitch-") && !allowed.Load()
		})
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		w.event("p1", "c1", "SENT")
		log.await(t, "a cut failed", r.c.cfg.Group+"-", "TRANSACTIONAL_ID_AUTHORIZATION_FAILED")
		r.await(t, "the loop does not go on, or counts no second failure", func(c *Consumer) bool {
			return testutil.ToFloat64(c.metrics.cutFailures.WithLabelValues("transaction")) > 1
		})
		allowed.Store(true)
		w.settle(r.cat)
		if rows := w.rows(r.cat); len(rows) != 1 {
			t.Errorf("rows %v", rows)
		}
	})
}

// TestManyDeadLettersAreCutEarly: what fills the memory with them would be one
// transaction of their topic, which need not end in time.
func TestManyDeadLettersAreCutEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.FlushInterval = time.Hour })
	r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
	const size = 500_000
	for range 2 * deadPerCut / size {
		w.produce("email-events", "p1", strings.Repeat("x", size))
	}
	r.await(t, "no cut before the flush interval is over", func(c *Consumer) bool {
		return c.lanes[partitionOfKey("p1")].inputs[0].committed.Next >= deadPerCut/size
	})
}

// TestBuffersThatWereFullOnceHoldUpNothing: what they keep for later counts as if it were
// to be cut, and no cut frees it.
func TestBuffersThatWereFullOnceHoldUpNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.MemoryBytes = 8 << 20 }) // a cut at 2 MiB
	r.awaitReady(t)
	other := "p2"
	for i := 3; partitionOfKey(other) == partitionOfKey("p1"); i++ {
		other = fmt.Sprint("p", i)
	}
	const events = 10_000
	for _, key := range []string{"p1", other} { // one lane after the other
		var records []*kgo.Record
		for i := range events {
			records = append(records, &kgo.Record{Topic: "email-events", Key: []byte(key), Value: fmt.Appendf(nil,
				`{"correlation_id":"%s-%d","type":"SENT","account_id":"acme","section":"s1","subject":"%d %s"}`, key, i, i, strings.Repeat("x", 300))})
		}
		if err := w.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		w.settle(r.cat)
	}
	if rows := w.rows(r.cat); len(rows) != 2*events {
		t.Errorf("%d rows", len(rows))
	}
	kept := int64(-1)
	r.await(t, "not cut", func(c *Consumer) bool {
		kept = 0
		for _, l := range c.lanes {
			if l.dirty {
				return false
			}
			kept += l.bytes()
		}
		return true
	})
	if limit := int64(2<<20) / 4; kept > limit {
		t.Errorf("%d bytes are kept by empty buffers, of %d", kept, limit)
	}
}
