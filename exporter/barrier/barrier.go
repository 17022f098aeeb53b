// Package barrier finds out how far the input reaches: for every partition of
// every event topic the offset below which everything acknowledged lies.
//
// A topic that was deleted and made anew is another stream behind the earlier
// ones of its name (contract 2.5, 2.7). What was kept of those stays part of
// every export: a barrier names all incarnations, and a partition that it does
// not name did not exist when it was read.
package barrier

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// Read reads the ends of all partitions of the topics, in the order of topic,
// incarnation (oldest first) and partition. That of a present partition is its
// high watermark; that of an earlier incarnation, whose log is gone, is where
// its consumption ended, as the catalog says. A topic that was made anew and is
// not adopted yet is there with both. Behind these are the partitions of topics that
// were consumed before and are not among topics any more, by name, with where their
// consumption ended: what was kept of them is in exports until it expires.
//
// An error if any of it cannot be read: nothing is guessed. Ids and numbers of
// partitions are those of the broker that was asked; one that has not heard of the
// others for long may know an earlier topic or too few of its partitions. What the
// catalog knows better is an error, too.
func Read(ctx context.Context, cl *kgo.Client, view *catalog.View, topics []string) ([]report.End, error) {
	ends, err := kafka.Ends(ctx, cl, topics...)
	if err != nil {
		return nil, err
	}
	// After the ends, so that a topic among them that has taken another's place
	// finds the other's last cut.
	if err := view.CatchUp(ctx); err != nil {
		return nil, fmt.Errorf("reading the ends of earlier topics: %w", err)
	}
	var out []report.End
	for _, topic := range topics {
		present := ends[topic]
		adopted := view.Adopted(topic)
		for i, id := range adopted {
			positions := view.Positions(id)
			if len(present) > 0 && id == segment.TopicID(present[0].TopicID) {
				if i < len(adopted)-1 {
					return nil, fmt.Errorf("a broker knows topic %s as it was before it was made anew", topic)
				}
				for _, p := range positions {
					if int(p.Partition) >= len(present) {
						return nil, fmt.Errorf("a broker knows %d partitions of topic %s; events of partition %d have been processed", len(present), topic, p.Partition)
					}
				}
				continue
			}
			for _, p := range positions {
				out = append(out, report.End{Topic: topic, TopicID: id, Partition: p.Partition, Offset: p.Next})
			}
		}
		for _, e := range present {
			out = append(out, report.End{Topic: topic, TopicID: e.TopicID, Partition: e.Partition, Offset: e.End})
		}
	}
	for _, p := range view.OtherEvents(topics) {
		out = append(out, report.End{Topic: p.Topic, TopicID: p.TopicID, Partition: p.Partition, Offset: p.Next})
	}
	return out, nil
}
