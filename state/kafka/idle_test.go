package kafka

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

// TestAnIdleTailIsWoken: nobody waits and no record comes, so that the tail waits
// without end; whoever then waits for an end that no record reaches has it asked about, and
// the question does not wait for the answer to the tail's own, which an idle broker keeps for 5 s.
func TestAnIdleTailIsWoken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := &kfake.VirtualNetwork{}
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "x"), kfake.Ports(9092), kfake.ListenFn(n.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var mu sync.Mutex
		var probes []time.Time
		c.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if req.(*kmsg.FetchRequest).MaxWaitMillis < 5000 { // the client's own ask for that long
				mu.Lock()
				probes = append(probes, time.Now())
				mu.Unlock()
			}
			return nil, nil, false
		})
		tail, err := StartTail(t.Context(), TailConfig{
			Opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(n.DialContext)}, Topic: "x",
			Apply: func(*kgo.Record) error { return nil }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		synctest.Wait()
		if n := len(probes); n != 0 {
			t.Fatalf("nobody waits, and %d probes were made", n)
		}
		last := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := tail.WaitFor(ctx, 0, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("waiting for what does not exist: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, at := range append(probes, time.Now()) {
			if at.Sub(last) > 10*probeAfter {
				t.Errorf("%v without a probe that reached the broker", at.Sub(last))
			}
			last = at
		}
	})
}
