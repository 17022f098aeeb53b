package consumer

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// poll takes what the clients have. Of the events, only as much as the memory
// budget allows: over it, nothing is fetched until a cut has made room.
func (c *Consumer) poll(ctx context.Context) (moved bool, err error) {
	catching, full := false, c.full()
	for _, l := range c.lanes {
		catching = catching || l.stage == catchingUp || len(l.waiting) > 0
	}
	wait := idleWait
	if catching {
		wait = profileWait
	}
	pctx, cancel := context.WithTimeout(ctx, wait)
	wakerDone := c.wakeOn(pctx, cancel)
	defer func() { cancel(); wakerDone() }()

	now := time.Now()
	eventsCtx, profilesCtx := pctx, context.Context(nil)
	if catching || full {
		eventsCtx, profilesCtx = nil, pctx
	}
	c.failing = false
	var doubts []doubt
	if !full {
		fetches := c.events.PollRecords(eventsCtx, pollRecords)
		fetches.EachError(func(topic string, p int32, ferr error) { c.fetchError(topic, p, ferr) })
		eachPartition(fetches, func(topic string, id segment.TopicID, fp kgo.FetchPartition) {
			if l := c.lanes[fp.Partition]; l != nil && l.stage == ready && !l.lost {
				moved = true
				in := l.input(topic)
				if in.stream.ID != id {
					c.remade(topic)
					return
				}
				take := func() { l.wait(newBatch(in, fp.Records)) }
				if !in.proof.covers(fp.Records) {
					doubts = append(doubts, doubt{l, topic, &in.proof, fp.Records, take})
					return
				}
				take()
			}
		})
	}
	var fetches kgo.Fetches
	if c.deadBytes() < c.bufferLimit() {
		fetches = c.profiles.PollRecords(profilesCtx, pollRecords)
	} else {
		<-pctx.Done() // malformed profiles, which no cut takes
	}
	fetches.EachError(func(topic string, p int32, ferr error) { c.fetchError(topic, p, ferr) })
	// A partition may be there twice, when it has moved to another broker.
	got := make(map[*lane][]*kgo.Record)
	eachPartition(fetches, func(topic string, id segment.TopicID, fp kgo.FetchPartition) {
		if l := c.lanes[fp.Partition]; l != nil && (l.stage == ready || l.stage == catchingUp) && !l.lost {
			moved = true
			if l.prof.id != id {
				c.remade(topic)
				return
			}
			take := func() { got[l] = append(got[l], fp.Records...) }
			if !l.prof.proof.covers(fp.Records) {
				doubts = append(doubts, doubt{l, topic, &l.prof.proof, fp.Records, take})
				return
			}
			take()
		}
	})
	c.settle(ctx, doubts)
	var eg errgroup.Group
	eg.SetLimit(runtime.GOMAXPROCS(0))
	for l, records := range got {
		eg.Go(func() error { return l.applyProfiles(records, now) })
	}
	err = c.db.Damaged(eg.Wait())
	if c.failing && !moved && err == nil {
		// The clients say so again at once: a batch whose checksum does not match
		// comes with every fetch.
		select {
		case <-time.After(idleWait):
		case <-ctx.Done():
		}
	}
	return moved, err
}

// eachPartition calls f for the partitions of which records have come.
func eachPartition(fetches kgo.Fetches, f func(topic string, id segment.TopicID, fp kgo.FetchPartition)) {
	fetches.EachTopic(func(ft kgo.FetchTopic) {
		for _, fp := range ft.Partitions {
			if len(fp.Records) > 0 {
				f(ft.Topic, ft.TopicID, fp)
			}
		}
	})
}

// wakeOn calls wake when a message for the loop or a new request is there.
// The returned function waits for the goroutine, once ctx has ended.
func (c *Consumer) wakeOn(ctx context.Context, wake func()) (wait func()) {
	done := make(chan struct{})
	changed := c.deps.Reports.Changed()
	go func() {
		defer close(done)
		select {
		case <-changed:
			wake()
		case <-c.mail.bell:
			wake()
		case <-ctx.Done():
		}
	}()
	return func() { <-done }
}

// askProfileEnds finds out how far the profiles must be read before the events
// just fetched may be decorated: every profile acknowledged before one of them
// was produced lies below the ends as of now. They are asked for by name, so
// the topic must still be the one that the lanes read: the id is looked at
// afterwards.
func (c *Consumer) askProfileEnds(ctx context.Context) {
	var ask []int32
	for n, l := range c.lanes {
		for _, b := range l.waiting {
			if b.profEnd < 0 {
				ask = append(ask, n)
				break
			}
		}
	}
	// What comes meanwhile waits for the next question, unless somebody waits for it.
	if len(ask) == 0 || time.Since(c.endsAt) < askEvery && !c.isAwaited() {
		return
	}
	c.endsAt = time.Now()
	limit := requestLimit
	if c.endless { // the others are told at once
		limit = endlessLimit
	}
	lctx, lcancel := context.WithTimeout(ctx, limit)
	defer lcancel()
	topic := c.cfg.Topics.Profiles
	ends, err := kafka.ListOffsets(lctx, c.profiles, map[string][]int32{topic: ask}, kafka.AtEnd, kafka.HighWatermark)
	c.endless = err != nil
	if err != nil && ctx.Err() == nil {
		c.noEnds.Do(func() {
			c.log.Warn("cannot ask for the ends of profile partitions; the events of these lanes wait", "err", err)
		})
	}
	if len(ends[topic]) == 0 {
		return
	}
	rctx, cancel := context.WithTimeout(ctx, requestLimit) // of lctx nothing may be left
	defer cancel()
	infos, err := kafka.Describe(rctx, c.profiles, topic)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("cannot ask for the id of the profiles; the events wait", "err", err)
		}
		return
	}
	for _, n := range ask {
		l := c.lanes[n]
		if l.prof.id != segment.TopicID(infos[topic].ID) {
			c.remade(topic)
			return
		}
		end, ok := ends[topic][n]
		if !ok {
			continue
		}
		for _, b := range l.waiting {
			if b.profEnd < 0 {
				b.profEnd = end
			}
		}
	}
}

// waitLimit is the part of the memory budget for the fetched events of one lane
// that wait for their profiles.
func (c *Consumer) waitLimit() int64 { return c.bufferLimit() / 2 / int64(max(1, len(c.lanes))) }

// pauseStalled stops the fetching of events for lanes that have many waiting,
// until all those have been processed: a transaction that hangs on the profiles
// must not fill the memory.
func (c *Consumer) pauseStalled(now time.Time) {
	for n, l := range c.lanes {
		for _, b := range l.waiting {
			b.stay(now)
		}
		switch {
		case !l.paused && l.waitBytes > c.waitLimit():
			l.paused = true
			c.log.Info("no more events are fetched for a lane: too many wait for its profiles, or for a cut", "lane", n, "profiles_at", l.prof.next, "wanted", l.waiting[0].profEnd)
			c.events.PauseFetchPartitions(l.eventPartitions())
		case l.paused && l.waitBytes == 0:
			l.paused = false
			c.events.ResumeFetchPartitions(l.eventPartitions())
		}
	}
}

// probed is the last question about a partition: was anything left below want?
type probed struct {
	next, want int64
	at         time.Time
}

// again says whether to ask: what was asked a moment ago was answered then.
func (p *probed) again(next, want int64, now time.Time) bool {
	if next >= want || p.next == next && p.want == want && now.Sub(p.at) < probeSame {
		return false
	}
	*p = probed{next, want, now}
	return true
}

// probe asks by raw fetches about partitions that somebody waits for and that
// brought nothing: no record may be left below their end. Where one is, and the
// broker has not read it yet, the partition waits. All are asked at a time, and by
// the client that fetches nothing, whose requests queue behind no long poll: while a
// transaction is open upstream that may be every partition.
func (c *Consumer) probe(ctx context.Context, now time.Time) {
	type asker struct {
		past func(int64) // takes what was found out
		l    *lane
	}
	var ask []kafka.Question
	var askers []asker
	for _, l := range c.lanes {
		if l.lost || l.stage != ready && l.stage != catchingUp {
			continue
		}
		want := max(l.readyAt, c.lag.end(l.prof.topic, l.n))
		for _, b := range l.waiting {
			want = max(want, b.profEnd)
		}
		if l.prof.probed.again(l.prof.next, want, now) {
			ask = append(ask, kafka.Question{Topic: l.prof.topic, TopicID: l.prof.id, Partition: l.n, Next: l.prof.next, Compacted: true})
			askers = append(askers, asker{l.prof.moved, l})
		}
		if l.stage != ready || len(l.waiting) > 0 {
			continue
		}
		for _, in := range l.inputs {
			want := max(c.lag.end(in.stream.Topic, l.n), c.barrier(in))
			if in.probed.again(in.pos.Next, want, now) {
				ask = append(ask, kafka.Question{Topic: in.stream.Topic, TopicID: in.stream.ID, Partition: l.n, Next: in.pos.Next})
				askers = append(askers, asker{func(past int64) { in.pos.Next, in.pos.Epoch = past, 0 }, l})
			}
		}
	}
	for i, a := range kafka.ProbeAll(ctx, c.group, c.group, probeLimit, ask) {
		switch q := ask[i]; {
		case a.Err == nil && a.Past > q.Next:
			askers[i].past(a.Past)
			askers[i].l.touch(now)
		case errors.Is(a.Err, kerr.OffsetOutOfRange), errors.Is(a.Err, kerr.UnknownTopicID):
			c.fetchError(q.Topic, q.Partition, a.Err)
		}
	}
}

// fetchError logs what a client reports. What cannot be read is neither passed nor left out: it is fetched
// again, and the partition's lag ticks. An offset out of range, a topic made
// anew, lost data or a batch that unpacks to too much stops the lane: it is taken over
// anew, which tells why it cannot run.
func (c *Consumer) fetchError(topic string, n int32, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	c.failing = true
	c.log.Error("cannot fetch", "topic", topic, "partition", n, "offset", c.fetchOffset(topic, n), "err", err)
	var lost *kgo.ErrDataLoss
	var large *kgo.ErrDecompressTooLarge
	if errors.As(err, &large) {
		c.packed.Store(n, large)
	}
	switch {
	case errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.InconsistentTopicID):
		c.remade(topic)
	case errors.Is(err, kerr.OffsetOutOfRange) || errors.As(err, &lost) || large != nil:
		if l := c.lanes[n]; l != nil && (l.stage == ready || l.stage == catchingUp) {
			// The client has gone on already: what it brings beside this error may be of a log
			// that has grown again, and would take the position past that.
			l.lost = l.lost || lost != nil
			c.retakeLane(l)
		}
	}
}

// fetchOffset is where a partition is read next; -1: not here.
func (c *Consumer) fetchOffset(topic string, n int32) int64 {
	l := c.lanes[n]
	if l == nil || l.prof == nil {
		return -1
	}
	if topic == l.prof.topic {
		return l.prof.next
	}
	in := l.input(topic)
	if in == nil {
		return -1
	}
	next := in.pos.Next
	for _, b := range l.waiting {
		if b.in == in && len(b.records) > 0 {
			next = max(next, b.records[len(b.records)-1].Offset+1)
		}
	}
	return next
}
