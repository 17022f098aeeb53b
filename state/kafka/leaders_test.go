package kafka

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/kafka/replaced"
)

// zombie is a cluster of three brokers, one of which still takes itself for the
// leader of topic/0 and does not know what was produced since: 10 of 15 records.
type zombie struct {
	*kfake.Cluster
	node    int32
	produce func(n int) // by a client that reads the truth
	learn   func()
	refuse  atomic.Int32  // how many questions who leads the other brokers refuse
	refused chan struct{} // one for each that was, while there is room
	asked   atomic.Int32
}

func newZombie(t *testing.T, ctx context.Context, topic string, replicas int16) *zombie {
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(topic), kgo.Dialer(replaced.Past(new(net.Dialer).DialContext)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, replicas, nil, topic); err != nil {
		t.Fatal(err)
	}
	var at int64 // each record has its offset for its time
	produce := func(n int) {
		for range n {
			if err := cl.ProduceSync(ctx, &kgo.Record{Timestamp: time.UnixMilli(at)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			at++
		}
	}
	produce(10)
	brokers := replaced.Watch(c, cl)
	z := &zombie{Cluster: c, node: c.LeaderFor(topic, 0), produce: produce, learn: brokers.Learn, refused: make(chan struct{}, 100)}
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		refuses := !replaced.IsPast(req) && c.CurrentNode() != z.node && z.refuse.Add(-1) >= 0
		if refuses {
			select {
			case z.refused <- struct{}{}:
			default:
			}
		}
		return nil, errors.New("out of reach"), refuses
	})
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if c.CurrentNode() == z.node {
			z.asked.Add(1)
		}
		return nil, nil, false
	})
	brokers.Stop(z.node)
	t.Cleanup(brokers.Learn)
	if err := brokers.Replace(ctx, func(string, int32) int32 { return (z.node + 1) % 3 }); err != nil {
		t.Fatal(err)
	}
	produce(5)
	return z
}

// client knows nobody but the zombie to begin with.
func (z *zombie) client(t *testing.T) *kgo.Client {
	cl, err := kgo.NewClient(kgo.SeedBrokers(z.ListenAddrs()[z.node]), kgo.MetadataMinAge(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func TestOffsetsAreNotThoseOfALeaderThatWasReplaced(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	z := newZombie(t, ctx, "profiles", 3)
	for _, tc := range []struct {
		at   int64
		iso  Isolation
		want int64
	}{{AtEnd, HighWatermark, 15}, {AtEnd, LastStable, 15}, {AtStart, HighWatermark, 0}} {
		got, err := ListOffsets(ctx, z.client(t), map[string][]int32{"profiles": {0}}, tc.at, tc.iso)
		if err != nil || got["profiles"][0] != tc.want {
			t.Errorf("at %d, isolation %d: %v, %v; want %d", tc.at, tc.iso, got, err, tc.want)
		}
	}
	for at, want := range map[int64]int64{3: 3, 12: 12, 15: -1} {
		got, err := ListOffsets(ctx, z.client(t), map[string][]int32{"profiles": {0}}, at, HighWatermark)
		if err != nil || got["profiles"][0] != want {
			t.Errorf("the first record of time %d: %v, %v; want %d", at, got, err, want)
		}
	}
	if n := z.asked.Load(); n != 0 {
		t.Errorf("the broker that was replaced was asked for offsets %d times", n)
	}
}

func TestEndsNeedMostOfTheReplicas(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	z := newZombie(t, ctx, "profiles", 3)
	z.refuse.Store(1 << 30)
	short, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		for range 12 {
			select {
			case <-z.refused:
			case <-short.Done():
			}
		}
	}()
	got, err := ListOffsets(short, z.client(t), map[string][]int32{"profiles": {0}}, AtEnd, HighWatermark)
	if !errors.Is(err, kerr.LeaderNotAvailable) || len(got) != 0 {
		t.Errorf("ends %v, %v while one replica of three answers", got, err)
	}
	// They are waited for.
	z.refuse.Store(6)
	got, err = ListOffsets(ctx, z.client(t), map[string][]int32{"profiles": {0}}, AtEnd, HighWatermark)
	if err != nil || got["profiles"][0] != 15 || z.refuse.Load() >= 0 {
		t.Errorf("ends %v, %v after some refusals, %d are left", got, err, z.refuse.Load())
	}
	// Of one replica there is nobody else to ask: the zombie is believed.
	z = newZombie(t, ctx, "profiles", 1)
	got, err = ListOffsets(ctx, z.client(t), map[string][]int32{"profiles": {0}}, AtEnd, HighWatermark)
	if err != nil || got["profiles"][0] != 10 {
		t.Errorf("ends %v, %v of a partition with one replica", got, err)
	}
}

// A client that reaches nobody else believes the zombie after some tries, finds the
// log cut off below its position, and reads again from there.
func TestTailIsNotLedBackByALeaderThatWasReplaced(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	z := newZombie(t, ctx, "profiles", 3)
	var alone atomic.Bool // only the zombie is reached; before, only the others are
	var conns sync.Map
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if (addr == z.ListenAddrs()[z.node]) != alone.Load() {
			return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		}
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		conns.Store(c, true)
		return c, err
	}
	back := ledBack{Handler: slog.DiscardHandler, seen: make(chan struct{}, 1)}
	var mu sync.Mutex
	var applied []int64
	tail, err := StartTail(ctx, TailConfig{
		Opts: []kgo.Opt{kgo.SeedBrokers(z.ListenAddrs()...), kgo.Dialer(dial), kgo.MetadataMinAge(10 * time.Millisecond),
			kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond })},
		Topic: "profiles", Log: slog.New(back),
		Apply: func(r *kgo.Record) error {
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, r.Offset)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	if err := tail.WaitFor(ctx, 0, 15); err != nil {
		t.Fatal(err)
	}
	alone.Store(true)
	conns.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
	select {
	case <-back.seen:
	case <-ctx.Done():
		t.Fatal("the client has not been led back")
	}
	z.learn()
	alone.Store(false)
	z.produce(5)
	if err := tail.WaitFor(ctx, 0, 20); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	for i, at := range applied {
		if at != int64(i) {
			t.Fatalf("applied %v", applied)
		}
	}
}

// ledBack hears of it when the client reads again what it has read.
type ledBack struct {
	slog.Handler
	seen chan struct{}
}

func (ledBack) Enabled(context.Context, slog.Level) bool { return true }

func (l ledBack) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		err, _ := a.Value.Any().(error)
		if lost := (*kgo.ErrDataLoss)(nil); errors.As(err, &lost) && lost.ResetTo == 10 {
			select {
			case l.seen <- struct{}{}:
			default:
			}
		}
		return true
	})
	return nil
}

// TestLeadersAreAskedUntilTheDeadline, which a start sets, and for as long as the client
// library repeats its requests where there is none.
func TestLeadersAreAskedUntilTheDeadline(t *testing.T) {
	t.Parallel()
	away := errors.New("away")
	for limit, want := range map[time.Duration]error{5 * time.Minute: nil, time.Minute: away, 0: away} {
		bubble.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			if limit > 0 {
				ctx, cancel = context.WithTimeout(ctx, limit)
			}
			defer cancel()
			begun := time.Now()
			err := whileLeadersChange(ctx, func() error {
				if time.Since(begun) < 2*time.Minute {
					return away
				}
				return nil
			})
			took, most := time.Since(begun), cmp.Or(limit, leadersLimit)
			if !errors.Is(err, want) || err != nil && (took > most || took < most-time.Second) { // it waits for up to 0.6 s
				t.Errorf("limit %s: %v after %s", limit, err, took)
			}
		})
	}
}

// TestAPartitionThatWasAddedIsAskedAtOnce, though the brokers were asked a moment ago where
// partitions lie.
func TestAPartitionThatWasAddedIsAskedAtOnce(t *testing.T) {
	t.Parallel()
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client := func() *kgo.Client {
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	cl, adm := client(), kadm.NewClient(client())
	if _, err := adm.CreateTopic(t.Context(), 1, 3, nil, "topic"); err != nil {
		t.Fatal(err)
	}
	ask := func(n int32) error {
		_, err := EpochEnds(t.Context(), cl, map[string]map[int32]Epoch{"topic": {n: 1}})
		return err
	}
	if err := ask(0); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreatePartitions(t.Context(), 1, "topic"); err != nil {
		t.Fatal(err)
	}
	if err := ask(1); err != nil {
		t.Error(err)
	}
	if err := ask(2); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("of a partition that there is not: %v", err)
	}
}
