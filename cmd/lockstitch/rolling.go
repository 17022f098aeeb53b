package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"lockstitch/exporter/api"
	"lockstitch/state/jsonvalue"
)

func (a *app) rollingCommand() *cobra.Command {
	to := new(connection)
	c := &cobra.Command{
		Use:   "rolling",
		Short: "Rolling exports: every event in exactly one file, period by period",
		Long: `A rolling export makes a file for every period, for example every 15 minutes,
until it is deleted. Every event that is kept comes in exactly one of its files,
whatever its time and however late it came: a late event is in the file of the
period in which Kafka acknowledged it. Periods without rows make no file.

Files are numbered from 1, without gaps, and kept for a week (file_lifetime).
"pull" keeps a local directory in step with them.

The client secret is best given as LOCKSTITCH_CLIENT_SECRET or --client-secret-file.`,
		Example: `  export LOCKSTITCH_URL=http://localhost:8080 LOCKSTITCH_CLIENT_ID=demo LOCKSTITCH_CLIENT_SECRET=demo-secret

  lockstitch rolling create hourly --every PT1H --start now
  lockstitch rolling show hourly
  lockstitch rolling pull hourly --dir /srv/events --follow`,
		Args: knownCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.rollingCreate(to), a.rollingList(to), a.rollingShow(to),
		a.rollingSimple(to, "pause", http.MethodPost, "Make no further files until resume", "A file that is being made is finished. What comes in meanwhile is made up for after\nresume, period by period; nothing is lost."),
		a.rollingSimple(to, "resume", http.MethodPost, "Let a paused rolling export go on", "The periods that were missed are made up for one by one."),
		a.rollingSimple(to, "delete", http.MethodDelete, "Delete a rolling export and its files", "Files that were pulled or delivered stay where they are. The name used again is\nanother rolling export, whose files are numbered from 1."),
		a.rollingPull(to))
	for _, c := range c.Commands() {
		to.flags(c.Flags())
	}
	return c
}

func rollingPath(name string) string { return "/emails/rolling-exports/" + url.PathEscape(name) }

// rollingOptions are the flags of rolling create beside its connection.
type rollingOptions struct {
	shape
	every, from, destination string
	empty                    bool
}

func (a *app) rollingCreate(to *connection) *cobra.Command {
	var o rollingOptions
	c := &cobra.Command{
		Use:   "create NAME --every PT15M --start now",
		Short: "Create a rolling export, or change one",
		Long: `Creates the rolling export NAME, or changes it if it is there: the change holds
from the next boundary on, and for one that is behind, from the next file on.
What is not named takes its default, also in a change.

--every is an ISO 8601 duration of whole minutes, PT1M to P1D, that divides 24
hours; boundaries are its multiples since midnight UTC. --start says where a new
one begins: "now", or "beginning" for everything that is stored.

A rolling export that has stopped with an error goes on when it is changed, also
to what it is already.`,
		Example: `  lockstitch rolling create hourly --every PT1H --start beginning --attribute 491874
  lockstitch rolling create women --every PT15M --start now --only-segment usercreated.segments.women-rjz6b8td2n
  lockstitch rolling create daily --every P1D --start now --destination warehouse --empty-files`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			filter, err := o.segmentFilter()
			if err != nil {
				return err
			}
			if o.every == "" {
				return usage(errors.New("missing: --every"))
			}
			x, err := to.connect(a, "rolling")
			if err != nil {
				return err
			}
			body, err := json.Marshal(api.RollingRequest{
				Every: o.every, Start: o.from, EmptyFiles: o.empty, Destination: o.destination,
				SegmentFilter: filter, Attributes: mappings(o.attributes), Tags: mappings(o.tags), SpreadsheetSafe: o.safe,
			})
			if err != nil {
				return err
			}
			st := new(api.RollingExport)
			if err := x.call(c.Context(), http.MethodPut, rollingPath(args[0]), "application/json", string(body), st); err != nil {
				return err
			}
			return a.printJSON(st)
		},
	}
	f := c.Flags()
	f.StringVar(&o.every, "every", "", "time between two boundaries, such as PT15M")
	f.StringVar(&o.from, "start", "", "now or beginning; needed for a new one")
	f.BoolVar(&o.empty, "empty-files", false, "make a file for a period without rows too")
	f.StringVar(&o.destination, "destination", "", "place that the operator has configured, to write each file to as well")
	o.shape.flags(f)
	return c
}

func (a *app) printJSON(v any) error {
	e := json.NewEncoder(jsonvalue.Printable(a.out))
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (a *app) rollingList(to *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the account's rolling exports", Args: cobra.NoArgs,
		Example: "  lockstitch rolling list --url http://localhost:8080 --client-id demo --client-secret demo-secret",
		RunE: func(c *cobra.Command, _ []string) error {
			x, err := to.connect(a, "rolling")
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tEVERY\tFILES\tBEHIND\tNEXT BOUNDARY")
			for token := ""; ; {
				var page api.RollingList
				path := "/emails/rolling-exports"
				if token != "" {
					path += "?page_token=" + url.QueryEscape(token)
				}
				if err := x.call(c.Context(), http.MethodGet, path, "", "", &page); err != nil {
					return err
				}
				for _, r := range page.Items {
					if r.Request == nil {
						return fmt.Errorf("the server's answer says of the rolling export %s not what it asks for; is it a Lockstitch API?", printable(r.Name))
					}
					say(w, "%s\t%s\t%s\t%d\t%d\t%s\n", r.Name, r.State, r.Request.Every, r.Files, r.Lag.Files, r.Next.End)
				}
				if token = page.NextPageToken; token == "" {
					return w.Flush()
				}
			}
		},
	}
}

func (a *app) rollingShow(to *connection) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show where a rolling export stands, as JSON", Args: cobra.ExactArgs(1),
		Example: "  lockstitch rolling show hourly | jq .lag",
		RunE: func(c *cobra.Command, args []string) error {
			x, err := to.connect(a, "rolling")
			if err != nil {
				return err
			}
			st := new(api.RollingExport)
			if err := x.call(c.Context(), http.MethodGet, rollingPath(args[0]), "", "", st); err != nil {
				return err
			}
			return a.printJSON(st)
		},
	}
}

// rollingSimple is a command that is one call without an answer.
func (a *app) rollingSimple(to *connection, verb, method, short, long string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1),
		Example: "  lockstitch rolling " + verb + " hourly",
		RunE: func(c *cobra.Command, args []string) error {
			x, err := to.connect(a, "rolling")
			if err != nil {
				return err
			}
			path := rollingPath(args[0])
			if method == http.MethodPost {
				path += "/" + verb
			}
			if err := x.call(c.Context(), method, path, "", "", nil); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "%s %s\n", strings.TrimSuffix(verb, "e")+"ed", args[0]) // paused, resumed, deleted
			return nil
		},
	}
}
