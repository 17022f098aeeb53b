package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Question is what Probe is asked about a partition; see there.
type Question struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
	Next      int64
	Compacted bool
}

// Answer is what Probe returns.
type Answer struct {
	Past int64
	Err  error
}

// questionsAtOnce is how many probes of one client are under way.
const questionsAtOnce = 64

// ProbeAll asks many questions at once, within limit, and returns the answers in their order:
// a silent broker must not hold up for long what is to be done with those of the others.
func ProbeAll(ctx context.Context, leaders, via *kgo.Client, limit time.Duration, ask []Question) []Answer {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answers := make([]Answer, len(ask))
	var eg errgroup.Group
	eg.SetLimit(questionsAtOnce)
	for i, q := range ask {
		eg.Go(func() error {
			past, err := Probe(ctx, leaders, via, q)
			answers[i] = Answer{past, err}
			return nil
		})
	}
	_ = eg.Wait()
	return answers
}

// Probe answers whether anything is left to read at offset q.Next of a
// partition, by one raw fetch of the leader that the client leaders, which reads the topic,
// knows. It is sent by the client via: one that reads the topic itself gets its answers
// behind its own long polls. A consumer is not told of a stretch that holds
// no record (compacted away, emptied by retention): it would wait for ever for
// an end that no record reaches.
//
// It returns the offset up to which nothing is to be read: q.Next itself if a
// record is there or the last stable offset has not moved beyond it, else an
// offset past the empty stretch.
//
// An answer without a batch shows such a stretch only where records may be gone
// from the midst, in a compacted topic. Of another one every offset of the log lies
// in some batch: with tiered storage a broker answers the same while a read from
// there is throttled (KIP-956) or not ready in time. Compacted topics have no tiers.
func Probe(ctx context.Context, leaders, via *kgo.Client, q Question) (int64, error) {
	topic, partition, next := q.Topic, q.Partition, q.Next
	leader, _, err := leaders.PartitionLeader(topic, partition)
	if err != nil {
		return next, fmt.Errorf("probing %s/%d: %w", topic, partition, err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = 0
	req.MinBytes = 0
	req.MaxBytes = 1 << 20
	req.IsolationLevel = int8(LastStable)
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, q.TopicID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition = partition
	rp.FetchOffset = next
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)

	kresp, err := via.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return next, fmt.Errorf("probing %s/%d: %w", topic, partition, err)
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return next, fmt.Errorf("probing %s/%d: %w", topic, partition, err)
	}
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			if p.Partition != partition {
				continue
			}
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return next, fmt.Errorf("probing %s/%d at %d: %w", topic, partition, next, err)
			}
			if len(p.RecordBatches) == 0 {
				if !q.Compacted {
					return next, nil
				}
				return max(next, p.LastStableOffset), nil
			}
			fp, past := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				KeepControlRecords: true,
				Offset:             next,
				IsolationLevel:     kgo.ReadCommitted(),
				Topic:              topic,
				Partition:          partition,
			}, p, via.OptValue(kgo.WithDecompressor).(kgo.Decompressor), nil) // the client's, with its bound
			if large := (*kgo.ErrDecompressTooLarge)(nil); errors.As(fp.Err, &large) {
				return next, nil // the consumer is told
			}
			if fp.Err != nil {
				return next, fmt.Errorf("probing %s/%d at %d: %w", topic, partition, next, fp.Err)
			}
			if len(fp.Records) > 0 {
				return next, nil
			}
			return max(next, past), nil
		}
	}
	return next, fmt.Errorf("probing %s/%d: the broker did not answer for the partition", topic, partition)
}
