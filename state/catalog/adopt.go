package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// Register writes down the ids of input topics that the catalog has not seen
// before. A topic whose id differs from the recorded one is left alone: its
// lanes stop until Adopt. The view must have been caught up.
func Register(ctx context.Context, opts []kgo.Opt, catalogTopic string, v *View, inputs ...string) error {
	unknown := func(topic string) bool { return len(v.Adopted(topic)) == 0 }
	if !slices.ContainsFunc(inputs, unknown) {
		return nil
	}
	err := change(ctx, opts, catalogTopic, v, func() (changes []*Adopted, err error) {
		infos, err := kafka.Describe(ctx, v.Client(), inputs...)
		for _, topic := range inputs {
			if err == nil && unknown(topic) {
				changes = append(changes, &Adopted{Topic: topic, IDs: []segment.TopicID{infos[topic].ID}})
			}
		}
		return changes, err
	})
	if err != nil {
		return err
	}
	return v.CatchUp(ctx)
}

// Adopt accepts the present incarnation of every input topic that was deleted
// and made anew (contract 2.7): it is from then on a new stream that starts at
// its beginning and sorts behind the earlier ones. It also accepts that events
// were removed from a topic before they were read: their lanes go on at what is
// left. It returns the names of the topics for which something changed.
func Adopt(ctx context.Context, opts []kgo.Opt, topics kafka.Topics, log *slog.Logger) (changed []string, err error) {
	v, err := Open(ctx, Config{Opts: opts, Topic: topics.Catalog, Log: log})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	if err := v.Load(ctx); err != nil {
		return nil, err
	}
	inputs := append(append([]string{}, topics.Events...), topics.Profiles)
	var changes []*Adopted
	err = change(ctx, opts, topics.Catalog, v, func() ([]*Adopted, error) {
		infos, err := kafka.Describe(ctx, v.Client(), inputs...)
		if err != nil {
			return nil, err
		}
		changes = nil
		for _, topic := range inputs {
			a, err := adopt(ctx, v, topic, infos[topic].ID, topic == topics.Profiles, log)
			if err != nil {
				return nil, err
			}
			if a != nil {
				changes = append(changes, a)
			}
		}
		return changes, nil
	})
	if err != nil {
		return nil, err
	}
	for _, a := range changes {
		changed = append(changed, a.Topic)
		log.Info("adopted a topic as it is", "topic", a.Topic, "topic_id", a.IDs[len(a.IDs)-1], "incarnation", len(a.IDs)-1)
	}
	return changed, nil
}

// adopt is what is to be written about one topic; nil: nothing.
func adopt(ctx context.Context, v *View, topic string, id segment.TopicID, profiles bool, log *slog.Logger) (*Adopted, error) {
	ids := slices.Clone(v.Adopted(topic))
	switch at := slices.Index(ids, id); {
	case at < 0:
		return &Adopted{Topic: topic, IDs: append(ids, id)}, nil
	case at < len(ids)-1:
		return nil, fmt.Errorf("topic %s has the id %s, which an earlier incarnation had: not adopted", topic, id)
	case profiles:
		return nil, nil // they are read from the start of the log anyway
	}
	return giveUp(ctx, v, topic, ids, log)
}

// giveUp says from where lanes go on whose next events the log has lost; nil: none
// has. It moves no position: that is for the lanes' owners, who alone know where they
// stand.
func giveUp(ctx context.Context, v *View, topic string, ids []segment.TopicID, log *slog.Logger) (*Adopted, error) {
	ends, err := kafka.Ends(ctx, v.Client(), topic)
	if err != nil {
		return nil, err
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
		return nil, nil
	}
	return a, nil
}

// changeTimeout is after what time the brokers end a change that nobody ends.
const changeTimeout = 10 * time.Second

// change reads what the catalog says of the input topics and writes what is decided
// upon that. Nobody else writes in between: whoever began before is fenced, also the
// record that a replica has tried to send since before a topic was made anew and
// adopted, and begins anew (KIP-98). The transactional id is the name of the catalog.
func change(ctx context.Context, opts []kgo.Opt, catalogTopic string, v *View, decide func() ([]*Adopted, error)) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := changeOnce(ctx, opts, catalogTopic, v, decide)
		if err != nil && !fenced(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 20 * time.Millisecond, Multiplier: 2, MaxInterval: time.Second, RandomizationFactor: 0.5}))
	return err
}

func fenced(err error) bool {
	return errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidTxnState) ||
		errors.Is(err, kerr.InvalidProducerIDMapping)
}

func changeOnce(ctx context.Context, opts []kgo.Opt, catalogTopic string, v *View, decide func() ([]*Adopted, error)) error {
	cl, err := kgo.NewClient(append(slices.Clone(opts), kgo.TransactionalID(catalogTopic), kgo.TransactionTimeout(changeTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, _, err := cl.ProducerID(ctx); err != nil {
		return fmt.Errorf("transactional id %s: %w", catalogTopic, err)
	}
	if err := v.CatchUp(ctx); err != nil {
		return err
	}
	changes, err := decide()
	if err != nil || len(changes) == 0 {
		return err
	}
	var records []*kgo.Record
	for _, a := range changes {
		r, err := a.Record(catalogTopic)
		if err != nil {
			return err
		}
		records = append(records, r)
	}
	if err := cl.BeginTransaction(); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- cl.ProduceSync(ctx, records...).FirstErr() }() // ends when the client is closed, if not before
	select {
	case err = <-sent:
	case <-ctx.Done():
		// Nobody waits for a reply that was lost, which while the brokers are away
		// would be without end. They end the transaction.
		return fmt.Errorf("writing down the ids of topics: %w", ctx.Err())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing down the ids of topics: %w", err), cl.EndTransaction(ctx, kgo.TryAbort))
	}
	if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fmt.Errorf("writing down the ids of topics: %w", err)
	}
	return nil
}
