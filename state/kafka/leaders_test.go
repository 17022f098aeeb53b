package kafka

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// zombie is a cluster of three brokers, one of which still takes itself for the
// leader of topic/0 and does not know what was produced since: 10 of 15 records.
type zombie struct {
	*kfake.Cluster
	node   int32
	refuse atomic.Int32 // how many questions who leads the other brokers refuse
	asked  atomic.Int32
}

func newZombie(t *testing.T, ctx context.Context, topic string, replicas int16) *zombie {
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, replicas, nil, topic); err != nil {
		t.Fatal(err)
	}
	produce := func(n int) {
		for i := range n {
			if err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte(strconv.Itoa(i))}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	produce(10)
	before, err := metadataOf([]string{topic}).RequestWith(ctx, cl)
	if err != nil {
		t.Fatal(err)
	}
	old := before.Topics[0].Partitions[0]
	if len(old.Replicas) != int(replicas) {
		t.Fatalf("%d replicas", len(old.Replicas))
	}
	z := &zombie{Cluster: c, node: old.Leader}
	if err := c.MoveTopicPartition(topic, 0, (old.Leader+1)%3); err != nil {
		t.Fatal(err)
	}
	produce(5)
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if c.CurrentNode() != z.node {
			return nil, errors.New("out of reach"), z.refuse.Add(-1) >= 0
		}
		resp := *before
		resp.Version = req.GetVersion()
		return &resp, nil, true
	})
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if c.CurrentNode() != z.node {
			return nil, nil, false
		}
		z.asked.Add(1)
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		resp.Topics = []kmsg.ListOffsetsResponseTopic{{Topic: topic, Partitions: []kmsg.ListOffsetsResponseTopicPartition{
			{Partition: 0, Offset: 10, LeaderEpoch: old.LeaderEpoch, Timestamp: -1}}}}
		if req.(*kmsg.ListOffsetsRequest).Topics[0].Partitions[0].CurrentLeaderEpoch > old.LeaderEpoch {
			resp.Topics[0].Partitions[0].ErrorCode = kerr.UnknownLeaderEpoch.Code
		}
		return resp, nil, true
	})
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	z := newZombie(t, ctx, "profiles", 3)
	for _, tc := range []struct {
		at   int64
		iso  Isolation
		want int64
	}{{AtEnd, HighWatermark, 15}, {AtEnd, LastStable, 15}, {AtStart, HighWatermark, 0}, {time.Now().Add(-time.Hour).UnixMilli(), HighWatermark, 0}} {
		got, err := ListOffsets(ctx, z.client(t), map[string][]int32{"profiles": {0}}, tc.at, tc.iso)
		if err != nil || got["profiles"][0] != tc.want {
			t.Errorf("at %d, isolation %d: %v, %v; want %d", tc.at, tc.iso, got, err, tc.want)
		}
	}
	if n := z.asked.Load(); n != 0 {
		t.Errorf("the broker that was replaced was asked for offsets %d times", n)
	}
}

func TestEndsNeedMostOfTheReplicas(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	z := newZombie(t, ctx, "profiles", 3)
	z.refuse.Store(1 << 30)
	short, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
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
