package report

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/zeebo/xxh3"

	"lockstitch/state/kafka"
)

// Errors that callers tell apart.
var (
	ErrTooManyPending   = errors.New("too many pending reports")
	ErrIdempotencyClash = errors.New("the idempotency key was used with another request")
	ErrTooLarge         = errors.New("the request is too large to be stored")
	ErrNotFound         = errors.New("no such report")
	ErrBadPageToken     = errors.New("page token is not one of this list")
)

// MaxRequest bounds the JSON of a Request in bytes, so that its record stays
// below what brokers accept by default (1 MB). Names of definitions and lists of
// versions, which go into it, have no bound of their own.
const MaxRequest = 900_000

// withdrawTime bounds the attempt to take back a request whose fate is unknown.
const withdrawTime = 5 * time.Second

// Config says where the table is kept.
type Config struct {
	Opts       []kgo.Opt // the connection
	Topic      string    // its number of partitions must never change: hash(account) orders the records
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Table is the reports topic with a local view of it. Its methods may be called
// concurrently. What a method has written is in the view when it returns
// without an error, unless it says otherwise.
type Table struct {
	cfg        Config
	tail       *kafka.Tail
	producer   *kgo.Client
	partitions int32
	view       *view
	metrics    *metrics
	background sync.WaitGroup
	closeOnce  sync.Once
}

// Open starts to follow the topic; CatchUp tells when what was written before
// is visible.
func Open(ctx context.Context, cfg Config) (*Table, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Table{cfg: cfg, view: newView()}
	t.metrics = newMetrics(cfg.Registerer, t.view)
	var err error
	t.producer, err = kgo.NewClient(append(slices.Clone(cfg.Opts),
		kgo.DefaultProduceTopic(cfg.Topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(30*time.Second),
	)...)
	if err != nil {
		t.metrics.unregister()
		return nil, fmt.Errorf("reports: %w", err)
	}
	t.tail, err = kafka.StartTail(ctx, kafka.TailConfig{Opts: cfg.Opts, Topic: cfg.Topic, Apply: t.apply, Log: cfg.Log})
	if err != nil {
		t.producer.Close()
		t.metrics.unregister()
		return nil, fmt.Errorf("reports: %w", err)
	}
	t.partitions = t.tail.Partitions()
	return t, nil
}

// apply takes in one record. One that cannot be read ends the table: without it
// a report that was acknowledged could be missing, or a cancelled one go on.
func (t *Table) apply(rec *kgo.Record) error {
	err := t.view.apply(rec)
	if errors.Is(err, errThereAlready) {
		t.metrics.ignored.Inc()
		t.cfg.Log.Warn("report record ignored", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "err", err)
		return nil
	}
	if err != nil {
		t.view.mu.Lock()
		t.view.unusable = err
		t.view.mu.Unlock()
	}
	return err
}

// Err is why the table cannot be used: a record of another version
// (*kafka.VersionError) or a damaged one (*kafka.DamagedError). Nil if it can.
// Nothing is pending, due or to be removed any more then, and nothing is written.
func (t *Table) Err() error {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	return t.view.unusable
}

// Close stops following the topic and waits for what runs.
func (t *Table) Close() {
	t.closeOnce.Do(func() {
		t.background.Wait()
		t.producer.Close()
		t.tail.Close()
		t.metrics.unregister()
	})
}

// Partitions is the number of the topic's partitions.
func (t *Table) Partitions() int32 { return t.partitions }

// Changed returns a channel that is closed when something new was applied. Take
// it before looking.
func (t *Table) Changed() <-chan struct{} { return t.tail.Changed() }

func (t *Table) partition(account string) int32 {
	return int32(xxh3.HashString(account) % uint64(t.partitions))
}

// CatchUp reads the end of the account's partition now and waits until
// everything below it is in the view, so that an answer given afterwards knows
// all that any replica had acknowledged before.
func (t *Table) CatchUp(ctx context.Context, account string) error {
	return t.tail.CatchUp(ctx, t.partition(account))
}

// CatchUpAll is CatchUp for all accounts.
func (t *Table) CatchUpAll(ctx context.Context) error {
	asked := time.Now()
	if err := t.tail.CatchUp(ctx); err != nil {
		return err
	}
	t.view.mu.Lock()
	defer t.view.mu.Unlock()
	if asked.After(t.view.caughtUp) {
		t.view.caughtUp = asked
	}
	return nil
}

// Current tells whether CatchUpAll has succeeded within the last minute. A table that is
// not read yet, or stands still because the brokers cannot be reached, shows as waiting
// what others have long done: metrics of it would raise an alarm about them.
func (t *Table) Current() bool {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	return t.view.current(time.Now())
}

// produce writes records to one partition and returns the offset behind the
// last of them. On an error the records may still have been written or be
// written later.
//
// A record is not given up with ctx, only waited for no longer: others of the
// same batch would end with it, and the order of the writes is kept. When the
// brokers are back, what was waiting is written.
func (t *Table) produce(ctx context.Context, partition int32, recs ...*kgo.Record) (int64, error) {
	if err := t.Err(); err != nil {
		return 0, err
	}
	type outcome struct {
		next int64
		err  error
	}
	done := make(chan outcome, len(recs))
	for _, r := range recs {
		r.Partition = partition
		key := string(r.Key)
		t.producer.TryProduce(context.WithoutCancel(ctx), kafka.Stamp(r), func(r *kgo.Record, err error) {
			if err != nil {
				err = fmt.Errorf("writing %s to %s/%d: %w", key, t.cfg.Topic, partition, err)
			}
			done <- outcome{r.Offset + 1, err}
		})
	}
	var next int64
	for range recs {
		select {
		case o := <-done:
			if o.err != nil {
				return 0, o.err
			}
			next = max(next, o.next)
		case <-ctx.Done():
			return 0, fmt.Errorf("writing to %s/%d: %w", t.cfg.Topic, partition, ctx.Err())
		}
	}
	return next, nil
}

// write produces one record and waits until the view has it.
func (t *Table) write(ctx context.Context, partition int32, key string, value any) (int64, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return 0, fmt.Errorf("encoding %s: %w", key, err)
	}
	return t.store(ctx, partition, key, data)
}

// store is write for what is encoded already.
func (t *Table) store(ctx context.Context, partition int32, key string, data []byte) (int64, error) {
	next, err := t.produce(ctx, partition, &kgo.Record{Key: []byte(key), Value: data})
	if err != nil {
		return 0, err
	}
	return next - 1, t.tail.WaitFor(ctx, partition, next)
}

// Submit stores a request, whose ID must be a new one. The report returned is
// the request's own, or the earlier one that had the same idempotency key and
// body (its Request.ID differs). Races are settled by the order of the records:
// ErrTooManyPending if maxPending (0: no limit) requests of the account were
// pending before it, ErrIdempotencyClash if the key was used for another body
// within 24 h. ErrTooLarge if the request has more than MaxRequest bytes.
//
// On any other error it is unknown whether the request was stored; it is
// withdrawn as far as the brokers can be reached.
func (t *Table) Submit(ctx context.Context, req *Request, maxPending int) (*Report, error) {
	if !ValidID(req.ID) || req.Account == "" {
		return nil, fmt.Errorf("report id %.80q or account %.80q is not valid", req.ID, req.Account)
	}
	q := *req
	q.Version, q.MaxPending = Version, maxPending
	p := t.partition(q.Account)
	// Most refusals need no record.
	if err := t.tail.CatchUp(ctx, p); err != nil {
		return nil, err
	}
	if r, err := t.refusal(&q); r != nil || err != nil {
		return r, err
	}
	data, err := q.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := t.store(ctx, p, KeyRequest+q.ID, data); err != nil {
		t.withdraw(p, q.ID)
		return nil, fmt.Errorf("report %s: it is unknown whether the request was stored: %w", q.ID, err)
	}
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	e := t.view.byID[q.ID]
	switch {
	case e == nil:
		return nil, fmt.Errorf("report %s: the stored request cannot be read back", q.ID)
	case e.behind != nil:
		return repeat(e.behind.report, &q)
	case e.void:
		return nil, ErrTooManyPending
	}
	return e.report, nil
}

func repeat(earlier *Report, q *Request) (*Report, error) {
	if earlier.Request.BodyHash != q.BodyHash {
		return nil, ErrIdempotencyClash
	}
	return earlier, nil
}

// refusal finds what Submit would be answered by the view as it stands; nil,
// nil if the request would be accepted.
//
// The first repeat is written nevertheless: only a record keeps the earlier request
// from being withdrawn, by a replica that may have been out of reach for long.
func (t *Table) refusal(q *Request) (*Report, error) {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	a := t.view.accounts[q.Account]
	if a == nil {
		return nil, nil
	}
	if first := a.remembers(q.IdempotencyKey, q.CreatedAt); first != nil {
		if first.report.Request.BodyHash != q.BodyHash || first.repeated {
			return repeat(first.report, q)
		}
		return nil, nil
	}
	if q.MaxPending > 0 && a.pending >= q.MaxPending {
		return nil, ErrTooManyPending
	}
	return nil, nil
}

// ByKey returns the report that an idempotency key of the account stands for at
// a time, as the view has it.
func (t *Table) ByKey(account, key string, at time.Time) (*Report, bool) {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	if a := t.view.accounts[account]; a != nil {
		if first := a.remembers(key, at); first != nil {
			return first.report, true
		}
	}
	return nil, false
}

// withdraw takes a request back in the background.
func (t *Table) withdraw(partition int32, id string) {
	t.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), withdrawTime)
		defer cancel()
		data, err := json.Marshal(&Cancel{Version: Version, At: time.Now().UTC(), Withdrawn: true})
		if err == nil {
			_, err = t.produce(ctx, partition, &kgo.Record{Key: []byte(KeyCancel + id + "/" + ulid.Make().String()), Value: data})
		}
		if err != nil {
			t.cfg.Log.Warn("a request whose fate is unknown could not be withdrawn", "report", id, "err", err)
		}
	})
}

// Get returns a report of an account as the view has it.
func (t *Table) Get(account, id string) (*Report, bool) {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	if e := t.lookup(account, id); e != nil {
		return e.report, true
	}
	return nil, false
}

func (t *Table) lookup(account, id string) *entry {
	e := t.view.byID[id]
	if e == nil || !e.visible() || e.report.Request.Account != account {
		return nil
	}
	return e
}

// PageBytes: a page of reports or orders ends behind the one with which the requests
// in it have so many bytes, as who shows the page holds all of them.
const PageBytes = 1 << 20

// List returns up to limit reports of an account, newest first, fewer of large ones
// (PageBytes), and the token of the next page ("" behind the last). The first page has
// the token "". ErrBadPageToken for a token that List did not make.
func (t *Table) List(account string, limit int, pageToken string) (items []*Report, next string, err error) {
	before := int64(-1)
	if pageToken != "" {
		raw, err := base64.RawURLEncoding.DecodeString(pageToken)
		text, ok := strings.CutPrefix(string(raw), "r")
		if err != nil || !ok {
			return nil, "", ErrBadPageToken
		}
		before, err = strconv.ParseInt(text, 10, 64)
		if err != nil || before < 0 {
			return nil, "", ErrBadPageToken
		}
	}
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	a := t.view.accounts[account]
	if a == nil {
		return nil, "", nil
	}
	end := len(a.entries)
	if before >= 0 {
		end, _ = a.find(before)
	}
	for i, size := end-1, 0; i >= 0 && len(items) < limit && size < PageBytes; i-- {
		items = append(items, a.entries[i].report)
		size += len(a.entries[i].report.Request.Body)
	}
	if len(items) > 0 && len(items) < end {
		last := items[len(items)-1].Offset
		next = base64.RawURLEncoding.EncodeToString(strconv.AppendInt([]byte("r"), last, 10))
	}
	return items, next, nil
}

// Pending returns the reports of all accounts that wait for a result, oldest
// first. Of a partition that has not been read yet to where it ended at the start there
// are none: the results of most would follow.
func (t *Table) Pending() []*Report {
	if t.Err() != nil {
		return nil
	}
	t.view.mu.RLock()
	out := make([]*Report, 0, len(t.view.pending))
	for _, e := range t.view.pending {
		if t.tail.Begun(e.partition) {
			out = append(out, e.report)
		}
	}
	t.view.mu.RUnlock()
	slices.SortFunc(out, func(a, b *Report) int {
		return cmp.Or(a.Request.CreatedAt.Compare(b.Request.CreatedAt), cmp.Compare(a.Request.ID, b.Request.ID))
	})
	return out
}

// Cancel cancels a pending report and marks the file of a finished one for
// removal; of a report that is cancelled, expired or ended in error nothing
// changes. ErrNotFound if the account has no such report.
func (t *Table) Cancel(ctx context.Context, account, id string) error {
	p := t.partition(account)
	if err := t.tail.CatchUp(ctx, p); err != nil {
		return err
	}
	r, ok := t.Get(account, id)
	if !ok {
		return ErrNotFound
	}
	// By the records alone: that the time of its file is over is what this machine's
	// clock says.
	if s := r.Status(time.Time{}); s == StatusCancelled || s == StatusExpired || s == StatusError {
		return nil
	}
	_, err := t.write(ctx, p, KeyCancel+id+"/"+ulid.Make().String(), &Cancel{Version: Version, At: time.Now().UTC()})
	return err
}

// WriteProgress says how far a report is. It does not wait until the view has
// it.
func (t *Table) WriteProgress(ctx context.Context, account, id string, g Progress) error {
	g.Version = Version
	data, err := json.Marshal(&g)
	if err != nil {
		return fmt.Errorf("encoding the progress of report %s: %w", id, err)
	}
	_, err = t.produce(ctx, t.partition(account), &kgo.Record{Key: []byte(KeyProgress + id), Value: data})
	return err
}

// Time is the time by Kafka's clock, where brokers stamp the records of the topic
// (else by this machine's). To learn it the progress of a report is written anew,
// as it is. ErrNotFound if the account has no such report.
func (t *Table) Time(ctx context.Context, account, id string) (time.Time, error) {
	r, ok := t.Get(account, id)
	if !ok {
		return time.Time{}, ErrNotFound
	}
	g := Progress{At: time.Now().UTC()}
	if r.Progress != nil {
		g = *r.Progress
	}
	g.Version = Version
	if _, err := t.write(ctx, t.partition(account), KeyProgress+id, &g); err != nil {
		return time.Time{}, err
	}
	if r, ok = t.Get(account, id); !ok {
		return time.Time{}, ErrNotFound
	}
	return r.Progress.At, nil
}

// WriteResult stores the outcome of an attempt and reports whether it is the
// one that counts: the first, with no cancel before it. After an error it may
// be called again with the same Result.
func (t *Table) WriteResult(ctx context.Context, account, id string, res Result) (won bool, err error) {
	res.Version = Version
	p := t.partition(account)
	if r, ok := t.Get(account, id); !ok || !r.Pending() {
		return ok && r.Result != nil && r.Result.Attempt == res.Attempt, nil
	}
	if _, err := t.write(ctx, p, KeyResult+id+"/"+ulid.Make().String(), &res); err != nil {
		return false, err
	}
	r, ok := t.Get(account, id)
	return ok && r.Result != nil && r.Result.Attempt == res.Attempt, nil
}

// WriteExpired says that the files of a report are gone.
func (t *Table) WriteExpired(ctx context.Context, account, id string) error {
	_, err := t.write(ctx, t.partition(account), KeyExpired+id, &Expired{Version: Version, At: time.Now().UTC()})
	return err
}
