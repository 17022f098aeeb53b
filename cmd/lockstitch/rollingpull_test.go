package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
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

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/api"
	"lockstitch/state/report"
)

// pulling is a system with a rolling export whose files the test makes.
type pulling struct {
	*system
	environ []string
	dir     string
	files   map[int64][]byte
}

func startPulling(t *testing.T) *pulling {
	t.Helper()
	return pullingFrom(startSystem(t, t.TempDir(), generous))
}

func generous(s *Settings) { s.Limits.TokensPerMinute, s.Limits.DownloadsPerMinute = 1000, 1000 }

func pullingFrom(y *system) *pulling {
	c := y.s.Auth.Clients[0]
	return &pulling{
		system: y, dir: y.t.TempDir(), files: make(map[int64][]byte),
		environ: []string{"LOCKSTITCH_URL=" + y.r.localURL(), "LOCKSTITCH_CLIENT_ID=" + c.ID, "LOCKSTITCH_CLIENT_SECRET=" + string(c.Secret)},
	}
}

func (y *pulling) rolling(ctx context.Context, args ...string) (status int, out, errs string) {
	y.t.Helper()
	return command(ctx, y.environ, append([]string{"rolling"}, args...)...)
}

func (y *pulling) must(args ...string) string {
	y.t.Helper()
	status, out, errs := y.rolling(y.t.Context(), args...)
	if status != 0 {
		y.t.Fatalf("rolling %v: exit %d, %s", args, status, errs)
	}
	return out
}

func (y *pulling) pull(flags ...string) (status int, errs string) {
	y.t.Helper()
	status, _, errs = y.rolling(y.t.Context(), append([]string{"pull", "x", "--dir", y.dir}, flags...)...)
	return status, errs
}

// make finishes the next file, as the runner would. Its barrier is one that the
// runner itself never reaches.
func (y *pulling) make(life time.Duration) int64 {
	y.t.Helper()
	o, ok := y.r.reports.OrderNamed(y.s.Auth.Clients[0].Account, "x")
	if !ok {
		y.t.Fatal("there is no order x")
	}
	n := o.Files() + 1
	file := bytes.Repeat(fmt.Appendf(nil, "file %d of %s\n", n, o.Order.ID), 5000)
	sum := sha256.Sum256(file)
	account := o.Order.Account
	req := &report.Request{ID: ulid.Make().String(), Account: account, CreatedAt: time.Now().UTC(), Body: []byte("{}"),
		Question: report.Question{Rolling: true, Barrier: []report.End{{Topic: "none", TopicID: [16]byte{9}, Offset: 1 << 40}}},
		Step: &report.Step{Order: o.Order.ID, Name: "x", Revision: o.Settings.Revision, Seq: o.Seq() + 1, Files: n - 1,
			PeriodEnd: time.Now().UTC().AddDate(1, 0, int(n)).Truncate(24 * time.Hour)}}
	if _, err := y.r.reports.SubmitStep(y.t.Context(), req); err != nil {
		y.t.Fatal(err)
	}
	res := report.Result{Attempt: "a", At: time.Now().UTC(), Expires: time.Now().UTC().Add(life), Object: "exports/test/" + req.ID,
		Rows: 5000, Bytes: int64(len(file)), SHA256: hex.EncodeToString(sum[:])}
	if err := y.r.store.Put(y.t.Context(), res.Object, file); err != nil {
		y.t.Fatal(err)
	}
	if won, err := y.r.reports.WriteResult(y.t.Context(), account, req.ID, res); err != nil || !won {
		y.t.Fatal(won, err)
	}
	y.files[n] = file
	return n
}

func (y *pulling) path(n int64, suffix string) string {
	return filepath.Join(y.dir, fmt.Sprintf("x-%d%s", n, suffix))
}

// whole checks that the directory has a file and its manifest, and no parts.
func (y *pulling) whole(n int64) {
	y.t.Helper()
	got, err := os.ReadFile(y.path(n, ".csv.gz"))
	if err != nil || !bytes.Equal(got, y.files[n]) {
		y.t.Errorf("file %d: %d bytes, %v", n, len(got), err)
	}
	b, err := os.ReadFile(y.path(n, ".json"))
	var m manifest
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	sum := sha256.Sum256(y.files[n])
	if err != nil || m.Number != n || m.File != filepath.Base(y.path(n, ".csv.gz")) || m.SHA256 != hex.EncodeToString(sum[:]) || m.Rows != 5000 || m.OrderID == "" || m.Cursor.To == "" {
		y.t.Errorf("manifest %d: %s, %v", n, b, err)
	}
	parts, err := filepath.Glob(filepath.Join(y.dir, "*.part"))
	if err != nil || len(parts) != 0 {
		y.t.Errorf("left behind: %v, %v", parts, err)
	}
}

func TestPullRefusesAManifestItDoesNotKnow(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	n := y.make(time.Hour)
	if status, errs := y.pull(); status != 0 {
		t.Fatalf("exit %d, %s", status, errs)
	}
	y.whole(n)
	for text, want := range map[string]string{
		`{"version":2,"order":"of another form"}`: "is of version 2, this program knows 1",
		`{"version":1}`: "is no manifest of pull",
		`{`:             "is no manifest of pull",
	} {
		if err := os.WriteFile(y.path(n, ".json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if status, errs := y.pull(); status == 0 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", text, status, errs)
		}
	}
}

func TestPullMakesGoodWhatAKillHasLeft(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	n := y.make(time.Hour)
	if status, errs := y.pull(); status != 0 {
		t.Fatalf("exit %d, %s", status, errs)
	}
	y.whole(1)
	y.whole(n)
	data := y.files[n]
	write := func(suffix string, b []byte) {
		t.Helper()
		if err := os.WriteFile(y.path(n, suffix), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for state, arrange := range map[string]func(){
		"nothing":                       func() {},
		"half of the download":          func() { write(".csv.gz.part", data[:len(data)/2]) },
		"all of it":                     func() { write(".csv.gz.part", data) },
		"more than all of it":           func() { write(".csv.gz.part", append(bytes.Clone(data), "x"...)) },
		"the file without its manifest": func() { write(".csv.gz", data) },
		"half of the manifest":          func() { write(".csv.gz", data); write(".json.part", []byte(`{"number"`)) },
		"a damaged file":                func() { write(".csv.gz", data[1:]) },
	} {
		for _, suffix := range []string{".csv.gz", ".json"} {
			if err := os.Remove(y.path(n, suffix)); err != nil {
				t.Fatal(err)
			}
		}
		arrange()
		if status, errs := y.pull(); status != 0 {
			t.Errorf("%s: exit %d, %s", state, status, errs)
		}
		y.whole(n)
	}
	// Bytes that are not the file's are found out, removed and fetched anew.
	for _, suffix := range []string{".csv.gz", ".json"} {
		if err := os.Remove(y.path(n, suffix)); err != nil {
			t.Fatal(err)
		}
	}
	write(".csv.gz.part", bytes.Repeat([]byte("x"), len(data)/2))
	if status, errs := y.pull(); status != 1 || !strings.Contains(errs, "SHA-256") {
		t.Errorf("a wrong part: exit %d, %s", status, errs)
	}
	if _, err := os.Stat(y.path(n, ".json")); err == nil {
		t.Error("a wrong file has a manifest")
	}
	if status, errs := y.pull(); status != 0 {
		t.Errorf("after a wrong part: exit %d, %s", status, errs)
	}
	y.whole(n)
	// Files that were taken away are not fetched again.
	for _, p := range []string{y.path(1, ".csv.gz"), y.path(1, ".json"), y.path(n, ".csv.gz")} {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	n = y.make(time.Hour)
	if status, errs := y.pull(); status != 0 {
		t.Errorf("exit %d, %s", status, errs)
	}
	y.whole(n)
	if _, err := os.Stat(y.path(1, ".csv.gz")); err == nil {
		t.Error("a file that was taken away came back")
	}
}

func TestPullSaysWhatItCannotMakeGood(t *testing.T) {
	y := startPulling(t)
	if status, errs := y.pull(); status != 1 || !strings.Contains(errs, "no such rolling export") {
		t.Errorf("no such export: exit %d, %s", status, errs)
	}
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	if status, errs := y.pull(); status != 0 {
		t.Fatalf("exit %d, %s", status, errs)
	}
	y.make(0) // has expired already
	status, errs := y.pull()
	if status != 1 || !strings.Contains(errs, "files 2 to 2 have expired") {
		t.Errorf("all that follow have expired: exit %d, %s", status, errs)
	}
	y.make(time.Hour)
	if status, errs = y.pull(); status != 1 || !strings.Contains(errs, "files 2 to 2 have expired") || !strings.Contains(errs, "--after 2") {
		t.Errorf("a gap: exit %d, %s", status, errs)
	}
	if status, errs = y.pull("--after", "2"); status != 0 {
		t.Errorf("after it: exit %d, %s", status, errs)
	}
	y.whole(3)

	taken := filepath.Join(y.dir, ".x.lock")
	lock, err := vfs.Default.Lock(taken)
	if err != nil {
		t.Fatal(err)
	}
	if status, errs = y.pull(); status != 1 || !strings.Contains(errs, y.dir+" is in use") {
		t.Errorf("two at a time: exit %d, %s", status, errs)
	}
	// Nobody holds what cannot be opened; a directory is not, for root either.
	if err := errors.Join(lock.Close(), os.Remove(taken), os.Mkdir(taken, 0o700)); err != nil {
		t.Fatal(err)
	}
	if status, errs = y.pull(); status != 1 || !strings.Contains(errs, y.dir+" cannot be written") || strings.Contains(errs, "in use") {
		t.Errorf("a lock that cannot be opened: exit %d, %s", status, errs)
	}
	if err := os.Remove(taken); err != nil {
		t.Fatal(err)
	}

	y.must("delete", "x")
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	if status, errs = y.pull(); status != 1 || !strings.Contains(errs, "another rolling export") {
		t.Errorf("the name used again: exit %d, %s", status, errs)
	}
	if err := os.WriteFile(y.path(3, ".json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, errs = y.pull(); status != 1 || !strings.Contains(errs, "no manifest of pull") {
		t.Errorf("a strange manifest: exit %d, %s", status, errs)
	}
}

// Files that are still to be made are not skipped, whatever --after says, and whether
// pull waits for them or not.
func TestPullSkipsNoFileThatIsStillToBeMade(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	y.make(time.Hour)
	for _, flags := range [][]string{{"--after", "3"}, {"--after", "3", "--follow"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		status, _, errs := y.rolling(ctx, append([]string{"pull", "x", "--dir", y.dir}, flags...)...)
		cancel()
		if status != 1 || !strings.Contains(errs, "the rolling export x has only 2 files") || !strings.Contains(errs, "number 3") {
			t.Errorf("%v: exit %d, %s", flags, status, errs)
		}
	}
	if status, errs := y.pull("--after", "2"); status != 0 || errs != "" {
		t.Errorf("behind the last: exit %d, %s", status, errs)
	}
	n := y.make(time.Hour)
	if status, errs := y.pull("--after", "2"); status != 0 {
		t.Errorf("exit %d, %s", status, errs)
	}
	y.whole(n)
	// Kafka may have been restored from an older copy.
	manifest, err := os.ReadFile(y.path(n, ".json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(y.path(n+1, ".json"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	if status, errs := y.pull(); status != 1 || !strings.Contains(errs, "the rolling export x has only 3 files") {
		t.Errorf("a manifest beyond the last: exit %d, %s", status, errs)
	}
}

// TestPullKnowsItsOrderBeforeItHasAFile of it: that files have expired is of one order, and
// the first of the next order of the name are no such files.
func TestPullKnowsItsOrderBeforeItHasAFile(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(0)
	asks, goOn := make(chan struct{}), make(chan struct{})
	var lists atomic.Int32
	y.environ[0] = "LOCKSTITCH_URL=" + calls(t, y.system, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/files") && lists.Add(1) == 2 {
			close(asks)
			<-goOn
		}
		return false
	})
	ended := make(chan string, 1)
	go func() {
		status, errs := y.pull("--follow")
		ended <- fmt.Sprintf("exit %d, %s", status, errs)
	}()
	select {
	case <-asks:
	case how := <-ended:
		t.Fatalf("it ended: %s", how)
	}
	direct := *y
	direct.environ = append([]string{"LOCKSTITCH_URL=" + y.r.localURL()}, y.environ[1:]...)
	direct.must("delete", "x")
	direct.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	y.make(time.Hour)
	close(goOn)
	select {
	case how := <-ended:
		if !strings.HasPrefix(how, "exit 1") || !strings.Contains(how, "files 1 to 1 have expired already") || !strings.Contains(how, "another rolling export") {
			t.Errorf("the name used again: %s", how)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it went on with another order")
	}
	if _, err := os.Stat(y.path(2, ".json")); err == nil {
		t.Error("file 2 of the other order was taken, and file 1 left out")
	}
}

// An order that makes no further files is told, once all are there that it has made. That
// it has stopped is an error for whoever does not wait for it to go on.
func TestPullSaysWhyThereAreNoMoreFiles(t *testing.T) {
	dir, lake := t.TempDir(), t.TempDir()
	y := startSystem(t, dir, generous, func(s *Settings) {
		s.Replica.Destinations = []Destination{{Name: "lake", URL: "file://" + lake, Accounts: []string{"demo"}}}
	})
	first := pullingFrom(y)
	first.must("create", "x", "--every", "P1D", "--start", "now", "--destination", "lake")
	if status, errs := first.pull(); status != 0 || errs != "" {
		t.Errorf("nothing is wrong: exit %d, %s", status, errs)
	}
	y.stop()

	p := pullingFrom(startSystem(t, dir, generous)) // where nobody has configured the destination
	if status, errs := p.pull(); status != 0 || strings.Count(errs, `the rolling export x is held up: there is no destination "lake"`) != 1 {
		t.Errorf("held up: exit %d, %s", status, errs)
	}
	p.must("create", "x", "--every", "P1D")
	p.must("pause", "x")
	if status, errs := p.pull(); status != 0 || strings.Count(errs, "the rolling export x is paused") != 1 {
		t.Errorf("paused: exit %d, %s", status, errs)
	}
	p.must("resume", "x")
	n := p.make(time.Hour)
	o, _ := p.r.reports.OrderNamed(p.s.Auth.Clients[0].Account, "x")
	if err := p.r.reports.WriteTrouble(t.Context(), o.Order.Account, o.Order.ID, o.Settings.Revision, *report.NoLongerKept.Problem("begin anew")); err != nil {
		t.Fatal(err)
	}
	const stopped = "the rolling export x has stopped: What it begins with is no longer kept: begin anew"
	for range 2 {
		if status, errs := p.pull(); status != 1 || strings.Count(errs, stopped) != 1 {
			t.Errorf("stopped: exit %d, %s", status, errs)
		}
		p.whole(n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waits := make(chan struct{})
	var lists atomic.Int32
	p.environ[0] = "LOCKSTITCH_URL=" + calls(t, p.system, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/files") && lists.Add(1) == 2 {
			close(waits)
		}
		return false
	})
	go func() {
		<-waits
		cancel()
	}()
	if status, _, errs := p.rolling(ctx, "pull", "x", "--dir", p.dir, "--follow"); status != 0 || strings.Count(errs, stopped) != 1 {
		t.Errorf("stopped, and waited for: exit %d, %s", status, errs)
	}
}

// TestPullSaysThatARollingExportIsBehind: that periods are over and have no file yet, once
// for as long as the same is waited for, and not where the boundary has only just come.
func TestPullSaysThatARollingExportIsBehind(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "PT1H", "--start", "now")
	var st api.RollingExport
	if err := json.Unmarshal([]byte(y.must("show", "x")), &st); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	enough := func() {}
	y.environ[0] = "LOCKSTITCH_URL=" + calls(t, y.system, func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/x"):
			now := st
			if now.Lag.Files += int64(asked.Add(1)); asked.Load() == 5 { // further behind from call to call
				enough()
			}
			_ = json.NewEncoder(w).Encode(&now)
		case strings.HasSuffix(r.URL.Path, "/files"):
			_ = json.NewEncoder(w).Encode(&api.RollingFileList{OrderID: st.OrderID, Items: []*api.RollingFile{}})
		default:
			return false
		}
		return true
	})
	for _, c := range []struct {
		files     int64
		seconds   float64
		state     string
		delivered *int64
		want      string
	}{
		{1, 59, "active", nil, ""},
		{1, 60, "active", nil, "1 period is over and not made yet; its next file is that of the period until " + st.Next.End.String() + "\n"},
		{3, 9000, "active", nil, "3 periods are over and not made yet;"},
		{3, 9000, "active", new(int64), "3 periods are over and not made or not delivered yet;"},
		{3, 9000, "paused", nil, ""},
	} {
		asked.Store(0)
		st.Lag, st.State, st.Delivered = api.RollingLag{Files: c.files - 1, Seconds: c.seconds}, c.state, c.delivered
		status, errs := y.pull()
		if status != 0 || strings.Contains(errs, "is behind: ") != (c.want != "") || !strings.Contains(errs, c.want) {
			t.Errorf("%+v: exit %d, %s", c, status, errs)
		}
	}
	asked.Store(0)
	st.State, st.Delivered = "active", nil
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	enough = cancel
	if status, _, errs := y.rolling(ctx, "pull", "x", "--dir", y.dir, "--follow"); status != 0 || strings.Count(errs, "is behind: ") != 1 || asked.Load() < 5 {
		t.Errorf("waited for %d times: exit %d, %s", asked.Load(), status, errs)
	}
}

// One call too many of the minute is made again when the server says: that for the list
// and that for the address of a file. What else is refused ends a pull at once.
func TestPullWaitsForItsTurn(t *testing.T) {
	t.Parallel()
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	n := y.make(time.Hour)
	var mu sync.Mutex
	refusal, seen := http.StatusServiceUnavailable, make(map[string]int) // calls by path
	base := calls(t, y.system, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/files") {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if seen[r.URL.Path]++; seen[r.URL.Path] > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(refusal)
		return true
	})
	y.environ[0] = "LOCKSTITCH_URL=" + base
	if got, errs := y.pull(); got != 1 || !strings.Contains(errs, "503") {
		t.Errorf("503: exit %d: %s", got, errs)
	}
	mu.Lock()
	clear(seen)
	refusal = http.StatusTooManyRequests
	mu.Unlock()
	begun := time.Now()
	if got, errs := y.pull(); got != 0 || strings.Count(errs, "429") != 2 || strings.Count(errs, "; waiting for 1s") != 2 {
		t.Fatalf("429: exit %d: %s", got, errs)
	}
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("it has waited for %v, not for a second at either call", took)
	}
	y.whole(n)
}

func TestPullFollows(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	// The server is away when pull starts: the first connections end without an answer.
	server, err := url.Parse(y.r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	there := httputil.NewSingleHostReverseProxy(server)
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= 2 {
			panic(http.ErrAbortHandler)
		}
		there.ServeHTTP(w, r)
	}))
	defer away.Close()
	y.environ[0] = "LOCKSTITCH_URL=" + away.URL
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan string, 1)
	go func() {
		status, _, errs := y.rolling(ctx, "pull", "x", "--dir", y.dir, "--follow")
		ended <- fmt.Sprintf("exit %d, %s", status, errs)
	}()
	for range 2 {
		n := y.make(time.Hour)
		deadline := time.Now().Add(30 * time.Second)
		for {
			if _, err := os.Stat(y.path(n, ".json")); err == nil {
				break
			}
			select {
			case how := <-ended:
				t.Fatalf("it ended: %s", how)
			case <-time.After(10 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				t.Fatalf("file %d never came", n)
			}
		}
		y.whole(n)
	}
	cancel()
	if how := <-ended; !strings.HasPrefix(how, "exit 0") {
		t.Errorf("stopped: %s", how)
	}
}

// Whoever goes on behind a pull must not take half of the files for all.
func TestInterruptedPullIsNotDone(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	y.make(time.Hour)
	ctx, interrupt := context.WithCancel(t.Context())
	base, _ := files(t, y.system, func(n int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if n == 2 {
			interrupt()
			<-r.Context().Done()
		}
		pass(w)
	})
	y.environ[0] = "LOCKSTITCH_URL=" + base
	if status, _, errs := y.rolling(ctx, "pull", "x", "--dir", y.dir); status != 130 || !strings.Contains(errs, "interrupted") {
		t.Errorf("exit %d, %s", status, errs)
	}
	y.whole(1)
}

func TestRollingCommands(t *testing.T) {
	y := startPulling(t)
	out := y.must("create", "x", "--every", "PT15M", "--start", "beginning", "--empty-files", "--spreadsheet-safe")
	if !strings.Contains(out, `"every": "PT15M"`) || !strings.Contains(out, `"empty_files": true`) || !strings.Contains(out, `"spreadsheet_safe": true`) {
		t.Errorf("create: %s", out)
	}
	says := func(verb, want string) {
		t.Helper()
		if status, out, errs := y.rolling(t.Context(), verb, "x"); status != 0 || out != "" || errs != want {
			t.Errorf("%s: exit %d, %q, %q", verb, status, out, errs)
		}
	}
	says("pause", "paused x\n")
	if out = y.must("list"); !strings.Contains(out, "x     paused  PT15M") {
		t.Errorf("list:\n%s", out)
	}
	says("resume", "resumed x\n")
	if out = y.must("show", "x"); !strings.Contains(out, `"state": "active"`) {
		t.Errorf("show: %s", out)
	}
	says("delete", "deleted x\n")
	for line, want := range map[string]struct {
		status int
		text   string
	}{
		"show x":                               {1, "no such rolling export"},
		"create x --every PT7M --start now":    {1, "/every"},
		"create x --start now":                 {2, "missing: --every"},
		"create x --every PT1M --filter women": {2, "--segment and --filter"},
		"pull x":                               {2, "missing: --dir"},
		"create":                               {2, "accepts 1 arg"},
		"puse x":                               {2, "did you mean pause"},
	} {
		if status, _, errs := y.rolling(t.Context(), strings.Fields(line)...); status != want.status || !strings.Contains(errs, want.text) {
			t.Errorf("rolling %s: exit %d, %s", line, status, errs)
		}
	}
	if status, _, errs := command(t.Context(), nil, "rolling", "list"); status != 2 || !strings.Contains(errs, "missing: --url, --client-id, --client-secret") {
		t.Errorf("exit %d, %s", status, errs)
	}
}

// TestPullFindsAGapWithinAPage: of files made before file_lifetime was lowered the later
// ones go first.
func TestPullFindsAGapWithinAPage(t *testing.T) {
	y := startPulling(t)
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	if status, errs := y.pull(); status != 0 {
		t.Fatalf("exit %d, %s", status, errs)
	}
	y.make(time.Hour)
	y.make(0)
	y.make(time.Hour)
	if status, errs := y.pull(); status != 1 || !strings.Contains(errs, "files 3 to 3 have expired") {
		t.Errorf("exit %d, %s", status, errs)
	}
	y.whole(2)
	if _, err := os.Stat(y.path(4, ".json")); err == nil {
		t.Error("file 4 was taken as if file 3 had been there")
	}
}

// What pull and export make holds personal data: nobody else may read it. What is there
// keeps its mode, a file that is replaced too.
func TestFilesAreForTheirUserAlone(t *testing.T) {
	y := startPulling(t)
	modes := func(dir string) (of [2]fs.FileMode) { // of the directory, and all bits that a file in it has
		info, err := os.Stat(dir)
		entries, rerr := os.ReadDir(dir)
		if err != nil || rerr != nil {
			t.Fatal(err, rerr)
		}
		of[0] = info.Mode().Perm()
		for _, e := range entries {
			if info, err = e.Info(); err != nil {
				t.Fatal(err)
			}
			if info.Size() > 0 { // the lock file says nothing
				of[1] |= info.Mode().Perm()
			}
		}
		return of
	}
	y.must("create", "x", "--every", "P1D", "--start", "now")
	y.make(time.Hour)
	there := t.TempDir()
	if err := os.Chmod(there, 0o755); err != nil {
		t.Fatal(err)
	}
	parent := filepath.Join(t.TempDir(), "new")
	for dir, want := range map[string]fs.FileMode{there: 0o755, filepath.Join(parent, "events"): 0o700} {
		y.dir = dir
		if status, errs := y.pull(); status != 0 {
			t.Fatalf("exit %d, %s", status, errs)
		}
		y.whole(1)
		if got := modes(dir); got != [2]fs.FileMode{want, 0o600} {
			t.Errorf("%s has %o, want %o and 600 of its files", dir, got, want)
		}
	}
	if got := modes(parent); got[0] != 0o700 {
		t.Errorf("the directory above has %o", got[0])
	}

	dir := t.TempDir()
	out := filepath.Join(dir, "f")
	export := func() {
		t.Helper()
		if status, _, errs := command(t.Context(), y.environ, append([]string{"export", "-o", out}, anything...)...); status != 0 {
			t.Fatalf("exit %d, %s", status, errs)
		}
	}
	export()
	if got := modes(dir); got[1] != 0o600 {
		t.Errorf("a new file has %o", got[1])
	}
	if err := os.Chmod(out, 0o640); err != nil {
		t.Fatal(err)
	}
	export()
	if got := modes(dir); got[1] != 0o640 {
		t.Errorf("a file that was replaced has %o", got[1])
	}
}
