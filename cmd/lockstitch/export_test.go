package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"lockstitch/exporter/api"
)

// anything is a request for all that produce makes. A window without an end is measured to
// now, and would be too long some day.
var anything = []string{"--start-at", "2026-09-01T00:00:00Z", "--end-at", "2026-12-01T00:00:00Z"}

// completed asks for an export of everything and waits for it.
func completed(ctx context.Context, t *testing.T, x *exportClient) *api.Status {
	t.Helper()
	start, end := mustTime(t, anything[1]), mustTime(t, anything[3])
	st, err := x.request(ctx, api.ExportRequest{StartAt: &start, EndAt: &end})
	if err != nil {
		t.Fatal(err)
	}
	if st, err = x.follow(ctx, st, func(api.Status) {}); err != nil {
		t.Fatal(err)
	}
	return st
}

func mustTime(t *testing.T, s string) api.Time {
	t.Helper()
	at, ok := api.ParseTime(s)
	if !ok {
		t.Fatal(s)
	}
	return at
}

// files is a proxy that treats downloads as handle says; handle gets the number
// of the download, from 1, and a function that passes it on.
func files(t *testing.T, y *system, handle func(n int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter))) (base string, count func() int) {
	t.Helper()
	target, err := url.Parse(y.r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	inner := httputil.NewSingleHostReverseProxy(target)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handle(int(n.Add(1)), w, r, func(w http.ResponseWriter) { inner.ServeHTTP(w, r) })
	}))
	t.Cleanup(srv.Close)
	return startProxied(t, y, srv.URL), func() int { return int(n.Load()) }
}

func TestExportToStandardOutput(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	counts := y.produce(ctx, 11, 500)
	base, _ := files(t, y, func(n int, w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) {
		if n > 1 {
			pass(w)
			return
		}
		pass(&shortWriter{ResponseWriter: w, left: 1000})
		panic(http.ErrAbortHandler)
	})
	args := append([]string{"export", "--url", base, "--client-id", "demo", "--client-secret", "demo-secret", "-o", "-"}, anything...)
	status, out, errs := command(ctx, nil, args...)
	if status != 0 || !strings.Contains(errs, "SHA-256 verified") {
		t.Fatalf("exit %d: %s", status, errs)
	}
	if strings.Contains(errs, "\r") {
		t.Errorf("a progress bar without a terminal: %q", errs)
	}
	z, err := gzip.NewReader(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(z).ReadAll()
	if err != nil || len(rows)-1 != counts.Events {
		t.Errorf("%d rows of %d events, %v", len(rows)-1, counts.Events, err)
	}
	if _, err := os.Stat("-"); err == nil {
		t.Error(`a file named "-" was made`)
	}
}

// What cannot be right is found before anything is asked of the server: nobody
// answers at this address, and the error is not that.
func TestExportFindsMistakesBeforeItAsks(t *testing.T) {
	dir := t.TempDir()
	secret, empty := writeFile(t, "secret", "s\n"), writeFile(t, "empty", "\n")
	for line, want := range map[string]string{
		"--client-secret s -o " + dir + "/no/such/f":                           "cannot be written",
		"--client-secret s -o " + dir:                                          "is a directory",
		"--client-secret s -o " + os.DevNull:                                   `is no regular file; "-o -"`,
		"--client-secret s -o f --report r --attribute 1":                      "without --attribute, --end-at, --start-at",
		"--client-secret s -o f --ca-file " + secret:                           "holds no PEM certificate",
		"--client-secret s -o f --client-secret-file " + secret:                "use one of them",
		"-o f --client-secret-file /does/not/exist":                            "--client-secret-file: reading a secret: open /does/not/exist",
		"-o f --client-secret-file " + empty:                                   "is empty",
		"-o f --token-file /does/not/exist":                                    "--token-file: reading a secret",
		"-o f":                                                                 "missing: --client-secret",
		"--client-secret s":                                                    "missing: --output",
		"--client-secret s -o f --only-segment a --filter b":                   "goes without",
		"--client-secret s -o f --end-at 2026-09-01T00:00:00+02:00":            "--end-at",
		"--client-secret s -o " + dir + "/f --url http://localhost:1/?token=1": "without query",
	} {
		args := append(append([]string{"export", "--url", "http://localhost:1", "--client-id", "c"}, anything...), strings.Fields(line)...)
		status, _, errs := command(t.Context(), nil, args...)
		if status != 2 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %q should say %q", line, status, errs, want)
		}
	}
	args := append([]string{"export", "--url", "http://localhost:1", "--client-id", "c", "-o", dir + "/f"}, anything...)
	status, _, errs := command(t.Context(), []string{"LOCKSTITCH_CLIENT_SECRET_FILE=" + secret}, args...)
	if status != 1 || !strings.Contains(errs, "http://localhost:1 cannot be reached") || !strings.Contains(errs, "check --url") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestExportWithATokenAndASecretFile(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	if err := x.authorize(ctx); err != nil {
		t.Fatal(err)
	}
	for _, env := range [][]string{
		{"LOCKSTITCH_TOKEN=" + x.token},
		{"LOCKSTITCH_TOKEN_FILE=" + writeFile(t, "token", x.token+"\n")},
		{"LOCKSTITCH_CLIENT_ID=demo", "LOCKSTITCH_CLIENT_SECRET_FILE=" + writeFile(t, "secret", "demo-secret\r\n")},
	} {
		args := append([]string{"export", "--url", y.r.localURL(), "-o", filepath.Join(t.TempDir(), "f")}, anything...)
		if status, _, errs := command(ctx, env, args...); status != 0 {
			t.Errorf("%.30s: exit %d: %s", env[0], status, errs)
		}
	}
	// The server's own words, once.
	status, _, errs := command(ctx, []string{"LOCKSTITCH_TOKEN=" + x.token}, "export", "--url", y.r.localURL(), "-o", filepath.Join(t.TempDir(), "f"),
		"--start-at", "2026-01-01T00:00:00Z", "--end-at", "2026-12-01T00:00:00Z")
	if status != 1 || strings.Count(errs, "at most 3 calendar months") != 1 {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// Variables name somebody else than the flags, or a client beside a token.
func TestOnlyOneAsks(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	if err := x.authorize(ctx); err != nil {
		t.Fatal(err)
	}
	strange := writeFile(t, "token", "strange")
	client, token := y.environ[1:], []string{"LOCKSTITCH_TOKEN=" + x.token}
	pull := "rolling pull x --dir " + t.TempDir()
	for _, tc := range []struct {
		line    string
		environ []string
		status  int
	}{
		{pull + " --client-id demo --client-secret wrong", token, 1},
		{pull + " --client-id demo --client-secret demo-secret", []string{"LOCKSTITCH_TOKEN=strange"}, 0},
		{pull + " --client-id demo", append(token, "LOCKSTITCH_CLIENT_SECRET=wrong"), 1},
		{pull + " --token-file " + strange, client, 1},
		{pull + " --token-file " + strange, token, 1},
		{pull, append(client, token...), 0},
	} {
		status, _, errs := command(ctx, append(tc.environ, y.environ[0]), strings.Fields(tc.line)...)
		if status != tc.status || status == 1 && !strings.Contains(errs, "401") {
			t.Errorf("%s with %v: exit %d, %s", tc.line, tc.environ, status, errs)
		}
	}
}

// calls is a proxy before the API that does something before it passes a call on,
// and answers in its place if that returns true.
func calls(t *testing.T, y *system, instead func(w http.ResponseWriter, r *http.Request) bool) (base string) {
	t.Helper()
	target, err := url.Parse(y.r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	inner := httputil.NewSingleHostReverseProxy(target)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !instead(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// One token call too many of the minute is made again when the server says, and who waits
// is told what for.
func TestATokenIsWaitedFor(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startPulling(t)
	export := "export " + strings.Join(anything, " ") + " -o " + filepath.Join(t.TempDir(), "f")
	for _, line := range []string{export, export + " --quiet", "rolling list"} {
		var tokens atomic.Int32
		base := calls(t, y.system, func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/oauth/token" || tokens.Add(1) > 1 {
				return false
			}
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		status, _, errs := command(ctx, y.environ, append(strings.Fields(line), "--url", base)...)
		if status != 0 || tokens.Load() != 2 {
			t.Errorf("%s: exit %d after %d token calls: %s", line, status, tokens.Load(), errs)
		}
		said := strings.HasPrefix(errs, "the server answered 429: Too Many Requests") && strings.Contains(errs, "; waiting for 1s\n")
		if quiet := strings.HasSuffix(line, "--quiet"); said == quiet {
			t.Errorf("%s: %s", line, errs)
		}
	}
}

// A token that has expired since it was given is replaced, and the call made again;
// one that is refused again is not.
func TestATokenThatHasExpiredIsReplaced(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	if err := x.authorize(ctx); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Error(err)
		}
	}
	var expire atomic.Bool
	base := calls(t, y.system, func(_ http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Header.Get("Authorization") == "Bearer expired":
			write(x.token) // as whoever renews the file has done by then
		case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/emails/") && expire.CompareAndSwap(true, false):
			r.Header.Set("Authorization", "Bearer expired")
		}
		return false
	})
	for _, line := range []string{
		"export " + strings.Join(anything, " ") + " -o " + filepath.Join(t.TempDir(), "f"),
		"rolling pull x --dir " + t.TempDir(),
		"rolling show x",
	} {
		args := append(strings.Fields(line), "--url")
		expire.Store(true)
		if status, _, errs := command(ctx, y.environ[1:], append(args, base)...); status != 0 || expire.Load() {
			t.Errorf("%s: exit %d: %s", line, status, errs)
		}
		write("expired")
		if status, _, errs := command(ctx, nil, append(args, base, "--token-file", file)...); status != 0 {
			t.Errorf("%s with a file: exit %d: %s", line, status, errs)
		}
		write("expired")
		if status, _, errs := command(ctx, nil, append(args, y.r.localURL(), "--token-file", file)...); status != 1 || !strings.Contains(errs, "401") {
			t.Errorf("%s with a file that stays: exit %d: %s", line, status, errs)
		}
	}
}

// Whoever interrupts an export is told how to go on, and can.
func TestInterruptedExportGoesOn(t *testing.T) {
	t.Run("a window", func(t *testing.T) { interruptedExport(t, false, anything...) })
	t.Run("behind a cursor", func(t *testing.T) { interruptedExport(t, true, "--after", "beginning") })
}

func interruptedExport(t *testing.T, walks bool, flags ...string) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 12, 500)
	ictx, interrupt := context.WithCancel(ctx)
	base, _ := files(t, y, func(n int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if n > 1 {
			pass(w)
			return
		}
		pass(&shortWriter{ResponseWriter: w, left: 100})
		interrupt()
		<-r.Context().Done()
	})
	env := []string{"LOCKSTITCH_CLIENT_ID=demo", "LOCKSTITCH_CLIENT_SECRET=demo-secret"}
	out := filepath.Join(t.TempDir(), "it's.csv.gz")
	status, _, errs := command(ictx, env, append([]string{"export", "--url", base, "-o", out}, flags...)...)
	_, again, ok := strings.Cut(errs, "\n  lockstitch ")
	if status != 130 || !strings.Contains(errs, "lockstitch: interrupted") || !ok || strings.Contains(errs, "demo-secret") {
		t.Fatalf("exit %d: %s", status, errs)
	}
	words := strings.Fields(again)
	if last := len(words) - 1; words[last] != shellWord(out) {
		t.Fatalf("%q is not one word for a shell", words[last])
	} else {
		words[last] = out
	}
	status, cursor, errs := command(ctx, env, words...)
	if status != 0 || !strings.Contains(errs, "SHA-256 verified") || len(strings.Fields(cursor)) == 1 != walks {
		t.Errorf("%s: exit %d: %q %s", again, status, cursor, errs)
	}
}

// What has gone to standard output is not there for another call: it has the whole
// file, and says so.
func TestInterruptedStandardOutputBeginsAnew(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 18, 500)
	ictx, interrupt := context.WithCancel(ctx)
	base, _ := files(t, y, func(_ int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		pass(&shortWriter{ResponseWriter: w, left: 100})
		interrupt()
		<-r.Context().Done()
	})
	args := append([]string{"export", "--url", base, "--client-id", "demo", "--client-secret", "demo-secret", "-o", "-"}, anything...)
	if status, _, errs := command(ictx, nil, args...); status != 130 || !strings.Contains(errs, "to have the file once more, from its first byte:\n  lockstitch export") || !strings.Contains(errs, " -o -\n") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// Two calls with one FILE: the second does not touch what the first is writing, and
// the first has its file.
func TestAFileIsWrittenByOneAtATime(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 19, 500)
	out := filepath.Join(t.TempDir(), "f")
	export := func(base string) (status int, errs string) {
		args := append([]string{"export", "--url", base, "--client-id", "demo", "--client-secret", "demo-secret", "-o", out}, anything...)
		status, _, errs = command(ctx, nil, args...)
		return status, errs
	}
	base, count := files(t, y, func(_ int, w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) {
		if status, errs := export(y.r.localURL()); status != 1 || !strings.Contains(errs, "--output: "+out+".part is in use by another process") {
			t.Errorf("the second: exit %d: %s", status, errs)
		}
		pass(w)
	})
	if status, errs := export(base); status != 0 || count() != 1 {
		t.Fatalf("the first: exit %d after %d downloads: %s", status, count(), errs)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err == nil {
		_, err = io.Copy(io.Discard, z)
	}
	if err != nil {
		t.Errorf("the file: %v", err)
	}
}

// Who asks for no lock may still write to FILE.part.
func TestAFileThatGrewIsNotKept(t *testing.T) {
	out := filepath.Join(t.TempDir(), "f")
	to, err := openFile(out)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := to.Write([]byte("verified")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out+".part", []byte("verified and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := to.keep(); err == nil || !strings.Contains(err.Error(), "must not be used") {
		t.Errorf("kept: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// A server that stops sending without closing the connection, and breaks, do not
// end a download as long as something arrives in between.
func TestDownloadThatStallsIsResumed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 13, 1000)
	const broken = 4
	base, count := files(t, y, func(n int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if n > broken {
			pass(w)
			return
		}
		pass(&shortWriter{ResponseWriter: w, left: 1000})
		if n%2 == 0 {
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	})
	x := &exportClient{url: base, id: "demo", secret: "demo-secret", stall: 15 * time.Second, giveUp: time.Nanosecond}
	st := completed(ctx, t, x)
	var out bytes.Buffer
	to, err := (&app{out: &out}).openSink("-")
	if err != nil {
		t.Fatal(err)
	}
	if err := x.fetch(ctx, x.file(st), to, &bar{}); err != nil {
		t.Fatal(err)
	}
	if int64(out.Len()) != *st.Bytes || count() != broken+1 {
		t.Errorf("%d of %d bytes in %d downloads", out.Len(), *st.Bytes, count())
	}
}

// A server, or what stands before it, that answers without a byte is not asked
// again without end.
func TestDownloadWithoutAByteIsGivenUp(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 17, 100)
	base, count := files(t, y, func(n int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if n > 10 {
			pass(w)
		}
	})
	x := &exportClient{url: base, id: "demo", secret: "demo-secret", giveUp: time.Nanosecond}
	st := completed(ctx, t, x)
	to, err := (&app{out: io.Discard}).openSink("-")
	if err != nil {
		t.Fatal(err)
	}
	if err := x.fetch(ctx, x.file(st), to, &bar{}); !errors.Is(err, errNothing) || count() != 1 {
		t.Errorf("%d downloads, %v", count(), err)
	}
}

// A full disk is not cured by trying again.
func TestDownloadThatCannotBeWrittenEnds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 14, 1000)
	base, count := files(t, y, func(_ int, w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) { pass(w) })
	x := &exportClient{url: base, id: "demo", secret: "demo-secret"}
	st := completed(ctx, t, x)
	full := errors.New("no space left")
	to, err := (&app{out: writerFunc(func(p []byte) (int, error) { return 1, full })}).openSink("-")
	if err != nil {
		t.Fatal(err)
	}
	if err := x.fetch(ctx, x.file(st), to, &bar{}); !errors.Is(err, full) || count() != 1 {
		t.Errorf("%d downloads, %v", count(), err)
	}
}

func TestDamagedDownloadIsNotKept(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 15, 300)
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	st := completed(ctx, t, x)
	out := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(out+".part", make([]byte, *st.Bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"export", "--url", x.url, "--client-id", "demo", "--client-secret", "demo-secret", "--report", st.ReportID, "-o", out}
	if status, _, errs := command(ctx, nil, args...); status != 1 || !strings.Contains(errs, "must not be used") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("the damaged file was kept")
	}
	if status, _, errs := command(ctx, nil, args...); status != 0 {
		t.Errorf("again: exit %d: %s", status, errs)
	}
}

// What is left of one report does not damage the file of the next.
func TestOnlyItsOwnReportIsResumed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 16, 300)
	out := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(out+".part", []byte("of another report"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"export", "--url", y.r.localURL(), "--client-id", "demo", "--client-secret", "demo-secret", "-o", out}, anything...)
	if status, _, errs := command(ctx, nil, args...); status != 0 {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// An answer to the request that gets lost is asked for again, and is about the
// same report.
func TestExportRequestWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	target, err := url.Parse(y.r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	var lost sync.Once
	p := httputil.NewSingleHostReverseProxy(target)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/emails/reports" {
			lost.Do(func() {
				p.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			})
		}
		p.ServeHTTP(w, r)
	}))
	defer srv.Close()
	x := &exportClient{url: srv.URL, id: "demo", secret: "demo-secret"}
	st := completed(ctx, t, x)
	var list struct{ Items []api.Status }
	if err := x.call(ctx, http.MethodGet, "/emails/reports", "", "", &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].ReportID != st.ReportID {
		t.Errorf("%d reports: %+v", len(list.Items), list.Items)
	}
}

// An error that names a time to wait still says what was wrong.
func TestErrorsToTryAgainAfter(t *testing.T) {
	err := permanent(&problemError{status: 503, detail: "Kafka cannot be reached", retry: 5 * time.Second})
	var after *backoff.RetryAfterError
	if !errors.As(err, &after) || after.Duration != 5*time.Second || !strings.Contains(err.Error(), "Kafka cannot be reached") {
		t.Errorf("%v", err)
	}
	var never *backoff.PermanentError
	if err := permanent(&problemError{status: 410}); !errors.As(err, &never) {
		t.Errorf("%v is tried again", err)
	}
	if err := permanent(fmt.Errorf("download: %w", &tls.CertificateVerificationError{Err: errors.New("unknown authority")})); !errors.As(err, &never) {
		t.Errorf("%v is tried again", err)
	}
	never = nil
	if err := permanent(io.ErrUnexpectedEOF); errors.As(err, &never) {
		t.Errorf("%v is not tried again", err)
	}
}

// Of the partitions that a report waits for the first is named, and said how many more
// there are; again only when another one is the first, or waits for another reason.
func TestExportSaysHowManyPartitionsItWaitsFor(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		st := api.Status{ReportID: "r", Status: "processing", WaitingTotal: 2048 - asked, Waiting: []api.Waiting{{Topic: "events", Reason: "not processed yet"}}}
		if asked == 2 {
			st = api.Status{ReportID: "r", Status: "cancelled"}
		}
		_ = json.NewEncoder(w).Encode(st)
	}))
	defer srv.Close()
	x := &exportClient{url: srv.URL, token: "t"}
	st := &api.Status{ReportID: "r", Status: "processing", Waiting: make([]api.Waiting, 3)} // of an earlier version
	st.Waiting[0] = api.Waiting{Topic: "events", Partition: 1, Reason: "not processed yet"}
	var said strings.Builder
	_, err := (&app{err: io.Discard}).followAndFetch(t.Context(), x, st, nil, exportOptions{quiet: true}, func(format string, args ...any) { fmt.Fprintf(&said, format, args...) })
	const want = "waiting for events/1: not processed yet, and 2 more\nwaiting for events/0: not processed yet, and 2046 more\n"
	if ended := (*endedError)(nil); !errors.As(err, &ended) || said.String() != want {
		t.Errorf("%v; said %q", err, said.String())
	}
}
