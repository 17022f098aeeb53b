package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

const serveScope = scopeKafka | scopeTopics | scopeStore | scopeReplica | scopeServe

func (a *app) serveCommand() *cobra.Command {
	check := false
	c := &cobra.Command{
		Use:   "serve --brokers HOST:PORT --store-url URL --config FILE",
		Short: "Run one replica against a Kafka cluster and an object store",
		Long: `Runs one replica: it consumes its share of the partitions and answers any call of
the API. Start as many as you like with the same settings; they share the work
through the consumer group, and each needs a data_dir of its own. A replica can be killed at any time and its data directory thrown away.

Every setting is a flag, a variable and a key of the YAML file:

  --flush-interval 10s     LOCKSTITCH_FLUSH_INTERVAL=10s     flush_interval: 10s

A flag counts before a variable, a variable before the file, the file before the
default. Secrets are best given as files (…_file).

Before the first start, make the topics with "lockstitch topics create" and a
signing key with "openssl rand -hex 32".

On SIGTERM the replica stops accepting calls, lets downloads finish
(shutdown_timeout), makes what it has read durable and leaves the group.`,
		Example: `  lockstitch serve --brokers kafka-1:9092,kafka-2:9092 \
      --store-url 's3://lockstitch?region=eu-north-1' \
      --public-url https://exports.example.com \
      --clients-file /etc/lockstitch/clients.yaml \
      --signing-keys-file /etc/lockstitch/keys.yaml

  lockstitch serve --config /etc/lockstitch/lockstitch.yaml --check-config`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, log, err := a.settings(c, serveScope)
			if err != nil {
				return err
			}
			if check {
				_, err := fmt.Fprintln(a.out, "the configuration is valid")
				return err
			}
			r, err := openReplica(c.Context(), s, log)
			if err != nil {
				return err
			}
			return r.Run(c.Context())
		},
	}
	addFlags(c.Flags(), serveScope)
	c.Flags().BoolVar(&check, "check-config", false, "validate the settings, without connecting to anything, and exit")
	return c
}
