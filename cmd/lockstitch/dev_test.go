package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
)

// system is a dev system in this process.
type system struct {
	t    *testing.T
	b    *broker
	r    *replica
	s    *Settings
	stop func()
}

// systemSettings are those of a dev system in dir.
func systemSettings(t *testing.T, dir string, tweaks ...func(*Settings)) *Settings {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	addFlags(fs, devScope)
	s, _, err := loadSettings(fs, nil, devScope)
	if err != nil {
		t.Fatal(err)
	}
	s.Replica.DataDir = dir
	s.HTTP.Listen, s.HTTP.AdminListen = "localhost:0", "localhost:0"
	s.Replica.SessionTimeout = 5 * time.Minute // nobody is put out because the machine is busy
	for _, tweak := range tweaks {
		tweak(s)
	}
	return s
}

func startSystem(t *testing.T, dir string, tweaks ...func(*Settings)) *system {
	t.Helper()
	s := systemSettings(t, dir, tweaks...)
	ctx, cancel := context.WithCancel(context.Background())
	b, r, err := openDev(ctx, s, slog.New(slog.DiscardHandler), devOptions{kafkaListen: "localhost:0", partitions: 3, sampleRate: 1})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	y := &system{t: t, b: b, r: r, s: s}
	y.stop = func() {
		if cancel == nil {
			return
		}
		cancel()
		cancel = nil
		if err := <-done; err != nil {
			t.Errorf("the replica stopped with %v", err)
		}
		b.Close()
	}
	t.Cleanup(func() {
		y.stop()
		http.DefaultClient.CloseIdleConnections()
	})
	return y
}

func (y *system) admin(path string) (int, string) {
	y.t.Helper()
	resp, err := http.Get("http://" + y.r.admin.Addr().String() + path)
	if err != nil {
		y.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		y.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// awaitMetrics polls /metrics until every name is there. Lag is shown only while
// the brokers have answered of late, which on a busy machine may not be now.
func (y *system) awaitMetrics(names ...string) {
	y.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, text := y.admin("/metrics")
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.Contains(text, "\n"+name) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			y.t.Fatalf("no metric %v", missing)
		}
		runtime.Gosched()
	}
}

// produce makes n sample records, the same for the same seed.
func (y *system) produce(ctx context.Context, seed uint64, n int) trafficCounts {
	y.t.Helper()
	cl, err := sampleClient([]kgo.Opt{kgo.SeedBrokers(y.b.addr)})
	if err != nil {
		y.t.Fatal(err)
	}
	defer cl.Close()
	tr := newTraffic(trafficConfig{Topics: y.s.Topics.TopicNames(), Account: "demo", Profiles: 50, Seed: seed, Retries: 0.1, Poison: 0.02,
		Now: time.UnixMilli(1_790_000_000_000), Span: time.Hour, Expect: n})
	if err := tr.basics(ctx, cl); err != nil {
		y.t.Fatal(err)
	}
	if err := produceAll(ctx, cl, func() *kgo.Record {
		if tr.counts.Records == n {
			return nil
		}
		return tr.event()
	}); err != nil {
		y.t.Fatal(err)
	}
	return tr.counts
}

// export runs the command against base and returns the text of the file.
func (y *system) export(ctx context.Context, base string, flags ...string) (text, errs string) {
	y.t.Helper()
	out := filepath.Join(y.t.TempDir(), "events.csv.gz")
	args := append([]string{"export", "--url", base, "--client-id", "demo", "-o", out}, flags...)
	status, _, errs := command(ctx, []string{"LOCKSTITCH_CLIENT_SECRET=demo-secret"}, args...)
	if status != 0 {
		y.t.Fatalf("export: exit %d: %s", status, errs)
	}
	if _, err := os.Stat(out + ".part"); err == nil {
		y.t.Error("the .part file is left")
	}
	b, err := os.ReadFile(out)
	if err != nil {
		y.t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		y.t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		y.t.Fatal(err)
	}
	return string(plain), errs
}

func TestDevFromProducerToFileAndAfterARestart(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	y := startSystem(t, dir)
	counts := y.produce(ctx, 7, 2000)
	flags := []string{"--start-at", "2026-01-01T00:00:00Z", "--end-at", "2026-03-31T00:00:00Z"}
	if text, _ := y.export(ctx, y.r.localURL(), flags...); strings.Count(text, "\n") != 1 {
		t.Errorf("an empty window has %q", text)
	}
	flags = []string{"--start-at", anything[1], "--end-at", anything[3], "--attribute", genderAttribute, "--attribute", sampleSection + "/com.apsis1.attributes.email",
		"--tag", vipTag, "--segment", "women=" + sampleAudience, "--filter", "women | !women"}
	text, errs := y.export(ctx, y.r.localURL(), flags...)
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows)-1 != counts.Events {
		t.Errorf("%d rows of %d events (%s)", len(rows)-1, counts.Events, errs)
	}
	pos, err := totals(ctx, y.r)
	if err != nil || pos.Duplicates != int64(counts.Retries) || pos.Poison != int64(counts.Poison) {
		t.Errorf("positions count %d duplicates and %d poison of %+v, %v", pos.Duplicates, pos.Poison, counts, err)
	}
	for i, row := range rows[1:] {
		if row[6] == "" || row[6] != row[21] || (row[20] != "female" && row[20] != "male") {
			t.Fatalf("row %d is not decorated: %v", i, row)
		}
	}

	if status, body := y.admin("/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _ := y.admin("/healthz"); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
	if status, _ := y.admin("/debug/pprof/"); status != 404 {
		t.Errorf("pprof is on: %d", status)
	}
	y.awaitMetrics("lockstitch_processing_lag_records", "lockstitch_processing_lag_seconds", "lockstitch_durable_lag_records", "lockstitch_durable_lag_seconds",
		"lockstitch_lane_ready", "lockstitch_misrouted_total", "lockstitch_duplicates_dropped_total", "lockstitch_dead_letters_total", "lockstitch_reports", "go_goroutines")
	resp, err := http.Get(y.r.localURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == 200 {
		t.Error("the API's address shows metrics")
	}

	env := []string{"LOCKSTITCH_BROKERS=" + y.b.addr, "LOCKSTITCH_DATA_DIR=" + dir, "LOCKSTITCH_STORE_URL=file://" + filepath.Join(dir, "objects")}
	for line, want := range map[string]string{
		"segments ls":     fmt.Sprintf("%d rows", counts.Events),
		"segments verify": "segments are as the catalog says",
		"topics check":    "all topics are as they should be",
		"topics adopt":    "nothing to adopt",
	} {
		if status, out, errs := command(ctx, env, strings.Fields(line)...); status != 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit %d: %s%s", line, status, out, errs)
		}
	}
	y.stop()

	// Nobody else may read what is there, the key file among it, and it stays.
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 4 {
		t.Fatalf("%v %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 && info.Size() > 0 {
			t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
		}
	}
	y = startSystem(t, dir)
	again, _ := y.export(ctx, y.r.localURL(), flags...)
	if again != text {
		t.Errorf("after a restart %d bytes, before %d", len(again), len(text))
	}
}

func TestSegmentsVerifyFindsDamage(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	y := startSystem(t, dir)
	y.produce(ctx, 8, 300)
	y.export(ctx, y.r.localURL(), anything...)
	segs := y.r.catalog.Segments()
	if len(segs) == 0 {
		t.Fatal("nothing is stored")
	}
	env := []string{"LOCKSTITCH_BROKERS=" + y.b.addr, "LOCKSTITCH_STORE_URL=file://" + filepath.Join(dir, "objects")}
	status, out, errs := command(ctx, env, "segments", "dump", segs[0].Object)
	if status != 0 || !strings.Contains(out, "correlation_id") {
		t.Errorf("dump: exit %d: %.300s %s", status, out, errs)
	}
	// A wrong address is not a store that has lost everything.
	none := filepath.Join(dir, "none")
	for _, line := range []string{"verify", "dump x"} {
		args := append([]string{"segments", "--store-url", "file://" + none}, strings.Fields(line)...)
		if status, out, errs := command(ctx, env, args...); status != 2 || !strings.Contains(errs, "no object store at "+none) || strings.Contains(out, "BAD") {
			t.Errorf("%s: exit %d: %s%s", line, status, out, errs)
		}
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("looking for a store has made it")
	}
	// What is live the catalog knows alone.
	if status, out, errs := command(ctx, nil, "segments", "ls", "--brokers", y.b.addr); status != 0 || !strings.Contains(out, segs[0].Object) {
		t.Errorf("ls: exit %d: %s%s", status, out, errs)
	}
	if status, out, errs := command(ctx, env, "segments", "verify"); status != 0 {
		t.Errorf("verify of what is whole: exit %d: %s%s", status, out, errs)
	}
	// A copy to look at is left as it is; it need not have what is there to write with.
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(dir, "objects"))); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(copied, ".lockstitch-tmp")
	if err := os.RemoveAll(temp); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"ls", "verify", "dump " + segs[0].Object} {
		args := append([]string{"segments", "--store-url", "file://" + copied}, strings.Fields(line)...)
		if status, out, errs := command(ctx, env, args...); status != 0 {
			t.Errorf("%s of a copy: exit %d: %s%s", line, status, out, errs)
		}
		if _, err := os.Stat(temp); err == nil {
			t.Errorf("%s has made %s", line, temp)
		}
	}
	const flips = 12
	for i := range flips {
		damaged := segs[i%len(segs)].Object
		file := filepath.Join(dir, "objects", filepath.FromSlash(damaged))
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bit := 8 * len(whole) * (2*i + 1) / (2 * flips)
		flipped := slices.Clone(whole)
		flipped[bit/8] ^= 1 << (bit % 8)
		if err := os.WriteFile(file, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		if status, out, _ := command(ctx, env, "segments", "verify"); status != 1 || strings.Count(out, "BAD") != 1 || !strings.Contains(out, "BAD  "+damaged) {
			t.Errorf("verify with bit %d of %s flipped: exit %d: %s", bit, damaged, status, out)
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// What an upgraded replica has stored is not damaged.
	newer := []byte("LSOB\x02 and all else as that version has it, in more than 24 bytes")
	id := ulid.Make().String()
	seg := catalog.Segment{ID: id, Object: "segments/" + id, Bytes: int64(len(newer)), SHA256: fmt.Sprintf("%x", sha256.Sum256(newer))}
	if err := y.r.store.Put(ctx, seg.Object, newer); err != nil {
		t.Fatal(err)
	}
	rec, err := seg.Record(y.s.Topics.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(y.b.addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	says := seg.Object + " has format version 2, this build knows 1"
	if status, out, errs := command(ctx, env, "segments", "verify"); status != 1 || strings.Contains(out, "BAD") || !strings.Contains(out, says) || !strings.Contains(errs, "1 of ") || !strings.Contains(errs, "version that this program does not know") {
		t.Errorf("verify of a newer version: exit %d: %s%s", status, out, errs)
	}
	if status, out, errs := command(ctx, env, "segments", "dump", seg.Object); status != 1 || out != "" || !strings.Contains(errs, says) {
		t.Errorf("dump of a newer version: exit %d: %s%s", status, out, errs)
	}
	if err := y.r.store.Delete(ctx, segs[0].Object); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := command(ctx, env, "segments", "verify"); status != 1 || !strings.Contains(out, "BAD  "+segs[0].Object) {
		t.Errorf("verify: exit %d: %s", status, out)
	}
}

// A broker that has answered is not at fault, and which topic is meant only who asks knows.
func TestCommandsSayWhichTopicIsMissing(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	env := []string{"LOCKSTITCH_BROKERS=" + y.b.addr, "LOCKSTITCH_STORE_URL=file://" + t.TempDir()}
	for line, want := range map[string]string{
		"segments ls --catalog-topic none":                               "there is no topic none: name the one that serve has with --catalog-topic, or make it with `lockstitch topics create`",
		"segments verify --catalog-topic none":                           "there is no topic none: name the one that serve has with --catalog-topic, or make it with `lockstitch topics create`",
		"topics adopt --catalog-topic none":                              "there is no topic none: name the one that serve has with --catalog-topic, or make it with `lockstitch topics create`",
		"topics adopt --profiles-topic none":                             "there is no topic none: name the one that serve has with --profiles-topic, or make it with `lockstitch topics create`",
		"topics adopt --events-topics email-events,none":                 "there is no topic none: name the one that serve has with --events-topics, or make it with `lockstitch topics create`",
		"segments ls --events-topics other --catalog-topic email-events": "catalog: topic email-events has 3 partitions; it must have 1, so that a cut becomes visible whole",
	} {
		if status, _, errs := command(ctx, env, strings.Fields(line)...); status != 1 || !strings.Contains(errs, want) || strings.Contains(errs, "no broker") {
			t.Errorf("%s: exit %d: %s", line, status, errs)
		}
	}
}

// A proxy breaks downloads off in the middle; export goes on where it was.
func TestExportResumesABrokenDownload(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	counts := y.produce(ctx, 9, 3000)
	target, err := url.Parse(y.r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	var broken, ranges atomic.Int32
	inner := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/file") {
			inner.ServeHTTP(w, r)
			return
		}
		if r.Header.Get("Range") != "" && r.Header.Get("If-Range") != "" {
			ranges.Add(1)
		}
		if broken.Add(1) > 2 {
			inner.ServeHTTP(w, r)
			return
		}
		inner.ServeHTTP(&shortWriter{ResponseWriter: w, left: 1000}, r)
		panic(http.ErrAbortHandler)
	}))
	defer proxy.Close()
	proxied := startProxied(t, y, proxy.URL)
	text, _ := y.export(ctx, proxied, anything...)
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(rows)-1 != counts.Events {
		t.Errorf("%d rows of %d events", len(rows)-1, counts.Events)
	}
	if ranges.Load() < 2 {
		t.Errorf("%d of %d downloads were resumed, want 2", ranges.Load(), broken.Load())
	}
}

// startProxied gives the address of a proxy before y whose answers name the
// file at files instead of y's own address.
func startProxied(t *testing.T, y *system, files string) string {
	t.Helper()
	target, err := url.Parse(y.r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	p := httputil.NewSingleHostReverseProxy(target)
	p.ModifyResponse = func(resp *http.Response) error {
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		b = bytes.ReplaceAll(b, []byte(target.String()), []byte(files))
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
		resp.Header.Set("Content-Length", fmt.Sprint(len(b)))
		return nil
	}
	srv := httptest.NewServer(p)
	t.Cleanup(srv.Close)
	return srv.URL
}

// shortWriter passes on so many bytes of a body, and drops the rest.
type shortWriter struct {
	http.ResponseWriter
	left int
}

func (w *shortWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	if _, err := w.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	return len(p), nil
}

func TestServeSaysWhatIsMissing(t *testing.T) {
	ctx := testContext(t)
	b := testBroker(t, t.TempDir())
	defer b.Close()
	args := []string{"serve", "--shutdown-delay", "0s", "--brokers", b.addr, "--signing-keys", testKey, "--http-listen", "localhost:0", "--admin-listen", "localhost:0", "--data-dir", t.TempDir()}
	status, _, errs := command(ctx, nil, args...)
	if status != 1 || !strings.Contains(errs, "email-events: exists is missing") || !strings.Contains(errs, "topics create") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if status, out, errs := command(ctx, nil, "topics", "create", "--brokers", b.addr, "--partitions", "2", "--replication-factor", "1"); status != 0 || strings.Count(out, "created ") != 6 {
		t.Fatalf("create: exit %d: %s%s", status, out, errs)
	}
	// A number that is not applied is said not to be, if somebody has given it.
	for flags, says := range map[string]bool{"--partitions 8": true, "--partitions 2": false, "": false} {
		status, out, errs := command(ctx, nil, append([]string{"topics", "create", "--brokers", b.addr}, strings.Fields(flags)...)...)
		said := strings.Contains(out, "email-events has 2 partitions, not 8") && strings.Contains(out, "profiles has 2 partitions, not 8") && strings.Contains(out, "to add partitions")
		if status != 0 || said != says || strings.Contains(out, "partitions, not") != says {
			t.Errorf("create %s: exit %d: %s%s", flags, status, out, errs)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	log := newWatch("replica started", cancel)
	if status := run(ctx, &app{out: io.Discard, err: log}, args); status != 0 {
		t.Errorf("serve on SIGTERM: exit %d: %s", status, log.text())
	}
	if !strings.Contains(log.text(), "replica stopped") {
		t.Errorf("log: %s", log.text())
	}
}

// TestReplicaStartsWhileABrokerGoesAway lets connections end as they are made, the
// first ones and some behind a good one: what a broker that is shut down, or a
// balancer before it, does.
func TestReplicaStartsWhileABrokerGoesAway(t *testing.T) {
	ctx := testContext(t)
	b := testBroker(t, t.TempDir())
	defer b.Close()
	if status, out, errs := command(ctx, nil, "topics", "create", "--brokers", b.addr, "--partitions", "2", "--replication-factor", "1"); status != 0 {
		t.Fatalf("create: exit %d: %s%s", status, out, errs)
	}
	front, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	var ended atomic.Int32
	go func() {
		for n := 1; ; n++ {
			c, err := front.Accept()
			if err != nil {
				return
			}
			if n <= 2 || 4 <= n && n <= 7 {
				ended.Add(1)
				// What was sent is read first, else the end is a reset.
				_, _ = c.Read(make([]byte, 1<<16))
				_ = c.Close()
				continue
			}
			go pipe(c, b.addr)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log := newWatch("replica started", cancel)
	args := []string{"serve", "--shutdown-delay", "0s", "--brokers", front.Addr().String(), "--signing-keys", testKey, "--http-listen", "localhost:0", "--admin-listen", "localhost:0",
		"--store-url", "file://" + filepath.ToSlash(t.TempDir()), "--data-dir", t.TempDir()}
	if status := run(ctx, &app{out: io.Discard, err: log}, args); status != 0 || ended.Load() != 6 || !strings.Contains(log.text(), "no broker can be used") {
		t.Errorf("serve: exit %d after %d connections that ended: %s", status, ended.Load(), log.text())
	}
}

// A broker that takes connections and never answers is waited for as long as
// start_timeout says, and not once the replica is told to stop.
func TestSilentBrokerIsNotWaitedFor(t *testing.T) {
	start := func(ctx context.Context, timeout string, accepted func()) (int, string) {
		t.Helper()
		silent, err := net.Listen("tcp", "localhost:0")
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		go func() {
			if c, err := silent.Accept(); err == nil {
				t.Cleanup(func() { c.Close() })
				accepted()
			}
		}()
		begun := time.Now()
		status, _, errs := command(ctx, nil, "serve", "--shutdown-delay", "0s", "--brokers", silent.Addr().String(), "--start-timeout", timeout, "--signing-keys", testKey,
			"--http-listen", "localhost:0", "--admin-listen", "localhost:0", "--store-url", "file://"+filepath.ToSlash(t.TempDir()), "--data-dir", t.TempDir())
		if took := time.Since(begun); took > 15*time.Second { // the library gives up after 10 s, and tries again
			t.Errorf("with start_timeout %s it took %s", timeout, took)
		}
		return status, errs
	}
	status, errs := start(t.Context(), "1s", func() {})
	if status != 1 || !strings.Contains(errs, "none has answered for 1s (start_timeout)") || !strings.Contains(errs, "check --brokers") {
		t.Errorf("exit %d: %s", status, errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if status, errs := start(ctx, "1m", cancel); status != statusInterrupted {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// pipe passes on what either side sends, until one of them ends.
func pipe(c net.Conn, addr string) {
	defer c.Close()
	to, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer to.Close()
	done := make(chan struct{}, 2)
	for _, d := range [][2]net.Conn{{c, to}, {to, c}} {
		go func() {
			_, _ = io.Copy(d[0], d[1])
			done <- struct{}{}
		}()
	}
	<-done
}

func TestDemoAddsUp(t *testing.T) {
	status, out, errs := command(testContext(t), nil, "demo", "--events", "1500")
	if status != 0 {
		t.Fatalf("exit %d: %s%s", status, out, errs)
	}
	for _, want := range []string{"Produced to Kafka:  1500", "Duplicates dropped:", "Poison set aside:", "Rows exported:", "activity_id,split_id,", "gender (version_id: 491874)"} {
		if !strings.Contains(out, want) {
			t.Errorf("demo does not show %q:\n%s", want, out)
		}
	}
}

func TestDemoWithoutAReaderLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var errs strings.Builder
	c := exec.CommandContext(testContext(t), os.Args[0], "demo", "--events", "100")
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), commandEnv+"=1", "TMPDIR="+dir), w, &errs
	if err := c.Run(); err != nil || errs.String() != "" {
		t.Errorf("%v: %s", err, errs.String())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestSampleIsTheSameForTheSameSeed(t *testing.T) {
	make := func(seed uint64) (out []string) {
		tr := newTraffic(trafficConfig{Topics: kafka.DefaultTopics(), Account: "a", Profiles: 10, Seed: seed, Retries: 0.1, Poison: 0.01,
			Now: time.UnixMilli(1_790_000_000_000), Span: time.Hour, Expect: 500})
		for range 500 {
			r := tr.event()
			out = append(out, string(r.Key)+" "+string(r.Value))
		}
		return out
	}
	a, b, c := make(1), make(1), make(2)
	if fmt.Sprint(a) != fmt.Sprint(b) || fmt.Sprint(a) == fmt.Sprint(c) {
		t.Error("the seed does not decide")
	}
}
