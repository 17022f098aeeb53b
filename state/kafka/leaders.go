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

// placements answers on which brokers the replicas of partitions lie; it leaves out those
// that the brokers do not know.
func placements(ctx context.Context, cl *kgo.Client, partitions map[string][]int32) (map[partition][]int32, error) {
	want := 0
	for _, ps := range partitions {
		want += len(ps)
	}
	placed := make(map[partition][]int32, want)
	for _, age := range []time.Duration{placementAge, time.Nanosecond} { // some may be newer than what is known
		resp, err := cl.RequestCachedMetadata(ctx, metadataOf(slices.Collect(maps.Keys(partitions))), age)
		if err != nil {
			return nil, fmt.Errorf("reading where partitions lie: %w", err)
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if t.Topic != nil && len(p.Replicas) > 0 && slices.Contains(partitions[*t.Topic], p.Partition) {
					placed[partition{*t.Topic, p.Partition}] = p.Replicas
				}
			}
		}
		if len(placed) == want {
			break
		}
	}
	return placed, nil
}

// leadersLimit is how long leaders are asked for who sets no limit: as long as the client
// library repeats its own requests.
const leadersLimit = 30 * time.Second

// whileLeadersChange asks until there is an answer: until the deadline of ctx, if it has one.
func whileLeadersChange(ctx context.Context, once func() error) error {
	limit := leadersLimit
	if _, ok := ctx.Deadline(); ok {
		limit = 0 // none but that
	}
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = once()
		return struct{}{}, last
	}, backoff.WithMaxElapsedTime(limit), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, Multiplier: 2, MaxInterval: 500 * time.Millisecond, RandomizationFactor: 0.2}))
	if err != nil && last != nil && !errors.Is(err, last) {
		err = fmt.Errorf("%w: %w", err, last) // what was waited for, not only that time is up
	}
	return err
}

// askOffsets asks once for the offsets of partitions, as ListOffsets does; out has those that
// were answered.
func askOffsets(ctx context.Context, cl *kgo.Client, placed map[partition][]int32, timestamp int64, iso Isolation, out map[string]map[int32]int64) error {
	leaders, failed := newestLeaders(ctx, cl, placed)
	got := 0
	for _, a := range askLeaders[*kmsg.ListOffsetsResponse](ctx, cl, leaders, func(topics map[string][]int32) kmsg.Request {
		req := kmsg.NewPtrListOffsetsRequest()
		req.ReplicaID, req.IsolationLevel = -1, int8(iso)
		for t, ps := range topics {
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic = t
			for _, p := range ps {
				rp := kmsg.NewListOffsetsRequestTopicPartition()
				rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p, timestamp, leaders[partition{t, p}].epoch
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
		}
		return req
	}) {
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

// askLeaders sends each leader one request, for all partitions that it leads, and waits
// for all answers.
func askLeaders[R kmsg.Response](ctx context.Context, cl *kgo.Client, leaders map[partition]leader, request func(map[string][]int32) kmsg.Request) []answer[R] {
	led := make(map[int32]map[string][]int32)
	for p, l := range leaders {
		if led[l.broker] == nil {
			led[l.broker] = make(map[string][]int32)
		}
		led[l.broker][p.topic] = append(led[l.broker][p.topic], p.n)
	}
	answers := make(chan answer[R], len(led))
	for broker, topics := range led {
		go func() { answers <- ask[R](ctx, cl, broker, request(topics)) }()
	}
	out := make([]answer[R], 0, len(led))
	for range led {
		out = append(out, <-answers)
	}
	return out
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
