package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"lockstitch/state/kafka"
	"lockstitch/state/objects"
)

const serveScope = scopeKafka | scopeTopics | scopeStore | scopeReplica | scopeServe

func (a *app) serveCommand() *cobra.Command {
	check, show := false, false
	c := &cobra.Command{
		Use:   "serve --brokers HOST:PORT --store-url URL --config FILE",
		Short: "Run one replica against a Kafka cluster and an object store",
		Long: `Runs one replica: it consumes its share of the partitions and answers any call of
the API. Start as many as you like with the same settings; they share the work
through the consumer group, and each needs a data_dir of its own. A replica can
be killed at any time and its data directory thrown away.

Every setting is a flag, a variable and a key of the YAML file:

  --flush-interval 10s     LOCKSTITCH_FLUSH_INTERVAL=10s     flush_interval: 10s

A flag counts before a variable, a variable before the file, the file before the
default; a variable that is empty counts as not set. Secrets are best given as files (…_file).
--print-config says what each one is and where it comes from, and the log at the start
which were given; neither shows secrets.

Before the first start, make the topics with "lockstitch topics create" and a
signing key with "openssl rand -hex 32".

On SIGTERM the replica says that it is not ready, takes calls until load balancers
know that (shutdown_delay) and lets downloads finish (shutdown_timeout). Meanwhile it
makes what it has read durable and leaves the group. A second signal kills it, which
loses nothing.

Exit status 0: stopped by a signal, or the configuration is valid. 1: failed; the
last line says why. 2: wrong usage or configuration. 130: stopped before it had
started.`,
		Example: `  lockstitch serve --brokers kafka-1:9092,kafka-2:9092 \
      --store-url 's3://lockstitch?region=eu-north-1' \
      --public-url https://exports.example.com \
      --clients-file /etc/lockstitch/clients.yaml \
      --signing-keys-file /etc/lockstitch/keys.yaml

  lockstitch serve --config /etc/lockstitch/lockstitch.yaml --check-config
  lockstitch serve --config /etc/lockstitch/lockstitch.yaml --print-config`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, log, err := a.settings(c, serveScope)
			if err != nil {
				return err
			}
			if show {
				if err := a.printSettings(s.stated); err != nil || !check {
					return err
				}
			}
			s.advise(log)
			if check {
				if err := checkStores(c.Context(), s.Replica); err != nil {
					return usage(err)
				}
				_, err := fmt.Fprintln(a.out, "the configuration is valid")
				return err
			}
			s.logGiven(log)
			r, err := openReplica(c.Context(), s, log)
			if err != nil {
				return err
			}
			return r.Run(c.Context())
		},
	}
	addFlags(c.Flags(), serveScope)
	c.Flags().BoolVar(&check, "check-config", false, "validate the settings, without connecting to anything, and exit")
	c.Flags().BoolVar(&show, "print-config", false, "print each setting, its value and where it comes from, without secrets, and exit")
	return c
}

func (a *app) printSettings(all []stated) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
	for _, st := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\n", st.key, st.value, st.from)
	}
	return w.Flush()
}

// checkStores looks at the URLs of the store and the destinations as closely as
// a replica that opens them, and contacts nothing.
func checkStores(ctx context.Context, s ReplicaSettings) error {
	var errs []error
	if s.StoreURL != "" {
		if err := objects.Check(ctx, s.StoreURL); err != nil {
			errs = append(errs, fmt.Errorf("store_url: %w", err))
		}
	}
	for _, d := range s.Destinations {
		if err := objects.Check(ctx, d.URL); err != nil {
			errs = append(errs, fmt.Errorf("destination %s: %w", d.Name, err))
		}
	}
	return errors.Join(errs...)
}

// shortSecret is how many characters a client's secret should have.
const shortSecret = 16

// published is how the secrets begin that everybody can read: those of deploy/trial.
const published = "change-me"

// advise warns of settings that are valid and rarely meant.
func (s *Settings) advise(log *slog.Logger) {
	s.Kafka.advise(log)
	if s.Replica.StoreURL == "" {
		log.Warn("store_url is not set: what is stored lies in the data directory, which then must not be lost and which other replicas cannot read", "data_dir", s.Replica.DataDir)
	}
	if s.HTTP.PublicURL == "" {
		log.Warn("public_url is not set: download URLs name localhost and work on this machine only")
	}
	if s.Replica.TransactionTimeout >= s.Replica.StartTimeout {
		log.Warn("transaction_timeout is not below start_timeout: a replica that starts while a dead one's transaction is open may end before that ends",
			"transaction_timeout", s.Replica.TransactionTimeout, "start_timeout", s.Replica.StartTimeout)
	}
	if len(s.Auth.Clients) == 0 && s.Auth.IssuerJWKSURL == "" {
		log.Warn("neither clients nor issuer_jwks_url is set: nobody can call the API")
	}
	for _, k := range s.Auth.SigningKeys {
		if strings.HasPrefix(string(k.Key), published) {
			log.Warn("a signing key is the published one of deploy/trial, with which anybody can make tokens of any account: make one with `openssl rand -hex 32`", "kid", k.KID)
		}
	}
	for _, c := range s.Auth.Clients {
		if strings.HasPrefix(string(c.Secret), published) {
			log.Warn("the secret of a client is the published one of deploy/trial, which everybody knows: make one with `openssl rand -hex 16`", "client", c.ID)
		}
		if n := utf8.RuneCountInString(string(c.Secret)); n > 0 && n < shortSecret { // of one known by its hash nothing can be said
			log.Warn("the secret of a client has fewer than 16 characters and may be guessed, which nothing holds up: make one with `openssl rand -hex 16`", "client", c.ID)
		}
	}
	if plain(s.Auth.IssuerJWKSURL) {
		log.Warn("issuer_jwks_url is plain http: who can change what is sent there can make tokens of any account", "issuer_jwks_url", s.Auth.IssuerJWKSURL)
	}
	if s.HTTP.TLSCertFile == "" && plain(s.HTTP.PublicURL) {
		log.Warn("public_url is plain http: secrets, tokens and files are sent unencrypted; set http_tls_cert_file, or the https address of a proxy in front", "public_url", s.HTTP.PublicURL)
	}
}

// advise warns of settings that protect nothing.
func (k KafkaSettings) advise(log *slog.Logger) {
	encrypted := k.Config().Encrypted()
	switch mechanism := strings.ToUpper(k.SASLMechanism); mechanism {
	case "":
		credentials := []string{k.Username, string(k.Password), k.PasswordFile, k.OAuthTokenFile, k.OAuthTokenURL,
			k.OAuthClientID, string(k.OAuthClientSecret), k.OAuthClientSecretFile}
		if cmp.Or(credentials...) != "" || len(k.OAuthScopes) > 0 {
			log.Warn("kafka_sasl_mechanism is not set: nobody is authenticated with the brokers, and kafka_username, kafka_password and kafka_oauth settings do nothing")
		}
	case kafka.SASLPlain, kafka.SASLOAuthBearer:
		if !encrypted {
			log.Warn("kafka_tls is not set: the password or token is sent to the brokers unencrypted, for everybody on the way to read", "kafka_sasl_mechanism", mechanism)
		}
	}
	if k.TLSServerName != "" && !encrypted {
		log.Warn("kafka_tls is not set: everything is sent to the brokers unencrypted, and kafka_tls_server_name does nothing", "kafka_tls_server_name", k.TLSServerName)
	}
}

// plain tells whether a URL is http and leaves this machine.
func plain(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && !ip.IsLoopback()
}
