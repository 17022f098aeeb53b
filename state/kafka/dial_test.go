package kafka

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// dials counts those that failed.
type dials struct{ failed atomic.Int64 }

func (d *dials) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		d.failed.Add(1)
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
	var seen dials
	cl, err := kgo.NewClient(append(opts, kgo.TransactionalID("x"), kgo.DefaultProduceTopic("t"), kgo.MaxVersions(versions),
		kgo.RecordDeliveryTimeout(2*time.Second), kgo.WithHooks(&seen))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	transact := func() error {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		return cl.ProduceSync(t.Context(), kgo.StringRecord("v")).FirstErr()
	}
	if err := transact(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	c.Close()
	began := time.Now()
	if err := transact(); err == nil {
		t.Fatal("a broker that is gone has acknowledged a record")
	}
	// Two of the client's goroutines dial: that of the records, that of the metadata.
	if n, most := seen.failed.Load(), 3*int64(time.Since(began)/failedDial)+3; n < 3 || n > most {
		t.Fatalf("%d dials were refused within %v, want 3 to %d", n, time.Since(began), most)
	}
}
