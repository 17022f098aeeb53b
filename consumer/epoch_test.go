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
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/kafka"
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
	cut := w.cutLog("email-events", p)
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
	w.newEpoch("email-events", p)
	r = again(r) // nothing of the new epoch is there
	w.event("p1", "c2", "SENT")
	w.settle(r.cat)
	w.newEpoch("email-events", p)
	w.event("p1", "c3", "SENT") // and of the next one something
	r = again(r)
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), ", "); got != "c1 SENT -, c2 SENT -, c3 SENT -" {
		t.Fatalf("rows %s", got)
	}
	cut.cut(1, 3)
	w.newEpoch("email-events", p)
	r = again(r)
	r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
	log.await(t, "lane is stopped", "email-events", "was cut off at offset 1 and has grown again", "delete the records below offset 3")
	if e := cut.asked.Load(); e != 2 {
		t.Errorf("asked for the end of epoch %d, want that of the last record, 2", e)
	}
}

// cutLog is a partition of which the leader answers, once it is cut, as one does that has
// of the epochs before the one in which it has grown again only what lies below an offset.
type cutLog struct {
	at    atomic.Int64 // 0: not yet
	grown atomic.Int32
	asked atomic.Int32 // the last epoch whose end was asked for and is not where it was; -1: none
}

func (c *cutLog) cut(at int64, grown int32) {
	c.grown.Store(grown)
	c.at.Store(at)
}

func (w *world) cutLog(topic string, p int32) *cutLog {
	c := &cutLog{}
	c.asked.Store(-1)
	w.broker.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.KeepControl()
		req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		handled := false
		for _, of := range req.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = of.Topic
			for _, op := range of.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.EndOffset = op.Partition, -1
				if of.Topic == topic && op.Partition == p && c.at.Load() > 0 && op.LeaderEpoch < c.grown.Load() {
					c.asked.Store(op.LeaderEpoch)
					rp.LeaderEpoch, rp.EndOffset, handled = 0, c.at.Load(), true
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, handled
	})
	return c
}

// newEpoch is as if the leader of a partition had changed.
func (w *world) newEpoch(topic string, p int32) {
	w.t.Helper()
	if err := w.broker.MoveTopicPartition(topic, p, w.broker.LeaderFor(topic, p)); err != nil {
		w.t.Fatal(err)
	}
}

// TestProfilesOfALogThatWasCutOff are read anew: what is kept of them on disk may not be
// in the log any more, and what was given their offsets is not there.
func TestProfilesOfALogThatWasCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	p := partitionOfKey("p1")
	cut := w.cutLog("profiles", p)
	dir := filepath.Join(t.TempDir(), "d")
	for i := range 3 {
		if i == 2 {
			cut.cut(1, 1)
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

// TestALogThatIsCutOffWhileItIsRead: the client goes on by itself where the log was cut off,
// so that an error and what stands there now may come together.
func TestALogThatIsCutOffWhileItIsRead(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		log := &logged{}
		w.log = slog.New(slog.NewTextHandler(log, nil))
		p := partitionOfKey("p1")
		cut := w.cutLog("email-events", p)
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		w.event("p1", "c1", "SENT")
		w.event("p1", "c2", "SENT")
		w.settle(r.cat)
		held, goOn := make(chan struct{}), make(chan struct{})
		r.c.mail.post(func(context.Context) error {
			close(held)
			<-goOn
			return nil
		})
		<-held
		cut.cut(1, 1)
		w.newEpoch("email-events", p)
		w.event("p1", "c3", "SENT")
		time.Sleep(time.Minute) // for the client to find out, and to read again from there
		if cut.asked.Load() != 0 {
			t.Fatalf("the client has asked for the end of epoch %d, want 0", cut.asked.Load())
		}
		close(goOn)
		r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
		log.await(t, "lane is stopped", "was cut off at offset 1 and has grown again", "up to offset 2")
		// What stands below the position is given up, and what lies behind it is read.
		given := make(kadm.Offsets)
		given.AddOffset("email-events", p, 2, -1)
		if res, err := kadm.NewClient(w.prod).DeleteRecords(t.Context(), given); err != nil || res.Error() != nil {
			t.Fatal(err, res.Error())
		}
		time.Sleep(time.Minute) // a stopped lane is tried again without a sign
		w.settle(r.cat)
		if got := strings.Join(w.rows(r.cat), ", "); got != "c1 SENT -, c2 SENT -, c3 SENT -" {
			t.Errorf("rows %s", got)
		}
	})
}

// TestALogThatIsCutOffBeforeItIsRead: of a partition that brought nothing since its lane was
// taken over the client knows no epoch, and follows whoever leads. The first record of a later
// leader is not taken before that was asked; one that has all goes on as before.
func TestALogThatIsCutOffBeforeItIsRead(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"email-events", "profiles"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			log := &logged{}
			w.log = slog.New(slog.NewTextHandler(log, nil))
			p := partitionOfKey("p1")
			cut := w.cutLog(topic, p)
			produce := func(id string) {
				if topic == "profiles" {
					w.produce(topic, "p1", profileOf(id))
				} else {
					w.event("p1", id, "SENT")
				}
			}
			dir := filepath.Join(t.TempDir(), "d")
			start := func() *replica { return w.start(dir, nil) }
			r := start()
			produce("c1")
			produce("c2")
			w.event("p1", "d1", "OPENED")
			w.settle(r.cat)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			r = start()
			r.awaitReady(t)
			w.newEpoch(topic, p)
			produce("c3") // nothing was cut off
			w.settle(r.cat)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if said := log.String(); strings.Contains(said, "cut off") || strings.Contains(said, "taken over anew:") {
				t.Fatalf("a leader that has all stops the lane:\n%s", said)
			}
			r = start()
			r.awaitReady(t)
			cut.cut(1, 2)
			w.newEpoch(topic, p)
			produce("c4")
			w.event("p1", "d2", "OPENED")
			if topic == "profiles" {
				log.await(t, "reading the profiles anew", "cut_off=true")
				cut.at.Store(0) // it asks no more
				w.settle(r.cat)
				return
			}
			r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
			log.await(t, "lane is stopped", "was cut off at offset 1 and has grown again")
			if e := cut.asked.Load(); e != 1 {
				t.Errorf("asked for the end of epoch %d, want that of the last record, 1", e)
			}
		})
	}
}

// TestALogThatDoesNotAnswerCostsNoOtherItsLane, when records of both come from later leaders
// than those that were asked.
func TestALogThatDoesNotAnswerCostsNoOtherItsLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers, silent := int32(0), int32(1)
	w.newEpoch("email-events", answers)
	w.newEpoch("email-events", silent)
	w.broker.ControlKey(kmsg.OffsetForLeaderEpoch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.broker.KeepControl()
		req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, of := range req.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = of.Topic
			for _, op := range of.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.LeaderEpoch, rp.EndOffset = op.Partition, op.LeaderEpoch, 1
				if op.Partition == silent {
					rp.ErrorCode = kerr.LeaderNotAvailable.Code
				}
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	r.awaitReady(t)
	took := make(map[int32]bool)
	retaken := make(chan bool, 1)
	r.c.mail.post(func(ctx context.Context) error {
		var doubts []doubt
		for _, n := range []int32{answers, silent} {
			doubts = append(doubts, doubt{
				l: r.c.lanes[n], topic: "email-events", proof: &proof{below: 1, epoch: kafka.EpochOf(&kgo.Record{}), asked: kafka.EpochOf(&kgo.Record{})},
				records: []*kgo.Record{{Offset: 1, LeaderEpoch: 1}}, take: func() { took[n] = true },
			})
		}
		r.c.settle(ctx, doubts)
		retaken <- !doubts[0].l.lost && doubts[1].l.lost
		return nil
	})
	if only := <-retaken; !only || !took[answers] || took[silent] {
		t.Errorf("records taken of %v, only the silent one is taken over anew: %v", took, only)
	}
}
