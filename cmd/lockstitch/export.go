package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"lockstitch/exporter/api"
)

// exportOptions are the flags of export.
type exportOptions struct {
	url, id, secret, secretFile, caFile string
	start, end                          string
	after, cursorFile                   string
	segment, filter                     string
	segments                            map[string]string
	attributes, tags                    []string
	safe                                bool
	report                              string
	out                                 string
	quiet                               bool
}

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export --url URL --start-at TIME -o FILE",
		Short: "Request an export, follow it and download the file",
		Long: `Requests an export, shows its progress, downloads the file and verifies its
SHA-256. A download that breaks off is resumed, also by a later call with
--report: what has arrived lies in FILE.part until the file is whole.

With --after the file holds everything kept since a cursor, however late it came,
and the cursor to go on with is printed. --cursor-file keeps it between calls: each
file begins where the one before ended, at first with the oldest event. The cursor
is written when the file is whole, so that a call that fails loses nothing.

The client secret is best given as LOCKSTITCH_CLIENT_SECRET or --client-secret-file.`,
		Example: `  lockstitch export --url http://localhost:8080 --client-id demo --client-secret demo-secret \
      --start-at 2026-05-01T00:00:00Z --end-at 2026-06-01T00:00:00Z -o may.csv.gz

  # columns of the profile, and only the women outside of Europe
  lockstitch export --url … --start-at … -o f.csv.gz \
      --attribute 491874 --attribute usercreated.sections.europe-r6tz73a27t/com.apsis1.attributes.email --tag 52001 \
      --segment women=usercreated.segments.women-rjz6b8td2n --segment europe=usercreated.segments.europe-x \
      --filter '!europe & women'

  # everything that is new since the last call, for a cron line
  lockstitch export --url … --cursor-file acme.cursor -o "acme-$(date -u +%FT%H%M%S).csv.gz"

  # go on with a download that broke off
  lockstitch export --url … --report 01JX8M2Y6T3N5Q7R9S1V2W3X4Y -o may.csv.gz`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.export(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.url, "url", "", "address of the API (LOCKSTITCH_URL)")
	f.StringVar(&o.id, "client-id", "", "client id (LOCKSTITCH_CLIENT_ID)")
	f.StringVar(&o.secret, "client-secret", "", "client secret (LOCKSTITCH_CLIENT_SECRET)")
	f.StringVar(&o.secretFile, "client-secret-file", "", "file that holds the client secret")
	f.StringVar(&o.caFile, "ca-file", "", "PEM file of the authority that signed the API's certificate (default: the system's)")
	f.StringVar(&o.start, "start-at", "", "first server_time, RFC 3339 in UTC")
	f.StringVar(&o.end, "end-at", "", "server_time to end before (default: everything acknowledged until now)")
	f.StringVar(&o.after, "after", "", "instead of a window, everything since this cursor, or since the \"beginning\"; prints the next cursor")
	f.StringVar(&o.cursorFile, "cursor-file", "", "like --after, with the cursor that is kept in this file")
	f.StringToStringVar(&o.segments, "segment", nil, "segment for --filter, NAME=DISCRIMINATOR; may be repeated")
	f.StringVar(&o.segment, "only-segment", "", "discriminator of the only segment to export")
	f.StringVar(&o.filter, "filter", "", "expression over the names of --segment with ! & | ( )")
	f.StringSliceVar(&o.attributes, "attribute", nil, "attribute column: a version id, or SECTION/DISCRIMINATOR; may be repeated")
	f.StringSliceVar(&o.tags, "tag", nil, "tag column: a version id, or SECTION/DISCRIMINATOR; may be repeated")
	f.BoolVar(&o.safe, "spreadsheet-safe", false, "put ' before cells that a spreadsheet would take for formulas")
	f.StringVar(&o.report, "report", "", "follow and download this report instead of requesting one")
	f.StringVarP(&o.out, "output", "o", "", "file to write (.csv.gz)")
	f.BoolVar(&o.quiet, "quiet", false, "show no progress")
	return c
}

func (a *app) env(name string) string {
	for _, e := range a.environ {
		if v, ok := strings.CutPrefix(e, envPrefix+name+"="); ok {
			return v
		}
	}
	return ""
}

// client checks the flags that every call needs.
func (o *exportOptions) client(a *app) (*exportClient, error) {
	fill := func(v *string, name string) {
		if *v == "" {
			*v = a.env(name)
		}
	}
	fill(&o.url, "URL")
	fill(&o.id, "CLIENT_ID")
	if o.secretFile != "" {
		b, err := os.ReadFile(o.secretFile)
		if err != nil {
			return nil, fmt.Errorf("--client-secret-file: %w", err)
		}
		o.secret = strings.TrimRight(string(b), "\r\n")
	}
	fill(&o.secret, "CLIENT_SECRET")
	var missing []string
	for _, m := range []struct{ name, value string }{{"--url", o.url}, {"--client-id", o.id}, {"--client-secret", o.secret}, {"--output", o.out}} {
		if m.value == "" {
			missing = append(missing, m.name)
		}
	}
	var from []string
	for _, m := range []struct{ name, value string }{{"--start-at", o.start}, {"--after", o.after}, {"--cursor-file", o.cursorFile}, {"--report", o.report}} {
		if m.value != "" {
			from = append(from, m.name)
		}
	}
	if len(from) == 0 {
		missing = append(missing, "--start-at (or --after, --cursor-file, --report)")
	}
	if len(missing) > 0 {
		return nil, usage(fmt.Errorf("missing: %s", strings.Join(missing, ", ")))
	}
	if len(from) > 1 {
		return nil, usage(fmt.Errorf("%s do not go together", strings.Join(from, " and ")))
	}
	if bad := httpURL(o.url); bad != "" {
		return nil, usage(fmt.Errorf("--url %q: %s", o.url, bad))
	}
	x := &exportClient{url: strings.TrimSuffix(o.url, "/"), id: o.id, secret: o.secret}
	if o.caFile != "" {
		if err := x.trust(o.caFile); err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
	}
	return x, nil
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
	switch {
	case o.segment != "" && (o.filter != "" || len(o.segments) > 0):
		return req, usage(errors.New("--only-segment goes without --segment and --filter"))
	case o.segment != "":
		req.SegmentFilter = &api.SegmentFilter{Discriminator: o.segment}
	case (o.filter == "") != (len(o.segments) == 0):
		return req, usage(errors.New("--segment and --filter go together"))
	case o.filter != "":
		req.SegmentFilter = &api.SegmentFilter{Discriminators: o.segments, Filter: o.filter}
	}
	req.Attributes, req.Tags, req.SpreadsheetSafe = mappings(o.attributes), mappings(o.tags), o.safe
	return req, nil
}

func mappings(texts []string) (out []api.Mapping) {
	for _, t := range texts {
		if section, discriminator, ok := strings.Cut(t, "/"); ok {
			out = append(out, api.Mapping{Section: section, Discriminator: discriminator})
		} else {
			out = append(out, api.Mapping{VersionID: t})
		}
	}
	return out
}

func (a *app) export(ctx context.Context, o exportOptions) error {
	x, err := o.client(a)
	if err != nil {
		return err
	}
	var st *api.Status
	if o.report != "" {
		if err := x.authorize(ctx); err != nil {
			return err
		}
		if st, err = x.status(ctx, o.report); err != nil {
			return err
		}
	} else {
		req, err := o.body()
		if err != nil {
			return err
		}
		if st, err = x.request(ctx, req); err != nil {
			return err
		}
	}
	say := func(format string, args ...any) {
		if !o.quiet {
			fmt.Fprintf(a.err, format, args...)
		}
	}
	say("report %s\n", st.ReportID)
	bar := a.bar(o.quiet, "rendering")
	last := ""
	if st, err = x.follow(ctx, st, func(s api.Status) {
		if s.Progress.SegmentsTotal > 0 {
			bar.set(int64(s.Progress.SegmentsDone), int64(s.Progress.SegmentsTotal))
		}
		if len(s.Waiting) > 0 {
			w := s.Waiting[0]
			if text := fmt.Sprintf("waiting for %s/%d: %s", w.Topic, w.Partition, w.Reason); text != last {
				last = text
				say("%s\n", text)
			}
		}
	}); err != nil {
		return err
	}
	bar.end()
	if err := a.fetch(ctx, x, st, o); err != nil {
		if o.cursorFile != "" {
			return fmt.Errorf("%w; the cursor has not moved: call again", err)
		}
		return fmt.Errorf("%w; `lockstitch export --report %s …` goes on", err, st.ReportID)
	}
	say("%s: %d rows, %d bytes, SHA-256 verified\n", o.out, *st.Rows, *st.Bytes)
	switch {
	case o.cursorFile != "":
		err = writeCursor(o.cursorFile, st.Cursor)
	case o.after != "":
		_, err = fmt.Fprintln(a.out, st.Cursor)
	}
	if st.More != nil && *st.More {
		say("there is more: the file would have been too large; go on with the cursor\n")
	}
	return err
}

// fetch downloads into FILE.part, resuming what is there, verifies it and gives
// it its name.
func (a *app) fetch(ctx context.Context, x *exportClient, st *api.Status, o exportOptions) error {
	part := o.out + ".part"
	bar := a.bar(o.quiet, "downloading")
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		return struct{}{}, permanent(func() error {
			f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
			if err != nil {
				return backoff.Permanent(err)
			}
			defer f.Close()
			from, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				return backoff.Permanent(err)
			}
			if from > *st.Bytes {
				from = 0
				if err := f.Truncate(0); err != nil {
					return backoff.Permanent(err)
				}
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					return backoff.Permanent(err)
				}
			}
			if from == *st.Bytes {
				return nil
			}
			fresh, err := x.status(ctx, st.ReportID) // with a fresh credential
			if err != nil {
				return err
			}
			if fresh.Status != "completed" {
				return backoff.Permanent(fmt.Errorf("report %s is %s", st.ReportID, fresh.Status))
			}
			bar.set(from, *st.Bytes)
			err = x.download(ctx, fresh, from, io.MultiWriter(f, bar.writer(from, *st.Bytes)))
			if errors.Is(err, errChanged) {
				// What is there belongs to another file: the next try starts over.
				if err := f.Truncate(0); err != nil {
					return backoff.Permanent(err)
				}
			}
			if err != nil {
				return err
			}
			return f.Sync()
		}())
	}, backoff.WithMaxElapsedTime(10*time.Minute))
	if err != nil {
		return err
	}
	bar.end()
	got, err := fileSHA256(part)
	if err != nil {
		return err
	}
	if got != st.SHA256 {
		if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fmt.Errorf("what arrived has SHA-256 %s, not %s, and was removed", got, st.SHA256)
	}
	return os.Rename(part, o.out)
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// bar is a progress bar on a terminal, and silent elsewhere.
type bar struct {
	name string
	on   bool
	out  io.Writer
	b    *progressbar.ProgressBar
}

func (a *app) bar(quiet bool, name string) *bar {
	f, ok := a.err.(*os.File)
	if !ok || quiet {
		return &bar{}
	}
	info, err := f.Stat()
	return &bar{name: name, on: err == nil && info.Mode()&os.ModeCharDevice != 0, out: a.err}
}

func (b *bar) set(done, total int64) {
	if !b.on {
		return
	}
	if b.b == nil {
		b.b = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.out), progressbar.OptionSetDescription(b.name),
			progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	_ = b.b.Set64(done)
}

// writer counts what is written.
func (b *bar) writer(done, total int64) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		done += int64(len(p))
		b.set(done, total)
		return len(p), nil
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (b *bar) end() {
	if b.b != nil {
		_ = b.b.Finish()
	}
}
