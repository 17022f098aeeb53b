package rolling

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// Boundary is the position in the event topics that belongs to a time, which
// must stand on a whole minute and have passed by the brokers' clocks. In every
// partition it is
//
//   - the minute's mark where the catalog has one: the first offset whose log
//     time has reached t;
//   - else the first record, at or above the position, whose Kafka time has
//     reached t, as the broker's index of times says;
//   - else the end (high watermark): no record has reached t.
//
// It is nowhere below before and names every partition that before names. A
// topic that was made anew contributes all its incarnations; one that is over
// ends where it was left. There is an error, and no boundary, if brokers do not
// answer or the incarnation in use has not been adopted.
//
// Asked again later, the answer may be another one: the index also knows records
// of aborted transactions, the marks do not, and ends move. A boundary is to be
// written down once and kept.
func Boundary(ctx context.Context, cat *catalog.View, cl *kgo.Client, topics []string, t time.Time, before []report.End) ([]report.End, error) {
	if !t.Equal(t.Truncate(time.Minute)) {
		return nil, errors.New("a boundary must be on a whole minute")
	}
	if err := cat.CatchUp(ctx); err != nil {
		return nil, err
	}
	// The ends before the index: what is above them came after t had passed.
	ends, err := kafka.Ends(ctx, cl, topics...)
	if err != nil {
		return nil, err
	}
	var out []report.End // of an entry twice, the later counts
	unmarked := make(map[string][]int32)
	ids := make(map[string][]segment.TopicID)
	for _, topic := range topics {
		ids[topic] = cat.Adopted(topic)
		for _, id := range ids[topic][:max(0, len(ids[topic])-1)] {
			for _, p := range cat.Positions(id) {
				end, _ := known(cat, topic, id, p.Partition, t)
				out = append(out, end)
			}
		}
		for _, e := range ends[topic] {
			end, marked := known(cat, topic, e.TopicID, e.Partition, t)
			out = append(out, end)
			if !marked {
				unmarked[topic] = append(unmarked[topic], e.Partition)
			}
		}
	}
	first, err := kafka.ListOffsets(ctx, cl, unmarked, t.UnixMilli(), kafka.HighWatermark)
	if err != nil {
		return nil, err
	}
	for _, topic := range topics {
		for _, e := range ends[topic] {
			at, asked := first[topic][e.Partition]
			if !asked {
				continue
			}
			if at < 0 {
				at = e.End
			}
			out = append(out, report.End{Topic: topic, TopicID: e.TopicID, Partition: e.Partition, Offset: at})
		}
	}
	// Only now: had a topic been made anew meanwhile, offsets of two incarnations
	// would be mixed up.
	if err := inUse(ctx, cl, ends, ids); err != nil {
		return nil, err
	}
	return report.Later(out, before), nil
}

// known is what the catalog says of a partition's boundary: its mark of t, or
// else, marked being false, its position, which no boundary is below.
func known(cat *catalog.View, topic string, id segment.TopicID, partition int32, t time.Time) (end report.End, marked bool) {
	// The position first: it may move between the two, and a mark that appears
	// then is at or above the position that was read.
	pos, _ := cat.Position(id, partition)
	end = report.End{Topic: topic, TopicID: id, Partition: partition, Offset: pos.Next}
	if at, ok := cat.Mark(id, partition, t); ok {
		end.Offset = at
		return end, true
	}
	return end, false
}

// inUse fails unless the incarnations that the ends are of are those that the
// brokers have now and that were adopted, if any was, last.
func inUse(ctx context.Context, cl *kgo.Client, ends map[string][]kafka.PartitionEnd, adopted map[string][]segment.TopicID) error {
	topics := slices.Sorted(maps.Keys(ends))
	infos, err := kafka.Describe(ctx, cl, topics...)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		id := segment.TopicID(infos[topic].ID)
		if len(ends[topic]) > 0 && ends[topic][0].TopicID != id {
			return fmt.Errorf("topic %s was made anew while its ends were read", topic)
		}
		if ids := adopted[topic]; len(ids) > 0 && ids[len(ids)-1] != id {
			return fmt.Errorf("topic %s was made anew (its id is now %s): if that is meant, run `lockstitch topics adopt`", topic, id)
		}
	}
	return nil
}
