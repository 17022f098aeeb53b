package consumer

import (
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestALogThatWasCutOffAndHasGrownAgain stops its lane, whose position lies within the
// log as before: what was given the offsets below it again would be passed over. One
// whose leader has only changed does not.
func TestALogThatWasCutOffAndHasGrownAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	p := partitionOfKey("p1")
	var cut atomic.Bool
	var asked atomic.Int32
	w.broker.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.KeepControl()
		req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
		if rp := req.Topics[0].Partitions[0]; req.Topics[0].Topic != "email-events" || rp.Partition != p || !cut.Load() {
			return nil, nil, false
		} else {
			asked.Store(rp.LeaderEpoch)
		}
		// As a leader answers which has of that epoch and those before it one record.
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		rt, rp := kmsg.NewOffsetForLeaderEpochResponseTopic(), kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
		rp.Partition, rp.LeaderEpoch, rp.EndOffset = p, 0, 1
		rt.Topic, rt.Partitions = "email-events", append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	newEpoch := func() {
		t.Helper()
		if err := w.broker.MoveTopicPartition("email-events", p, w.broker.LeaderFor("email-events", p)); err != nil {
			t.Fatal(err)
		}
	}
	again := func(r *replica) *replica {
		t.Helper()
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		return w.start(filepath.Join(t.TempDir(), "d"), nil)
	}
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	newEpoch()
	r = again(r) // nothing of the new epoch is there
	w.event("p1", "c2", "SENT")
	w.settle(r.cat)
	newEpoch()
	w.event("p1", "c3", "SENT") // and of the next one something
	r = again(r)
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), ", "); got != "c1 SENT -, c2 SENT -, c3 SENT -" {
		t.Fatalf("rows %s", got)
	}
	cut.Store(true)
	r = again(r)
	r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
	log.await(t, "lane is stopped", "email-events", "was cut off at offset 1 and has grown again", "made anew")
	if e := asked.Load(); e != 2 {
		t.Errorf("asked for the end of epoch %d, want that of the last record, 2", e)
	}
}
