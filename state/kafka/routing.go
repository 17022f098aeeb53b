package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// routingSample is how many records CheckRouting reads at each end of each
// partition.
const routingSample = 500

// routingLimit is how long the look at one partition may take.
const routingLimit = 20 * time.Second

// CheckRouting reads the first and the newest records of every partition of a
// keyed topic and reports partitions that hold keys which Kafka's default
// partitioner (murmur2 of the key) puts elsewhere. That is so after partitions
// were added, and with a producer that partitions in another way. A topic that
// does not exist has no findings; Check reports it. What cannot be read is an error.
func CheckRouting(ctx context.Context, opts []kgo.Opt, topic string) ([]Finding, error) {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ectx, cancel := context.WithTimeout(ctx, routingLimit)
	defer cancel()
	ends, err := Ends(ectx, cl, topic)
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
				Cost: "events do not find these profiles: after partitions were added, produce all profiles again; a producer has to partition by murmur2 of the key, " +
					"as Kafka's own does and librdkafka with partitioner=murmur2_random. What lies in a wrong partition is told of until a null for its key is produced to that partition and compacted",
			})
		}
	}
	return found, nil
}

// strangers reads up to routingSample records from each end of a partition.
func strangers(ctx context.Context, opts []kgo.Opt, p PartitionEnd, partitions int, part kgo.TopicPartitioner) (seen, wrong int, err error) {
	ctx, cancel := context.WithTimeout(ctx, routingLimit)
	defer cancel()
	for from := p.Start; from < p.End; from = max(from, p.End-routingSample) {
		var n, w int
		if n, w, from, err = strangersFrom(ctx, opts, p, from, partitions, part); err != nil {
			return 0, 0, err
		}
		seen, wrong = seen+n, wrong+w
	}
	return seen, wrong, nil
}

// strangersFrom reads up to routingSample records, and says where the next one would
// be. Fewer are all there are: what the log still holds is not told by its offsets, as
// the start of one that is only compacted stays where it was.
func strangersFrom(ctx context.Context, opts []kgo.Opt, p PartitionEnd, from int64, partitions int, part kgo.TopicPartitioner) (seen, wrong int, next int64, err error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{p.Topic: {p.Partition: kgo.NewOffset().At(from)}}),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(probeAfter),
	)...)
	if err != nil {
		return 0, 0, from, err
	}
	defer cl.Close()
	var unknown error // why it is not known whether anything is left
	for next = from; next < p.End && seen < routingSample; {
		pctx, cancel := context.WithTimeout(ctx, 20*probeAfter)
		fetches := cl.PollRecords(pctx, routingSample-seen)
		cancel()
		if ctx.Err() != nil {
			return seen, wrong, next, fmt.Errorf("read up to offset %d of %d: %w", next, p.End, cmp.Or(unknown, ctx.Err()))
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) {
				return seen, wrong, next, e.Err
			}
		}
		moved := false
		fetches.EachRecord(func(r *kgo.Record) {
			next, moved = max(next, r.Offset+1), true
			if r.Offset >= p.End || r.Attrs.IsControl() {
				return
			}
			seen++
			if r.Key != nil && part.Partition(r, partitions) != int(p.Partition) {
				wrong++
			}
		})
		if !moved {
			// Compacted away up to the end, or slow.
			next, unknown = Probe(ctx, cl, cl, Question{p.Topic, p.TopicID, p.Partition, next, true})
		}
	}
	return seen, wrong, next, nil
}
