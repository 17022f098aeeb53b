package rolling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/barrier"
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
// A topic that was made anew contributes all its incarnations; one that is over, or
// is not consumed any more, ends where it was left. There is an error, and no boundary, if brokers do not
// answer or the incarnation in use has not been adopted: it might never be, and
// whoever waits for a boundary waits for all of it.
//
// Asked again later, the answer may be another one: the index also knows records
// of aborted transactions, the marks do not, and ends move. A boundary is to be
// written down once and kept.
func Boundary(ctx context.Context, cat *catalog.View, cl *kgo.Client, topics []string, t time.Time) ([]report.End, error) {
	if !t.Equal(t.Truncate(time.Minute)) {
		return nil, errors.New("a boundary must be on a whole minute")
	}
	// The ends before the index: what is above them came after t had passed.
	ends, err := barrier.Read(ctx, cl, cat, topics)
	if err != nil {
		return nil, err
	}
	present := make(map[string]segment.TopicID)
	for _, e := range ends {
		if slices.Contains(topics, e.Topic) {
			present[e.Topic] = e.TopicID // it stands behind the earlier ones
		}
	}
	out, least := make([]report.End, 0, len(ends)), []report.End(nil)
	unmarked := make(map[string][]int32)
	for _, e := range ends {
		// The position first: it may move now, and a mark that comes with that
		// is not below it.
		pos, _ := cat.Position(e.TopicID, e.Partition)
		if at, ok := cat.Mark(e.TopicID, e.Partition, t); ok {
			e.Offset = at
		} else {
			least = append(least, report.End{Topic: e.Topic, TopicID: e.TopicID, Partition: e.Partition, Offset: pos.Next})
			if e.TopicID == present[e.Topic] {
				unmarked[e.Topic] = append(unmarked[e.Topic], e.Partition)
			}
		}
		out = append(out, e)
	}
	first, err := kafka.ListOffsets(ctx, cl, unmarked, t.UnixMilli(), kafka.HighWatermark)
	if err != nil {
		return nil, err
	}
	for i, e := range out {
		if at, asked := first[e.Topic][e.Partition]; asked && at >= 0 && e.TopicID == present[e.Topic] {
			out[i].Offset = at
		}
	}
	if err := inUse(ctx, cat, cl, topics, present); err != nil {
		return nil, err
	}
	return report.Later(out, least), nil
}

// inUse fails unless the given incarnations are still those that the brokers
// have, so that no offset is one of another, and are adopted, as far as the
// topics have been seen at all.
func inUse(ctx context.Context, cat *catalog.View, cl *kgo.Client, topics []string, present map[string]segment.TopicID) error {
	infos, err := kafka.Describe(ctx, cl, topics...)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		id := segment.TopicID(infos[topic].ID)
		if id != present[topic] {
			return fmt.Errorf("topic %s was made anew just now", topic)
		}
		if ids := cat.Adopted(topic); len(ids) > 0 && ids[len(ids)-1] != id {
			return fmt.Errorf("topic %s was made anew (its id is now %s): if that is meant, run `lockstitch topics adopt`", topic, id)
		}
	}
	return nil
}
