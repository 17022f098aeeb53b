package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Epoch is a leader epoch plus one, as it is written down beside an offset; 0: unknown.
type Epoch int32

// EpochOf is the epoch of the leader that appended a record.
func EpochOf(r *kgo.Record) Epoch { return Epoch(r.LeaderEpoch + 1) }

// EpochEnd is what a leader says of an earlier epoch of its log.
type EpochEnd struct {
	// Offset is where the log left the epoch: that of the first record of a later one, the
	// end of the log if there is none; -1 if the leader does not know of the epoch. Every
	// record of the epoch, or of one before it, that the log still has lies below.
	Offset int64
	// Leader is the epoch of the leader that said so. While there is none later, the log
	// has what it had then.
	Leader Epoch
}

// EpochEnds asks the leaders of partitions where their logs left an epoch of each
// (KIP-320). An error if any of them does not answer; the answers of those that did are
// returned beside it.
//
// As ListOffsets it goes by the leaders that most replicas know, and asks again while
// they change.
func EpochEnds(ctx context.Context, cl *kgo.Client, epochs map[string]map[int32]Epoch) (map[string]map[int32]EpochEnd, error) {
	out := make(map[string]map[int32]EpochEnd)
	parts, want := make(map[string][]int32), 0
	for t, ps := range epochs {
		out[t] = make(map[int32]EpochEnd)
		for p := range ps {
			parts[t] = append(parts[t], p)
			want++
		}
	}
	if want == 0 {
		return out, nil
	}
	placed, err := placements(ctx, cl, parts)
	if err != nil {
		return out, err
	}
	if len(placed) < want {
		return out, fmt.Errorf("asking where epochs end: %d of %d partitions are known: %w", len(placed), want, kerr.UnknownTopicOrPartition)
	}
	if err := whileLeadersChange(ctx, func() error { return askEpochs(ctx, cl, placed, epochs, out) }); err != nil {
		return out, fmt.Errorf("asking where epochs end: %w", err)
	}
	return out, nil
}

// askEpochs asks once.
func askEpochs(ctx context.Context, cl *kgo.Client, placed map[partition][]int32, epochs map[string]map[int32]Epoch, out map[string]map[int32]EpochEnd) error {
	leaders, failed := newestLeaders(ctx, cl, placed)
	for _, a := range askLeaders[*kmsg.OffsetForLeaderEpochResponse](ctx, cl, leaders, func(topics map[string][]int32) kmsg.Request {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.ReplicaID = -1
		for t, ps := range topics {
			rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
			rt.Topic = t
			for _, p := range ps {
				rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
				rp.Partition, rp.CurrentLeaderEpoch, rp.LeaderEpoch = p, leaders[partition{t, p}].epoch, int32(epochs[t][p])-1
				rt.Partitions = append(rt.Partitions, rp)
			}
			req.Topics = append(req.Topics, rt)
		}
		return req
	}) {
		if a.err != nil {
			failed = errors.Join(failed, a.err)
			continue
		}
		for _, t := range a.resp.Topics {
			for _, p := range t.Partitions {
				l, asked := leaders[partition{t.Topic, p.Partition}]
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					failed = errors.Join(failed, fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err))
				} else if asked {
					out[t.Topic][p.Partition] = EpochEnd{p.EndOffset, Epoch(l.epoch + 1)}
					delete(leaders, partition{t.Topic, p.Partition})
				}
			}
		}
	}
	for p := range leaders {
		failed = errors.Join(failed, fmt.Errorf("no answer for %s/%d", p.topic, p.n))
	}
	return failed
}
