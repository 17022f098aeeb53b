package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// EpochEnd asks the leader of a partition where the log left a leader epoch: the
// offset at which the first later epoch begins, the end of the log if there is none;
// -1 if the leader does not know of the epoch (KIP-320). Every record of the epoch, or
// of one before it, that the log still has lies below.
//
// As ListOffsets it goes by the leader that most replicas know. While leaders change
// it asks again.
func EpochEnd(ctx context.Context, cl *kgo.Client, topic string, n, epoch int32) (int64, error) {
	placed, err := replicated(ctx, cl, map[string][]int32{topic: {n}})
	if err != nil {
		return -1, err
	}
	end, err := backoff.Retry(ctx, func() (int64, error) {
		return epochEndOnce(ctx, cl, placed, partition{topic, n}, epoch)
	}, backoff.WithMaxElapsedTime(offsetsLimit), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, Multiplier: 2, MaxInterval: 500 * time.Millisecond, RandomizationFactor: 0.2}))
	if err != nil {
		return -1, fmt.Errorf("asking where epoch %d of %s/%d ends: %w", epoch, topic, n, err)
	}
	return end, nil
}

func epochEndOnce(ctx context.Context, cl *kgo.Client, placed map[partition][]int32, p partition, epoch int32) (int64, error) {
	rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = p.n, -1, epoch
	var to kmsg.Requestor = cl // there is nobody but the one that the client knows
	if len(placed) > 0 {
		leaders, err := newestLeaders(ctx, cl, placed)
		if err != nil {
			return -1, err
		}
		rp.CurrentLeaderEpoch = leaders[p].epoch
		to = cl.Broker(int(leaders[p].broker))
	}
	rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
	rt.Topic, rt.Partitions = p.topic, append(rt.Partitions, rp)
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID, req.Topics = -1, append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, to)
	if err != nil {
		return -1, err
	}
	for _, t := range resp.Topics {
		for _, a := range t.Partitions {
			if t.Topic == p.topic && a.Partition == p.n {
				return a.EndOffset, kerr.ErrorForCode(a.ErrorCode)
			}
		}
	}
	return -1, fmt.Errorf("no answer for the partition")
}
