package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"lockstitch/state/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func cluster(t *testing.T, topic string) []kgo.Opt {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
}

func client(t *testing.T, opts []kgo.Opt, more ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...), more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

type seen struct {
	mu   sync.Mutex
	vals []string
}

func (s *seen) apply(r *kgo.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vals = append(s.vals, string(r.Value))
	return nil
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.vals)
}

func tail(t *testing.T, opts []kgo.Opt, topic string, s *seen) *kafka.Tail {
	t.Helper()
	tl, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: opts, Topic: topic, Apply: s.apply, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tl.Close)
	return tl
}

// transact produces n records in one transaction and ends it.
func transact(t *testing.T, opts []kgo.Opt, id, topic string, n int, end kgo.TransactionEndTry) {
	t.Helper()
	p := client(t, opts, kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := p.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "%s-%d", id, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

func TestCatchUpPassesEndsThatNoRecordReaches(t *testing.T) {
	opts := cluster(t, "x")
	transact(t, opts, "commits", "x", 3, kgo.TryCommit)
	transact(t, opts, "aborts", "x", 2, kgo.TryAbort)
	s := &seen{}
	tl := tail(t, opts, "x", s)
	if err := tl.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := tl.Position(0); got != 7 {
		t.Errorf("position %d, want 7: 3 records, a marker, 2 aborted records, a marker", got)
	}
	if s.count() != 3 {
		t.Errorf("applied %d records, want the 3 committed", s.count())
	}
}

func TestCatchUpPassesAnEmptiedLog(t *testing.T) {
	opts := cluster(t, "x")
	transact(t, opts, "a", "x", 3, kgo.TryCommit)
	s := &seen{}
	tl := tail(t, opts, "x", s)
	if err := tl.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(client(t, opts))
	transact(t, opts, "b", "x", 2, kgo.TryAbort)
	offs := kadm.Offsets{}
	offs.AddOffset("x", 0, 7, -1)
	if _, err := adm.DeleteRecords(t.Context(), offs); err != nil {
		t.Fatal(err)
	}
	late := tail(t, opts, "x", &seen{})
	if err := late.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := late.Position(0); got != 7 {
		t.Errorf("a tail that starts on an emptied log stands at %d, want 7", got)
	}
}

// TestASilentBrokerHoldsUpNoOtherPartition: it does not answer for partitions that somebody
// waits for, and another broker has records of another one.
func TestASilentBrokerHoldsUpNoOtherPartition(t *testing.T) {
	const silent = 31
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(silent+1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	p := client(t, opts, kgo.TransactionalID("open"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := p.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	for n := range int32(silent) {
		if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Partition: n}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan struct{}, 1)
	c.ControlKey(kmsg.Fetch.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if kreq.(*kmsg.FetchRequest).MaxWaitMillis > 0 {
			return nil, nil, false
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		return nil, nil, true // and none ever
	})
	s := &seen{}
	tl := tail(t, opts, "x", s) // begins to wait for all ends
	<-asked
	plain := client(t, opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := plain.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Partition: silent}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := tl.CatchUp(ctx, silent); err != nil {
		t.Error(err)
	}
	if s.count() != 1 {
		t.Errorf("%d records, want 1", s.count())
	}
}

func TestCatchUpWaitsForAnOpenTransaction(t *testing.T) {
	opts := cluster(t, "x")
	p := client(t, opts, kgo.TransactionalID("open"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err := p.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	s := &seen{}
	tl := tail(t, opts, "x", s)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := tl.CatchUp(ctx); err == nil {
		t.Fatal("caught up although a transaction is open below the end")
	}
	caught := make(chan error, 1)
	go func() { caught <- tl.CatchUp(t.Context()) }()
	if err := p.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if err := <-caught; err != nil || s.count() != 1 {
		t.Fatalf("after the commit: %v, %d records applied", err, s.count())
	}
}

func TestMissingTopic(t *testing.T) {
	opts := cluster(t, "x")
	_, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: opts, Topic: "absent", Apply: func(*kgo.Record) error { return nil }, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Fatal("a tail of a topic that does not exist started")
	}
}

// TestCatchUpNoticesATopicMadeAnew: the ends of the new topic lie below what was read
// of the old one, and all would seem to have been read.
func TestCatchUpNoticesATopicMadeAnew(t *testing.T) {
	opts := cluster(t, "x")
	transact(t, opts, "a", "x", 3, kgo.TryCommit)
	tl := tail(t, opts, "x", &seen{})
	if err := tl.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(client(t, opts))
	if _, err := adm.DeleteTopics(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopics(t.Context(), 2, 1, nil, "x"); err != nil {
		t.Fatal(err)
	}
	if err := tl.CatchUp(t.Context()); err == nil || !strings.Contains(err.Error(), "x: the topic was made anew") {
		t.Errorf("caught up: %v", err)
	}
	if err := tl.Err(); err != nil {
		t.Errorf("the tail has ended: %v", err)
	}
}

func TestTailEndsWithWhatIsRefused(t *testing.T) {
	opts := cluster(t, "x")
	refused := errors.New("that cannot be")
	tl, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: opts, Topic: "x", Log: slog.New(slog.DiscardHandler), Apply: func(r *kgo.Record) error {
		if string(r.Value) == "x-1" {
			return refused
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer tl.Close()
	if err := tl.CatchUp(t.Context()); err != nil || tl.Err() != nil {
		t.Fatal(err, tl.Err())
	}
	transact(t, opts, "x", "x", 3, kgo.TryCommit)
	if err := tl.CatchUp(t.Context()); !errors.Is(err, refused) {
		t.Errorf("caught up: %v", err)
	}
	if err := tl.WaitFor(t.Context(), 1, 0); !errors.Is(err, refused) || !errors.Is(tl.Err(), refused) {
		t.Errorf("another partition: %v, %v", err, tl.Err())
	}
	if got := tl.Position(0); got > 1 {
		t.Errorf("the position is %d, beyond what was refused", got)
	}
}

// flipper flips a bit behind a text in what a broker sends, every time.
type flipper struct {
	net.Conn
	behind string
	on     *atomic.Bool
	hits   *atomic.Int64
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if i := bytes.Index(p[:n], []byte(f.behind)); i >= 0 && i+len(f.behind) < n && f.on.Load() {
		p[i+len(f.behind)] ^= 1
		f.hits.Add(1)
	}
	return n, err
}

// TestTailDoesNotPassADamagedBatch: the batch is asked for again, at a pace that
// hurts nobody, and is neither left out nor taken as it is; whoever waits is told
// which it is.
func TestTailDoesNotPassADamagedBatch(t *testing.T) {
	opts := cluster(t, "x")
	p := client(t, opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for _, v := range []string{"before", "needle-0", "behind"} {
		if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Partition: 1, Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var on atomic.Bool
	var hits atomic.Int64
	on.Store(true)
	flipping := kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, host)
		return &flipper{c, "needle-", &on, &hits}, err
	})
	s := &seen{}
	var log lines
	tl, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: append(opts[:1:1], flipping), Topic: "x", Apply: s.apply, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer tl.Close()
	// The client may begin with another partition, and wait for that for 5 s.
	for begun := time.Now(); hits.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatal("the batch is not fetched")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err = tl.CatchUp(ctx)
	if err == nil || !strings.Contains(err.Error(), "fetching x/1 at offset 1: ") || !strings.Contains(err.Error(), "crc") {
		t.Errorf("caught up: %v", err)
	}
	if tl.Position(1) != 1 || s.count() != 1 {
		t.Errorf("position %d, %d records applied: want 1 and 1", tl.Position(1), s.count())
	}
	if n := hits.Load(); n == 0 || n > 60 {
		t.Errorf("the batch was fetched %d times within five seconds", n)
	}
	if !strings.Contains(log.String(), "tail cannot fetch") {
		t.Errorf("it was not logged:\n%.1000s", log.String())
	}
	on.Store(false)
	if err := tl.CatchUp(t.Context()); err != nil || s.count() != 3 {
		t.Errorf("once the broker's copy is whole again: %v, %d records", err, s.count())
	}
}

// lines collects a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
