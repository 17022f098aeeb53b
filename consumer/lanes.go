package consumer

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/task"
)

// carryOut does what the group says. Revoked lanes are cut a last time: until
// the group goes on they are still ours.
func (c *Consumer) carryOut(ctx context.Context, cmd command) error {
	for _, n := range cmd.lost {
		c.log.Warn("lane lost", "lane", n)
		c.drop(n)
	}
	if len(cmd.lost) == 0 {
		c.setMembership(ctx, cmd)
	}
	if len(cmd.revoked) > 0 {
		rctx, cancel := context.WithTimeout(ctx, revokeGrace)
		err := c.cut(rctx)
		cancel()
		var f fatal
		if errors.As(err, &f) {
			return err
		}
		if err != nil {
			c.log.Warn("the cut before giving up lanes failed; their events will be read again", "lanes", cmd.revoked, "err", err)
		}
		for _, n := range cmd.revoked {
			c.log.Info("lane given up", "lane", n)
			c.drop(n)
		}
		if err != nil {
			c.retakeUndecided(ctx, err)
		}
	}
	for _, n := range cmd.assigned {
		c.log.Info("lane assigned", "lane", n)
		c.begin(ctx, n)
	}
	return nil
}

// setMembership takes in as whom the group speaks to us. If it has gone on
// without us, all lanes are taken over anew, those revoked with nothing to cut:
// others may have had them, and what we hold of them may be committed by now.
// The client does not tell that of itself: put out of the group while it joins
// again, it joins as a new member and is then asked to give up the lanes of the
// old one.
func (c *Consumer) setMembership(ctx context.Context, cmd command) {
	before := c.as
	c.as = cmd.as
	if before == (membership{}) || cmd.as.follows(before) || len(c.lanes) == 0 {
		return
	}
	c.log.Warn("the group went on without this replica; its lanes are taken over anew", "generation", before.generation, "now", cmd.as.generation)
	c.retakeAll(ctx)
}

// begin starts to take over a lane.
func (c *Consumer) begin(ctx context.Context, n int32) {
	if c.lanes[n] != nil {
		return
	}
	tctx, cancel := context.WithCancel(ctx)
	l := &lane{n: n, stage: takingOver, cancel: cancel, over: make(chan struct{})}
	c.lanes[n] = l
	c.metrics.laneReady(n, false)
	go func() {
		defer close(l.over)
		got, err := c.takeOver(tctx, n, func(why *stoppedError) {
			c.mail.post(func(context.Context) error {
				l.stage, l.anew = stopped, why.anew
				return nil
			})
		})
		if tctx.Err() != nil {
			got.release()
			return
		}
		c.mail.post(func(context.Context) error {
			if c.lanes[n] != l {
				got.release()
				return nil // given up in the meantime
			}
			if err != nil {
				return err
			}
			c.start(l, got)
			return nil
		})
	}()
}

// start begins to read a lane that was taken over: first its profiles.
func (c *Consumer) start(l, got *lane) {
	c.at(StepCatchUp)
	got.cancel, got.over = l.cancel, l.over
	c.lanes[got.n] = got
	got.stage = catchingUp
	got.dirty = got.dirty || got.unannounced()
	c.rememberLane(got.n)
	c.profiles.AddConsumePartitions(map[string]map[int32]kgo.Offset{got.prof.topic: {got.n: kgo.NewOffset().At(got.prof.next)}})
	c.log.Info("lane taken over", "lane", got.n, "profiles_from", got.prof.next, "profiles_end", got.readyAt)
}

// becomeReady lets lanes read events whose profiles are caught up and whose
// ends at first deployment, or change of group, are committed.
func (c *Consumer) becomeReady() error {
	for _, l := range c.lanes {
		if l.stage != catchingUp || l.prof.next < l.readyAt || l.unannounced() {
			continue
		}
		if err := l.prof.settle(l.floor()); err != nil {
			return c.db.Damaged(err)
		}
		c.at(StepReady)
		l.stage = ready
		add := make(map[string]map[int32]kgo.Offset)
		for _, in := range l.inputs {
			add[in.stream.Topic] = map[int32]kgo.Offset{l.n: kgo.NewOffset().At(in.pos.Next)}
			c.log.Info("lane ready", "lane", l.n, "topic", in.stream.Topic, "from", in.pos.Next)
		}
		c.events.AddConsumePartitions(add)
		c.metrics.laneReady(l.n, true)
		if l.n == retainLane {
			c.metrics.tasks.Done(task.Retention)
			c.metrics.tasks.Done(task.Merging)
		}
		c.at(StepTaken)
	}
	return nil
}

// drop forgets a lane and everything of it that was not committed.
func (c *Consumer) drop(n int32) {
	l := c.lanes[n]
	if l == nil {
		return
	}
	l.stopTakeover()
	l.release()
	delete(c.lanes, n)
	if l.prof != nil {
		if err := l.prof.close(); err != nil {
			c.log.Warn("what was loaded of the profiles cannot be removed", "lane", n, "err", err)
		}
		c.profiles.RemoveConsumePartitions(map[string][]int32{l.prof.topic: {n}})
		c.events.RemoveConsumePartitions(l.eventPartitions())
		if l.paused { // the client would remember it
			c.events.ResumeFetchPartitions(l.eventPartitions())
		}
	}
	c.metrics.forget(n)
	c.lag.forget(n, c.inputs())
}

// release gives back what a lane that was taken over has of the memory of all.
func (l *lane) release() {
	if l != nil && l.dd != nil {
		l.dd.release()
	}
}

// eventPartitions are the lane's partitions of the event topics.
func (l *lane) eventPartitions() map[string][]int32 {
	out := make(map[string][]int32)
	for _, in := range l.inputs {
		out[in.stream.Topic] = []int32{l.n}
	}
	return out
}

// retakeUndecided takes all lanes over anew after a cut of which it is not
// known whether it has committed: the catalog will tell.
func (c *Consumer) retakeUndecided(ctx context.Context, err error) {
	if errors.Is(err, errUndecided) || errors.Is(err, errOvertaken) {
		c.retakeAll(ctx)
	}
}

func (c *Consumer) retakeAll(ctx context.Context) {
	var ns []int32
	for n := range c.lanes {
		ns = append(ns, n)
	}
	for _, n := range ns {
		c.drop(n)
		c.begin(ctx, n)
	}
}

// remade is called when another topic is found under the name of one that lanes
// of ours read. They are taken over anew, which stops them until the new one is
// adopted. The clients never follow a name to another topic; they must forget it
// to be able to read it some time.
func (c *Consumer) remade(topic string) {
	c.mail.post(func(ctx context.Context) error {
		var ns []int32
		for n, l := range c.lanes {
			if l.prof != nil {
				ns = append(ns, n)
			}
		}
		if len(ns) == 0 {
			return nil // seen to already
		}
		c.log.Error("a topic was made anew under its name", "topic", topic, "lanes", ns)
		return c.retake(ctx, ns, topic)
	})
}

// retakeLane takes a lane over anew, unless that has begun.
func (c *Consumer) retakeLane(l *lane) {
	c.mail.post(func(ctx context.Context) error {
		if c.lanes[l.n] != l {
			return nil
		}
		return c.retake(ctx, []int32{l.n})
	})
}

// retake takes lanes over anew, and lets the clients forget topics in between.
// What the lanes have processed is cut first: it may not be there to be read
// again.
func (c *Consumer) retake(ctx context.Context, ns []int32, forget ...string) error {
	cctx, cancel := context.WithTimeout(ctx, revokeGrace)
	defer cancel()
	if err := c.cut(cctx); err != nil {
		var f fatal
		if errors.As(err, &f) {
			return err
		}
		c.log.Warn("the cut before lanes are taken over anew failed", "lanes", ns, "err", err)
		defer c.retakeUndecided(ctx, err)
	}
	for _, n := range ns {
		c.drop(n)
	}
	if len(forget) > 0 {
		c.events.PurgeTopicsFromConsuming(forget...)
		c.profiles.PurgeTopicsFromConsuming(forget...)
	}
	for _, n := range ns {
		c.begin(ctx, n)
	}
	return nil
}
