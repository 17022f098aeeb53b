package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// The named steps of a takeover, in their order; Config.Hook is called as each
// begins, for every lane, with StepTaken after the last.
const (
	StepStable   = "takeover/stable"   // ask whether a transaction with the lane's offsets is undecided
	StepFence    = "takeover/fence"    // if one is: fence the writer of the position records, and begin anew
	StepCatalog  = "takeover/catalog"  // read the catalog past its high watermark
	StepEnds     = "takeover/ends"     // ids, starts and ends of the topics
	StepProfiles = "takeover/profiles" // from where the profiles are read; the local ones dropped if they do not fit
	StepRebuild  = "takeover/rebuild"  // deduplication entries up to the position records
	StepCatchUp  = "takeover/catch-up" // begin to read the profiles; the first ends wait for a cut
	StepReady    = "takeover/ready"    // begin to read the events
	StepTaken    = "takeover/taken"
)

// stoppedError says that a lane cannot run until somebody acts.
type stoppedError struct {
	why  string
	anew []string // topics that were made anew and are not adopted
	mute bool     // no signs tell when it may run again
}

func (e *stoppedError) Error() string { return e.why }

// retryStopped is how often a stopped lane looks for signs that it may run again,
// triesStopped after how many looks without any it tries all the same. Hundreds of
// lanes may be stopped together, and a try asks the brokers for the metadata of all
// topics.
const (
	retryStopped = 2 * time.Second
	triesStopped = 15
)

// signs are all that can let a stopped lane go on: the topics as they were last seen,
// and what the catalog says of them and of the lane.
func (c *Consumer) signs(n int32) string {
	said := fmt.Sprint(c.lastSeen.Load())
	for _, t := range c.inputs() {
		ids := c.deps.Catalog.Adopted(t)
		said += fmt.Sprint(ids, c.deps.Catalog.GivenUp(t, n))
		if len(ids) > 0 {
			pos, _ := c.deps.Catalog.Position(ids[len(ids)-1], n)
			said += fmt.Sprint(pos.Next)
		}
	}
	return said
}

// takeOver makes a lane ready to read: it finds out where it stands and brings
// the local deduplication state there. It tries until ctx ends; the first
// reason that an operator must remove is reported at once through stoppedAs.
func (c *Consumer) takeOver(ctx context.Context, n int32, stoppedAs func(*stoppedError)) (*lane, error) {
	told, fenced := "", make(map[string]bool)
	again := backoff.RetryAfter(int(retryStopped / time.Second))
	signs, looks := "", 0 // as of the last try, if that was stopped, and since
	return backoff.Retry(ctx, func() (*lane, error) {
		now := c.signs(n)
		if looks++; now == signs && looks < triesStopped {
			return nil, again
		}
		signs, looks = "", 0
		l, err := c.prepare(ctx, n, fenced)
		var stop *stoppedError
		switch {
		case err == nil:
			return l, nil
		case ctx.Err() != nil:
			return nil, backoff.Permanent(ctx.Err())
		case errors.As(err, &stop):
			c.log.Error("lane is stopped", "lane", n, "why", stop.why)
			if told != stop.why {
				told = stop.why
				stoppedAs(stop)
			}
			if !stop.mute {
				signs = now
			}
			return nil, again
		case c.deps.Catalog.Err() != nil:
			return nil, backoff.Permanent(err)
		default:
			told = ""
			level := slog.LevelWarn
			if damaged(err) {
				level = slog.LevelError
			}
			c.log.Log(ctx, level, "taking over a lane; trying again", "lane", n, "err", err)
			return nil, err
		}
	}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 5 * time.Second, RandomizationFactor: 0.2,
	}))
}

// damaged says that stored segments are damaged, or of another version: nothing but
// their repair, or an owner of that version, lets the lane go on, as duplicates would
// be kept.
func damaged(err error) bool {
	var corrupt *segment.CorruptError
	var version *segment.VersionError
	return errors.As(err, &corrupt) || errors.As(err, &version) || errors.Is(err, objects.ErrNotExist)
}

// prepare is one attempt; fenced are the writers that earlier ones have fenced.
func (c *Consumer) prepare(ctx context.Context, n int32, fenced map[string]bool) (*lane, error) {
	c.at(StepStable)
	if err := c.awaitStable(ctx, n, fenced); err != nil {
		return nil, err
	}
	c.at(StepCatalog)
	if err := c.deps.Catalog.CatchUp(ctx); err != nil {
		return nil, err
	}
	if err := c.onlyGroup(ctx, n); err != nil {
		return nil, err
	}
	if v, ok := c.packed.LoadAndDelete(n); ok { // the next attempt fetches it again
		large := v.(*kgo.ErrDecompressTooLarge)
		advice := fmt.Sprintf("if it is to be given up, delete the records below offset %d and run `lockstitch topics adopt`", large.NextOffset)
		if large.Topic == c.cfg.Topics.Profiles {
			advice = "produce the profiles in it anew, in smaller batches; it is read over when the topic has been compacted"
		}
		return nil, &stoppedError{why: fmt.Sprintf("the batch at offset %d of %s/%d unpacks to more than %d MiB and is not read: %s", large.Offset, large.Topic, n, kafka.MaxBatchBytes>>20, advice)}
	}
	c.at(StepEnds)
	infos, err := kafka.Describe(ctx, c.deps.Catalog.Client(), c.inputs()...)
	if err != nil {
		return nil, err
	}
	parts := make(map[string][]int32)
	for _, t := range c.inputs() {
		parts[t] = []int32{n}
	}
	starts, err := kafka.ListOffsets(ctx, c.deps.Catalog.Client(), parts, kafka.AtStart, kafka.HighWatermark)
	if err != nil {
		return nil, err
	}
	// The events' ends are read before the profiles': a profile produced
	// before an event below the first end is below the second.
	evParts := make(map[string][]int32)
	for _, t := range c.cfg.Topics.Events {
		evParts[t] = []int32{n}
	}
	ends, err := kafka.ListOffsets(ctx, c.deps.Catalog.Client(), evParts, kafka.AtEnd, kafka.HighWatermark)
	if err != nil {
		return nil, err
	}
	profTopic := c.cfg.Topics.Profiles
	profEnds, err := kafka.ListOffsets(ctx, c.deps.Catalog.Client(), map[string][]int32{profTopic: {n}}, kafka.AtEnd, kafka.HighWatermark)
	if err != nil {
		return nil, err
	}
	state := c.db.Lane(n)
	var m *local.ProfileMarker // nil: there is none
	if got, ok, err := state.ProfileMarker(); err != nil {
		return nil, c.db.Damaged(err)
	} else if ok {
		m = &got
	}
	proofs, err := c.prove(ctx, n, infos, starts, m)
	if err != nil {
		return nil, err
	}
	// Offsets were asked for by name: of the topics described only if those
	// still have their names.
	again, err := kafka.Describe(ctx, c.deps.Catalog.Client(), c.inputs()...)
	if err != nil {
		return nil, err
	}
	if err := c.adopted(infos, again); err != nil {
		return nil, err
	}
	l := &lane{
		n: n, buf: segment.NewBuffer(),
		dd:      newDedup(state, c.cfg.DedupHorizon.Milliseconds(), &c.blooms),
		dec:     event.Decoder{DefaultAccount: c.cfg.DefaultAccount, Accounts: c.accounts},
		readyAt: profEnds[profTopic][n],
	}
	l.routeBy(infos[profTopic].Partitions)
	for _, t := range c.cfg.Topics.Events {
		in, err := c.prepareInput(l, t, segment.TopicID(infos[t].ID), starts[t][n], ends[t][n], proofs[t], segment.TopicID(infos[profTopic].ID), profEnds[profTopic][n])
		if err != nil {
			return nil, err
		}
		l.inputs = append(l.inputs, in)
	}
	c.at(StepProfiles)
	if err := c.prepareProfiles(ctx, l, m, segment.TopicID(infos[profTopic].ID), starts[profTopic][n], profEnds[profTopic][n], proofs[profTopic]); err != nil {
		return nil, err
	}
	c.at(StepRebuild)
	if err := c.prepareDedup(ctx, l, state); err != nil {
		l.dd.release()
		return nil, err
	}
	return l, nil
}

// adopted says whether the topics are those that the catalog knows.
func (c *Consumer) adopted(infos, again map[string]kafka.TopicInfo) error {
	stop := &stoppedError{}
	for _, t := range c.inputs() {
		ids := c.deps.Catalog.Adopted(t)
		id := segment.TopicID(infos[t].ID)
		if c.past(t, id) {
			return fmt.Errorf("a broker says that topic %s has the id %s, which it had before it was made anew", t, id)
		}
		if len(ids) == 0 || ids[len(ids)-1] != id {
			stop.anew = append(stop.anew, t)
			stop.why += fmt.Sprintf("topic %s was made anew (its id is now %s); ", t, id)
		}
		if infos[t].ID != again[t].ID {
			return fmt.Errorf("topic %s was made anew just now", t)
		}
	}
	if len(stop.anew) == 0 {
		return nil
	}
	stop.why += "if that is meant, run `lockstitch topics adopt`"
	return stop
}

// prove asks the logs of a lane's inputs whether they have what was read of them: of the
// events what lies below the position, of the profiles what lies below the local marker.
func (c *Consumer) prove(ctx context.Context, n int32, infos map[string]kafka.TopicInfo, starts map[string]map[int32]int64, m *local.ProfileMarker) (map[string]proof, error) {
	ps := make(proofs)
	for _, t := range c.inputs() {
		id := segment.TopicID(infos[t].ID)
		p := &proof{}
		if t != c.cfg.Topics.Profiles {
			pos, _ := c.deps.Catalog.Position(id, n)
			p.below, p.epoch = pos.Next, pos.Epoch
		} else if m != nil && m.TopicID == id {
			p.below, p.epoch = m.Next, m.Epoch
		}
		if p.below <= starts[t][n] {
			p.epoch = 0 // nothing of it need be there
		}
		ps.add(t, n, p)
	}
	if err := ps.ask(ctx, c.deps.Catalog.Client()); err != nil {
		return nil, err
	}
	out := make(map[string]proof)
	for t, of := range ps {
		out[t] = *of[n]
	}
	return out, nil
}

// prepareInput finds out where an event partition stands: at its position
// record, or, where there is none, at the start of its log.
func (c *Consumer) prepareInput(l *lane, topic string, id segment.TopicID, start, end int64, read proof, profID segment.TopicID, profEnd int64) (*input, error) {
	in := &input{
		stream:    &segment.Stream{Topic: topic, Incarnation: len(c.deps.Catalog.Adopted(topic)) - 1, ID: id},
		partition: l.n,
		proof:     read,
	}
	pos, ok := c.deps.Catalog.Position(id, l.n)
	if !ok {
		pos = catalog.Position{Topic: topic, TopicID: id, Partition: l.n, Next: start}
	}
	l.claim = l.claim || pos.Group != "" && pos.Group != c.cfg.Group
	in.committed, in.from = pos, pos.Cut
	switch given := c.deps.Catalog.GivenUp(topic, l.n); {
	case pos.Next > end:
		return nil, &stoppedError{why: fmt.Sprintf("offset %d of %s/%d, where reading goes on, is beyond the end of the log, %d: the log was truncated; its offsets are given out again, so the topic must be made anew and adopted", pos.Next, topic, l.n, end)}
	case read.cut:
		return nil, &stoppedError{why: fmt.Sprintf("the log of %s/%d was cut off at offset %d and has grown again: what stands there now is not what was read up to offset %d, and what Kafka acknowledged in its place would be passed over; make the topic anew and adopt it, or, if what stands there is to be given up, delete the records below offset %d", topic, l.n, read.left, pos.Next, pos.Next)}
	case pos.Next < start && given < start:
		return nil, &stoppedError{why: fmt.Sprintf("events of %s/%d were removed before they were read: reading goes on at offset %d, the log begins at %d; if they are to be given up, run `lockstitch topics adopt`", topic, l.n, pos.Next, start)}
	case pos.Next < start:
		c.log.Warn("events that were removed before they were read are given up", "topic", topic, "partition", l.n, "from", pos.Next, "to", start)
		pos.Next, pos.Epoch = start, 0
		l.dirty = true
	}
	in.pos = pos
	if !ok {
		in.committed.Next = -1 // nothing stands in the catalog yet
	}
	if in.committed.Next == end {
		in.atEnd(c.kafkaTime(time.Now()))
	}
	if newest, ok := c.deps.Catalog.NewestMarks(id, l.n); ok {
		in.marks.hours = []catalog.Marks{newest}
	}
	in.first, ok = c.deps.Catalog.FirstEnds(id, l.n)
	if !ok {
		in.first = catalog.FirstEnds{Topic: topic, TopicID: id, Partition: l.n, EventEnd: end, ProfileID: profID, ProfileEnd: profEnd}
		l.first = append(l.first, in.first)
	}
	return in, nil
}

// prepareProfiles decides from where the profile partition is read; m is the lane's local
// marker.
func (c *Consumer) prepareProfiles(ctx context.Context, l *lane, m *local.ProfileMarker, id segment.TopicID, start, end int64, read proof) error {
	state := c.db.Lane(l.n)
	l.prof = &profiles{
		topic: c.cfg.Topics.Profiles, id: id, lane: state,
		cache: make(map[string]*history),
	}
	from := start
	if pos, ok := c.deps.Catalog.Position(id, l.n); ok {
		l.prof.deadTo = pos.Next
		from = max(from, pos.Next)
	}
	if m != nil {
		stale := c.staleProfiles(*m, time.Now())
		pruned, err := c.prunedTooFar(ctx, l, m.Pruned)
		if err != nil {
			return err
		}
		if m.TopicID == id && m.Next >= start && m.Next <= end && !read.cut && !stale && !pruned {
			// Not from the marker where it is ahead of the position record: what was
			// malformed in between has not been dead-lettered yet. Versions that are
			// there already are written again, which changes nothing.
			l.prof.next, l.prof.current, l.prof.pruned = min(m.Next, from), m.At, m.Pruned
			l.prof.logTime, l.prof.proof = m.LogTime, read
			if l.prof.next == m.Next {
				l.prof.epoch = m.Epoch
			}
			return nil
		}
		c.log.Info("reading the profiles anew", "lane", l.n, "topic_id_changed", m.TopicID != id, "stale", stale, "pruned", pruned, "out_of_range", m.Next < start || m.Next > end, "cut_off", read.cut)
	}
	l.prof.next, l.prof.current = start, time.Now()
	if err := state.ResetProfiles(); err != nil {
		return c.db.Damaged(err)
	}
	l.prof.load = state.LoadProfiles(end - start)
	return nil
}

// prunedTooFar tells whether events are to come that are older than those for which
// versions were kept: an event topic that is new here may bring them. One that was
// long quiet has only later ones, which the broker's time index tells.
func (c *Consumer) prunedTooFar(ctx context.Context, l *lane, pruned int64) (bool, error) {
	if pruned <= max(0, l.floor()) {
		return false, nil
	}
	for _, in := range l.inputs {
		if l.backlog(in, in.committed.Next) {
			return true, nil
		}
		if pruned <= in.since()-clockSkew {
			continue
		}
		at, err := kafka.ListOffsets(ctx, c.deps.Catalog.Client(), map[string][]int32{in.stream.Topic: {in.partition}}, pruned+clockSkew, kafka.HighWatermark)
		if err != nil {
			return false, err
		}
		if first := at[in.stream.Topic][in.partition]; first < 0 || first > in.committed.Next {
			return true, nil
		}
	}
	return false, nil
}

// staleProfiles tells whether deletions may be gone from the topic since the local
// profiles were current.
func (c *Consumer) staleProfiles(m local.ProfileMarker, now time.Time) bool {
	return c.profileAge(m, now) > c.cfg.ProfileStale
}

// profileAge is how long ago the local profiles were current. A clock that was ahead
// then or is behind now hides time that has passed, such as that of a machine that has
// just started: the clock that says more is believed.
func (c *Consumer) profileAge(m local.ProfileMarker, now time.Time) time.Duration {
	age := now.Sub(m.At)
	if m.LogTime > 0 {
		age = max(age, time.Duration(c.deps.Catalog.LogTime()-m.LogTime)*time.Millisecond)
	}
	return age
}

// awaitStable fails while a transaction of an earlier owner of the lane can still
// commit: its offsets are part of every cut's transaction, and the broker does not
// answer for them while one is undecided (KIP-447). Whoever wrote the lane's
// position records is fenced, which ends its transaction at once. Nothing would be
// doubled without this, since the catalog, read next past its high watermark, makes
// wait for every open transaction, but then until that one's timeout. It is fenced
// once: should it live and own other lanes, it has begun anew by the next attempt.
func (c *Consumer) awaitStable(ctx context.Context, n int32, fenced map[string]bool) error {
	stable, err := c.offsetsStable(ctx, n)
	if err != nil || stable {
		return err
	}
	if id := c.lastWriter(n, fenced); id != "" {
		c.at(StepFence)
		if err := c.fence(ctx, id); err != nil {
			c.log.Warn("cannot end the transaction of the lane's last owner; waiting for its timeout", "lane", n, "transactional_id", id, "err", err)
		} else {
			fenced[id] = true
		}
	}
	return fmt.Errorf("offsets of lane %d are part of an undecided transaction", n)
}

// lastWriter is the transactional id of another replica by which position records of
// a lane were written, and which is not fenced yet; empty if there is none.
func (c *Consumer) lastWriter(n int32, fenced map[string]bool) string {
	for _, t := range c.inputs() {
		ids := c.deps.Catalog.Adopted(t)
		if len(ids) == 0 {
			continue
		}
		if pos, ok := c.deps.Catalog.Position(ids[len(ids)-1], n); ok && pos.Writer != "" && pos.Writer != c.writer && !fenced[pos.Writer] {
			return pos.Writer
		}
	}
	return ""
}

func (c *Consumer) offsetsStable(ctx context.Context, n int32) (bool, error) {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = c.cfg.Group
	for _, t := range c.inputs() {
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = t, []int32{n}
		g.Topics = append(g.Topics, gt)
	}
	req.Groups = append(req.Groups, g)
	for _, shard := range c.deps.Catalog.Client().RequestSharded(ctx, req) {
		if shard.Err != nil {
			return false, fmt.Errorf("fetching the group's offsets: %w", shard.Err)
		}
		resp := shard.Resp.(*kmsg.OffsetFetchResponse)
		for _, g := range resp.Groups {
			if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
				return false, fmt.Errorf("fetching the group's offsets: %w", err)
			}
			for _, t := range g.Topics {
				for _, p := range t.Partitions {
					err := kerr.ErrorForCode(p.ErrorCode)
					if errors.Is(err, kerr.UnstableOffsetCommit) {
						return false, nil
					}
					if err != nil {
						return false, fmt.Errorf("fetching the group's offsets: %s/%d: %w", t.Topic, p.Partition, err)
					}
				}
			}
		}
	}
	return true, nil
}

// fence initialises another replica's transactional id, which aborts what it
// has open; should it live, it is told so at its next commit and begins anew.
func (c *Consumer) fence(ctx context.Context, id string) error {
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, c.cfg.Kafka...),
		kgo.TransactionalID(id), kgo.TransactionTimeout(c.cfg.TransactionTimeout), kgo.MaxVersions(kversion.Stable()))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	_, _, err = cl.ProducerID(ctx)
	return err
}
