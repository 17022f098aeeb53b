package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
)

// TestATailGoesOnWhenABatchIsCompactedAway that unpacks to too much: the client does not
// fetch the partition again by itself. Until then it is asked for now and then only, also
// while somebody waits.
func TestATailGoesOnWhenABatchIsCompactedAway(t *testing.T) {
	for _, waited := range []bool{false, true} {
		t.Run(fmt.Sprintf("waited for %v", waited), func(t *testing.T) {
			c, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.MaxDecompressBatchBytes(1 << 20)}
			p := client(t, opts, kgo.ProducerBatchMaxBytes(4<<20), kgo.ProducerBatchCompression(kgo.GzipCompression()))
			compact := map[string]*string{"cleanup.policy": kadm.StringPtr("compact")}
			if _, err := kadm.NewClient(p).CreateTopic(t.Context(), 1, 1, compact, "x"); err != nil {
				t.Fatal(err)
			}
			produce := func(key string, value []byte) {
				t.Helper()
				if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: "x", Key: []byte(key), Value: value}).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			produce("a", []byte("a"))
			produce("large", make([]byte, 3<<20))
			var fetched atomic.Int32
			var whenFetched atomic.Value
			whenFetched.Store(func() {})
			c.ControlKey(kmsg.Fetch.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				fetched.Add(1)
				whenFetched.Load().(func())()
				return nil, nil, false
			})
			s := &seen{}
			var log lines
			tl, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: opts, Topic: "x", Apply: s.apply, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer tl.Close()
			for begun := time.Now(); !strings.Contains(log.String(), "tail cannot fetch"); time.Sleep(time.Millisecond) {
				if time.Since(begun) > 30*time.Second {
					t.Fatal("the batch is not fetched")
				}
			}
			if waited {
				before := fetched.Load()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				whenFetched.Store(sync.OnceFunc(func() { time.AfterFunc(2500*time.Millisecond, cancel) }))
				if err := tl.CatchUp(ctx); !errors.Is(err, kgo.ErrMaxDecompress) || tl.Position(0) != 1 {
					t.Errorf("caught up to %d: %v", tl.Position(0), err)
				}
				if n := fetched.Load() - before; n < 1 || n > 15 { // and some 45, were it probed
					t.Errorf("the batch was asked for %d times within 2.5 s of the first time", n)
				}
			}
			produce("large", []byte("small"))
			produce("b", []byte("b"))
			c.Compact()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for !waited {
				changed := tl.Changed()
				if tl.Position(0) >= 4 || ctx.Err() != nil {
					break
				}
				select {
				case <-changed:
				case <-ctx.Done():
				}
			}
			if waited {
				err = tl.CatchUp(ctx)
			}
			if err != nil || tl.Position(0) != 4 || strings.Join(s.vals, " ") != "a small b" {
				t.Errorf("when the batch is gone: at %d, %q, %v", tl.Position(0), s.vals, err)
			}
		})
	}
}
