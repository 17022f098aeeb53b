package kafka

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// dials sees those that fail, until there are so many.
type dials struct {
	many        int
	enough      chan struct{} // closed with the last of them
	mu          sync.Mutex
	seen        int
	first, last time.Time
}

func (d *dials) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.seen++; d.seen {
	case 1:
		d.first = time.Now()
	case d.many:
		d.last = time.Now()
		close(d.enough)
	}
}

// Brokers that refuse connections in the middle of a transaction are not asked
// again and again without a pause.
func TestRefusedConnectionsBurnNoProcessor(t *testing.T) {
	t.Parallel()
	c := kfake.MustCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	defer c.Close()
	opts, err := Config{Brokers: c.ListenAddrs()}.Opts()
	if err != nil {
		t.Fatal(err)
	}
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(28, 4) // as the consumer's producer has it
	seen := dials{many: 30, enough: make(chan struct{})}
	cl, err := kgo.NewClient(append(opts, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"), kgo.MaxVersions(versions),
		kgo.WithHooks(&seen))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	transact := func(ctx context.Context) error {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		return cl.ProduceSync(ctx, kgo.StringRecord("v")).FirstErr()
	}
	if err := transact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-seen.enough:
		case <-ctx.Done():
		}
	}()
	if err := transact(ctx); err == nil {
		t.Fatal("a broker that is gone has acknowledged a record")
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if seen.last.IsZero() {
		t.Fatalf("only %d dials were refused", seen.seen)
	}
	// Two of the client's goroutines dial: that of the records, that of the metadata.
	if took, least := seen.last.Sub(seen.first), time.Duration(seen.many/3-1)*failedDial; took < least {
		t.Fatalf("%d dials were refused within %v, want at least %v", seen.many, took, least)
	}
}
