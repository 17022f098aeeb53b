package kafka_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
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

func (s *seen) apply(r *kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vals = append(s.vals, string(r.Value))
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
	_, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: opts, Topic: "absent", Apply: func(*kgo.Record) {}, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Fatal("a tail of a topic that does not exist started")
	}
}
