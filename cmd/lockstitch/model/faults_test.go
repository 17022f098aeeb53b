package model

import (
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/consumer"
	"lockstitch/state/kafka/replaced"
)

var steps = []string{consumer.StepUpload, consumer.StepBegin, consumer.StepProduce, consumer.StepOffsets, consumer.StepCommit, consumer.StepLocal, consumer.StepDone}

// mergeSteps are those of merging, which run beside the cuts.
var mergeSteps = []string{consumer.StepMergeRead, consumer.StepMergeUpload, consumer.StepMergeMade}

// step is one at which a process dies or stands still.
func (f *faults) step() string {
	if f.w.merges && f.rng.IntN(4) == 0 {
		return pick(f.rng, mergeSteps)
	}
	return pick(f.rng, steps)
}

// requests are those that get lost, or answered with an error.
var requests = []struct {
	key    kmsg.Key
	errors []*kerr.Error
}{
	{kmsg.EndTxn, []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.ConcurrentTransactions}},
	{kmsg.TxnOffsetCommit, []*kerr.Error{kerr.CoordinatorLoadInProgress, kerr.IllegalGeneration}},
	{kmsg.AddOffsetsToTxn, []*kerr.Error{kerr.ConcurrentTransactions}},
	{kmsg.AddPartitionsToTxn, []*kerr.Error{kerr.ConcurrentTransactions}},
	{kmsg.Produce, []*kerr.Error{kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend, kerr.RequestTimedOut}},
	{kmsg.InitProducerID, []*kerr.Error{kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress}},
	{kmsg.Fetch, []*kerr.Error{kerr.NotLeaderForPartition}},
	{kmsg.ListOffsets, []*kerr.Error{kerr.NotLeaderForPartition}},
	{kmsg.OffsetFetch, []*kerr.Error{kerr.CoordinatorLoadInProgress}},
	{kmsg.Heartbeat, []*kerr.Error{kerr.UnknownMemberID, kerr.CoordinatorNotAvailable}},
	{kmsg.JoinGroup, []*kerr.Error{kerr.CoordinatorNotAvailable}},
	{kmsg.SyncGroup, []*kerr.Error{kerr.RebalanceInProgress}},
	{kmsg.Metadata, nil},
	{kmsg.FindCoordinator, nil},
}

// faults is what goes wrong.
type faults struct {
	w   *world
	rng *rand.Rand
}

// run lets n things go wrong within the given time.
func (f *faults) run(n int, within time.Duration) {
	for range n {
		time.Sleep(time.Duration(f.rng.Int64N(int64(2 * within / time.Duration(n+1)))))
		f.one()
	}
}

func (f *faults) between(least, most time.Duration) time.Duration {
	return least + time.Duration(f.rng.Int64N(int64(most-least)))
}

// heal undoes everything; from then on all must go well.
func (f *faults) heal() {
	f.w.notef("all faults end")
	f.w.bucket.set(false, 0)
	f.w.lake.set(false, 0)
	for _, r := range f.w.replicas {
		if p := r.living(); p != nil {
			p.cable.mend()
			p.mu.Lock()
			p.crashAt, p.stallAt = "", ""
			p.mu.Unlock()
		}
		r.start()
	}
}

func (f *faults) one() {
	r := pick(f.rng, f.w.replicas)
	p := r.living()
	if p == nil {
		f.w.notef("%s starts", r.name)
		r.start()
		return
	}
	switch f.rng.IntN(16) {
	case 0, 1:
		survive := f.rng.IntN(3) * 50
		wiped := f.rng.IntN(3) == 0
		again := f.between(0, 3*time.Second)
		f.w.notef("%s crashes; %d%% of what was not synced survives, disk wiped: %v, starts again after %v", r.name, survive, wiped, again)
		r.crash(rand.New(rand.NewPCG(f.rng.Uint64(), 0)), survive)
		if wiped {
			r.wipe()
		}
		f.w.later(again, r.start)
	case 2, 3, 4:
		step := f.step()
		f.w.notef("%s will crash at %s", r.name, step)
		p.mu.Lock()
		p.crashAt = step
		p.mu.Unlock()
	case 5:
		again := f.between(0, 3*time.Second)
		f.w.notef("%s stops in order, starts again after %v", r.name, again)
		f.w.bg.Go(func() {
			r.shutdown()
			time.Sleep(again)
			r.start()
		})
	case 6:
		f.w.notef("%s stops in order", r.name)
		f.w.bg.Go(r.shutdown)
	case 7, 8:
		d := f.between(200*time.Millisecond, 8*time.Second)
		f.w.notef("%s is cut off for %v", r.name, d)
		p.cable.sever()
		f.w.later(d, p.cable.mend)
	case 9:
		d := f.between(200*time.Millisecond, 8*time.Second)
		f.w.notef("%s's network stands still for %v", r.name, d)
		p.cable.freeze()
		f.w.later(d, p.cable.mend)
	case 10, 11:
		q := pick(f.rng, requests)
		l := loss{key: q.key.Int16(), replyOnly: f.rng.IntN(3) > 0}
		f.w.notef("%s loses the next %s, only the reply: %v", r.name, q.key.Name(), l.replyOnly)
		p.cable.loseNext(l)
	case 12:
		q := pick(f.rng, requests)
		if len(q.errors) == 0 {
			return
		}
		fault := kfake.Fault{Keys: []kmsg.Key{q.key}, Err: pick(f.rng, q.errors), Count: 1 + f.rng.IntN(3),
			When: func(req kmsg.Request) bool { return !upstream(req) }}
		f.w.notef("the broker answers %d times %s to %s", fault.Count, fault.Err.Message, q.key.Name())
		f.w.broker.Fault(fault)
	case 13:
		d := f.between(100*time.Millisecond, 6*time.Second)
		flaky := f.rng.IntN(2) * 40
		b, name := f.w.bucket, "store"
		if len(f.w.orders) > 0 && f.rng.IntN(3) == 0 {
			b, name = f.w.lake, "destination"
		}
		f.w.notef("the %s is away for %v (of calls that fail: %d%%, 0 for all)", name, d, flaky)
		b.set(flaky == 0, flaky)
		f.w.later(d, func() { b.set(false, 0) })
	case 14:
		d := f.between(200*time.Millisecond, 5*time.Second)
		f.w.notef("the brokers are away for %v", d)
		for _, r := range f.w.replicas {
			if p := r.living(); p != nil {
				p.cable.sever()
				f.w.later(d, p.cable.mend)
			}
		}
	case 15:
		step, d := f.step(), f.between(100*time.Millisecond, 15*time.Second)
		f.w.notef("%s will stand still for %v at %s", r.name, d, step)
		p.mu.Lock()
		p.stallAt, p.stall = step, d
		p.mu.Unlock()
	}
}

// upstream says whether a request is the test's own.
func upstream(req kmsg.Request) bool {
	if replaced.IsPast(req) {
		return true
	}
	own := func(id *string) bool { return id != nil && len(*id) >= 8 && (*id)[:8] == "upstream" }
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		return r.TransactionID == nil || own(r.TransactionID)
	case *kmsg.InitProducerIDRequest:
		return r.TransactionalID == nil || own(r.TransactionalID)
	case *kmsg.EndTxnRequest:
		return own(&r.TransactionalID)
	case *kmsg.AddPartitionsToTxnRequest:
		return own(&r.TransactionalID)
	}
	return false
}
