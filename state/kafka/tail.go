package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// TailConfig says what a Tail follows.
type TailConfig struct {
	Opts  []kgo.Opt // the connection; the Tail adds what it consumes
	Topic string
	// Apply is called by one goroutine, in offset order per partition, for
	// every committed data record. The record's memory may be kept. An error ends
	// the Tail: whoever waits for something gets it, and Err returns it.
	Apply func(*kgo.Record) error
	Log   *slog.Logger
}

// Tail follows all partitions of a compacted topic from their start, with read_committed
// isolation, and knows for each the offset below which everything was applied,
// also where no record reaches the end (transaction markers, aborted records,
// compacted stretches).
type Tail struct {
	cfg    TailConfig
	cl     *kgo.Client
	id     [16]byte
	cancel context.CancelFunc
	done   chan struct{}
	packed packed                           // for run alone
	asker  *kgo.Client                      // probes, for run alone; nil: none was needed yet
	ends   *Shared[string, map[int32]int64] // by partitions

	mu      sync.Mutex
	next    []int64 // per partition: everything below has been applied
	first   []int64 // per partition: its end when the tail was started
	target  []int64 // per partition: the greatest end that somebody waits for
	changed chan struct{}
	wake    context.CancelFunc // ends a poll that began when nobody waited
	unread  map[int32]error    // partitions that could not be fetched since they last moved, and why
	refused error              // what Apply returned
	err     error              // why the tail has ended
}

// probeAfter is how long a partition that somebody waits for may bring nothing
// before a raw fetch decides whether anything is left to read.
const probeAfter = 50 * time.Millisecond

// probeLimit is for all answers together: nothing is applied while it is asked.
const probeLimit = time.Second

// fetchRetryMax is the longest that a fetch that fails waits for its next try; the
// topic's other partitions wait as well.
const fetchRetryMax = time.Second

// ErrTailClosed is what waiters get once the tail has been closed.
var ErrTailClosed = errors.New("tail is closed")

// StartTail starts to follow a topic. It fails if the topic does not exist or
// the brokers cannot be asked before ctx ends; it does not wait until the end
// has been reached.
func StartTail(ctx context.Context, cfg TailConfig) (*Tail, error) {
	opts := append([]kgo.Opt{}, cfg.Opts...)
	opts = append(opts,
		kgo.ConsumeTopics(cfg.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxBytes(8<<20),
		kgo.FetchMaxPartitionBytes(4<<20),
		kgo.FetchMaxWait(5*time.Second),
	)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("tail of %s: %w", cfg.Topic, err)
	}
	ends, err := Ends(ctx, cl, cfg.Topic)
	if err != nil {
		cl.Close()
		return nil, fmt.Errorf("tail of %s: %w", cfg.Topic, err)
	}
	parts := ends[cfg.Topic]
	run, cancel := context.WithCancel(context.Background())
	t := &Tail{
		cfg: cfg, cl: cl, cancel: cancel, done: make(chan struct{}),
		next: make([]int64, len(parts)), first: make([]int64, len(parts)), target: make([]int64, len(parts)),
		changed: make(chan struct{}), wake: func() {}, unread: make(map[int32]error),
		packed: make(packed), ends: NewShared[string, map[int32]int64](),
	}
	for i, p := range parts {
		// A position starts as a number, not as "nothing read": an emptied log
		// (start = end) never brings a record.
		t.next[i], t.id = p.Start, p.TopicID
		t.first[i], t.target[i] = p.End, p.End
	}
	go t.run(run)
	return t, nil
}

// Partitions is the number of partitions that are followed.
func (t *Tail) Partitions() int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int32(len(t.next))
}

// Position is the offset below which everything in partition p was applied.
func (t *Tail) Position(p int32) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(p) >= len(t.next) {
		return 0
	}
	return t.next[p]
}

// Begun tells whether everything was applied that partition p held when the tail was
// started. Nobody need wait for it.
func (t *Tail) Begun(p int32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return int(p) >= len(t.first) || t.next[p] >= t.first[p]
}

// Target is the greatest end of partition p that somebody waits for or has waited for.
func (t *Tail) Target(p int32) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if int(p) >= len(t.target) {
		return 0
	}
	return t.target[p]
}

// Changed returns a channel that is closed when a position moves next. Take it
// before looking at the state that is waited for.
func (t *Tail) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// Client is the tail's client; requests may be issued with it.
func (t *Tail) Client() *kgo.Client { return t.cl }

// CatchUp reads the high watermarks of partitions (none given: of all) and
// waits until everything below them has been applied. An open transaction is
// waited for as long as ctx allows.
//
// The high watermarks are asked for by name, so the topic must still be the one that
// is followed. Its id is asked for at the same time: what was acknowledged before the
// call both know. Another id is an error of the call and not the end of the Tail, as
// a broker that has not heard of the others for long may tell it.
//
// Calls at the same time share the questions: clients that look whether their reports are
// done are thousands.
func (t *Tail) CatchUp(ctx context.Context, partitions ...int32) error {
	if len(partitions) == 0 {
		for p := range t.Partitions() {
			partitions = append(partitions, p)
		}
	}
	ends, err := t.ends.Do(ctx, fmt.Sprint(partitions), func(ctx context.Context) (map[int32]int64, error) {
		return t.askEnds(ctx, partitions)
	})
	if err != nil {
		return fmt.Errorf("catching up with %s: %w", t.cfg.Topic, err)
	}
	for p, end := range ends {
		if err := t.WaitFor(ctx, p, end); err != nil {
			return err
		}
	}
	return nil
}

// askEnds reads high watermarks, if the topic is still the one that is followed.
func (t *Tail) askEnds(ctx context.Context, partitions []int32) (map[int32]int64, error) {
	var ends map[string]map[int32]int64
	eg, ectx := errgroup.WithContext(ctx)
	eg.Go(func() error { return t.SameTopic(ectx) })
	eg.Go(func() (err error) {
		ends, err = ListOffsets(ectx, t.cl, map[string][]int32{t.cfg.Topic: partitions}, AtEnd, HighWatermark)
		return err
	})
	err := eg.Wait()
	return ends[t.cfg.Topic], err
}

// Load is CatchUp for whoever has just started the tail. What the topic held then is read
// for as long as that takes: it is an error once nothing more was read of a partition for
// as long as patience. The rest, which was written meanwhile, is to come within patience.
func (t *Tail) Load(ctx context.Context, patience time.Duration) error {
	for p, end := range t.first {
		for at := t.Position(int32(p)); at < end; at = t.Position(int32(p)) {
			more, cancel := context.WithTimeout(ctx, patience)
			err := t.WaitFor(more, int32(p), at+1)
			cancel()
			if err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return t.CatchUp(ctx)
}

// SameTopic is an error if the topic was made anew.
func (t *Tail) SameTopic(ctx context.Context) error {
	infos, err := Describe(ctx, t.cl, t.cfg.Topic)
	if err == nil && infos[t.cfg.Topic].ID != t.id {
		err = errors.New("the topic was made anew; restart the replica")
	}
	return err
}

// WaitFor waits until everything below offset end of partition p was applied.
func (t *Tail) WaitFor(ctx context.Context, p int32, end int64) error {
	for {
		t.mu.Lock()
		if t.err != nil {
			t.mu.Unlock()
			return fmt.Errorf("waiting for %s/%d: %w", t.cfg.Topic, p, t.err)
		}
		if int(p) < len(t.next) && t.next[p] >= end {
			t.mu.Unlock()
			return nil
		}
		t.grow(p)
		t.target[p] = max(t.target[p], end)
		t.wake()
		ch := t.changed
		t.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			t.mu.Lock()
			defer t.mu.Unlock()
			return fmt.Errorf("waiting for %s/%d to reach offset %d (at %d): %w", t.cfg.Topic, p, end, t.next[p], errors.Join(ctx.Err(), t.unread[p]))
		}
	}
}

// Err is the error with which Apply has ended the Tail; nil if it has not.
func (t *Tail) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}

// Close stops following, waits for its goroutines and closes the client.
func (t *Tail) Close() {
	t.cancel()
	<-t.done
	t.ends.Close(ErrTailClosed)
	t.cl.Close()
	if t.asker != nil {
		t.asker.Close()
	}
}

// grow makes room for partition p, added to the topic after the start; mu is
// held.
func (t *Tail) grow(p int32) {
	for int(p) >= len(t.next) {
		t.next = append(t.next, 0)
		t.target = append(t.target, 0)
	}
}

func (t *Tail) run(ctx context.Context) {
	defer close(t.done)
	defer func() {
		t.mu.Lock()
		t.err = cmp.Or(t.refused, ErrTailClosed)
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
	}()
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = 100*time.Millisecond, fetchRetryMax
	for ctx.Err() == nil {
		t.unpack()
		fetches, waited := t.poll(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return
		}
		moved, err := t.apply(fetches)
		if err != nil {
			t.cfg.Log.Error("a topic cannot be read further", "topic", t.cfg.Topic, "err", err)
			t.mu.Lock()
			t.refused = err
			t.mu.Unlock()
			return
		}
		t.advance(moved)
		switch failed := t.failures(fetches); {
		case len(moved) > 0:
			retry.Reset()
		case failed:
			// It says so again at once: a batch whose checksum does not match
			// comes with every fetch.
			pause(ctx, retry.NextBackOff())
		case waited:
			t.probe(ctx, moved)
			t.advance(moved)
		}
	}
}

// poll takes what was fetched. It waits for it no longer than probeAfter if somebody
// waits for something, and else until somebody begins to or a batch is to be tried again.
func (t *Tail) poll(ctx context.Context) (fetches kgo.Fetches, waited bool) {
	t.mu.Lock()
	for p, end := range t.target {
		waited = waited || t.next[p] < end
	}
	pctx, wake := context.WithCancel(ctx)
	defer wake()
	if !waited {
		t.wake = wake
	}
	t.mu.Unlock()
	if waited {
		var cancel context.CancelFunc
		pctx, cancel = context.WithTimeout(pctx, probeAfter)
		defer cancel()
	}
	if at, some := t.packed.first(); some {
		var cancel context.CancelFunc
		pctx, cancel = context.WithDeadline(pctx, at)
		defer cancel()
	}
	return t.cl.PollRecords(pctx, 10_000), waited
}

// apply hands over what was fetched, and says which partitions have moved where.
// What was handed over before is left out: a client that believes a leader that was
// replaced takes the log for cut off where that one's ends, and reads again from
// there. The newest would be followed by the older.
func (t *Tail) apply(fetches kgo.Fetches) (moved map[int32]int64, err error) {
	moved = make(map[int32]int64)
	fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
		if len(fp.Records) == 0 {
			return
		}
		next := max(moved[fp.Partition], t.Position(fp.Partition))
		for _, r := range fp.Records {
			if err != nil {
				return
			}
			if r.Offset < next {
				continue
			}
			if !r.Attrs.IsControl() {
				err = t.cfg.Apply(r)
			}
			moved[fp.Partition] = r.Offset + 1
		}
	})
	return moved, err
}

// failures notes and logs the partitions that could not be fetched, and says whether any
// is fetched again at once.
func (t *Tail) failures(fetches kgo.Fetches) (failed bool) {
	fetches.EachError(func(_ string, p int32, err error) {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return
		}
		if large := (*kgo.ErrDecompressTooLarge)(nil); errors.As(err, &large) {
			t.packed.stop(p) // it is not fetched again, and nothing else has failed
		} else {
			failed = true
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if p < 0 {
			t.cfg.Log.Warn("tail cannot fetch", "topic", t.cfg.Topic, "err", err)
			return
		}
		t.grow(p)
		t.unread[p] = fmt.Errorf("fetching %s/%d at offset %d: %w", t.cfg.Topic, p, t.next[p], err)
		t.cfg.Log.Error("tail cannot fetch", "topic", t.cfg.Topic, "partition", p, "offset", t.next[p], "err", err)
	})
	return failed
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// probe asks about the partitions that somebody waits for and that brought
// nothing, all at once.
func (t *Tail) probe(ctx context.Context, moved map[int32]int64) {
	t.mu.Lock()
	var ask []Question
	for p, end := range t.target {
		if t.next[p] < end && !t.packed.stopped(int32(p)) {
			ask = append(ask, Question{t.cfg.Topic, t.id, int32(p), t.next[p], true})
		}
	}
	t.mu.Unlock()
	if len(ask) == 0 {
		return
	}
	if t.asker == nil {
		cl, err := kgo.NewClient(t.cfg.Opts...)
		if err != nil {
			t.cfg.Log.Error("no client for probes", "topic", t.cfg.Topic, "err", err)
			return
		}
		t.asker = cl
	}
	for i, a := range ProbeAll(ctx, t.cl, t.asker, probeLimit, ask) {
		q := ask[i]
		if told := (*kerr.Error)(nil); a.Err != nil && !errors.As(a.Err, &told) {
			t.asker.ForceMetadataRefresh() // it reads no topic that would have it look where brokers are
		}
		if errors.Is(a.Err, kerr.OffsetOutOfRange) {
			t.cfg.Log.Error("the log was cut below the position of a tail", "topic", q.Topic, "partition", q.Partition, "position", q.Next)
		}
		if a.Err == nil && a.Past > q.Next {
			moved[q.Partition] = a.Past
		}
	}
}

func (t *Tail) advance(moved map[int32]int64) {
	if len(moved) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, next := range moved {
		t.grow(p)
		t.next[p] = max(t.next[p], next)
		delete(t.unread, p)
		delete(t.packed, p)
	}
	close(t.changed)
	t.changed = make(chan struct{})
}
