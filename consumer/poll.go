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

const (
	pollRecords  = 10_000                 // the most records taken in one turn
	idleWait     = 100 * time.Millisecond // the longest turn without input
	profileWait  = 5 * time.Millisecond   // the turn's wait while lanes wait for profiles
	probeAfter   = 50 * time.Millisecond  // silence after which a raw fetch decides whether anything is left
	cutRetryMin  = 100 * time.Millisecond
	cutRetryMax  = 5 * time.Second
	touchEvery   = time.Minute // how often the profiles' markers say that they are current
	requestLimit = 10 * time.Second
)

// turnState is what the loop remembers between turns.
type turnState struct {
	silentAt time.Time // since when the polls have brought nothing
	probedAt time.Time
	cutAfter time.Time // not before: the last cut failed
	cutWait  time.Duration
}

// loop is the turn loop: it owns the lanes. Each turn polls, lets the lanes
// process what their profiles allow, and cuts if a cut is due.
func (c *Consumer) loop(ctx context.Context) error {
	t := &turnState{silentAt: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return c.finish(ctx)
		default:
		}
		for _, f := range c.mail.take() {
			if err := f(ctx); err != nil {
				return err
			}
		}
		if err := c.deps.Catalog.Err(); err != nil {
			return err
		}
		if err := c.turn(ctx, t); err != nil {
			return err
		}
	}
}

// finish is the orderly end: one last cut, within the grace.
func (c *Consumer) finish(ctx context.Context) error {
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeGrace)
	defer cancel()
	if err := c.cut(fctx); err != nil {
		c.log.Warn("the last cut failed; its events will be read again", "err", err)
	}
	return nil
}

func (c *Consumer) turn(ctx context.Context, t *turnState) error {
	c.readBarriers()
	moved, err := c.poll(ctx)
	if err != nil {
		return err
	}
	now := time.Now()
	if moved {
		t.silentAt = now
	}
	c.askProfileEnds(ctx)
	c.shareOut()
	if err := c.runLanes(now); err != nil {
		return err
	}
	if err := c.becomeReady(); err != nil {
		return err
	}
	c.pauseStalled()
	if !moved && now.Sub(t.silentAt) > probeAfter && now.Sub(t.probedAt) > probeAfter {
		t.probedAt = now
		if err := c.probe(ctx, now); err != nil {
			return err
		}
	}
	if err := c.touchProfiles(ctx, now); err != nil {
		return err
	}
	c.publish()
	c.retain(ctx, now)
	if now.After(t.cutAfter) && c.cutDue(now) {
		return c.tryCut(ctx, t)
	}
	return nil
}

// shareOut divides among the lanes what they have in common.
func (c *Consumer) shareOut() {
	for _, l := range c.lanes {
		l.hourLimit = max(1, hoursPerCut/len(c.lanes))
		if l.prof != nil {
			l.prof.cacheLimit = c.cfg.MemoryBytes / 5 / int64(len(c.lanes))
		}
	}
}

// touchProfiles notes which lanes have all profiles, and takes those over anew
// that have not had them for so long that deletions may be gone from the topic:
// that happens to a replica that runs, too, while it cannot reach the brokers.
func (c *Consumer) touchProfiles(ctx context.Context, now time.Time) error {
	var stale []int32
	for n, l := range c.lanes {
		if l.prof == nil {
			continue
		}
		age := now.Sub(l.prof.current)
		if age < min(touchEvery, c.cfg.ProfileStale/4) {
			continue
		}
		switch {
		case c.lag.reached(l.prof.topic, n, l.prof.next):
			if err := l.prof.touch(now); err != nil {
				return c.db.Damaged(err)
			}
		case age > c.cfg.ProfileStale:
			stale = append(stale, n)
		}
	}
	if len(stale) == 0 {
		return nil
	}
	c.log.Warn("profiles have not been current for too long and are read anew", "lanes", stale, "limit", c.cfg.ProfileStale)
	return c.retake(ctx, stale)
}

// tryCut cuts; a cut that failed is tried again after a while.
func (c *Consumer) tryCut(ctx context.Context, t *turnState) error {
	err := c.cut(ctx)
	var f fatal
	switch {
	case err == nil:
		t.cutWait = 0
		c.publish()
		return nil
	case errors.As(err, &f):
		return err
	case ctx.Err() != nil:
		// The last cut must not commit again what this one perhaps has.
		c.retakeUndecided(ctx, err)
		return nil
	default:
		c.log.Warn("a cut failed and is tried again", "err", err)
		c.retakeUndecided(ctx, err)
	}
	t.cutWait = min(max(2*t.cutWait, cutRetryMin), cutRetryMax)
	t.cutAfter = time.Now().Add(t.cutWait)
	return nil
}

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
	if !full {
		fetches := c.events.PollRecords(eventsCtx, pollRecords)
		fetches.EachError(func(topic string, p int32, ferr error) { c.fetchError(topic, p, ferr) })
		eachPartition(fetches, func(topic string, id segment.TopicID, fp kgo.FetchPartition) {
			if l := c.lanes[fp.Partition]; l != nil && l.stage == ready {
				moved = true
				delete(c.told, kafkaPartition{topic, fp.Partition})
				in := l.input(topic)
				if in.stream.ID != id {
					c.remade(topic)
					return
				}
				l.wait(newBatch(in, fp.Records))
			}
		})
	}
	fetches := c.profiles.PollRecords(profilesCtx, pollRecords)
	fetches.EachError(func(topic string, p int32, ferr error) { c.fetchError(topic, p, ferr) })
	// A partition may be there twice, when it has moved to another broker.
	got := make(map[*lane][]*kgo.Record)
	eachPartition(fetches, func(topic string, id segment.TopicID, fp kgo.FetchPartition) {
		if l := c.lanes[fp.Partition]; l != nil && (l.stage == ready || l.stage == catchingUp) {
			moved = true
			delete(c.told, kafkaPartition{topic, fp.Partition})
			if l.prof.id != id {
				c.remade(topic)
				return
			}
			got[l] = append(got[l], fp.Records...)
		}
	})
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
	if len(ask) == 0 {
		return
	}
	rctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	topic := c.cfg.Topics.Profiles
	ends, err := kafka.ListOffsets(rctx, c.profiles, map[string][]int32{topic: ask}, kafka.AtEnd, kafka.HighWatermark)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("cannot ask for the ends of the profiles; the events wait", "err", err)
		}
		return
	}
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
		for _, b := range l.waiting {
			if b.profEnd < 0 {
				b.profEnd = ends[topic][n]
			}
		}
	}
}

// runLanes lets the lanes process, in parallel.
func (c *Consumer) runLanes(now time.Time) error {
	var eg errgroup.Group
	eg.SetLimit(runtime.GOMAXPROCS(0))
	for _, l := range c.lanes {
		if l.stage == ready && len(l.waiting) > 0 {
			eg.Go(func() error { return l.run(now) })
		}
	}
	if err := eg.Wait(); err != nil {
		return c.db.Damaged(err)
	}
	return nil
}

// waitLimit is the part of the memory budget for the fetched events of one lane
// that wait for their profiles.
func (c *Consumer) waitLimit() int64 { return c.bufferLimit() / 2 / int64(max(1, len(c.lanes))) }

// pauseStalled stops the fetching of events for lanes that have many waiting,
// until all those have been processed: a transaction that hangs on the profiles
// must not fill the memory.
func (c *Consumer) pauseStalled() {
	for n, l := range c.lanes {
		switch {
		case !l.paused && l.waitBytes > c.waitLimit():
			l.paused = true
			c.log.Info("no more events are fetched for a lane: too many wait for its profiles", "lane", n, "profiles_at", l.prof.next, "wanted", l.waiting[0].profEnd)
			c.events.PauseFetchPartitions(l.eventPartitions())
		case l.paused && l.waitBytes == 0:
			l.paused = false
			c.events.ResumeFetchPartitions(l.eventPartitions())
		}
	}
}

// probe asks by raw fetches about partitions that somebody waits for and that
// brought nothing: no record may be left below their end.
func (c *Consumer) probe(ctx context.Context, now time.Time) error {
	for _, l := range c.lanes {
		if l.stage != ready && l.stage != catchingUp {
			continue
		}
		want := l.readyAt
		for _, b := range l.waiting {
			want = max(want, b.profEnd)
		}
		want = max(want, c.lag.end(l.prof.topic, l.n))
		if l.prof.next < want {
			past, err := c.probeOne(ctx, c.profiles, l.prof.topic, l.prof.id, l.n, l.prof.next)
			if err == nil && past > l.prof.next {
				l.prof.moved(past)
				l.touch(now)
			}
		}
		if l.stage != ready || len(l.waiting) > 0 {
			continue
		}
		for _, in := range l.inputs {
			if want := max(c.lag.end(in.stream.Topic, l.n), c.barrier(in)); in.pos.Next < want {
				past, err := c.probeOne(ctx, c.events, in.stream.Topic, in.stream.ID, l.n, in.pos.Next)
				if err == nil && past > in.pos.Next {
					in.pos.Next = past
					l.touch(now)
				}
			}
		}
	}
	return nil
}

func (c *Consumer) probeOne(ctx context.Context, cl *kgo.Client, topic string, id [16]byte, n int32, next int64) (int64, error) {
	pctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	past, err := kafka.Probe(pctx, cl, topic, id, n, next)
	if errors.Is(err, kerr.OffsetOutOfRange) || errors.Is(err, kerr.UnknownTopicID) {
		c.fetchError(topic, n, err)
	}
	return past, err
}

// kafkaPartition is a partition of a topic by name.
type kafkaPartition struct {
	topic string
	n     int32
}

// fetchError logs what a client reports, once until the partition brings
// something. What cannot be read is neither passed nor left out: it is fetched
// again, and the partition's lag ticks. An offset out of range, a topic made
// anew or lost data stops the lane: it is taken over anew, which tells why it
// cannot run.
func (c *Consumer) fetchError(topic string, n int32, err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	c.failing = true
	if at := (kafkaPartition{topic, n}); c.told[at] != err.Error() {
		c.told[at] = err.Error()
		c.log.Error("cannot fetch", "topic", topic, "partition", n, "offset", c.fetchOffset(topic, n), "err", err)
	}
	var lost *kgo.ErrDataLoss
	switch {
	case errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.InconsistentTopicID):
		c.remade(topic)
	case errors.Is(err, kerr.OffsetOutOfRange) || errors.As(err, &lost):
		if l := c.lanes[n]; l != nil && (l.stage == ready || l.stage == catchingUp) {
			c.mail.post(func(ctx context.Context) error {
				if c.lanes[n] != l {
					return nil
				}
				return c.retake(ctx, []int32{n})
			})
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

// held is what the lanes hold in memory until the next cut.
func (c *Consumer) held() int64 {
	var n int64
	for _, l := range c.lanes {
		n += l.bytes()
	}
	return n
}

// full says that nothing more may be processed until the next cut.
func (c *Consumer) full() bool {
	for _, l := range c.lanes {
		if l.full() {
			return true
		}
	}
	return c.held() >= c.bufferLimit()
}

// bufferLimit is the part of the memory budget for what waits for a cut;
// sealing it takes about as much again.
func (c *Consumer) bufferLimit() int64 { return c.cfg.MemoryBytes / 4 }

// cutDue says whether it is time for a cut: the buffers are full, something has
// waited for the flush interval, a new lane's ends must be written down, or a
// request waits for what has been processed.
func (c *Consumer) cutDue(now time.Time) bool {
	if c.full() {
		return true
	}
	due, behind := false, false
	for _, l := range c.lanes {
		if l.stage != ready && l.stage != catchingUp || !l.dirty {
			continue
		}
		if len(l.first) > 0 || now.Sub(l.dirtyFrom) >= c.cfg.FlushInterval {
			return true
		}
		for _, in := range l.inputs {
			if b := c.barrier(in); in.committed.Next < b {
				if in.pos.Next >= b {
					due = true
				} else {
					behind = true
				}
			}
		}
	}
	// While another lane of ours is still on its way to the barrier, one cut
	// for both is better than two.
	return due && (!behind || now.Sub(c.lastCut) > barrierPatience)
}

// barrierPatience is how long a lane that has reached a barrier waits for
// others of the replica that have not.
const barrierPatience = 100 * time.Millisecond

// barrier is the greatest end below which a pending request needs in to be
// committed.
func (c *Consumer) barrier(in *input) int64 {
	return c.barriers[partitionOf{in.stream.ID, in.partition}]
}

type partitionOf struct {
	topic     [16]byte
	partition int32
}

// readBarriers takes the ends of the pending requests.
func (c *Consumer) readBarriers() {
	clear(c.barriers)
	for _, r := range c.deps.Reports.Pending() {
		for _, e := range r.Request.Question.Barrier {
			k := partitionOf{e.TopicID, e.Partition}
			c.barriers[k] = max(c.barriers[k], e.Offset)
		}
	}
}
