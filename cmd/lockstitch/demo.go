package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/api"
	"lockstitch/state/catalog"
)

// demoRows is how many rows of the file demo shows.
const demoRows = 5

func (a *app) demoCommand() *cobra.Command {
	var events int
	var verbose bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "See all of it in a few seconds, in a temporary directory",
		Long: `Starts a broker, a store and a replica in a temporary directory, produces sample
traffic with retries and broken records through Kafka, exports it through the
HTTP API, shows what was dropped and the first rows, and removes everything.`,
		Example: "  lockstitch demo\n  lockstitch demo --events 100000",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if events < 1 || events > 10_000_000 {
				return usage(fmt.Errorf("--events %d: must be 1 to 10000000", events))
			}
			log := slog.New(slog.DiscardHandler)
			if verbose {
				log = a.logger(LogSettings{Level: "info"})
			}
			return a.demo(c.Context(), log, events)
		},
	}
	c.Flags().IntVar(&events, "events", 5000, "events to produce, retries and broken ones included")
	c.Flags().BoolVar(&verbose, "verbose", false, "show the log of the replica")
	return c
}

func (a *app) demo(ctx context.Context, log *slog.Logger, events int) (err error) {
	begun := time.Now()
	// Whoever reads may have seen enough (demo | head): that must not kill, and leave
	// the directory behind.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)
	dir, err := os.MkdirTemp("", "lockstitch-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var none cobra.Command
	addFlags(none.Flags(), devScope)
	s, _, err := loadSettings(none.Flags(), nil, devScope)
	if err != nil {
		return err
	}
	s.Replica.DataDir = dir
	s.HTTP.Listen, s.HTTP.AdminListen = "localhost:0", "localhost:0"
	b, r, err := openDev(ctx, s, log, devOptions{kafkaListen: "localhost:0", partitions: 4, sampleRate: 1})
	if err != nil {
		return err
	}
	defer b.Close()
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Run(rctx) }()
	err = a.demoTour(ctx, b, r, s, events)
	cancel()
	if rerr := <-done; err == nil {
		err = rerr
	}
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	if err == nil {
		fmt.Fprintf(a.out, "\nAll of this took %.1f s. Next: `lockstitch dev --data-dir DIR --sample=true`, or --help.\n", time.Since(begun).Seconds())
	}
	return err
}

func (a *app) demoTour(ctx context.Context, b *broker, r *replica, s *Settings, events int) error {
	cl, err := sampleClient([]kgo.Opt{kgo.SeedBrokers(b.addr)})
	if err != nil {
		return err
	}
	defer cl.Close()
	now := time.Now()
	t := newTraffic(trafficConfig{
		Topics: s.Topics.TopicNames(), Account: s.Auth.Clients[0].Account, Profiles: 500, Seed: 1,
		Retries: 0.05, Poison: 0.002, Now: now, Span: time.Hour, Expect: events,
	})
	if err := t.basics(ctx, cl); err != nil {
		return err
	}
	if err := produceAll(ctx, cl, func() *kgo.Record {
		if t.counts.Records >= events {
			return nil
		}
		return t.event()
	}); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Produced to Kafka:  %d events, among them %d retried copies and %d broken records\n", t.counts.Records, t.counts.Retries, t.counts.Poison)

	start := api.Time(now.Add(-2 * time.Hour).UnixMilli())
	x := &exportClient{url: r.localURL(), id: s.Auth.Clients[0].ID, secret: string(s.Auth.Clients[0].Secret)}
	st, err := x.request(ctx, api.ExportRequest{
		StartAt:    &start,
		Attributes: mappings([]string{genderAttribute}), Tags: mappings([]string{vipTag}),
	})
	if err != nil {
		return err
	}
	if st, err = x.follow(ctx, st, func(api.Status) {}); err != nil {
		return err
	}
	var file bytes.Buffer
	if err := x.download(ctx, st.FileDownloadURL, st.SHA256, 0, &file); err != nil {
		return err
	}
	pos, err := totals(ctx, r)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Duplicates dropped: %d\nPoison set aside:   %d (in topic %s)\nRows exported:      %d (%d bytes of gzip)\n\n",
		pos.Duplicates, pos.Poison, s.Topics.DeadLetters, *st.Rows, file.Len())
	if want := int64(t.counts.Records) - pos.Duplicates - pos.Poison; *st.Rows != want || pos.Poison != int64(t.counts.Poison) || pos.Duplicates != int64(t.counts.Retries) {
		return fmt.Errorf("the figures do not add up: %d rows of %d records", *st.Rows, t.counts.Records)
	}
	return printRows(a.out, &file, demoRows)
}

// totals adds up the counts of all position records.
func totals(ctx context.Context, r *replica) (catalog.Position, error) {
	var sum catalog.Position
	if err := r.catalog.CatchUp(ctx); err != nil {
		return sum, err
	}
	ends, err := r.eventEnds(ctx)
	if err != nil {
		return sum, err
	}
	for _, e := range ends {
		p, _ := r.catalog.Position(e.TopicID, e.Partition)
		sum.Kept += p.Kept
		sum.Duplicates += p.Duplicates
		sum.Poison += p.Poison
	}
	return sum, nil
}

// printRows shows the header and the first n lines of a file.
func printRows(w io.Writer, file io.Reader, n int) error {
	z, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for i := 0; i <= n && lines.Scan(); i++ {
		if _, err := fmt.Fprintln(w, lines.Text()); err != nil {
			return err
		}
	}
	return lines.Err()
}
