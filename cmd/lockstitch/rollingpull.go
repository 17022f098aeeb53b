package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/spf13/cobra"

	"lockstitch/exporter/api"
	"lockstitch/state/local"
)

// turnTime is how long a call is made again that was one too many. The limits are by
// the minute.
const turnTime = 5 * time.Minute

// behindAfter is for how long a period must be over until pull says that its file is not
// made yet: a call that comes with the boundary finds none where all is well.
const behindAfter = time.Minute

// followWait is how long a call waits for the next file. Below callTimeout.
const followWait = 45 * time.Second

func (a *app) rollingPull(to *connection) *cobra.Command {
	var dir string
	var after int64
	var follow bool
	c := &cobra.Command{
		Use:   "pull NAME --dir DIR [--follow]",
		Short: "Keep a directory in step with the files of a rolling export",
		Long: `Downloads every file of the rolling export that DIR does not have yet, in order:

  NAME-17.csv.gz   the file, under this name only when it is whole and verified
  NAME-17.json     its manifest: number, period, rows, bytes, SHA-256, cursors

The manifest is written last: take a file when its manifest is there. DIR is all
that pull remembers: it goes on behind the greatest number that has a manifest.
Files may be moved away, but leave the newest manifest. What pull makes, DIR
included, only its own user may read; a directory that is there keeps its mode. A pull that was killed at
whatever moment is made good by the next.

Where the account has made too many calls pull waits as long as the server says.
--follow does not end: it waits for the next file, and rides out times when the
server cannot be reached. Without it, call pull from cron; two at a time on one
directory do not hurt each other: the second says so and ends.

Why a rolling export makes no further files is said: it is paused, held up, has
stopped with an error, or is behind: periods have been over for a minute or longer, and
their files are not made yet. --follow waits until it goes on.

Exit status 0: DIR has all that there is; with --follow, stopped by a signal. 1:
something is missing or failed, or, without --follow, the rolling export has
stopped with an error; the files from before are in DIR. 2: wrong usage. 130:
interrupted.`,
		Example: `  lockstitch rolling pull hourly --dir /srv/events

  # crontab: every five minutes; the PATH of cron does not lead to /usr/local/bin
  */5 * * * *  LOCKSTITCH_CLIENT_ID=loader /usr/local/bin/lockstitch rolling pull hourly --dir /srv/events --url https://exports.example.com --client-secret-file /etc/lockstitch/secret

  # /etc/systemd/system/lockstitch-pull.service
  [Unit]
  Description=Files of the rolling export "hourly"
  Wants=network-online.target
  After=network-online.target
  [Service]
  Environment=LOCKSTITCH_URL=https://exports.example.com LOCKSTITCH_CLIENT_ID=loader
  ExecStart=/usr/local/bin/lockstitch rolling pull hourly --dir /srv/events --follow --client-secret-file /etc/lockstitch/secret
  Restart=always
  RestartSec=10
  [Install]
  WantedBy=multi-user.target`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if dir == "" {
				return usage(errors.New("missing: --dir"))
			}
			if err := os.MkdirAll(dir, privateDir); err != nil {
				return fmt.Errorf("--dir: %w", err)
			}
			x, err := to.connect(a, "rolling")
			if err != nil {
				return err
			}
			p := &puller{x: x, out: a.err, name: args[0], dir: dir, follow: follow}
			if err := p.open(after); err != nil {
				return err
			}
			defer p.close()
			return p.run(c.Context())
		},
	}
	f := c.Flags()
	f.StringVar(&dir, "dir", "", "directory to keep; it is made if it is not there")
	f.Int64Var(&after, "after", 0, "go on behind this number, if DIR has nothing above it")
	f.BoolVar(&follow, "follow", false, "wait for further files until it is stopped")
	return c
}

// puller keeps a directory in step with a rolling export.
type puller struct {
	x         *exportClient
	out       io.Writer
	name, dir string
	follow    bool
	lock      io.Closer

	last    int64  // the greatest number that is done
	orderID string // whose number last is; empty: not known yet
	said    string // last, of why there are no more files; without what changes while it waits
}

// manifestVersion is the version of the manifests that pull writes.
const manifestVersion = 1

// manifest stands beside each file.
type manifest struct {
	Version         int               `json:"version"`
	Name            string            `json:"name"`
	OrderID         string            `json:"order_id"`
	Number          int64             `json:"number"`
	File            string            `json:"file"`
	PeriodStart     *api.Time         `json:"period_start,omitempty"`
	PeriodEnd       api.Time          `json:"period_end"`
	Cursor          api.RollingCursor `json:"cursor"`
	Rows            int64             `json:"rows"`
	Bytes           int64             `json:"bytes"`
	SHA256          string            `json:"sha256"`
	CompleteThrough *api.Time         `json:"complete_through,omitempty"`
}

func (p *puller) path(number int64, suffix string) string {
	return filepath.Join(p.dir, p.name+"-"+strconv.FormatInt(number, 10)+suffix)
}

// open takes the directory for this process and finds out what it has.
func (p *puller) open(after int64) (err error) {
	if p.lock, err = local.Lock(vfs.Default, filepath.Join(p.dir, "."+p.name+".lock")); err != nil {
		return fmt.Errorf("%s %w", p.dir, err)
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		p.close()
		return err
	}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), p.name+"-")
		text, isManifest := strings.CutSuffix(text, ".json")
		n, err := strconv.ParseInt(text, 10, 64)
		if ok && isManifest && err == nil && n > p.last && text == strconv.FormatInt(n, 10) {
			p.last = n
		}
	}
	if p.last > 0 {
		b, err := os.ReadFile(p.path(p.last, ".json"))
		var m manifest
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err == nil && m.Version <= manifestVersion && m.OrderID == "" {
			err = errors.New("it names no order")
		}
		if err != nil {
			p.close()
			return fmt.Errorf("%s is no manifest of pull: %w", p.path(p.last, ".json"), err)
		}
		if m.Version > manifestVersion {
			p.close()
			return fmt.Errorf("%s is of version %d, this program knows %d", p.path(p.last, ".json"), m.Version, manifestVersion)
		}
		p.orderID = m.OrderID
	}
	p.last = max(p.last, after)
	return nil
}

func (p *puller) close() { _ = p.lock.Close() }

// run pulls until there is no more, or for ever.
func (p *puller) run(ctx context.Context) error {
	retry := backoff.NewExponentialBackOff()
	retry.MaxInterval = time.Minute
	for wait := time.Duration(0); ; {
		page, err := p.list(ctx, wait)
		if err == nil {
			err = p.take(ctx, page)
		}
		var stop *backoff.PermanentError
		switch {
		case ctx.Err() != nil && p.follow:
			return nil // stopped: the directory is as it should be
		case err != nil && (!p.follow || errors.As(permanent(err), &stop)):
			return err
		case err != nil:
			pause := retry.NextBackOff()
			say(p.out, "%v; trying again in %s\n", err, pause.Round(time.Second))
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
			continue
		case len(page.Items) == 0:
			if err := p.sayWhyNoMore(ctx); err != nil || !p.follow {
				return err
			}
		}
		retry.Reset()
		if p.follow {
			wait = followWait
		}
	}
}

func (p *puller) list(ctx context.Context, wait time.Duration) (*api.RollingFileList, error) {
	page := new(api.RollingFileList)
	err := p.call(ctx, fmt.Sprintf("/files?after=%d&wait=%d", p.last, wait/time.Second), page)
	return page, err
}

// call waits for its turn as long as the server says, where the account has made too
// many calls. Whatever else goes wrong is its caller's.
func (p *puller) call(ctx context.Context, path string, answer any) error {
	_, err := again(ctx, p.x, turnTime, func() (struct{}, error) {
		err := p.x.call(ctx, http.MethodGet, rollingPath(p.name)+path, "", "", answer)
		var e *problemError
		if err != nil && !(errors.As(err, &e) && e.status == http.StatusTooManyRequests) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, permanent(err)
	})
	return err
}

// sayWhyNoMore says, once, why the rolling export makes no further files, if there is
// a reason. Without --follow it is an error that it has stopped: it does not go on by itself.
func (p *puller) sayWhyNoMore(ctx context.Context) error {
	var st api.RollingExport
	if err := p.call(ctx, "", &st); err != nil {
		return nil // DIR is as it should be; if it lasts, the next list ends with it
	}
	var why []string
	if st.State == "paused" {
		why = append(why, fmt.Sprintf("the rolling export %s is paused: it makes no further files until it is resumed", p.name))
	}
	if st.HeldUp != "" {
		why = append(why, fmt.Sprintf("the rolling export %s is held up: %s", p.name, st.HeldUp))
	}
	var stopped error
	if st.Error != nil {
		stopped = fmt.Errorf("the rolling export %s has stopped: %s: %s", p.name, st.Error.Title, st.Error.Detail)
		if p.follow {
			why = append(why, stopped.Error())
		}
	}
	text := strings.Join(why, "\n")
	reason := text
	if text == "" && stopped == nil && st.Lag.Files > 0 && st.Lag.Seconds >= behindAfter.Seconds() {
		text, reason = p.behind(&st), "behind with "+st.Next.End.String()
	}
	if reason != p.said {
		p.said = reason
		if text != "" {
			say(p.out, "%s\n", text)
		}
	}
	if p.follow {
		return nil
	}
	return stopped
}

// behind says how many periods have no file yet, which nothing else of the status tells:
// the server counts one that is only to be delivered too.
func (p *puller) behind(st *api.RollingExport) string {
	are, missing := "periods are", "made"
	if st.Lag.Files == 1 {
		are = "period is"
	}
	if st.Delivered != nil {
		missing = "made or not delivered"
	}
	return fmt.Sprintf("the rolling export %s is behind: %d %s over and not %s yet; its next file is that of the period until %s", p.name, st.Lag.Files, are, missing, st.Next.End)
}

// take downloads the files of a page.
func (p *puller) take(ctx context.Context, page *api.RollingFileList) error {
	if p.orderID != "" && p.orderID != page.OrderID {
		return backoff.Permanent(fmt.Errorf("%s is for the files of another rolling export of the name %q, which was deleted; pull into another directory", p.dir, p.name))
	}
	if p.last > page.Files {
		return backoff.Permanent(fmt.Errorf("the rolling export %s has only %d files; going on behind number %d (of --after, or of the newest manifest in %s) would skip what it is still to make", p.name, page.Files, p.last, p.dir))
	}
	first := page.Files + 1
	if len(page.Items) > 0 {
		first = page.Items[0].Number
	}
	if first > p.last+1 {
		if p.last > 0 {
			return backoff.Permanent(fmt.Errorf("files %d to %d have expired before they were pulled; `--after %d` goes on without them", p.last+1, first-1, first-1))
		}
		say(p.out, "files 1 to %d have expired already\n", first-1)
		p.last = first - 1
	}
	if p.last > 0 {
		p.orderID = page.OrderID
	}
	for _, f := range page.Items {
		if f.Number != p.last+1 {
			return nil // the next page begins behind the gap
		}
		if err := p.file(ctx, page.OrderID, f); err != nil {
			return fmt.Errorf("file %d: %w", f.Number, err)
		}
		p.last, p.orderID = f.Number, page.OrderID
		say(p.out, "%s: %d rows, %d bytes, SHA-256 verified\n", p.path(f.Number, ".csv.gz"), f.Rows, f.Bytes)
	}
	return nil
}

// file brings one file and its manifest into the directory, unless the file is
// there already.
func (p *puller) file(ctx context.Context, orderID string, f *api.RollingFile) error {
	whole := p.path(f.Number, ".csv.gz")
	if got, err := fileSHA256(whole); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if got != f.SHA256 {
		if err := p.fetch(ctx, f, whole); err != nil {
			return err
		}
	}
	m, err := json.MarshalIndent(&manifest{
		Version: manifestVersion, Name: p.name, OrderID: orderID, Number: f.Number, File: filepath.Base(whole), PeriodStart: f.Start, PeriodEnd: f.End, Cursor: f.Cursor,
		Rows: f.Rows, Bytes: f.Bytes, SHA256: f.SHA256, CompleteThrough: f.CompleteThrough,
	}, "", "  ")
	if err != nil {
		return err
	}
	// The file is durable before its manifest says that it is whole.
	if err := syncDir(p.dir); err != nil {
		return err
	}
	return replaceFile(p.path(f.Number, ".json"), append(m, '\n'))
}

// fetch downloads a file, going on with what is there of it.
func (p *puller) fetch(ctx context.Context, f *api.RollingFile, whole string) error {
	to, err := openFile(whole)
	if err != nil {
		return err
	}
	defer to.Close()
	return p.x.fetch(ctx, remoteFile{f.Bytes, f.SHA256, func(ctx context.Context) (string, error) {
		fresh := new(api.RollingFile)
		err := p.call(ctx, fmt.Sprintf("/files/%d", f.Number), fresh)
		return fresh.FileDownloadURL, err
	}}, to, &bar{})
}
