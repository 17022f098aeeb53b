package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// TestEventsInARemoteTier: while a broker may not read the oldest events from
// there, or not fast enough, it answers with no error, no records and the end of
// the log. They are waited for: none is passed, the lag ticks, nothing is logged.
func TestEventsInARemoteTier(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		for i := range 4 {
			w.event("p1", fmt.Sprint("c", i), "SENT")
		}
		infos, err := kafka.Describe(t.Context(), w.prod, "email-events")
		if err != nil {
			t.Fatal(err)
		}
		var throttled atomic.Bool
		var asked atomic.Int64
		throttled.Store(true)
		w.broker.ControlKey(kmsg.Fetch.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			req := r.(*kmsg.FetchRequest)
			if len(req.Topics) != 1 || req.Topics[0].TopicID != infos["email-events"].ID || !throttled.Load() {
				return nil, nil, false
			}
			asked.Add(1)
			resp := req.ResponseKind().(*kmsg.FetchResponse)
			st := kmsg.NewFetchResponseTopic()
			st.Topic, st.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
			for _, rp := range req.Topics[0].Partitions {
				sp := kmsg.NewFetchResponseTopicPartition()
				sp.Partition, sp.LogStartOffset = rp.Partition, 0
				if rp.Partition == partitionOfKey("p1") {
					sp.HighWatermark, sp.LastStableOffset = 4, 4
				}
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
			w.broker.SleepControl(func() { time.Sleep(time.Duration(req.MaxWaitMillis) * time.Millisecond) })
			return resp, nil, true
		})
		log := &logged{}
		w.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		r := w.start(filepath.Join(t.TempDir(), "d"), nil)
		key := fmt.Sprintf("email-events/%d", partitionOfKey("p1"))
		r.awaitLag(t, "events that cannot be read have no lag", func(lag map[string]float64) bool {
			return lag["processing_lag_records "+key] == 4 && lag["processing_lag_seconds "+key] > 5
		})
		if n := asked.Load(); n > 100 {
			t.Errorf("the broker was asked %d times within some 5 s", n)
		}
		log.mu.Lock()
		if log.b.Len() > 0 {
			t.Errorf("logged:\n%s", log.b.String())
		}
		log.mu.Unlock()
		throttled.Store(false)
		w.settle(r.cat)
		if got := w.rows(r.cat); len(got) != 4 {
			t.Errorf("%d rows of 4: %q", len(got), got)
		}
	})
}

// TestEndsOfProfilesAreAskedNowAndThen: not with each turn, however little it has brought. Each
// question is several requests of every broker. But while somebody waits for the events, at once.
func TestEndsOfProfilesAreAskedNowAndThen(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		var asked atomic.Int64
		w.broker.ControlKey(kmsg.ListOffsets.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			for _, rt := range kreq.(*kmsg.ListOffsetsRequest).Topics {
				if rt.Topic == w.topics.Profiles {
					asked.Add(1)
				}
			}
			return nil, nil, false
		})
		const events, every = 400, 2 * time.Millisecond
		produce := func(prefix string) int64 {
			asked.Store(0)
			for i := range events {
				w.event("p1", fmt.Sprint(prefix, i), "SENT")
				time.Sleep(every) // virtual
			}
			w.settle(r.cat)
			return asked.Load()
		}
		if n, most := produce("c"), int64(events*every/askEvery)+10; n > most {
			t.Errorf("asked %d times within %v, %d would do", n, events*every, most)
		}
		await := make(chan bool)
		r.c.mail.post(func(context.Context) error {
			for _, l := range r.c.lanes {
				for _, in := range l.inputs {
					r.c.barriers[segment.Partition{Topic: in.stream.ID, N: in.partition}] = math.MaxInt64
				}
			}
			close(await)
			return nil
		})
		<-await
		if n := produce("d"); n < events/2 {
			t.Errorf("asked %d times for %d events that somebody waits for", n, events)
		}
		if got := len(w.rows(r.cat)); got != 2*events {
			t.Errorf("%d rows of %d", got, 2*events)
		}
	})
}
