package consumer

import (
	"fmt"
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
	cut, asked := w.cutOff("email-events", p)
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
	cut.Store(1)
	r = again(r)
	r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
	log.await(t, "lane is stopped", "email-events", "was cut off at offset 1 and has grown again", "made anew")
	if e := asked.Load(); e != 2 {
		t.Errorf("asked for the end of epoch %d, want that of the last record, 2", e)
	}
}

// cutOff lets the leader of a partition answer, once it is told so, as one does which has
// of no epoch but later ones what lies at an offset and behind it: not 0. It keeps the
// epoch that it was asked for.
func (w *world) cutOff(topic string, p int32) (at *atomic.Int64, asked *atomic.Int32) {
	at, asked = new(atomic.Int64), new(atomic.Int32)
	w.broker.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.KeepControl()
		req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
		rt, rp := kmsg.NewOffsetForLeaderEpochResponseTopic(), kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
		if req.Topics[0].Topic != topic || req.Topics[0].Partitions[0].Partition != p || at.Load() == 0 {
			return nil, nil, false
		}
		asked.Store(req.Topics[0].Partitions[0].LeaderEpoch)
		rp.Partition, rp.LeaderEpoch, rp.EndOffset = p, 0, at.Load()
		rt.Topic, rt.Partitions = topic, append(rt.Partitions, rp)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	return at, asked
}

// TestProfilesOfALogThatWasCutOff are read anew: what is kept of them on disk may not be
// in the log any more, and what was given their offsets is not there.
func TestProfilesOfALogThatWasCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	p := partitionOfKey("p1")
	cut, _ := w.cutOff("profiles", p)
	dir := filepath.Join(t.TempDir(), "d")
	for i := range 3 {
		if i == 2 {
			cut.Store(1)
		}
		before := len(log.String())
		w.produce("profiles", "p1", profileOf("v"))
		r := w.start(dir, nil)
		w.event("p1", fmt.Sprint("c", i), "SENT")
		w.settle(r.cat)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		said := log.String()[before:]
		if anew := strings.Contains(said, "reading the profiles anew"); anew != (i == 2) || anew && !strings.Contains(said, "cut_off=true") {
			t.Errorf("start %d: read anew: %v\n%s", i, anew, said)
		}
	}
}
