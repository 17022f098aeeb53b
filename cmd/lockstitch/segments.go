package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// maxObject bounds what is read into memory of one object; larger ones are not
// ours.
const maxObject = 2 << 30

func (a *app) segmentsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "segments",
		Short: "List, verify and dump what is stored",
		Long: `The segments in the object store, as the catalog topic knows them.

  ls       one line for each live segment; it does not look into the store
  verify   reads every live segment and checks it against the catalog
  dump     prints the rows of one object as lines of JSON

An object in the store that the catalog does not name is left over from a cut
that failed; it is not live and is removed after a day.

ls and verify read the whole catalog first, which takes minutes where there are
millions of segments; the log says how far it is.`,
		Args: knownCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.segmentsListCommand(), a.segmentsVerifyCommand(), a.segmentsDumpCommand())
	return c
}

// withCatalog runs fn with the catalog caught up.
func (a *app) withCatalog(c *cobra.Command, fn func(ctx context.Context, v *catalog.View, s *Settings) error) error {
	return a.withClient(c, scopeKafka|scopeTopics|scopeStore, func(ask context.Context, _ *kgo.Client, s *Settings) error {
		opts, err := s.Kafka.Config().Opts()
		if err != nil {
			return usage(err)
		}
		v, err := catalog.Open(ask, catalog.Config{Opts: opts, Topic: s.Topics.Catalog, Log: a.logger(s.Log)})
		if err != nil {
			return s.Topics.missing(err)
		}
		defer v.Close()
		ctx := c.Context()
		if err := v.Load(ctx, 0); err != nil {
			return err
		}
		if err := v.Err(); err != nil {
			return err
		}
		return fn(ctx, v, s)
	})
}

func (a *app) segmentsListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "ls --brokers HOST:PORT",
		Short:   "List the live segments",
		Example: `  lockstitch segments ls --brokers localhost:9092`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withCatalog(c, func(_ context.Context, v *catalog.View, _ *Settings) error {
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				fmt.Fprintln(w, "OBJECT\tBYTES\tSLICES\tROWS\tFROM\tTO")
				var rows, bytes int64
				segs := v.Segments()
				for _, s := range segs {
					var n, lo, hi int64
					for i := range s.Slices {
						sl := &s.Slices[i]
						n += int64(sl.Rows)
						if i == 0 || sl.MinTime < lo {
							lo = sl.MinTime
						}
						if i == 0 || sl.MaxTime > hi {
							hi = sl.MaxTime
						}
					}
					rows, bytes = rows+n, bytes+s.Bytes
					fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\n", s.Object, s.Bytes, len(s.Slices), n, stampText(lo), stampText(hi))
				}
				if err := w.Flush(); err != nil {
					return err
				}
				_, err := fmt.Fprintf(a.out, "%d segments, %d rows, %d bytes\n", len(segs), rows, bytes)
				return err
			})
		},
	}
	addFlags(c.Flags(), scopeKafka|scopeTopics|scopeStore)
	return c
}

func stampText(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func (a *app) segmentsVerifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify --brokers HOST:PORT --store-url URL",
		Short: "Read every live segment and check it against the catalog",
		Long: `Reads every object that the catalog names: it must be there, have the size and
SHA-256 that the catalog says, and every checksum, column, order and range in it
must be right. All segments are looked at. It ends where the store cannot be read,
which says nothing about the segments, and begins with no store that is another
catalog's.

Exit status 0: all are as the catalog says. 1: something is wrong, or of a format version
that this program does not know, or cannot be read. 2: wrong usage or configuration.
130: interrupted before it was done.`,
		Example: `  lockstitch segments verify --brokers localhost:9092 --store-url file:///var/lib/lockstitch/objects`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withCatalog(c, func(ctx context.Context, v *catalog.View, s *Settings) error {
				store, err := openExisting(ctx, s.Replica)
				if err != nil {
					return err
				}
				defer store.Close()
				whose := ownership{s: s, asker: v.Client(), store: store, catalog: v,
					advice: "name the store of this catalog with --store-url, or the catalog of this store with --catalog-topic"}
				limit, cancel := context.WithTimeout(ctx, cmp.Or(a.ask, askTimeout))
				defer cancel()
				if err := whose.ask(limit); err != nil {
					return fmt.Errorf("segments verify: %w", err)
				}
				bad, unknown, gone := 0, 0, 0
				segs := v.Segments()
				for i, s := range segs {
					if err := verifySegment(ctx, store, s); err != nil {
						if ctx.Err() != nil {
							return ctx.Err()
						}
						if !ofSegment(err) {
							others := ""
							if bad > 0 {
								others = fmt.Sprintf("; of the others %d are damaged or missing", bad)
							}
							return fmt.Errorf("segments verify: the store cannot be read: %w; nothing is known of the remaining segments, %d of %d%s", err, len(segs)-i, len(segs), others)
						}
						// Retention may have removed it since it was listed.
						if cerr := v.CatchUp(ctx); cerr == nil && !v.Live(s.ID) {
							gone++
							fmt.Fprintf(a.out, "gone %s\n", s.Object)
							continue
						}
						if version := (*segment.VersionError)(nil); errors.As(err, &version) {
							unknown++
							fmt.Fprintf(a.out, "skip %s: %v\n", s.Object, err)
							continue
						}
						bad++
						fmt.Fprintf(a.out, "BAD  %s: %v\n", s.Object, err)
						continue
					}
					fmt.Fprintf(a.out, "ok   %s\n", s.Object)
				}
				switch {
				case bad > 0:
					return fmt.Errorf("segments verify: %d of %d segments are damaged or missing", bad, len(segs))
				case unknown > 0:
					return fmt.Errorf("segments verify: %d of %d segments are of a format version that this program does not know", unknown, len(segs))
				}
				_, err = fmt.Fprintf(a.out, "%d segments are as the catalog says\n", len(segs)-gone)
				return err
			})
		},
	}
	addFlags(c.Flags(), scopeKafka|scopeTopics|scopeStore)
	return c
}

func verifySegment(ctx context.Context, store objects.Store, s *catalog.Segment) error {
	data, err := s.Read(ctx, store)
	if err != nil {
		return err
	}
	return segment.Verify(s.Object, data, s.Slices)
}

// ofSegment tells an error that is of the segment from a failure of the store, which
// every other segment would have as well.
func ofSegment(err error) bool {
	var corrupt *segment.CorruptError
	var version *segment.VersionError
	return errors.Is(err, objects.ErrNotExist) || errors.As(err, &corrupt) || errors.As(err, &version)
}

func readObject(ctx context.Context, store objects.Store, name string) ([]byte, error) {
	r, err := store.Open(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxObject+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxObject {
		return nil, errors.New("is larger than any segment")
	}
	return data, nil
}

func (a *app) segmentsDumpCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "dump OBJECT --store-url URL",
		Short:   "Print the rows of one object as lines of JSON",
		Long:    "Prints one object: its directory and its rows. It needs the object store only, no brokers.",
		Example: `  lockstitch segments dump segments/2026-01-31T12/01KQ… --store-url file:///var/lib/lockstitch/objects`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, _, err := a.settings(c, scopeStore)
			if err != nil {
				return err
			}
			store, err := openExisting(c.Context(), s.Replica)
			if err != nil {
				return err
			}
			defer store.Close()
			data, err := readObject(c.Context(), store, args[0])
			if err != nil {
				return err
			}
			return segment.Dump(a.out, args[0], data)
		},
	}
	addFlags(c.Flags(), scopeStore)
	return c
}
