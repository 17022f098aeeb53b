package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Probe answers whether anything is left to read at offset next of a
// partition, by one raw fetch. A consumer is not told of a stretch that holds
// no record (compacted away, emptied by retention): it would wait for ever for
// an end that no record reaches.
//
// It returns the offset up to which nothing is to be read: next itself if a
// record is there or the last stable offset has not moved beyond next, else an
// offset past the empty stretch.
//
// An answer without a batch shows such a stretch only where records may be gone
// from the midst, in a compacted topic. Of another one every offset of the log lies
// in some batch: with tiered storage a broker answers the same while a read from
// there is throttled (KIP-956) or not ready in time. Compacted topics have no tiers.
func Probe(ctx context.Context, cl *kgo.Client, topic string, topicID [16]byte, partition int32, next int64, compacted bool) (int64, error) {
	leader, _, err := cl.PartitionLeader(topic, partition)
	if err != nil {
		return next, fmt.Errorf("probing %s/%d: %w", topic, partition, err)
	}
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = 0
	req.MinBytes = 0
	req.MaxBytes = 1 << 20
	req.IsolationLevel = int8(LastStable)
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, topicID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition = partition
	rp.FetchOffset = next
	rp.PartitionMaxBytes = 1 << 20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)

	kresp, err := cl.Broker(int(leader)).RetriableRequest(ctx, req)
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
				if !compacted {
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
			}, p, cl.OptValue(kgo.WithDecompressor).(kgo.Decompressor), nil) // the client's, with its bound
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
