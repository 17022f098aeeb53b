package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// Register writes down the ids of input topics that the catalog has not seen
// before. A topic whose id differs from the recorded one is left alone: its
// lanes stop until Adopt. The ids are asked for first: what the catalog says later
// cannot have missed an id under which something was cut.
func Register(ctx context.Context, opts []kgo.Opt, catalogTopic string, v *View, inputs ...string) error {
	infos, err := kafka.Describe(ctx, v.Client(), inputs...)
	if err != nil {
		return err
	}
	if err := v.CatchUp(ctx); err != nil {
		return err
	}
	for _, topic := range inputs {
		if len(v.Adopted(topic)) > 0 {
			continue
		}
		if err := write(ctx, opts, catalogTopic, keyRegistered, &Adopted{Topic: topic, IDs: []segment.TopicID{infos[topic].ID}}); err != nil {
			return err
		}
	}
	return v.CatchUp(ctx)
}

// ErrNeverKnown is of a catalog that no replica has worked with yet, which is another one
// than theirs, or has nothing to be put right.
var ErrNeverKnown = errors.New("never known")

// Adopt accepts the present incarnation of every input topic that was deleted
// and made anew (contract 2.7): it is from then on a new stream that starts at
// its beginning and sorts behind the earlier ones. It also accepts that events
// were removed from a topic before they were read: their lanes go on at what is
// left. It returns the names of the topics for which something changed. ErrNeverKnown if
// the catalog has known none of the topics.
func Adopt(ctx context.Context, opts []kgo.Opt, topics kafka.Topics, log *slog.Logger) ([]string, error) {
	v, err := Open(ctx, Config{Opts: opts, Topic: topics.Catalog, Log: log})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	inputs := topics.Inputs()
	infos, err := kafka.Describe(ctx, v.Client(), inputs...) // first, as in Register
	if err != nil {
		return nil, err
	}
	if err := v.Load(ctx, 0); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(inputs, func(topic string) bool { return len(v.Adopted(topic)) > 0 }) {
		return nil, fmt.Errorf("the catalog %s has %w %s; is --catalog-topic right?", topics.Catalog, ErrNeverKnown, strings.Join(inputs, ", "))
	}
	var changed []string
	for _, topic := range inputs {
		ids := v.Adopted(topic)
		id := segment.TopicID(infos[topic].ID)
		if len(ids) > 0 && ids[len(ids)-1] == id {
			if topic == topics.Profiles {
				continue // they are read from the start of the log anyway
			}
			lost, err := giveUp(ctx, opts, topics.Catalog, v, topic, ids, log)
			if err != nil {
				return changed, err
			}
			if lost {
				changed = append(changed, topic)
			}
			continue
		}
		for _, old := range ids {
			if old == id {
				return changed, fmt.Errorf("topic %s has the id %s, which an earlier incarnation had: not adopted", topic, id)
			}
		}
		if err := write(ctx, opts, topics.Catalog, keyAdopted, &Adopted{Topic: topic, IDs: append(ids, id)}); err != nil {
			return changed, err
		}
		log.Info("adopted a topic", "topic", topic, "topic_id", id, "incarnation", len(ids))
		changed = append(changed, topic)
	}
	return changed, nil
}

// giveUp writes down from where lanes go on whose next events the log has lost.
// It moves no position: that is for the lanes' owners, who alone know where they
// stand.
func giveUp(ctx context.Context, opts []kgo.Opt, catalogTopic string, v *View, topic string, ids []segment.TopicID, log *slog.Logger) (bool, error) {
	ends, err := kafka.Ends(ctx, v.Client(), topic)
	if err != nil {
		return false, err
	}
	a := &Adopted{Topic: topic, IDs: ids, GivenUp: make(map[int32]int64)}
	lost := false
	for _, e := range ends[topic] {
		if given := v.GivenUp(topic, e.Partition); given > 0 {
			a.GivenUp[e.Partition] = given
		}
		pos, ok := v.Position(e.TopicID, e.Partition)
		if ok && pos.Next < e.Start && a.GivenUp[e.Partition] < e.Start {
			a.GivenUp[e.Partition] = e.Start
			log.Warn("events that were removed before they were read are given up", "topic", topic, "partition", e.Partition, "from", pos.Next, "to", e.Start)
			lost = true
		}
	}
	if !lost {
		return false, nil
	}
	return true, write(ctx, opts, catalogTopic, keyAdopted, a)
}

func write(ctx context.Context, opts []kgo.Opt, catalogTopic, kind string, a *Adopted) error {
	rec, err := a.record(catalogTopic, kind)
	if err != nil {
		return err
	}
	// Written twice it says the same, so a caller that gives up need not wait for a
	// reply that was lost, which while the brokers are away would be without end.
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.AllowIdempotentProduceCancellation())...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("writing down the id of topic %s: %w", a.Topic, err)
	}
	return nil
}
