package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A broker that stood still, or that the controller does not reach, takes itself
// for the leader of partitions that have another one by now, and answers with
// their offsets of before. What was acknowledged since is on most of the replicas,
// as min.insync.replicas says, and these know the new leader's epoch. Offsets are
// therefore asked of the leader that most of the replicas know, at that epoch,
// which a broker that has not heard of it refuses (KIP-320).

type partition struct {
	topic string
	n     int32
}

// leader is who leads a partition, by the newest epoch that a replica told.
type leader struct {
	broker, epoch int32
	told          int // replicas that have told
}

// placementAge is how old the client's knowledge of where replicas lie may be. They
// move seldom, and then one after the other.
const placementAge = time.Minute

// replicated answers which of the partitions have more than one replica, and on
// which brokers.
func replicated(ctx context.Context, cl *kgo.Client, partitions map[string][]int32) (map[partition][]int32, error) {
	resp, err := cl.RequestCachedMetadata(ctx, metadataOf(slices.Collect(maps.Keys(partitions))), placementAge)
	if err != nil {
		return nil, fmt.Errorf("reading where partitions lie: %w", err)
	}
	placed := make(map[partition][]int32)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if t.Topic != nil && len(p.Replicas) > 1 && slices.Contains(partitions[*t.Topic], p.Partition) {
				placed[partition{*t.Topic, p.Partition}] = p.Replicas
			}
		}
	}
	return placed, nil
}

// offsetsLimit is how long offsets are asked for: as long as the client library
// repeats its own requests.
const offsetsLimit = 30 * time.Second

// askLeaders asks for the offsets of partitions that have several replicas, as
// ListOffsets does; of those with one there is nobody else to ask. While leaders
// change it asks again.
func askLeaders(ctx context.Context, cl *kgo.Client, placed map[partition][]int32, timestamp int64, iso Isolation, out map[string]map[int32]int64) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = askLeadersOnce(ctx, cl, placed, timestamp, iso, out)
		return struct{}{}, last
	}, backoff.WithMaxElapsedTime(offsetsLimit), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, Multiplier: 2, MaxInterval: 500 * time.Millisecond, RandomizationFactor: 0.2}))
	if err != nil && last != nil && !errors.Is(err, last) {
		err = fmt.Errorf("%w: %w", err, last) // what was waited for, not only that time is up
	}
	return err
}

// askLeadersOnce asks once; out has the offsets of those that answered.
func askLeadersOnce(ctx context.Context, cl *kgo.Client, placed map[partition][]int32, timestamp int64, iso Isolation, out map[string]map[int32]int64) error {
	leaders, failed := newestLeaders(ctx, cl, placed)
	asks := make(map[int32]map[string][]kmsg.ListOffsetsRequestTopicPartition)
	for p, l := range leaders {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p.n, timestamp, l.epoch
		if asks[l.broker] == nil {
			asks[l.broker] = make(map[string][]kmsg.ListOffsetsRequestTopicPartition)
		}
		asks[l.broker][p.topic] = append(asks[l.broker][p.topic], rp)
	}
	answers := make(chan answer[*kmsg.ListOffsetsResponse], len(asks))
	for broker, topics := range asks {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID, req.IsolationLevel = -1, int8(iso)
		for t, ps := range topics {
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic, rt.Partitions = t, ps
			req.Topics = append(req.Topics, rt)
		}
		go func() { answers <- ask[*kmsg.ListOffsetsResponse](ctx, cl, broker, req) }()
	}
	got := 0
	for range asks {
		a := <-answers
		if a.err != nil {
			failed = errors.Join(failed, fmt.Errorf("listing offsets: %w", a.err))
			continue
		}
		n, err := takeOffsets(a.resp, out)
		got, failed = got+n, errors.Join(failed, err)
	}
	if failed == nil && got != len(placed) {
		failed = fmt.Errorf("listing offsets: %d of %d partitions answered", got, len(placed))
	}
	return failed
}

// newestLeaders asks the replicas of partitions for the leaders that they know,
// until most of those of each have told. The error is of partitions of which they
// have not, the others' leaders are returned beside it.
func newestLeaders(ctx context.Context, cl *kgo.Client, placed map[partition][]int32) (map[partition]leader, error) {
	brokers, names := make(map[int32]bool), make(map[string]bool)
	for p, replicas := range placed {
		names[p.topic] = true
		for _, r := range replicas {
			brokers[r] = true
		}
	}
	topics := slices.Collect(maps.Keys(names))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // nobody waits for a broker that stands still
	answers := make(chan answer[*kmsg.MetadataResponse], len(brokers))
	for b := range brokers {
		go func() { answers <- ask[*kmsg.MetadataResponse](ctx, cl, b, metadataOf(topics)) }()
	}
	leaders := make(map[partition]leader, len(placed))
	open := len(placed)
	var failed error
	for range brokers {
		a := <-answers
		if a.err != nil {
			failed = errors.Join(failed, a.err)
			continue
		}
		for _, t := range a.resp.Topics {
			if t.Topic == nil || t.ErrorCode != 0 {
				continue
			}
			for _, mp := range t.Partitions {
				p := partition{*t.Topic, mp.Partition}
				if !slices.Contains(placed[p], a.broker) {
					continue
				}
				l, known := leaders[p]
				if !known || mp.LeaderEpoch > l.epoch {
					l.broker, l.epoch = mp.Leader, mp.LeaderEpoch
				}
				if l.told++; l.told == most(len(placed[p])) {
					open--
				}
				leaders[p] = l
			}
		}
		if open == 0 {
			return leaders, nil
		}
	}
	var untold error
	for p, replicas := range placed {
		if l := leaders[p]; l.told < most(len(replicas)) {
			delete(leaders, p)
			untold = cmp.Or(untold, fmt.Errorf("%d of the %d replicas of %s/%d tell who leads it, which takes %d: %w", l.told, len(replicas), p.topic, p.n, most(len(replicas)),
				errors.Join(failed, kerr.LeaderNotAvailable)))
		}
	}
	return leaders, untold
}

// most is how many of n replicas must tell: more than half, so that one of them is
// among any min.insync.replicas that are more than half. Of two, one must do, or
// the loss of a broker would stop everything.
func most(n int) int {
	if n <= 2 {
		return 1
	}
	return n/2 + 1
}

type answer[R kmsg.Response] struct {
	broker int32
	resp   R
	err    error
}

// ask sends one request to one broker, once.
func ask[R kmsg.Response](ctx context.Context, cl *kgo.Client, broker int32, req kmsg.Request) answer[R] {
	resp, err := cl.Broker(int(broker)).Request(ctx, req)
	if err != nil {
		return answer[R]{broker: broker, err: fmt.Errorf("broker %d: %w", broker, err)}
	}
	r, ok := resp.(R)
	if !ok {
		return answer[R]{broker: broker, err: fmt.Errorf("broker %d: unexpected response", broker)}
	}
	return answer[R]{broker: broker, resp: r}
}
