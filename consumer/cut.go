package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/catalog"
	"lockstitch/state/segment"
)

// The named steps of a cut, in their order; Config.Hook is called as each
// begins, with StepDone after the last.
const (
	StepUpload  = "cut/upload"  // seal the buffers and upload the objects
	StepBegin   = "cut/begin"   // begin the transaction
	StepProduce = "cut/produce" // segment records and tombstones, position records, minute marks, dead letters
	StepOffsets = "cut/offsets" // the group's offsets, under its generation
	StepCommit  = "cut/commit"  // end the transaction
	StepLocal   = "cut/local"   // deduplication entries and markers to Pebble
	StepDone    = "cut/done"
)

// uploadLimit is the longest that an upload may lie before its transaction
// begins: the sweeper takes uncommitted objects much later than this.
const uploadLimit = 15 * time.Minute

// errUndecided says that it is not known whether a cut has committed.
var errUndecided = errors.New("the outcome of the transaction is not known")

// cutState lets a rebalance interrupt the cut under way.
type cutState struct {
	mu     sync.Mutex
	cancel context.CancelFunc
}

func (s *cutState) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.cancel = cancel
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		s.cancel = nil
		s.mu.Unlock()
		cancel()
	}
}

// interruptAfter cancels the cut that is under way when d has passed. The
// returned function calls that off.
func (s *cutState) interruptAfter(d time.Duration) func() {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		for ; ; d = max(d, time.Second) { // another one may begin before the loop comes to the command
			select {
			case <-time.After(d):
			case <-ctx.Done():
				return
			}
			s.mu.Lock()
			if s.cancel != nil && ctx.Err() == nil {
				s.cancel()
			}
			s.mu.Unlock()
		}
	}()
	return stop
}

// cut makes everything that the lanes have processed durable and commits it:
// the one ordering function of the consumer. Objects first, then one Kafka
// transaction with the catalog's records, the dead letters and the group's
// offsets, then the local state.
//
// It returns nil if the cut has committed. After errUndecided (only when ctx
// ended before it could be decided) and errOvertaken the lanes must be taken over anew; after
// any other error nothing was committed, the lanes are unchanged, and the cut
// may be tried again.
func (c *Consumer) cut(ctx context.Context) error {
	lanes := c.cuttable()
	if len(lanes) == 0 {
		return nil
	}
	if err := c.overtaken(lanes); err != nil {
		return err
	}
	ctx, end := c.cutting.begin(ctx)
	defer end()
	begun := time.Now()
	id := ulid.Make().String()

	if err := c.deps.Catalog.SameTopic(ctx); err != nil { // else each attempt would upload in vain
		c.metrics.cutFailed(stageTransaction)
		return fmt.Errorf("cut: %w", err)
	}
	c.at(StepUpload)
	records, err := c.upload(ctx, id, lanes)
	if err != nil {
		c.metrics.cutFailed(stageUpload)
		return fmt.Errorf("cut: %w", err)
	}
	if time.Since(begun) > uploadLimit {
		c.metrics.cutFailed(stageUpload)
		return fmt.Errorf("cut: the upload took %v, more than %v; uploading anew", time.Since(begun), uploadLimit)
	}
	committed, err := c.transact(ctx, lanes, records)
	if !committed {
		if err == nil {
			err = errors.New("aborted")
		}
		c.metrics.cutFailed(stageTransaction)
		if !errors.Is(err, errNothingBegun) {
			var rerr error
			if committed, rerr = c.resolve(ctx, id, lanes); rerr != nil {
				return fmt.Errorf("cut: %w: %w: %w", errUndecided, err, rerr)
			}
		}
		if !committed {
			return fmt.Errorf("cut: %w", err)
		}
		c.log.Info("a cut has committed although its reply was lost", "cut", id)
	}
	c.at(StepLocal)
	rows, now := 0, c.kafkaTime(time.Now())
	for _, l := range lanes {
		rows += l.buf.Rows()
		done := l.retaining
		if err := l.commit(c.bufferLimit() / 4 / int64(len(c.lanes))); err != nil {
			return fatal{c.db.Damaged(err)}
		}
		for _, in := range l.inputs {
			if c.lag.reached(in.stream.Topic, l.n, in.committed.Next) {
				in.atEnd(now)
			}
		}
		if done != nil {
			c.retained(l, done)
		}
		c.forgotten(l)
		if l.merged != nil { // else it was not in this cut
			c.replaced(l)
		}
	}
	c.lastCut = time.Now()
	c.metrics.cuts.Inc()
	c.metrics.cutsGoOn()
	c.metrics.cutSeconds.Observe(time.Since(begun).Seconds())
	c.log.Debug("cut", "id", id, "lanes", len(lanes), "rows", rows, "seconds", time.Since(begun).Seconds())
	c.at(StepDone)
	return nil
}

// fatal marks an error after which the replica cannot go on.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

func (c *Consumer) at(step string) {
	if c.cfg.Hook != nil {
		c.cfg.Hook(step)
	}
}

// cuttable lists the lanes that have something to commit.
func (c *Consumer) cuttable() []*lane {
	var out []*lane
	for _, l := range c.lanes {
		if (l.stage == ready || l.stage == catchingUp) && l.dirty {
			out = append(out, l)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].n < out[j].n })
	return out
}

// upload seals the lanes' buffers and stores the objects, each under a name
// that is never used again, and returns the records that commit them together
// with those of the lanes' positions, minute marks and dead letters, and of what
// retention removes and merging replaces.
func (c *Consumer) upload(ctx context.Context, id string, lanes []*lane) ([]*kgo.Record, error) {
	var records []*kgo.Record
	add := func(r *kgo.Record, err error) error {
		if err == nil {
			records = append(records, r)
		}
		return err
	}
	bufs := make([]*segment.Buffer, 0, len(lanes))
	for _, l := range lanes {
		bufs = append(bufs, l.buf)
	}
	topic := c.cfg.Topics.Catalog
	err := segment.Seal(bufs, func(o segment.Object) error {
		seg, err := c.store(ctx, o)
		if err != nil {
			return err
		}
		seg.Cut = id
		return add(seg.Record(topic))
	})
	if err != nil {
		return nil, err
	}
	for _, l := range lanes {
		if l.retaining != nil {
			rs, err := l.retaining.records(topic)
			if err != nil {
				return nil, err
			}
			records = append(records, rs...)
		}
		rs, err := c.mergedRecords(l, id)
		if err != nil {
			return nil, err
		}
		records = append(records, rs...)
		for _, m := range c.unreadMarks(l, unreadPerCut) {
			records = append(records, m.Tombstone(topic))
		}
		for i := range l.dead {
			if err := add(l.dead[i].record(ctx, c.cfg.Topics.DeadLetters, c.deps.Store)); err != nil {
				return nil, err
			}
		}
		for i := range l.first {
			if err := add(l.first[i].Record(topic)); err != nil {
				return nil, err
			}
		}
		for _, in := range l.inputs {
			rs, err := c.markRecords(in)
			if err != nil {
				return nil, err
			}
			records = append(records, rs...)
		}
		for _, p := range l.positions() {
			p.Cut, p.Writer, p.Group = id, c.writer, c.cfg.Group
			if err := add(p.Record(topic)); err != nil {
				return nil, err
			}
		}
	}
	return records, nil
}

// store uploads an object under a name that is never used again, and answers its
// record, to be completed.
func (c *Consumer) store(ctx context.Context, o segment.Object) (*catalog.Segment, error) {
	s := &catalog.Segment{ID: ulid.Make().String(), Bytes: int64(len(o.Data)), LogTime: o.LogTime, Slices: o.Slices}
	s.Object = fmt.Sprintf("segments/%s/%s", o.FirstHour.UTC().Format("2006-01-02T15"), s.ID)
	sum := sha256.Sum256(o.Data)
	s.SHA256 = hex.EncodeToString(sum[:])
	if err := c.deps.Store.Put(ctx, s.Object, o.Data); err != nil {
		return nil, fmt.Errorf("storing %s: %w", s.Object, err)
	}
	c.metrics.segmentBytes.Add(float64(len(o.Data)))
	return s, nil
}

// positions are the lane's position records as of now. That of the profiles
// never falls: while they are read anew it stays where malformed ones have been
// dead-lettered to.
func (l *lane) positions() []*catalog.Position {
	var out []*catalog.Position
	for _, in := range l.inputs {
		p := in.pos
		out = append(out, &p)
	}
	return append(out, &catalog.Position{Topic: l.prof.topic, TopicID: l.prof.id, Partition: l.n, Next: max(l.prof.next, l.prof.deadTo)})
}

// errNothingBegun says that a transaction failed before anything of it can have
// reached a broker, or was aborted for certain.
var errNothingBegun = errors.New("nothing was committed")

// transact commits the records and the group's offsets in one transaction.
func (c *Consumer) transact(ctx context.Context, lanes []*lane, records []*kgo.Record) (committed bool, err error) {
	c.at(StepBegin)
	// Again, since an upload may take minutes: the producer goes by name, and what it
	// writes would be all that a catalog made anew has.
	if err := c.deps.Catalog.SameTopic(ctx); err != nil {
		return false, fmt.Errorf("%w: %w", errNothingBegun, err)
	}
	// The broker may refuse the transactional id, or the transaction's timeout. Then
	// nothing is in doubt, and it is said at each attempt.
	if _, _, err := c.producer.ProducerID(ctx); err != nil {
		return false, c.begunAnew(fmt.Errorf("transactional id %s, with a timeout of %v: %w", c.writer, c.cfg.TransactionTimeout, err))
	}
	if err := c.producer.BeginTransaction(); err != nil {
		return false, c.begunAnew(err)
	}
	c.at(StepProduce)
	if err = c.produce(ctx, records); err != nil && ctx.Err() != nil {
		// Records are perhaps still on their way, which an abort would wait for.
		// Nobody ends this transaction, and the producer that takes the place of
		// this one fences it.
		return false, c.begunAnew(ctx.Err())
	}
	if err == nil {
		c.at(StepOffsets)
		err = c.commitOffsets(ctx, lanes)
	}
	if err != nil {
		// Not with ctx: an abort that is called off leaves the client in doubt.
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.TransactionTimeout)
		defer cancel()
		if aerr := c.producer.EndTransaction(actx, kgo.TryAbort); aerr != nil {
			return false, errors.Join(err, aerr)
		}
		if errors.Is(err, kerr.UnknownTopicID) {
			// A topic was made anew, the dead letters: the client gives it up for good.
			return false, c.begunAnew(err)
		}
		return false, fmt.Errorf("%w: %w", errNothingBegun, err)
	}
	c.at(StepCommit)
	ectx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.cfg.TransactionTimeout)
	defer cancel()
	if err := c.producer.EndTransaction(ectx, kgo.TryCommit); err != nil {
		return false, fmt.Errorf("ending the transaction: %w", err)
	}
	return true, nil
}

// begunAnew says why nothing was committed, and has left the producer: the next
// attempt has one that knows nothing of it.
func (c *Consumer) begunAnew(why error) error {
	fresh, err := c.newProducer()
	if err != nil {
		return errors.Join(why, err)
	}
	c.producer.Close()
	c.producer = fresh
	return fmt.Errorf("%w: %w", errNothingBegun, why)
}

// produce writes the records. When ctx ends they are no longer waited for: the
// client never gives up a record whose reply was lost, and a replica could not
// stop, or give its lanes up, while the brokers are away.
func (c *Consumer) produce(ctx context.Context, records []*kgo.Record) (err error) {
	done := make(chan error, len(records))
	for _, r := range records {
		c.producer.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil {
				err = fmt.Errorf("producing to %s: %w", r.Topic, err)
			}
			done <- err
		})
	}
	for range records {
		select {
		case e := <-done:
			if err == nil {
				err = e
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// commitOffsets adds the lanes' offsets to the transaction, as the member and
// under the generation that the lanes are held: a replica that has been put out
// of the group is refused (KIP-447), also when it is in it again. They are never empty, since it is they that hold back the next
// owner until the transaction is decided.
func (c *Consumer) commitOffsets(ctx context.Context, lanes []*lane) error {
	pid, epoch, err := c.producer.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = c.writer, pid, epoch, c.cfg.Group
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = c.writer, pid, epoch, c.cfg.Group
	req.MemberID, req.Generation = c.as.member, c.as.generation
	if c.cfg.InstanceID != "" {
		req.InstanceID = &c.cfg.InstanceID
	}
	topics := make(map[string]*kmsg.TxnOffsetCommitRequestTopic)
	for _, l := range lanes {
		for _, p := range l.positions() {
			t := topics[p.Topic]
			if t == nil {
				nt := kmsg.NewTxnOffsetCommitRequestTopic()
				nt.Topic = p.Topic
				t = &nt
				topics[p.Topic] = t
			}
			rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
			rp.Partition, rp.Offset = p.Partition, p.Next
			t.Partitions = append(t.Partitions, rp)
		}
	}
	for _, t := range topics {
		req.Topics = append(req.Topics, *t)
	}
	if len(req.Topics) == 0 {
		return errors.New("a cut without offsets")
	}
	_, err = backoff.Retry(ctx, func() (struct{}, error) {
		return struct{}{}, retriable(offsetsOnce(ctx, c.producer, add, req))
	}, backoff.WithMaxElapsedTime(c.cfg.TransactionTimeout/2), backoff.WithBackOff(backoff.NewConstantBackOff(20*time.Millisecond)))
	return err
}

func offsetsOnce(ctx context.Context, cl *kgo.Client, add *kmsg.AddOffsetsToTxnRequest, req *kmsg.TxnOffsetCommitRequest) error {
	aresp, err := add.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(aresp.ErrorCode); err != nil {
		return fmt.Errorf("adding offsets to the transaction: %w", err)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return fmt.Errorf("committing the offset of %s/%d: %w", t.Topic, p.Partition, err)
			}
		}
	}
	return nil
}

// retriable lets a retry loop go on only after errors that a repetition cures.
func retriable(err error) error {
	if err == nil || errors.Is(err, kerr.ConcurrentTransactions) || kerr.IsRetriable(err) {
		return err
	}
	return backoff.Permanent(err)
}

// resolve finds out whether the cut with the given id has committed. A new
// producer client fences the transaction in doubt; then the catalog, read past
// its high watermark, has the answer: the position records name their cut.
func (c *Consumer) resolve(ctx context.Context, id string, lanes []*lane) (bool, error) {
	return backoff.Retry(ctx, func() (bool, error) {
		fresh, err := c.newProducer()
		if err != nil {
			return false, err
		}
		if _, _, err := fresh.ProducerID(ctx); err != nil {
			fresh.Close()
			return false, err
		}
		c.producer.Close()
		c.producer = fresh
		if err := c.deps.Catalog.CatchUp(ctx); err != nil {
			return false, err
		}
		p, ok := c.deps.Catalog.Position(lanes[0].prof.id, lanes[0].n)
		return ok && p.Cut == id, nil
	}, backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, _ time.Duration) {
		c.log.Warn("cannot find out whether a cut has committed; trying again", "cut", id, "transactional_id", c.writer, "err", err)
	}), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, Multiplier: 2, MaxInterval: 2 * time.Second, RandomizationFactor: 0.2,
	}))
}
