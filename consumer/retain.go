package consumer

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
	"lockstitch/state/task"
)

const (
	// retainLane is the lane whose owner decides what is removed: its cuts alone
	// carry that, so that the group's generation fences all others.
	retainLane = 0
	// retainEvery is how often it looks.
	retainEvery = time.Hour
	// removalsPerCut bounds the tombstones that one cut carries.
	removalsPerCut = 1000
)

// retaining is what the next cuts of a lane raise and remove. It was decided by
// the catalog as of its making; the lane's owner alone can make another one, and
// what has expired stays so, so that it holds until all of it is removed or the
// lane is lost.
type retaining struct {
	record catalog.Retention
	remove []*catalog.Segment // oldest first; each cut takes its part from the front
}

// part is what one cut removes.
func (r *retaining) part() []*catalog.Segment { return r.remove[:min(len(r.remove), removalsPerCut)] }

// records commit it, or its next part: first the floor, so that nobody sees a
// segment gone before he sees what that means. An announcement counts from now,
// however long ago it was decided: it is seen when the cut has committed.
func (r *retaining) records(topic string) ([]*kgo.Record, error) {
	if len(r.remove) == 0 {
		r.record.At = time.Now().UnixMilli()
	}
	rec, err := r.record.Record(topic)
	if err != nil {
		return nil, err
	}
	out := []*kgo.Record{rec}
	for _, s := range r.part() {
		out = append(out, s.Tombstone(topic))
	}
	return out, nil
}

// retain looks, at times, whether anything is to be announced or removed, which
// the next cut then does. Brokers that do not answer are asked again at the next
// look.
func (c *Consumer) retain(ctx context.Context, now time.Time) {
	l := c.lanes[retainLane]
	if l == nil || l.stage != ready || l.retaining != nil || now.Before(c.retainAt) {
		return
	}
	c.retainAt = now.Add(min(retainEvery, c.cfg.RemovalNotice))
	rctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	r, forgets, err := c.decideRetention(rctx, now)
	if r != nil {
		// A cut must not fail for it.
		if _, err := r.record.Record(c.cfg.Topics.Catalog); err != nil {
			c.log.Error("too many partitions have had events for what retention is to write down; nothing expires", "err", err)
			return
		}
	}
	switch {
	case err != nil && ctx.Err() == nil:
		c.log.Warn("cannot find out what retention is to remove; nothing is removed for now", "err", err)
	case r != nil:
		l.retaining = r
		l.touch(now)
	}
	if err == nil {
		c.metrics.tasks.Done(task.Retention)
	}
	if l.forgets = forgets; len(c.unreadMarks(l, 1)) > 0 {
		c.log.Info("old minute marks of partitions that nobody reads any more are removed", "before", time.Unix(3600*forgets, 0).UTC())
		l.touch(now)
	}
}

// decideRetention reads the catalog to its end and says what is to be done, nil:
// nothing, and before which hour marks that nobody needs are forgotten.
func (c *Consumer) decideRetention(ctx context.Context, now time.Time) (r *retaining, forgets int64, err error) {
	if err := c.deps.Catalog.CatchUp(ctx); err != nil {
		return nil, 0, err
	}
	ends, err := kafka.Ends(ctx, c.deps.Catalog.Client(), c.cfg.Topics.Events...)
	if err != nil {
		return nil, 0, fmt.Errorf("the ends of the event topics: %w", err)
	}
	at, segments := c.deps.Catalog.Retention(), c.deps.Catalog.Unsorted()
	old := c.newAges(ends, now).expired(segments)
	forgets = c.forgetFrom(now, old)
	if announcedEarly(at, segments, c.deps.Catalog.LogTime()-c.cfg.Retention.Milliseconds()) {
		c.log.Warn("it was announced, by a shorter retention than this replica has, that segments will be removed: that is taken back", "retention", c.cfg.Retention)
		at.Refused = at.Removed.Above(old)
		return &retaining{record: at}, forgets, nil
	}
	return nextRetention(at, old, now.UnixMilli(), c.cfg.RemovalNotice.Milliseconds()), forgets, nil
}

// announcedEarly tells whether something is about to be removed that has not expired
// since (ms), by whatever clock: retention is longer here than where it was announced, by
// mistake or before it was raised.
func announcedEarly(at catalog.Retention, segments []*catalog.Segment, since int64) bool {
	return slices.ContainsFunc(segments, func(s *catalog.Segment) bool {
		return at.Refused.Covers(s) && !at.Removed.Covers(s) && s.Newest() >= since
	})
}

// nextRetention is the step that follows: to remove what was announced long
// enough ago, and else to announce what has expired since. Times are in ms.
func nextRetention(at catalog.Retention, expired []*catalog.Segment, now, notice int64) *retaining {
	var due, fresh []*catalog.Segment
	for _, s := range expired {
		if at.Refused.Covers(s) {
			due = append(due, s)
		} else {
			fresh = append(fresh, s)
		}
	}
	switch {
	case len(due) > 0 && at.At > now: // by a clock that was ahead
		at.At = now
		return &retaining{record: at}
	case len(due) > 0 && now-at.At < notice:
		return nil
	case len(due) > 0:
		at.Removed = at.Refused
		return &retaining{record: at, remove: due}
	case len(fresh) > 0:
		at.At, at.Refused = now, at.Refused.Above(fresh)
		return &retaining{record: at}
	}
	return nil
}

// ages say what time it is (ms) in each partition that segments have rows of.
type ages struct {
	retention int64
	now       int64                       // Kafka's
	behind    map[segment.Partition]int64 // log times of the partitions that are not read to their end
}

// kafkaTime is the greatest log time (ms) of all partitions, and never later than
// the machine's clock: what a clock that is ahead says, of a broker or of the machine,
// counts only if both are.
func (c *Consumer) kafkaTime(now time.Time) int64 {
	return min(now.UnixMilli(), c.deps.Catalog.LogTime())
}

func (c *Consumer) newAges(ends map[string][]kafka.PartitionEnd, now time.Time) ages {
	a := ages{
		retention: c.cfg.Retention.Milliseconds(), now: c.kafkaTime(now),
		behind: make(map[segment.Partition]int64),
	}
	for _, parts := range ends {
		for _, e := range parts {
			if pos, _ := c.deps.Catalog.Position(segment.TopicID(e.TopicID), e.Partition); pos.Next < e.End {
				a.behind[segment.Partition{Topic: e.TopicID, N: e.Partition}] = pos.LogTime
			}
		}
	}
	return a
}

// expired are the segments that are older than the retention, oldest first.
func (a ages) expired(segments []*catalog.Segment) []*catalog.Segment {
	var out []*catalog.Segment
	for _, s := range segments {
		if a.old(s) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(x, y *catalog.Segment) int {
		return cmp.Or(cmp.Compare(x.Newest(), y.Newest()), cmp.Compare(x.ID, y.ID))
	})
	return out
}

// old tells whether the segment has expired: by the time of every partition it
// has rows of, and by the time of its rows themselves.
func (a ages) old(s *catalog.Segment) bool {
	newest := s.Newest()
	if newest >= a.now-a.retention {
		return false
	}
	for i := range s.Slices {
		in := &s.Slices[i]
		if in.MaxTime >= a.now-a.retention {
			return false
		}
		for _, r := range in.Sources {
			src := r.Source()
			if at, ok := a.behind[src.At()]; ok && newest >= at-a.retention {
				return false
			}
		}
	}
	return true
}

// retained notes that a cut of the lane with this in it has committed, and leaves
// what is still to be removed to the next one.
func (c *Consumer) retained(l *lane, r *retaining) {
	oldest := time.UnixMilli(r.record.Refused.OldestAvailable).UTC()
	if len(r.remove) == 0 {
		c.log.Info("segments have expired and will be removed", "oldest_available", oldest, "in", c.cfg.RemovalNotice)
		return
	}
	part := r.part()
	rest := r.remove[len(part):]
	var bytes int64
	for _, s := range part {
		bytes += s.Bytes
	}
	c.metrics.retired.Add(float64(len(part)))
	c.metrics.retiredBytes.Add(float64(bytes))
	c.removed(l)
	// With the next part still to come nothing is looked for, and what was merged waits.
	c.metrics.tasks.Done(task.Retention)
	c.metrics.tasks.Done(task.Merging)
	c.log.Info("expired segments were removed", "count", len(part), "bytes", bytes, "oldest_available", oldest, "left", len(rest))
	if len(rest) == 0 {
		return
	}
	clear(part) // the catalog has dropped them
	l.retaining = &retaining{record: r.record, remove: rest}
	l.touch(time.Now())
}
