package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// Isolation says which end of a partition is asked for.
type Isolation int8

const (
	// HighWatermark is the end of what is replicated, open transactions
	// included.
	HighWatermark Isolation = 0
	// LastStable is the end of what is decided: the first offset of the oldest
	// open transaction, or the high watermark where there is none.
	LastStable Isolation = 1
)

// Timestamps with a special meaning in ListOffsets.
const (
	AtEnd   int64 = -1
	AtStart int64 = -2
)

// PartitionEnd is one partition with the offsets of its first record and its
// end (the offset that the next record gets).
type PartitionEnd struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
	Start     int64
	End       int64
}

// TopicInfo is what a cluster's metadata says of one topic.
type TopicInfo struct {
	ID         [16]byte
	Partitions int32
}

// errNoIDs says that brokers are too old. Positions, and whose a store is, go by the id
// of a topic: without ids all topics are one. Fetch names the id from Kafka 3.1 on.
var errNoIDs = errors.New("the brokers do not tell topics by their ids (KIP-516); Kafka 3.1 or later is needed, with an inter.broker.protocol.version of 2.8 or later")

// NoTopicError says that a topic does not exist; it wraps kerr.UnknownTopicOrPartition.
type NoTopicError struct{ Topic string }

func (e *NoTopicError) Error() string { return "there is no topic " + e.Topic }

func (e *NoTopicError) Unwrap() error { return kerr.UnknownTopicOrPartition }

// describeLimit is how long the first broker is waited for that Describe asks.
const describeLimit = 500 * time.Millisecond

// Describe asks for the ids and partition counts of topics. A topic that does
// not exist is a *NoTopicError, and one that has no id is an error too. A broker that stands still is not waited for: the client library
// asks another one each time.
func Describe(ctx context.Context, cl *kgo.Client, topics ...string) (map[string]TopicInfo, error) {
	limit := describeLimit
	resp, err := backoff.Retry(ctx, func() (*kmsg.MetadataResponse, error) {
		one, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		limit *= 2
		resp, err := metadataOf(topics).RequestWith(one, cl)
		if err != nil && one.Err() == nil {
			err = backoff.Permanent(err)
		}
		return resp, err
	}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(&backoff.ZeroBackOff{}))
	if err != nil {
		return nil, fmt.Errorf("reading the metadata of %v: %w", topics, err)
	}
	out := make(map[string]TopicInfo, len(topics))
	for _, t := range resp.Topics {
		name := ""
		if t.Topic != nil {
			name = *t.Topic
		}
		switch err := kerr.ErrorForCode(t.ErrorCode); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			return nil, &NoTopicError{name}
		case err != nil:
			return nil, fmt.Errorf("topic %s: %w", name, err)
		}
		if t.TopicID == ([16]byte{}) {
			return nil, fmt.Errorf("topic %s: %w", name, errNoIDs)
		}
		out[name] = TopicInfo{ID: t.TopicID, Partitions: int32(len(t.Partitions))}
	}
	for _, t := range topics {
		if _, ok := out[t]; !ok {
			return nil, &NoTopicError{t}
		}
	}
	return out, nil
}

// metadataOf is the question for the metadata of some topics.
func metadataOf(topics []string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, rt)
	}
	return req
}

// ListOffsets asks the leaders of the given partitions for one offset each:
// timestamp is AtStart, AtEnd or a time in ms (then the first offset at or
// after it, -1 where there is none). An error if any partition does not answer;
// the offsets of those that did are returned beside it.
//
// The leader of a partition with several replicas is the one that most of them
// know (leaders.go): below an end lies all that was acknowledged before the call,
// if min.insync.replicas is more than half of the replicas.
func ListOffsets(ctx context.Context, cl *kgo.Client, partitions map[string][]int32, timestamp int64, iso Isolation) (map[string]map[int32]int64, error) {
	out := make(map[string]map[int32]int64, len(partitions))
	if len(partitions) == 0 {
		return out, nil
	}
	placed, err := placements(ctx, cl, partitions)
	if err != nil {
		return out, err
	}
	maps.DeleteFunc(placed, func(_ partition, replicas []int32) bool { return len(replicas) == 1 })
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = int8(iso)
	want := 0
	for t, ps := range partitions {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = t
		for _, p := range ps {
			if placed[partition{t, p}] != nil {
				continue
			}
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition = p
			rp.Timestamp = timestamp
			rt.Partitions = append(rt.Partitions, rp)
			want++
		}
		if len(rt.Partitions) > 0 {
			req.Topics = append(req.Topics, rt)
		}
	}
	got := 0
	var failed error
	if len(placed) > 0 { // of those with one replica there is nobody else to ask
		failed = whileLeadersChange(ctx, func() error { return askOffsets(ctx, cl, placed, timestamp, iso, out) })
	}
	if want == 0 {
		return out, failed
	}
	for _, shard := range cl.RequestSharded(ctx, req) {
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if shard.Err == nil && !ok {
			shard.Err = errors.New("unexpected response")
		}
		if shard.Err != nil {
			failed = cmp.Or(failed, fmt.Errorf("listing offsets: %w", shard.Err))
			continue
		}
		n, err := takeOffsets(resp, out)
		got, failed = got+n, cmp.Or(failed, err)
	}
	if failed == nil && got != want {
		failed = fmt.Errorf("listing offsets: %d of %d partitions answered", got, want)
	}
	return out, failed
}

// takeOffsets puts the offsets of an answer into out and counts them; the error
// is that of the first partition without one.
func takeOffsets(resp *kmsg.ListOffsetsResponse, out map[string]map[int32]int64) (n int, failed error) {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				failed = cmp.Or(failed, fmt.Errorf("listing offsets of %s/%d: %w", t.Topic, p.Partition, err))
				continue
			}
			if out[t.Topic] == nil {
				out[t.Topic] = make(map[int32]int64)
			}
			out[t.Topic][p.Partition] = p.Offset
			n++
		}
	}
	return n, failed
}

// Ends reads the starts and high watermarks of all partitions of topics, in
// order of topic and partition. An error if any of them cannot be read, or if a
// topic is made anew meanwhile: offsets are asked for by name, and would be taken
// for those of the topic that was deleted.
func Ends(ctx context.Context, cl *kgo.Client, topics ...string) (map[string][]PartitionEnd, error) {
	infos, err := Describe(ctx, cl, topics...)
	if err != nil {
		return nil, err
	}
	parts := make(map[string][]int32, len(topics))
	for t, info := range infos {
		for p := range info.Partitions {
			parts[t] = append(parts[t], p)
		}
	}
	var starts, ends map[string]map[int32]int64
	eg, ectx := errgroup.WithContext(ctx)
	eg.Go(func() (err error) {
		starts, err = ListOffsets(ectx, cl, parts, AtStart, HighWatermark)
		return err
	})
	eg.Go(func() (err error) {
		ends, err = ListOffsets(ectx, cl, parts, AtEnd, HighWatermark)
		return err
	})
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	again, err := Describe(ctx, cl, topics...)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]PartitionEnd, len(topics))
	for t, info := range infos {
		if again[t].ID != info.ID {
			return nil, fmt.Errorf("topic %s was made anew just now", t)
		}
		for p := range info.Partitions {
			out[t] = append(out[t], PartitionEnd{
				Topic: t, TopicID: info.ID, Partition: p,
				Start: starts[t][p], End: ends[t][p],
			})
		}
		sort.Slice(out[t], func(i, j int) bool { return out[t][i].Partition < out[t][j].Partition })
	}
	return out, nil
}
