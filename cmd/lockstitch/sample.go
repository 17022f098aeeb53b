package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
)

func (a *app) sampleCommand() *cobra.Command {
	cfg := trafficConfig{}
	var events int
	var skipBasics bool
	c := &cobra.Command{
		Use:   "sample --brokers HOST:PORT --events N",
		Short: "Produce sample definitions, profiles and events",
		Long: `Produces made-up traffic to the input topics: definitions, profiles, then events of
mailings, with acks=all. A share of the events is sent again under the same
correlation id, as sources do that retry, and a share is broken. The same seed
makes the same records. The brokers are named by --brokers alone, not by the
environment or a file. Prints what was made as one line of JSON.`,
		Example: `  lockstitch sample --brokers localhost:9092 --events 100000 --profiles 10000 --seed 7
  lockstitch sample --brokers localhost:9092 --events 5000000 --span 2160h --retries 0.05`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			// What is around may be that of production, where the events would be kept.
			if !c.Flags().Changed("brokers") {
				return usage(errors.New("name the brokers with --brokers: sample writes made-up events, and does not take them from the environment or a file"))
			}
			s, _, err := a.settings(c, scopeKafka|scopeTopics)
			if err != nil {
				return err
			}
			if events < 0 || cfg.Profiles < 1 || cfg.Retries < 0 || cfg.Poison < 0 || cfg.Retries+cfg.Poison > 0.9 {
				return usage(errors.New("--events must be at least 0, --profiles at least 1, --retries and --poison together at most 0.9"))
			}
			cfg.Topics, cfg.Now, cfg.Expect = s.Topics.TopicNames(), time.Now(), events
			opts, err := s.Kafka.Config().Opts()
			if err != nil {
				return usage(err)
			}
			cl, err := sampleClient(opts)
			if err != nil {
				return usage(err)
			}
			defer cl.Close()
			// A producer would wait for brokers for ever.
			if err := ping(c.Context(), cl, s); err != nil {
				return err
			}
			t := newTraffic(cfg)
			if !skipBasics {
				if err := t.basics(c.Context(), cl); err != nil {
					return err
				}
			}
			if err := produceAll(c.Context(), cl, func() *kgo.Record {
				if t.counts.Records >= events {
					return nil
				}
				return t.event()
			}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.out, `{"records":%d,"events":%d,"retries":%d,"poison":%d}`+"\n", t.counts.Records, t.counts.Events, t.counts.Retries, t.counts.Poison)
			return err
		},
	}
	addFlags(c.Flags(), scopeKafka|scopeTopics)
	c.Flags().IntVar(&events, "events", 10_000, "event records to produce, retries and broken ones included")
	c.Flags().IntVar(&cfg.Profiles, "profiles", 1_000, "profiles to produce, and to choose from")
	c.Flags().Uint64Var(&cfg.Seed, "seed", 1, "the same seed makes the same records")
	c.Flags().StringVar(&cfg.Account, "account", sampleAccount, "account the records belong to")
	c.Flags().Float64Var(&cfg.Retries, "retries", 0.05, "share of records that repeat an earlier event")
	c.Flags().Float64Var(&cfg.Poison, "poison", 0.002, "share of records that cannot be used")
	c.Flags().DurationVar(&cfg.Span, "span", time.Hour, "spread server_time over this time before now (0: leave it to the broker's time)")
	c.Flags().BoolVar(&skipBasics, "events-only", false, "produce no definitions and profiles")
	return c
}
