package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// produceAll sends records as next makes them, until it returns nil, and waits
// until the brokers have acknowledged all of them.
func produceAll(ctx context.Context, cl *kgo.Client, next func() *kgo.Record) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for ctx.Err() == nil {
		r := next()
		if r == nil {
			break
		}
		cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil {
				cancel(fmt.Errorf("producing to %s: %w", r.Topic, err))
			}
		})
	}
	if err := cl.Flush(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("waiting for acknowledgements: %w", err)
	}
	return context.Cause(ctx)
}

// sampleClient is a producer with acks=all that partitions by murmur2 of the
// key, as Kafka's own does.
func sampleClient(opts []kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append(append([]kgo.Opt{}, opts...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(50_000),
	)...)
}
