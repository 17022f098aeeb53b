package kafka

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

// TestATopicIsLoadedForAsLongAsItGetsOn, by one record at a time here, which takes far
// longer than patience in all; and no longer than patience once nothing more comes, as
// behind a transaction that is open.
func TestATopicIsLoadedForAsLongAsItGetsOn(t *testing.T) {
	const records, each, patience = 10, 800 * time.Millisecond, time.Second
	for name, c := range map[string]struct {
		open bool // a transaction, behind the records
		stop bool // who loads is told to stop, when the last record comes
		want error
	}{
		"all of it":    {},
		"no more":      {open: true, want: context.DeadlineExceeded},
		"told to stop": {open: true, stop: true, want: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				n := &kfake.VirtualNetwork{}
				broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "x"), kfake.Ports(9092), kfake.ListenFn(n.Listen))
				if err != nil {
					t.Fatal(err)
				}
				defer broker.Close()
				opts := []kgo.Opt{kgo.SeedBrokers(broker.ListenAddrs()...), kgo.Dialer(n.DialContext)}
				producer := func(more ...kgo.Opt) *kgo.Client {
					p, err := kgo.NewClient(append(opts[:2:2], more...)...)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(p.Close)
					return p
				}
				plain := producer()
				for range records {
					if err := plain.ProduceSync(t.Context(), &kgo.Record{Topic: "x"}).FirstErr(); err != nil {
						t.Fatal(err)
					}
				}
				if c.open {
					p := producer(kgo.TransactionalID("open"))
					if err := errors.Join(p.BeginTransaction(), p.ProduceSync(t.Context(), &kgo.Record{Topic: "x"}).FirstErr()); err != nil {
						t.Fatal(err)
					}
				}
				broker.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
					broker.KeepControl()
					req.(*kmsg.FetchRequest).MaxBytes = 1 // one batch an answer
					return nil, nil, false
				})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				read := 0
				tail, err := StartTail(t.Context(), TailConfig{Opts: opts, Topic: "x", Log: slog.New(slog.DiscardHandler), Apply: func(*kgo.Record) error {
					time.Sleep(each)
					if read++; c.stop && read == records {
						cancel()
					}
					return nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				defer tail.Close()
				begun := time.Now()
				err = tail.Load(ctx, patience)
				took := time.Since(begun)
				synctest.Wait() // the last position
				if !errors.Is(err, c.want) || tail.Position(0) != records {
					t.Errorf("at %d: %v", tail.Position(0), err)
				}
				want := records * each
				if errors.Is(c.want, context.DeadlineExceeded) {
					want += patience
				}
				if took < want || took > want+100*time.Millisecond {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}
