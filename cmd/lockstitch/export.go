package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"lockstitch/exporter/api"
)

// exportOptions are the flags of export.
type exportOptions struct {
	connection
	shape
	start, end        string
	after, cursorFile string
	report            string
	out               string
	quiet             bool
}

// requestFlags describe a request; they mean nothing with --report.
var requestFlags = []string{"start-at", "end-at", "segment", "only-segment", "filter", "attribute", "tag", "spreadsheet-safe"}

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export --url URL --start-at TIME -o FILE",
		Short: "Request an export, follow it and download the file",
		Long: `Requests an export, shows its progress, downloads the file and verifies its
SHA-256. A download that breaks off is resumed; it is given up after ` + giveUpAfter.String() + `
without a byte. What has arrived lies in FILE.part until the file is whole; a later
call with --report and the same FILE goes on from there, any other begins anew. Of
two calls with the same FILE at a time the second says so and ends. Only its own
user may read FILE, unless it takes the place of one that has another mode. "-o -" writes
the file to standard output. Progress is shown on a terminal only, on standard error.

With --after the file holds everything kept since a cursor, however late it came,
and the cursor to go on with is printed (on standard error with "-o -"). --cursor-file keeps it between calls: each
file begins where the one before ended, at first with the oldest event that is kept. No other file
has its rows, therefore a FILE that is there is refused and never replaced. The cursor
moves with the file: a call that fails leaves neither FILE nor FILE.part, and of one that
was killed the next makes good what it left, so that no row comes twice and none is left
out. Only if FILE is taken away in between it asks what became of it. What a call that
fails has written to standard output comes again. Of two calls at a time the second says
so and ends.

Where the file would be too large it ends early, and "there is more: …" on standard
error says so, with --quiet too and behind a cursor that is printed there: call again.

Where the server has too many calls of the client or the account, standard error says
for how long it waits. Ctrl-C ends this command, not the report: it says how to go on.

Who asks is said by a client id and secret, or by a token of an issuer that the
server accepts. Secrets are best given as a file or a variable:

  --client-secret-file   LOCKSTITCH_CLIENT_SECRET   LOCKSTITCH_CLIENT_SECRET_FILE
  --token-file           LOCKSTITCH_TOKEN           LOCKSTITCH_TOKEN_FILE

Flags count before variables, and a token before a client. When a token has expired
meanwhile, a client gets another and the file of one is read again.

Exit status 0: the file is whole and verified. 1: failed. 2: wrong usage.
130: interrupted.`,
		Example: `  lockstitch export --url http://localhost:8080 --client-id demo --client-secret demo-secret \
      --start-at 2026-05-01T00:00:00Z --end-at 2026-06-01T00:00:00Z -o may.csv.gz

  # columns of the profile, and only the women outside of Europe
  lockstitch export --url … --start-at … -o f.csv.gz \
      --attribute 491874 --attribute usercreated.sections.europe-r6tz73a27t/com.apsis1.attributes.email --tag 52001 \
      --segment women=usercreated.segments.women-rjz6b8td2n --segment europe=usercreated.segments.europe-x \
      --filter '!europe & women'

  # the first rows, without a file
  lockstitch export --url … --start-at … -o - | zcat | head

  # everything that is new since the last call, for a cron line
  lockstitch export --url … --cursor-file acme.cursor -o "acme-$(date -u +%FT%H%M%S)-$$.csv.gz"

  # go on with a download that broke off
  lockstitch export --url … --report 01JX8M2Y6T3N5Q7R9S1V2W3X4Y -o may.csv.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.report != "" {
				var extra []string
				c.Flags().Visit(func(f *pflag.Flag) {
					if slices.Contains(requestFlags, f.Name) {
						extra = append(extra, "--"+f.Name)
					}
				})
				if len(extra) > 0 {
					return usage(fmt.Errorf("--report names a report that was requested already: it goes without %s", strings.Join(extra, ", ")))
				}
			}
			return a.export(c.Context(), o)
		},
	}
	f := c.Flags()
	o.connection.flags(f)
	f.StringVar(&o.start, "start-at", "", "earliest server_time, RFC 3339 in UTC, such as 2026-05-01T00:00:00Z")
	f.StringVar(&o.end, "end-at", "", "server_time to end before, RFC 3339 in UTC (default: everything acknowledged until now, which a window of at most three months has to reach)")
	f.StringVar(&o.after, "after", "", "instead of a window, everything since this cursor, or since the \"beginning\"; prints the next cursor")
	f.StringVar(&o.cursorFile, "cursor-file", "", "like --after, with the cursor that is kept in this file")
	o.shape.flags(f)
	f.StringVar(&o.report, "report", "", "follow and download this report instead of requesting one")
	f.StringVarP(&o.out, "output", "o", "", "file to write (.csv.gz); - for standard output")
	f.BoolVar(&o.quiet, "quiet", false, "show no progress; errors, that there is more, and a cursor that belongs there are still on standard error")
	return c
}

// client checks the flags that say what to export and where to.
func (o *exportOptions) client(a *app) (*exportClient, error) {
	var missing, from []string
	if o.out == "" {
		missing = append(missing, "--output")
	}
	for _, m := range []struct{ name, value string }{{"--start-at", o.start}, {"--after", o.after}, {"--cursor-file", o.cursorFile}, {"--report", o.report}} {
		if m.value != "" {
			from = append(from, m.name)
		}
	}
	if len(from) == 0 {
		missing = append(missing, "--start-at (or --after, --cursor-file, --report)")
	}
	x, err := o.connect(a, "export", missing...)
	if err == nil && len(from) > 1 {
		err = usage(fmt.Errorf("%s do not go together", strings.Join(from, " and ")))
	}
	return x, err
}

// body is the request that the flags describe.
func (o *exportOptions) body() (api.ExportRequest, error) {
	var req api.ExportRequest
	at := func(flag, text string) (api.Time, error) {
		t, ok := api.ParseTime(text)
		if !ok {
			return 0, usage(fmt.Errorf("%s %q: must be an RFC 3339 time in UTC, such as 2026-05-01T00:00:00Z", flag, text))
		}
		return t, nil
	}
	if o.cursorFile != "" {
		var err error
		if req.After, err = readCursor(o.cursorFile); err != nil {
			return req, err
		}
	} else {
		req.After = o.after
	}
	if req.After == "" {
		start, err := at("--start-at", o.start)
		if err != nil {
			return req, err
		}
		req.StartAt = &start
	}
	if o.end != "" {
		if req.After != "" {
			return req, usage(errors.New("--end-at goes with --start-at only"))
		}
		end, err := at("--end-at", o.end)
		if err != nil {
			return req, err
		}
		req.EndAt = &end
	}
	var err error
	if req.SegmentFilter, err = o.segmentFilter(); err != nil {
		return req, err
	}
	req.Attributes, req.Tags, req.SpreadsheetSafe = mappings(o.attributes), mappings(o.tags), o.safe
	return req, nil
}

func (a *app) export(ctx context.Context, o exportOptions) error {
	x, err := o.client(a)
	if err != nil {
		return err
	}
	if o.quiet {
		x.out = nil
	}
	if o.cursorFile != "" {
		if err := checkNames(o.cursorFile, o.out); err != nil {
			return err
		}
		lock, err := lockCursor(o.cursorFile)
		if err != nil {
			return err
		}
		defer func() { _ = lock.Close() }()
		if err := settleCursor(o.cursorFile); err != nil {
			return err
		}
	}
	var req api.ExportRequest
	if o.report == "" {
		if req, err = o.body(); err != nil {
			return err
		}
	}
	to, err := a.openSink(o.out)
	if err != nil {
		return err
	}
	defer to.Close()
	if file, ok := to.(*fileSink); ok && o.cursorFile != "" {
		file.only = true
		if err := notThere(file.name); err != nil {
			return usage(err)
		}
	}
	var st *api.Status
	if o.report != "" {
		st, err = x.status(ctx, o.report)
	} else if st, err = x.request(ctx, req); err == nil {
		err = to.restart() // what an earlier call has left is of another report
	}
	var p *problemError
	if o.cursorFile != "" && errors.As(err, &p) && p.status == http.StatusGone {
		return fmt.Errorf("%w\nThe cursor has not moved. To go on with the oldest events that are kept, and without those before them, remove %s", err, o.cursorFile)
	}
	if err != nil {
		return err
	}
	progress := func(format string, args ...any) {
		if !o.quiet {
			say(a.err, format, args...)
		}
	}
	progress("report %s\n", st.ReportID)
	done, err := a.followAndFetch(ctx, x, st, to, o, progress)
	err = interrupted(ctx, err)
	if err != nil && o.cursorFile != "" {
		_ = to.drop() // the next call asks for another report, and may name another file
	}
	var ended *endedError
	switch {
	case errors.As(err, &ended):
		return err
	case err != nil && o.cursorFile != "":
		return fmt.Errorf("%w\nThe cursor has not moved: call again for the same events", err)
	case err != nil:
		how := "to go on where this ended"
		if o.out == "-" {
			how = "to have the file once more, from its first byte"
		}
		return fmt.Errorf("%w\nThe report is kept on the server; %s:\n  lockstitch export --url %s --report %s -o %s",
			err, how, shellWord(x.url), shellWord(printable(st.ReportID)), shellWord(o.out))
	}
	progress("%s: %d rows, %d bytes, SHA-256 verified\n", o.out, *done.Rows, *done.Bytes)
	walks := o.after != "" || o.report != "" && done.More != nil // the report of a call that was interrupted
	switch {
	case walks && o.out == "-":
		_, err = fmt.Fprintln(a.err, printable(done.Cursor))
	case walks:
		_, err = fmt.Fprintln(a.out, printable(done.Cursor))
	}
	if done.More != nil && *done.More {
		// No progress, and a script has no other way to learn it.
		fmt.Fprintln(a.err, "there is more: the file would have been too large; go on with the cursor")
	}
	return err
}

// followAndFetch waits for the file and downloads it.
func (a *app) followAndFetch(ctx context.Context, x *exportClient, st *api.Status, to sink, o exportOptions, progress func(string, ...any)) (*api.Status, error) {
	rendering := a.bar(o.quiet, "rendering", false)
	defer rendering.end()
	last := ""
	done, err := x.follow(ctx, st, func(s api.Status) {
		if s.Progress.SegmentsTotal > 0 {
			rendering.set(int64(s.Progress.SegmentsDone), int64(s.Progress.SegmentsTotal))
		}
		if len(s.Waiting) > 0 {
			w := s.Waiting[0]
			if text := fmt.Sprintf("waiting for %s/%d: %s", w.Topic, w.Partition, w.Reason); text != last {
				last = text
				if more := max(s.WaitingTotal, len(s.Waiting)) - 1; more > 0 {
					text += fmt.Sprintf(", and %d more", more)
				}
				progress("%s\n", text)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	rendering.end()
	downloading := a.bar(o.quiet, "downloading", true)
	defer downloading.end()
	if o.cursorFile != "" {
		to = &cursorSink{sink: to, path: o.cursorFile, cursor: done.Cursor, sha256: done.SHA256, hook: a.hook}
	}
	return done, x.fetch(ctx, x.file(done), to, downloading)
}
