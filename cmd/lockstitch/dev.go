package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/auth"
	"lockstitch/state/kafka"
)

const devScope = scopeReplica | scopeTopics

// devOptions are what dev knows beside the settings of a replica.
type devOptions struct {
	kafkaListen string
	clients     []string
	sample      bool
	sampleRate  int
	partitions  int
}

// devClient is the client that dev accepts when none is given.
const devClient = "demo:demo-secret:demo"

func (a *app) devCommand() *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use:   "dev --data-dir DIR",
		Short: "Run a whole system on this machine: broker, store and one replica",
		Long: `Runs everything in one process, for development and tests: a broker that speaks the
Kafka protocol, a directory as object store, and one replica. All of it lies in
--data-dir; started again on the same directory it continues where it was, after
a kill -9 too. Not for production: the broker is a single one that never
compacts or expires anything. Of a file or variables shared with serve, what dev has
no flag for (store_url, group, brokers and others) is left aside. It can be reached
from this machine only, as everybody knows the client that it has by default: for others,
and in a container, give --client and --http-listen (and --kafka-listen, which asks
nobody for a password).

Prints its addresses, the credentials and a request to try. Stops on SIGTERM.`,
		Example: `  lockstitch dev --data-dir /tmp/lockstitch --sample=true
  lockstitch dev --data-dir /tmp/lockstitch --kafka-listen localhost:0 --http-listen localhost:0 \
      --admin-listen localhost:0 --client loader:s3cret:acme --client other:s3cret2:globex`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, log, err := a.settings(c, devScope)
			if err != nil {
				return err
			}
			return a.dev(c.Context(), s, log, o)
		},
	}
	addFlags(c.Flags(), devScope)
	f := c.Flags()
	f.Lookup("data-dir").Usage = "directory of all data: broker, store and local state; made if it is missing"
	f.StringVar(&o.kafkaListen, "kafka-listen", "localhost:9092", "address of the broker, host:port (port 0: any free one)")
	f.StringArrayVar(&o.clients, "client", nil, "who may ask for tokens, ID:SECRET:ACCOUNT; may be repeated (default "+devClient+")")
	f.BoolVar(&o.sample, "sample", false, "produce sample traffic for the first client's account")
	f.IntVar(&o.sampleRate, "sample-rate", 100, "sample events a second")
	f.IntVar(&o.partitions, "partitions", 4, "partitions of new event and profile topics")
	return c
}

func (a *app) dev(ctx context.Context, s *Settings, log *slog.Logger, o devOptions) error {
	b, r, err := openDev(ctx, s, log, o)
	if err != nil {
		return err
	}
	defer b.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside sync.WaitGroup
	beside.Go(func() {
		if err := devTraffic(ctx, b, s, o); err != nil {
			log.Error("the sample traffic has ended", "err", err)
		}
	})
	beside.Go(func() {
		select {
		case <-r.ready:
			a.printDev(b, r, s)
		case <-ctx.Done():
		}
	})
	err = r.Run(ctx)
	cancel()
	beside.Wait()
	return err
}

// openDev starts the broker and builds the replica.
func openDev(ctx context.Context, s *Settings, log *slog.Logger, o devOptions) (*broker, *replica, error) {
	if o.partitions < 1 || o.partitions > 1000 {
		return nil, nil, usage(fmt.Errorf("--partitions %d: must be 1 to 1000", o.partitions))
	}
	if o.sampleRate < 1 {
		return nil, nil, usage(fmt.Errorf("--sample-rate %d: must be at least 1", o.sampleRate))
	}
	if len(o.clients) == 0 {
		o.clients = []string{devClient}
	}
	s.Auth.Clients = nil
	for _, text := range o.clients {
		c, err := parseClient(text)
		if err != nil {
			return nil, nil, usage(fmt.Errorf("--client: %w", err))
		}
		s.Auth.Clients = append(s.Auth.Clients, c)
	}
	if bad := listenAddress(o.kafkaListen); bad != "" {
		return nil, nil, usage(fmt.Errorf("--kafka-listen %q: %s", o.kafkaListen, bad))
	}
	if err := errors.Join(s.Auth.completeClients("--client")...); err != nil {
		return nil, nil, usage(err)
	}
	if err := makeOwnDir(s.Replica.DataDir); err != nil {
		return nil, nil, err
	}
	b, err := startBroker(filepath.Join(s.Replica.DataDir, "broker"), o.kafkaListen)
	if err != nil {
		return nil, nil, err
	}
	// After the broker, who holds the directory's lock: of two that start at
	// once only one makes a key.
	key, err := devKey(filepath.Join(s.Replica.DataDir, "signing.key"))
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	s.Auth.SigningKeys = []SigningKey{{KID: "dev", Key: kafka.Secret(key)}}
	s.Kafka.Brokers = []string{b.addr}
	s.HTTP.ownNames = true
	s.Replica.writerSuffix = "-" + ulid.Make().String()
	if err := b.createTopics(ctx, s.Topics.TopicNames(), o.partitions); err != nil {
		b.Close()
		return nil, nil, err
	}
	r, err := openReplica(ctx, s, log)
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	return b, r, nil
}

// makeOwnDir makes the data directory. One that another user has made is refused: with the
// signing key that they may have put there they could make tokens, and change all that is
// stored.
func makeOwnDir(dir string) error {
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return fmt.Errorf("the data directory cannot be made: %w; choose another --data-dir", err)
	}
	info, err := os.Stat(dir)
	if err == nil && !isOwn(info) {
		err = errors.New("belongs to another user, who can change what is in it")
	}
	if err != nil {
		return fmt.Errorf("the data directory %s %w; choose another --data-dir", dir, err)
	}
	return nil
}

// devKey reads the signing key of the directory, or makes one.
func devKey(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err == nil {
		key := strings.TrimSpace(string(b))
		if len(key) < auth.MinKeyBytes {
			return "", fmt.Errorf("%s holds no signing key: it is shorter than %d bytes; remove it to have a new one made", path, auth.MinKeyBytes)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	raw := make([]byte, auth.MinKeyBytes)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	key := hex.EncodeToString(raw)
	// Whole or not at all: a crash in between must not leave half a key.
	if err := replaceFile(path, []byte(key+"\n")); err != nil {
		return "", err
	}
	return key, nil
}

// devTraffic produces sample traffic until ctx ends, if it is wanted.
func devTraffic(ctx context.Context, b *broker, s *Settings, o devOptions) error {
	if !o.sample {
		return nil
	}
	cl, err := sampleClient([]kgo.Opt{kgo.SeedBrokers(b.addr)})
	if err != nil {
		return err
	}
	defer cl.Close()
	t := newTraffic(trafficConfig{
		Topics: s.Topics.TopicNames(), Account: s.Auth.Clients[0].Account, Profiles: 1000,
		Seed: uint64(time.Now().UnixNano()), Retries: 0.05, Poison: 0.002, Now: time.Now(),
	})
	if err := t.basics(ctx, cl); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	return t.stream(ctx, cl, o.sampleRate)
}

// printDev says where everything is and what to do with it.
func (a *app) printDev(b *broker, r *replica, s *Settings) {
	url := r.localURL()
	fmt.Fprintf(a.out, "Lockstitch dev is running. Stop it with Ctrl-C.\n\n")
	fmt.Fprintf(a.out, "  kafka    %s\n  api      %s   (description: %s/docs)\n  metrics  http://%s/metrics\n  data     %s\n",
		b.addr, url, url, r.admin.Addr(), s.Replica.DataDir)
	for _, c := range s.Auth.Clients {
		secret := string(c.Secret)
		if c.SecretSHA256 != "" {
			secret = "(known by its hash)"
		}
		fmt.Fprintf(a.out, "  client   id %s   secret %s   account %s\n", c.ID, secret, c.Account)
	}
	// Ready to paste, whatever characters the client has.
	first := s.Auth.Clients[0]
	id, secret := shellWord(first.ID), shellWord(string(first.Secret))
	if first.SecretSHA256 != "" {
		secret = `"$SECRET"`
	}
	fmt.Fprintf(a.out, `
A request to try:

  TOKEN=$(curl -s %[1]s/oauth/token -d grant_type=client_credentials --data-urlencode client_id=%[2]s --data-urlencode client_secret=%[3]s | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
  curl -s %[1]s/emails/reports -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{"start_at":"%[4]s"}'

or all of it in one command:

  lockstitch export --url %[1]s --client-id %[2]s --client-secret %[3]s --start-at %[4]s -o events.csv.gz

`, url, id, secret, time.Now().UTC().Add(-24*time.Hour).Format("2006-01-02T15:04:05Z"))
}
