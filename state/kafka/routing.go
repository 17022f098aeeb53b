package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// routingSample is how many records CheckRouting reads at each end of each
// partition.
const routingSample = 500

// CheckRouting reads the first and the newest records of every partition of a
// keyed topic and reports partitions that hold keys which Kafka's default
// partitioner (murmur2 of the key) puts elsewhere. That is so after partitions
// were added, and with a producer that partitions in another way. A topic that
// does not exist has no findings; Check reports it.
func CheckRouting(ctx context.Context, opts []kgo.Opt, topic string) ([]Finding, error) {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ends, err := Ends(ctx, cl, topic)
	if err != nil {
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			return nil, nil
		}
		return nil, fmt.Errorf("checking the keys of %s: %w", topic, err)
	}
	parts := ends[topic]
	part := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
	var found []Finding
	for _, p := range parts {
		seen, wrong, err := strangers(ctx, opts, p, len(parts), part)
		if err != nil {
			return nil, fmt.Errorf("checking the keys of %s/%d: %w", topic, p.Partition, err)
		}
		if wrong > 0 {
			found = append(found, Finding{
				Topic: topic, Setting: "routing", Have: fmt.Sprintf("partition %d: %d of %d records looked at have keys of other partitions", p.Partition, wrong, seen),
				Want: "every key in the partition that murmur2 of the key names",
				Cost: "events do not find these profiles and come out undecorated; after partitions were added, produce all profiles again",
			})
		}
	}
	return found, nil
}

// strangers reads up to routingSample records from each end of a partition.
func strangers(ctx context.Context, opts []kgo.Opt, p PartitionEnd, partitions int, part kgo.TopicPartitioner) (seen, wrong int, err error) {
	stretches := [][2]int64{{p.Start, min(p.End, p.Start+routingSample)}}
	if from := p.End - routingSample; from > stretches[0][1] {
		stretches = append(stretches, [2]int64{from, p.End})
	}
	for _, s := range stretches {
		if s[0] >= s[1] {
			continue
		}
		n, w, err := strangersIn(ctx, opts, p, s[0], s[1], partitions, part)
		if err != nil {
			return 0, 0, err
		}
		seen, wrong = seen+n, wrong+w
	}
	return seen, wrong, nil
}

func strangersIn(ctx context.Context, opts []kgo.Opt, p PartitionEnd, from, to int64, partitions int, part kgo.TopicPartitioner) (seen, wrong int, err error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.Topic: {p.Partition: kgo.NewOffset().At(from)}}),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(probeAfter),
	)...)
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	for next := from; next < to; {
		pctx, cancel := context.WithTimeout(ctx, 20*probeAfter)
		fetches := cl.PollRecords(pctx, routingSample)
		cancel()
		if ctx.Err() != nil {
			return seen, wrong, ctx.Err()
		}
		moved := false
		fetches.EachRecord(func(r *kgo.Record) {
			next, moved = r.Offset+1, true
			if r.Offset >= to || r.Attrs.IsControl() || r.Key == nil {
				return
			}
			seen++
			if part.Partition(r, partitions) != int(p.Partition) {
				wrong++
			}
		})
		if !moved {
			// Compacted away up to the end, or an open transaction: what was
			// seen is the sample.
			return seen, wrong, nil
		}
	}
	return seen, wrong, nil
}
