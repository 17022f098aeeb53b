package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
)

// askTimeout bounds what commands ask the brokers, but not the reading of the
// catalog: with the segments of a year that takes minutes. Nor that of profiles, of
// which each partition has a limit of its own.
const askTimeout = 30 * time.Second

func (a *app) topicsCommand() *cobra.Command {
	topics := &cobra.Command{
		Use:   "topics",
		Short: "Create, check and adopt the Kafka topics",
		Long: `The topics that Lockstitch reads and writes.

  create   makes those that are missing, with the settings they need
  check    says what is wrong with those that exist, and what it costs
  adopt    accepts an input topic that was deleted and made anew`,
		Args: knownCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	topics.AddCommand(a.topicsCreateCommand(), a.topicsCheckCommand(), a.topicsAdoptCommand())
	return topics
}

// withClient runs fn with a client for the configured cluster, and a context for a
// few questions.
func (a *app) withClient(c *cobra.Command, in scope, fn func(ctx context.Context, cl *kgo.Client, s *Settings) error) error {
	s, _, err := a.settings(c, in)
	if err != nil {
		return err
	}
	opts, err := s.Kafka.Config().Opts()
	if err != nil {
		return usage(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return usage(fmt.Errorf("kafka client: %w", err))
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.Context(), cmp.Or(a.ask, askTimeout))
	defer cancel()
	if err := ping(ctx, cl, s); err != nil {
		return err
	}
	return fn(ctx, cl, s)
}

// ping fails if no broker answers.
func ping(ctx context.Context, cl *kgo.Client, s *Settings) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		return unreachable(s, err)
	}
	return nil
}

// unreachable says what to do when no broker answers.
func unreachable(s *Settings, err error) error {
	return fmt.Errorf("no broker of %v could be used: %w; check --brokers, and kafka_tls and kafka_sasl_mechanism if the brokers want them", s.Kafka.Brokers, err)
}

// missing says of a topic that does not exist what to do; other errors it leaves.
func (t TopicSettings) missing(err error) error {
	var none *kafka.NoTopicError
	if !errors.As(err, &none) {
		return err
	}
	flag := "--events-topics"
	switch none.Topic {
	case t.Profiles:
		flag = "--profiles-topic"
	case t.Catalog:
		flag = "--catalog-topic"
	}
	return fmt.Errorf("%w: name the one that serve has with %s, or make it with `lockstitch topics create`", none, flag)
}

func (a *app) topicsCreateCommand() *cobra.Command {
	var o kafka.CreateOptions
	c := &cobra.Command{
		Use:   "create --brokers HOST:PORT --partitions N",
		Short: "Make the topics that are missing, with the settings they need",
		Long: `Makes the topics that do not exist:

  email-events             N partitions, LogAppendTime
  profiles                 N partitions, LogAppendTime, compacted
  definitions              1 partition, compacted
  lockstitch.catalog       1 partition, LogAppendTime, compacted
  lockstitch.reports       ` + fmt.Sprint(kafka.DefaultReportPartitions) + ` partitions, LogAppendTime, compacted
  lockstitch.dead-letters  1 partition, LogAppendTime, kept for ever

The catalog and the reports, which every replica reads at its start, are compacted
within a day. Topics that exist are left as they are, so that it may run again and
again; "topics check" looks at them. If they have another number of partitions than
--partitions, it says so and what to do. Nothing is made if an event or profile topic exists
with another number of partitions. The number of partitions is the number of
replicas that can share the work. It can be raised later, but then all profiles
have to be produced again.

That of lockstitch.reports must never change: the reports of an account are all in
one partition. It is the number of replicas that can share the rendering of exports,
max_rendering on each. A topic that was made with 4, once the default, stays as it is.

Exit status 0: all topics exist now. 1: failed. 2: wrong usage or configuration.
130: interrupted before it was done.`,
		Example: `  lockstitch topics create --brokers localhost:9092 --partitions 12 --replication-factor 3`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Partitions < 1 || o.ReportPartitions < 1 {
				return usage(errors.New("--partitions and --report-partitions must be at least 1"))
			}
			return a.withClient(c, scopeKafka|scopeTopics, func(ctx context.Context, cl *kgo.Client, s *Settings) error {
				created, err := kafka.Create(ctx, cl, s.Topics.TopicNames(), o)
				for _, t := range created {
					fmt.Fprintf(a.out, "created %s\n", t)
				}
				if err != nil {
					return err
				}
				if len(created) == 0 {
					fmt.Fprintln(a.out, "all topics exist; `lockstitch topics check` looks at their settings")
				}
				if c.Flags().Changed("partitions") {
					return a.sayOtherCounts(ctx, cl, s.Topics, o.Partitions)
				}
				return nil
			})
		},
	}
	addFlags(c.Flags(), scopeKafka|scopeTopics)
	c.Flags().Int32Var(&o.Partitions, "partitions", 12, "partitions of every event topic and of the profiles")
	c.Flags().Int16Var(&o.ReplicationFactor, "replication-factor", -1, "copies of every partition (-1: the brokers' default)")
	c.Flags().Int32Var(&o.ReportPartitions, "report-partitions", kafka.DefaultReportPartitions, "partitions of the reports topic, for good")
	return c
}

// sayOtherCounts says which input topics were there with another number of
// partitions than n.
func (a *app) sayOtherCounts(ctx context.Context, cl *kgo.Client, t TopicSettings, n int32) error {
	inputs := t.TopicNames().Inputs()
	infos, err := kafka.Describe(ctx, cl, inputs...)
	if err != nil {
		return err
	}
	other := false
	for _, topic := range inputs {
		if have := infos[topic].Partitions; have != n {
			fmt.Fprintf(a.out, "%s has %d partitions, not %d: topics that exist are left as they are\n", topic, have, n)
			other = true
		}
	}
	if other {
		fmt.Fprintln(a.out, "to add partitions, do so with Kafka's tools to all event topics and the profiles, then produce all profiles again; none can be taken away")
	}
	return nil
}

func (a *app) topicsCheckCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check --brokers HOST:PORT",
		Short: "Say what is wrong with the topics and what it costs",
		Long: `Compares the topics with what Lockstitch needs and changes nothing. Each finding
says what is there, what should be, and what goes wrong if it stays; an error is
what serve does not start with, or cannot work with. It also
reads the first and newest records of each partition of the profiles, to see
whether their keys belong there: they do not after partitions were added.

A setting is changed with Kafka's own tools, while everything runs:

  kafka-configs.sh --bootstrap-server HOST:PORT --alter --entity-type topics \
      --entity-name TOPIC --add-config SETTING=VALUE

Exit status 0: nothing found. 1: something found, or the brokers cannot be asked.
2: wrong usage or configuration. 130: interrupted before it was done.`,
		Example: `  lockstitch topics check --brokers localhost:9092`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withClient(c, scopeKafka|scopeTopics, func(ctx context.Context, cl *kgo.Client, s *Settings) error {
				topics := s.Topics.TopicNames()
				found, err := kafka.Check(ctx, cl, topics)
				if err != nil {
					return err
				}
				lost, err := lostRecords(ctx, cl, topics.Catalog)
				if err != nil {
					return err
				}
				found = append(lost, found...)
				opts, err := s.Kafka.Config().Opts()
				if err != nil {
					return usage(err)
				}
				routed, err := kafka.CheckRouting(c.Context(), opts, topics.Profiles)
				if err != nil {
					return err
				}
				found = append(found, routed...)
				for _, f := range found {
					mark := "warning"
					if f.Fatal || expires(topics, f) {
						mark = "error"
					}
					fmt.Fprintf(a.out, "%s: %s: %s\n  have: %s\n  want: %s\n  cost: %s\n", mark, f.Topic, f.Setting, f.Have, f.Want, f.Cost)
				}
				if len(found) > 0 {
					return fmt.Errorf("topics check: %d findings", len(found))
				}
				fmt.Fprintln(a.out, "all topics are as they should be")
				return nil
			})
		},
	}
	addFlags(c.Flags(), scopeKafka|scopeTopics)
	return c
}

func (a *app) topicsAdoptCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "adopt --brokers HOST:PORT",
		Short: "Accept input topics that were made anew or have lost events",
		Long: `A topic that was deleted and made anew has another topic id under the same name.
Its partitions are not consumed until somebody says that it is meant: positions
of the old topic would skip records of the new one. This command says so, for all
input topics whose id has changed. The new topic is read from its start; rows
that came from the old one stay and sort before those of the new one. Replicas
that run take notice within seconds.

Partitions also stop when their log has lost events before they were read, by
retention or because somebody removed them. This command gives up what is lost,
and reading goes on with what is left.

It reads the whole catalog, which takes minutes where there are millions of segments;
the log says how far it is.

Exit status 0: adopted, or nothing to adopt. 1: failed, or the catalog has known none
of the topics, which is another one than that of the replicas. 2: wrong usage or
configuration. 130: interrupted before it was done.`,
		Example: `  lockstitch topics adopt --brokers localhost:9092`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withClient(c, scopeKafka|scopeTopics, func(_ context.Context, _ *kgo.Client, s *Settings) error {
				opts, err := s.Kafka.Config().Opts()
				if err != nil {
					return usage(err)
				}
				changed, err := catalog.Adopt(c.Context(), opts, s.Topics.TopicNames(), a.logger(s.Log))
				for _, t := range changed {
					fmt.Fprintf(a.out, "adopted %s\n", t)
				}
				if err != nil {
					return fmt.Errorf("adopting topics: %w", s.Topics.missing(err))
				}
				if len(changed) == 0 {
					fmt.Fprintln(a.out, "nothing to adopt: all topics are the ones that were known")
				}
				return nil
			})
		},
	}
	addFlags(c.Flags(), scopeKafka|scopeTopics)
	return c
}
