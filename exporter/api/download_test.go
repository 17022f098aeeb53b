package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstitch/exporter/auth"
	"lockstitch/state/event"
	"lockstitch/state/objects"
)

func (r *rig) finished() (st Status, file []byte) {
	r.t.Helper()
	id := r.request("a", recently()).ReportID
	file = someFile()
	r.complete("acme", id, file)
	return r.status("a", id), file
}

func TestDownloadHeadersAndRanges(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.DownloadsPerMinute = 1000 })
	st, file := r.finished()
	a := r.do("GET", st.FileDownloadURL, "", "", "Accept-Encoding", "gzip")
	sum := sha256.Sum256(file)
	etag := fmt.Sprintf("%q", st.SHA256)
	for name, want := range map[string]string{
		"Content-Type": "application/gzip", "Content-Encoding": "", "Content-Length": fmt.Sprint(len(file)),
		"Content-Disposition": `attachment; filename="email-events-` + st.ReportID + `.csv.gz"`, "Accept-Ranges": "bytes",
		"ETag": etag, "Repr-Digest": "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":",
		"Referrer-Policy": "no-referrer", // the credential is in the URL
		"Cache-Control":   "private, no-store, no-transform",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if a := r.do("HEAD", st.FileDownloadURL, "", ""); a.StatusCode != 200 || a.ContentLength != int64(len(file)) {
		t.Errorf("HEAD: %d, %d", a.StatusCode, a.ContentLength)
	}
	n := len(file)
	for _, c := range []struct {
		headers  []string
		code     int
		from, to int
	}{
		{[]string{"Range", "bytes=0-0"}, 206, 0, 1},
		{[]string{"Range", "bytes=1000-"}, 206, 1000, n},
		{[]string{"Range", "bytes=-10"}, 206, n - 10, n},
		{[]string{"Range", "bytes=5-9999999"}, 206, 5, n},
		{[]string{"Range", "bytes=1-2,4-5"}, 200, 0, n}, // several: the whole
		{[]string{"Range", "bytes=7-", "If-Range", etag}, 206, 7, n},
		{[]string{"Range", "bytes=7-", "If-Range", `"other"`}, 200, 0, n},
		{[]string{"Range", "lines=1-2"}, 200, 0, n}, // a unit that is not known
		{[]string{"Range", "bytes=2-1"}, 416, 0, 0},
		{[]string{"Range", fmt.Sprintf("bytes=%d-", n)}, 416, 0, 0},
		{[]string{"If-None-Match", etag}, 304, 0, 0},
		{[]string{"If-Match", `"other"`}, 412, 0, 0},
	} {
		a := r.do("GET", st.FileDownloadURL, "", "", c.headers...)
		switch {
		case a.StatusCode != c.code:
			t.Errorf("%v: %d, want %d", c.headers, a.StatusCode, c.code)
		case c.code == 416:
			r.problem(a, 416, "range-not-satisfiable")
		case c.code == 412:
			r.problem(a, 412, "precondition-failed")
		case string(a.body) != string(file[c.from:c.to]):
			t.Errorf("%v: wrong bytes, %d of them", c.headers, len(a.body))
		case c.code == 206 && (a.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, n) || a.ContentLength != int64(c.to-c.from)):
			t.Errorf("%v: Content-Range %q, Content-Length %d", c.headers, a.Header.Get("Content-Range"), a.ContentLength)
		}
		// They are of the whole file, whatever part of it is sent.
		if digest := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"; c.code < 400 && (a.Header.Get("ETag") != etag || a.Header.Get("Repr-Digest") != digest) {
			t.Errorf("%v: ETag %q, Repr-Digest %q", c.headers, a.Header.Get("ETag"), a.Header.Get("Repr-Digest"))
		}
	}
	if a := r.do("HEAD", st.FileDownloadURL, "", "", "Range", "bytes=0-0"); a.StatusCode != 200 || a.ContentLength != int64(n) {
		t.Errorf("HEAD with a Range: %d, %d", a.StatusCode, a.ContentLength)
	}
	for _, rng := range []string{fmt.Sprintf("bytes=%d-", n), "bytes=2-1"} {
		if a := r.do("GET", st.FileDownloadURL, "", "", "Range", rng); a.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", n) {
			t.Errorf("%s: 416 with Content-Range %q", rng, a.Header.Get("Content-Range"))
		}
	}
}

func TestDownloadCredentials(t *testing.T) {
	r := newRig(t, nil)
	st, _ := r.finished()
	other, _ := r.finished()
	plain, token, _ := strings.Cut(st.FileDownloadURL, "?token=")
	_, foreign, _ := strings.Cut(other.FileDownloadURL, "?token=")
	for name, u := range map[string]string{
		"none": plain, "empty": plain + "?token=", "garbage": plain + "?token=x", "another report's": plain + "?token=" + foreign,
		"an access token": plain + "?token=" + r.token("a"), "cut": plain + "?token=" + token[:len(token)-2],
		"another path": r.url + "/emails/reports/..%2f/file?token=" + token,
	} {
		t.Run(name, func(t *testing.T) {
			r := *r
			r.t = t
			a := r.do("GET", u, "", "")
			r.problem(a, 403, "invalid-download-credential")
			if got := a.Header.Get("Referrer-Policy"); got != "no-referrer" {
				t.Errorf("Referrer-Policy %q of a URL with a credential", got)
			}
		})
	}
	// And a download credential is no access token.
	r.problem(r.do("GET", "/emails/reports", "", "", "Authorization", "Bearer "+token), 401, "unauthorized")
	r.ahead.Store(int64(15*time.Minute + time.Second))
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 403, "invalid-download-credential")
	fresh := r.status("a", st.ReportID)
	if a := r.do("GET", fresh.FileDownloadURL, "", ""); a.StatusCode != 200 {
		t.Fatalf("a fresh URL: %d", a.StatusCode)
	}
}

// A URL is not said to be good for longer than there is a file behind it.
func TestNoURLOutlivesItsFile(t *testing.T) {
	r := newRig(t, nil)
	st, _ := r.finished()
	if *st.FileDownloadURLExpiresAt >= *st.FileExpiresAt-Time(time.Hour.Milliseconds()) {
		t.Fatalf("a new file: the URL ends at %d, the file at %d", *st.FileDownloadURLExpiresAt, *st.FileExpiresAt)
	}
	clear(r.tokens)
	r.ahead.Store(int64(24*time.Hour - 5*time.Minute)) // the file is kept for a day
	now := r.status("a", st.ReportID)
	if now.FileDownloadURL == "" || *now.FileDownloadURLExpiresAt > *now.FileExpiresAt {
		t.Fatalf("the URL ends at %d, the file at %d", *now.FileDownloadURLExpiresAt, *now.FileExpiresAt)
	}
	if a := r.do("GET", now.FileDownloadURL, "", ""); a.StatusCode != 200 {
		t.Fatalf("while the file is there: %d", a.StatusCode)
	}
	r.ahead.Store(int64(24 * time.Hour))
	r.problem(r.do("GET", now.FileDownloadURL, "", ""), 403, "invalid-download-credential")
}

func TestFileGone(t *testing.T) {
	r := newRig(t, nil)
	st, _ := r.finished()
	if a := r.do("DELETE", "/emails/reports/"+st.ReportID, "a", ""); a.StatusCode != 204 {
		t.Fatal(a.StatusCode)
	}
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 410, "file-gone")
	if now := r.status("a", st.ReportID); now.Status != "expired" || now.FileDownloadURL != "" {
		t.Fatalf("%+v", now)
	}
	if a := r.do("DELETE", "/emails/reports/"+st.ReportID, "a", ""); a.StatusCode != 204 {
		t.Fatal(a.StatusCode)
	}

	st, _ = r.finished()
	rep, _ := r.table.Get("acme", st.ReportID)
	if err := r.store.Delete(t.Context(), rep.Result.Object); err != nil {
		t.Fatal(err)
	}
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 410, "file-gone")
}

// A store that cannot be reached says nothing about the file.
func TestStoreAway(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	r.keep("1", sample{"s1", "x", "x", "n", event.Sent, time.Minute})
	st, file := r.finished()
	if err := os.Rename(r.dir, r.dir+".away"); err != nil {
		t.Fatal(err)
	}
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 503, "unavailable")
	r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 503, "unavailable")
	if now := r.status("a", st.ReportID); now.Status != "completed" {
		t.Fatalf("%+v", now)
	}
	if err := os.Rename(r.dir+".away", r.dir); err != nil {
		t.Fatal(err)
	}
	if a := r.do("GET", st.FileDownloadURL, "", ""); a.StatusCode != 200 || string(a.body) != string(file) {
		t.Fatalf("%d", a.StatusCode)
	}
	// A file of another size is not the one that was promised.
	rep, _ := r.table.Get("acme", st.ReportID)
	if err := os.Truncate(filepath.Join(r.dir, rep.Result.Object), 100); err != nil {
		t.Fatal(err)
	}
	p := r.problem(r.do("GET", st.FileDownloadURL, "", ""), 500, "internal-error")
	if strings.Contains(p.Detail, "exports/") {
		t.Errorf("%s", p.Detail)
	}
}

func TestDownloadLimit(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.DownloadsPerMinute = 2 })
	st, _ := r.finished()
	for range 2 {
		if a := r.do("HEAD", st.FileDownloadURL, "", ""); a.StatusCode != 200 {
			t.Fatal(a.StatusCode)
		}
	}
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 429, "rate-limit")
}

// So many downloads of an account may be under way, whenever they began, and no
// more; those that are refused for that count for nothing.
func TestDownloadsUnderWay(t *testing.T) {
	g := &gated{reached: make(chan struct{}), release: make(chan struct{})}
	r := newRig(t, func(c *Config, d *Deps) {
		c.Limits.DownloadsPerMinute = 1
		g.Store, d.Store = d.Store, g
	})
	st, _ := r.finished()
	release := sync.OnceFunc(func() { close(g.release) })
	defer release()
	foreign := r.request("b", recently()).ReportID
	r.complete("other", foreign, someFile())
	// With one connection the next call comes behind the end of the one before.
	tr := &http.Transport{MaxConnsPerHost: 1}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	resp, err := client.Get(st.FileDownloadURL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-g.reached
	r.ahead.Store(int64(time.Minute))
	for range 2 {
		if p := r.problem(r.do("GET", st.FileDownloadURL, "", ""), 429, "rate-limit"); !strings.Contains(p.Detail, "under way") {
			t.Errorf("%+v", p)
		}
	}
	if a := r.do("HEAD", r.status("b", foreign).FileDownloadURL, "", ""); a.StatusCode != 200 {
		t.Errorf("another account: %d", a.StatusCode)
	}
	release()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if a := r.read(client.Head(st.FileDownloadURL)); a.StatusCode != 200 {
		t.Errorf("behind the transfer: %d", a.StatusCode)
	}
}

// gated is a store whose files stop in the middle until they are let go.
type gated struct {
	objects.Store
	reached chan struct{}
	release chan struct{}
	fail    error // instead of letting go
	once    bool  // the file cannot be opened a second time
	opened  atomic.Int32
}

type gatedReader struct {
	io.ReadCloser
	ctx  context.Context
	g    *gated
	left int
}

func (g *gated) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if g.opened.Add(1) > 1 && g.once {
		return nil, g.fail
	}
	rc, err := g.Store.Open(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return &gatedReader{rc, ctx, g, 40_000}, nil
}

func (r *gatedReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		if r.g.fail != nil {
			return 0, r.g.fail
		}
		close(r.g.reached)
		<-r.g.release
		if err := r.ctx.Err(); err != nil {
			return 0, err // as a store over a network would
		}
		r.left = 1 << 30
	}
	n, err := r.ReadCloser.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, err
}

// A transfer that has begun finishes: the file is deleted meanwhile, its
// credential expires.
func TestTransferInFlight(t *testing.T) {
	g := &gated{reached: make(chan struct{}), release: make(chan struct{})}
	r := newRig(t, func(_ *Config, d *Deps) { g.Store, d.Store = d.Store, g })
	st, file := r.finished()
	resp, err := http.Get(st.FileDownloadURL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-g.reached
	if a := r.do("DELETE", "/emails/reports/"+st.ReportID, "a", ""); a.StatusCode != 204 {
		t.Fatal(a.StatusCode)
	}
	rep, _ := r.table.Get("acme", st.ReportID)
	if err := r.store.Delete(t.Context(), rep.Result.Object); err != nil {
		t.Fatal(err)
	}
	r.ahead.Store(int64(time.Hour))
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 403, "invalid-download-credential")
	close(g.release)
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != string(file) {
		t.Fatalf("%d of %d bytes: %v", len(got), len(file), err)
	}
}

// A transfer may take as long as it goes on: each part that is written has its own time
// to be taken.
func TestALongTransferIsNotCut(t *testing.T) {
	g := &gated{reached: make(chan struct{}), release: make(chan struct{})}
	r := newRig(t, func(_ *Config, d *Deps) { g.Store, d.Store = d.Store, g })
	st, file := r.finished()
	srv := httptest.NewUnstartedServer(nil)
	d := deadlined{srv.Listener, new(atomic.Int64)}
	srv.Listener, srv.Config = d, newTestServer(r.handler, slog.New(slog.DiscardHandler))
	srv.Start()
	defer srv.Close()
	resp, err := http.Get(srv.URL + strings.TrimPrefix(st.FileDownloadURL, r.url))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-g.reached // and what was read before is written
	d.write.Store(0)
	goesOn := time.Now()
	close(g.release)
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != string(file) {
		t.Fatalf("%d of %d bytes: %v", len(got), len(file), err)
	}
	if last := time.Unix(0, d.write.Load()); last.Before(goesOn.Add(stallTimeout)) {
		t.Errorf("the last part may be written until %s, the transfer went on at %s", last, goesOn)
	}
}

// A store that fails in the middle is asked again where it failed; if that does
// not help the connection breaks: a part must not look like the whole.
func TestBrokenTransfer(t *testing.T) {
	for _, once := range []bool{false, true} {
		g := &gated{fail: errors.New("the store is away"), once: once}
		r := newRig(t, func(_ *Config, d *Deps) { g.Store, d.Store = d.Store, g })
		st, file := r.finished()
		resp, err := http.Get(st.FileDownloadURL)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if once && (err == nil || len(got) == len(file)) {
			t.Fatalf("%d of %d bytes, and no error", len(got), len(file))
		}
		if !once && (err != nil || string(got) != string(file) || g.opened.Load() != 3) {
			t.Fatalf("%d of %d bytes in %d parts: %v", len(got), len(file), g.opened.Load(), err)
		}
	}
}

func TestDownloadOfAnotherSigner(t *testing.T) {
	r := newRig(t, nil)
	st, _ := r.finished()
	forger, err := auth.New(auth.Config{Keys: []auth.Key{{ID: testKey.ID, Secret: []byte(strings.Repeat("x", 32))}}})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := forger.IssueDownload("acme", st.ReportID, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	u, _, _ := strings.Cut(st.FileDownloadURL, "?")
	r.problem(r.do("GET", u, "", "", "x-apsis-auth", forged), 403, "invalid-download-credential")
}
