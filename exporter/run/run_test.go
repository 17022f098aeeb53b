package run

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"lockstitch/exporter/render"
	"lockstitch/internal/bubble"
	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

var (
	topicID = segment.TopicID{1}
	quiet   = slog.New(slog.DiscardHandler)
)

// world is a broker with the catalog and the reports, and a store.
type world struct {
	t       testing.TB
	broker  *kfake.Cluster
	opts    []kgo.Opt
	store   objects.Store
	account string // that submits
	catalog *catalog.View
	prod    *kgo.Client
	dial    dialer
	session time.Duration         // of the runners
	log     *slog.Logger          // of the runners; nil: none
	reg     prometheus.Registerer // of the runners; nil: none
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := newWorldOn(t, new(net.Dialer).DialContext)
	w.session = 500 * time.Millisecond
	return w
}

// newVirtualWorld is one for a test within bubble.Test: nobody waits for
// sessions and back-offs there.
func newVirtualWorld(t testing.TB) *world {
	t.Helper()
	n := &kfake.VirtualNetwork{}
	w := newWorldOn(t, n.DialContext, kfake.Ports(9092), kfake.ListenFn(n.Listen))
	w.session = 10 * time.Second
	return w
}

func newWorldOn(t testing.TB, dial dialer, kopts ...kfake.Opt) *world {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(1, "catalog"), kfake.SeedTopics(2, "reports"),
		kfake.SeedTopics(1, "events", "profiles"), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, kopts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &world{t: t, broker: c, dial: dial, account: "acme", opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(dial)}}
	if w.store, err = objects.Open(t.Context(), "file://"+t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	if w.catalog, err = catalog.Open(t.Context(), catalog.Config{Opts: w.opts, Topic: "catalog", Log: quiet}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.catalog.Close)
	if w.prod, err = kgo.NewClient(append(w.opts[:2:2], kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.prod.Close)
	return w
}

func (w *world) put(r *kgo.Record, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.prod.ProduceSync(w.t.Context(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// commit stores n events at offsets 0 … n-1 and moves the position behind them.
func (w *world) commit(n int) {
	w.t.Helper()
	buf := segment.NewBuffer()
	for i := range n {
		ev := &event.Event{CorrelationID: fmt.Appendf(nil, "c%d", i), AccountID: []byte("acme"), Section: []byte("s"), ServerTime: 1000 + int64(i)}
		buf.Add(&segment.Stream{Topic: "events", ID: topicID}, 0, int64(i), 0, ev, nil)
	}
	w.seal([]*segment.Buffer{buf}, []report.End{{Topic: "events", TopicID: topicID, Offset: int64(n)}})
}

// seal stores buffers and moves the positions behind them.
func (w *world) seal(bufs []*segment.Buffer, ends []report.End) {
	w.t.Helper()
	err := segment.Seal(bufs, func(o segment.Object) error {
		id := ulid.Make().String()
		if err := w.store.Put(w.t.Context(), "segments/"+id, o.Data); err != nil {
			return err
		}
		w.put((&catalog.Segment{ID: id, Object: "segments/" + id, Slices: o.Slices}).Record("catalog"))
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range ends {
		w.put((&catalog.Position{Topic: e.Topic, TopicID: e.TopicID, Partition: e.Partition, Next: e.Offset}).Record("catalog"))
	}
}

func (w *world) table() *report.Table {
	w.t.Helper()
	tab, err := report.Open(w.t.Context(), report.Config{Opts: w.opts, Topic: "reports", Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(tab.Close)
	return tab
}

func (w *world) submit(tab *report.Table, end int64, patience time.Duration) *report.Report {
	w.t.Helper()
	return w.submitAt(tab, end, patience, time.Now().UTC())
}

// submitAt is submit by a replica whose clock shows at.
func (w *world) submitAt(tab *report.Table, end int64, patience time.Duration, at time.Time) *report.Report {
	w.t.Helper()
	r, err := tab.Submit(w.t.Context(), &report.Request{
		ID: ulid.Make().String(), Account: w.account, CreatedAt: at, Body: []byte("{}"),
		Question:        report.Question{Barrier: []report.End{{Topic: "events", TopicID: topicID, Offset: end}}, CompleteThrough: at},
		BarrierDeadline: at.Add(patience),
	}, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// submitStep makes a standing order and its first step.
func (w *world) submitStep(tab *report.Table, end int64, tweaks ...func(*report.Step)) *report.Report {
	w.t.Helper()
	order := ulid.Make().String()
	step := &report.Step{Order: order, Name: "o", Seq: 1}
	for _, tweak := range tweaks {
		tweak(step)
	}
	if _, err := tab.CreateOrder(w.t.Context(), &report.Order{
		ID: order, Account: w.account, Name: step.Name, CreatedAt: time.Now(),
		Settings: report.Settings{Revision: "r", Every: time.Minute, Body: []byte("{}")},
	}, 0); err != nil {
		w.t.Fatal(err)
	}
	r, err := tab.SubmitStep(w.t.Context(), &report.Request{
		ID: ulid.Make().String(), Account: w.account, CreatedAt: time.Now(), Body: []byte("{}"),
		Question: report.Question{Rolling: true, Barrier: []report.End{{Topic: "events", TopicID: topicID, Offset: end}}},
		Step:     step,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) runner(tab *report.Table, store objects.Store, tweak func(*Config)) (stop func()) {
	w.t.Helper()
	cfg := Config{Kafka: w.opts, Topic: "reports", SessionTimeout: w.session}
	if tweak != nil {
		tweak(&cfg)
	}
	r, err := New(cfg, Deps{Reports: tab, Catalog: w.catalog, Store: store, Log: cmp.Or(w.log, quiet), Registerer: w.reg})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	return stop
}

// await waits until the report has one of the statuses.
func (w *world) await(tab *report.Table, id string, want ...report.Status) *report.Report {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	for {
		changed := tab.Changed()
		r, ok := tab.Get(w.account, id)
		if ok && slices.Contains(want, r.Status(time.Now())) {
			return r
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.t.Fatalf("report is %v, want %v", r, want)
		}
	}
}

func (w *world) rows(r *report.Report) int {
	w.t.Helper()
	rd, err := w.store.Open(w.t.Context(), r.Result.Object, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rd.Close()
	z, err := gzip.NewReader(rd)
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Count(string(text), "\n") - 1
}

func (w *world) files() (n int) {
	w.t.Helper()
	if err := w.store.List(w.t.Context(), "exports/", func(objects.Info) error { n++; return nil }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestReportWaitsForItsBarrierAndHoldsWhatIsBelow(t *testing.T) {
	w := newWorld(t)
	tab := w.table()
	w.runner(tab, w.store, nil)
	r := w.submit(tab, 5, time.Hour)
	w.await(tab, r.Request.ID, report.StatusProcessing)
	w.commit(8)
	r = w.await(tab, r.Request.ID, report.StatusCompleted)
	if got := w.rows(r); got != 5 || r.Result.Rows != 5 {
		t.Errorf("%d rows in the file, %d in the result, want the 5 below the barrier", got, r.Result.Rows)
	}
}

func TestBarrierTimeoutEndsInErrorNamingThePartition(t *testing.T) {
	w := newWorld(t)
	tab, reg := w.table(), prometheus.NewRegistry()
	w.reg = reg
	stop := w.runner(tab, w.store, nil)
	r := w.submit(tab, 5, 0)
	r = w.await(tab, r.Request.ID, report.StatusError)
	if p := r.Result.Problem; p.Type != "/problems/barrier-timeout" || p.Status != 503 || !strings.Contains(p.Detail, "events/0") {
		t.Errorf("problem %+v", p)
	}
	stop()
	if n := took(t, reg, kindReport).GetSampleCount(); n != 1 {
		t.Errorf("of %d reports it is told how long they took", n)
	}
}

// TestClocksThatDifferDoNotEndAReport: who accepted it and who runs it may
// disagree about the time by days; it has the time that it was given, no less and
// no more.
func TestClocksThatDifferDoNotEndAReport(t *testing.T) {
	w := newWorld(t)
	tab, reg := w.table(), prometheus.NewRegistry()
	w.reg = reg
	stop := w.runner(tab, w.store, nil)
	r := w.submitAt(tab, 5, time.Hour, time.Now().UTC().Add(-2*day))
	w.await(tab, r.Request.ID, report.StatusProcessing)
	w.commit(5)
	if r = w.await(tab, r.Request.ID, report.StatusCompleted, report.StatusError); r.Result.Problem != nil {
		t.Errorf("accepted by a clock that is behind: %+v", r.Result.Problem)
	}
	late := w.submitAt(tab, 6, 0, time.Now().UTC().Add(2*day))
	w.await(tab, late.Request.ID, report.StatusError)
	stop()
	// From the acceptance on, as far as that can be.
	if h := took(t, reg, kindReport); h.GetSampleCount() != 2 || h.GetSampleSum() < (2*day).Seconds() || h.GetSampleSum() > (2*day+time.Hour).Seconds() {
		t.Errorf("%d reports took %v s", h.GetSampleCount(), h.GetSampleSum())
	}
}

func TestDefaults(t *testing.T) {
	for memory, parallel := range map[int64]int{0: 1, 2 * render.Memory(4): 2, 1 << 50: max(2, runtime.GOMAXPROCS(0))} {
		r, err := New(Config{Topic: "reports", Workers: 4, Memory: memory}, Deps{Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if c := r.cfg; c.MaxBytes != 2<<30 || c.FileLifetime != 7*24*time.Hour || c.Retention != 2*24*time.Hour || c.Parallel != parallel {
			t.Errorf("%+v, want %d reports at a time", c, parallel)
		}
	}
}

func TestTooLargeAndDamagedEndInErrors(t *testing.T) {
	w := newWorld(t)
	w.commit(100)
	tab := w.table()
	stop := w.runner(tab, w.store, func(c *Config) { c.MaxBytes = 100 })
	r := w.submit(tab, 100, time.Hour)
	if r = w.await(tab, r.Request.ID, report.StatusError); r.Result.Problem.Type != "/problems/file-too-large" || !strings.Contains(r.Result.Problem.Detail, "exceed 100 bytes. Request a shorter window") {
		t.Errorf("problem %+v", r.Result.Problem)
	}
	stop()
	w.runner(tab, w.store, nil)
	for _, s := range w.catalog.Segments() {
		if err := w.store.Delete(t.Context(), s.Object); err != nil {
			t.Fatal(err)
		}
	}
	r = w.submit(tab, 100, time.Hour)
	if r = w.await(tab, r.Request.ID, report.StatusError); r.Result.Problem.Type != "/problems/stored-data-damaged" || strings.Contains(r.Result.Problem.Detail, "segments/") {
		t.Errorf("problem %+v", r.Result.Problem)
	}
	if n := w.files(); n != 0 {
		t.Errorf("%d files are left of failed reports", n)
	}
}

// passing is a store in which segments are missing during the first attempts.
type passing struct {
	objects.Store
	attempts atomic.Int64 // that have begun
	missing  int64        // in so many of them
}

func (p *passing) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if strings.HasPrefix(name, "segments/") && p.attempts.Load() <= p.missing {
		return nil, fmt.Errorf("%s: %w", name, objects.ErrNotExist)
	}
	return p.Store.Open(ctx, name, off, n)
}

// TestAMissingSegmentIsLookedForAgain: what a plan names may have been replaced before
// it is read, and the next plan names what stands for it. One that stays missing is
// damage.
func TestAMissingSegmentIsLookedForAgain(t *testing.T) {
	for missing := range int64(4) { // three attempts say that it is damage
		bubble.Test(t, func(t *testing.T) {
			w := newVirtualWorld(t)
			w.commit(5)
			tab, store := w.table(), &passing{Store: w.store, missing: missing}
			w.runner(tab, store, func(c *Config) {
				c.Hook = func(step string) {
					if step == StepPlan {
						store.attempts.Add(1)
					}
				}
			})
			r := w.await(tab, w.submit(tab, 5, time.Hour).Request.ID, report.StatusCompleted, report.StatusError)
			if missing < 3 && (r.Result.Problem != nil || w.rows(r) != 5) {
				t.Errorf("missing in %d attempts: %+v", missing, r.Result)
			}
			if p := r.Result.Problem; missing == 3 && (p == nil || p.Type != "/problems/stored-data-damaged") {
				t.Errorf("missing in %d attempts: %+v", missing, r.Result)
			}
		})
	}
}

// TestDamagedSegmentsEndInErrors: wherever a bit is flipped in what an export
// needs, its status is error and says to who asked no more than that; the log
// names the object and the byte.
func TestDamagedSegmentsEndInErrors(t *testing.T) {
	w := newWorld(t)
	w.commit(100)
	var log bytes.Buffer // read when the runner has stopped
	reg := prometheus.NewRegistry()
	w.log, w.reg = slog.New(slog.NewTextHandler(&log, nil)), reg
	tab := w.table()
	stop := w.runner(tab, w.store, nil)
	whole := w.await(tab, w.submit(tab, 100, time.Hour).Request.ID, report.StatusCompleted).Result.SHA256
	seg := w.catalog.Segments()[0]
	rd, err := w.store.Open(t.Context(), seg.Object, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(rd)
	if err := errors.Join(err, rd.Close()); err != nil {
		t.Fatal(err)
	}
	store := func(data []byte) {
		t.Helper()
		if err := errors.Join(w.store.Delete(t.Context(), seg.Object), w.store.Put(t.Context(), seg.Object, data)); err != nil {
			t.Fatal(err)
		}
	}
	first, last := seg.Slices[0], seg.Slices[len(seg.Slices)-1]
	failed := 0
	places := []int{int(first.Offset) + 4} // the version
	for at := 3; at < len(data); at += 1 + len(data)/40 {
		places = append(places, at)
	}
	for _, at := range places {
		bad := bytes.Clone(data)
		bad[at] ^= 1 << (at % 8)
		store(bad)
		r := w.await(tab, w.submit(tab, 100, time.Hour).Request.ID, report.StatusCompleted, report.StatusError)
		needed := int64(at) >= first.Offset && int64(at) < last.Offset+last.Length
		switch {
		case !needed && (r.Result.Problem != nil || r.Result.SHA256 != whole):
			t.Errorf("byte %d, which no export reads: %+v", at, r.Result)
		case needed:
			failed++
			if p := r.Result.Problem; p == nil || p.Type != "/problems/stored-data-damaged" || r.Result.Object != "" || strings.Contains(p.Detail, "segments/") || strings.Contains(p.Detail, "byte") {
				t.Errorf("byte %d: %+v", at, r.Result)
			}
		}
	}
	for n := range int(first.Length) { // an object that is too short
		if n%200 == 0 {
			store(data[:int(first.Offset)+n])
			failed++
			w.await(tab, w.submit(tab, 100, time.Hour).Request.ID, report.StatusError)
		}
	}
	store(data)
	if got := w.await(tab, w.submit(tab, 100, time.Hour).Request.ID, report.StatusCompleted).Result.SHA256; got != whole {
		t.Error("another file once the object is whole again")
	}
	stop()
	if n := strings.Count(log.String(), "segment "+seg.Object+" is damaged at byte "); n != failed {
		t.Errorf("the log tells of %d of %d", n, failed)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP lockstitch_exports_failed_total Reports and files of rolling exports that ended in an error, by the last word of the problem's type.
# TYPE lockstitch_exports_failed_total counter
lockstitch_exports_failed_total{problem="barrier-timeout"} 0
lockstitch_exports_failed_total{problem="file-too-large"} 0
lockstitch_exports_failed_total{problem="no-longer-kept"} 0
lockstitch_exports_failed_total{problem="stored-data-damaged"} %d
`, failed)), "lockstitch_exports_failed_total"); err != nil {
		t.Error(err)
	}
}

// took is what is told of how long the exports of a kind took.
func took(t *testing.T, reg prometheus.Gatherer, kind string) *dto.Histogram {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "lockstitch_export_duration_seconds" && m.GetLabel()[0].GetValue() == kind {
				return m.GetHistogram()
			}
		}
	}
	return nil
}

// logged collects a log, which may be read while others write to it.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines is a log, line by line, whose newest lines are lost while nobody reads.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

// upgraded is the store as a replica of a newer version reads it: the object is what
// it can read.
type upgraded struct {
	objects.Store
	object string
	data   []byte
}

func (u *upgraded) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if name != u.object {
		return u.Store.Open(ctx, name, off, n)
	}
	return io.NopCloser(bytes.NewReader(u.data[off : off+n])), nil
}

// TestANewerSegmentIsLeftToNewerReplicas: while replicas are upgraded one by one, one
// that was not yet owns a report that needs what one that was has stored. It says so
// and goes on trying; the report ends as soon as its slot has another owner.
func TestANewerSegmentIsLeftToNewerReplicas(t *testing.T) {
	w := newWorld(t)
	w.commit(100)
	if err := w.catalog.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	seg := w.catalog.Segments()[0]
	rd, err := w.store.Open(t.Context(), seg.Object, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(rd)
	if err := errors.Join(err, rd.Close()); err != nil {
		t.Fatal(err)
	}
	newer, slice := bytes.Clone(data), seg.Slices[0].Offset
	newer[slice+4] = 2
	newer[slice+12] ^= 1 // the checksum is another one
	if err := errors.Join(w.store.Delete(t.Context(), seg.Object), w.store.Put(t.Context(), seg.Object, newer)); err != nil {
		t.Fatal(err)
	}
	log := make(lines, 100)
	w.log = slog.New(slog.NewTextHandler(log, nil))
	tab := w.table()
	stop := w.runner(tab, w.store, nil)
	id := w.submit(tab, 100, time.Hour).Request.ID
	late := time.After(30 * time.Second)
	for tries := 0; tries < 3; {
		select {
		case line := <-log:
			if !strings.Contains(line, "report="+id) {
				continue
			}
			tries++
			if !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "trying again") || !strings.Contains(line, "segment "+seg.Object+" has format version 2, this build knows 1") {
				t.Fatalf("logged: %s", line)
			}
		case <-late:
			t.Fatalf("it was tried %d times", tries)
		}
	}
	if r := w.await(tab, id, report.StatusProcessing, report.StatusError); r.Result != nil {
		t.Fatalf("the report has ended: %+v", r.Result)
	}
	stop()
	w.runner(tab, &upgraded{w.store, seg.Object, data}, nil)
	if r := w.await(tab, id, report.StatusCompleted, report.StatusError); r.Result.Problem != nil || w.rows(r) != 100 {
		t.Errorf("rendered by another replica: %+v", r.Result)
	}
}

func TestCancelWhileWaitingAndAfter(t *testing.T) {
	w := newWorld(t)
	tab := w.table()
	w.runner(tab, w.store, nil)
	r := w.submit(tab, 5, time.Hour)
	if err := tab.Cancel(t.Context(), "acme", r.Request.ID); err != nil {
		t.Fatal(err)
	}
	w.await(tab, r.Request.ID, report.StatusCancelled)
	w.commit(5)
	r = w.submit(tab, 5, time.Hour)
	w.await(tab, r.Request.ID, report.StatusCompleted)
	if err := tab.Cancel(t.Context(), "acme", r.Request.ID); err != nil {
		t.Fatal(err)
	}
	w.await(tab, r.Request.ID, report.StatusExpired)
	for w.files() != 0 {
		changed := tab.Changed()
		if w.files() == 0 {
			break
		}
		<-changed
	}
}

// stuck is a store whose first file is created when who wants it has given up.
type stuck struct {
	objects.Store
	first   atomic.Bool
	reached chan struct{}
}

func (s *stuck) Create(ctx context.Context, name string) (objects.Writer, error) {
	if s.first.CompareAndSwap(false, true) {
		close(s.reached)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Store.Create(ctx, name)
}

// TestACancelledReportIsNotRenderedOn: what renders it stops and lets another be
// rendered.
func TestACancelledReportIsNotRenderedOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.commit(5)
		tab, store := w.table(), &stuck{Store: w.store, reached: make(chan struct{})}
		w.runner(tab, store, func(c *Config) { c.Parallel = 1 })
		r := w.submit(tab, 5, time.Hour)
		w.happens("a report is rendered", store.reached)
		if err := tab.Cancel(t.Context(), "acme", r.Request.ID); err != nil {
			t.Fatal(err)
		}
		w.await(tab, r.Request.ID, report.StatusCancelled)
		w.await(tab, w.submit(tab, 5, time.Hour).Request.ID, report.StatusCompleted)
	})
}

func TestExpiredFilesAreRemoved(t *testing.T) {
	w := newWorld(t)
	w.commit(5)
	tab := w.table()
	w.runner(tab, w.store, func(c *Config) { c.FileLifetime = time.Nanosecond })
	r := w.submit(tab, 5, time.Hour)
	w.await(tab, r.Request.ID, report.StatusExpired)
	for {
		changed := tab.Changed()
		if got, _ := tab.Get("acme", r.Request.ID); got.Expired {
			break
		}
		<-changed
	}
	if n := w.files(); n != 0 {
		t.Errorf("%d files left", n)
	}
}

// gate holds back the commit of the first file.
type gate struct {
	objects.Store
	first         atomic.Bool
	reached, open chan struct{}
}

func newGate(store objects.Store) *gate {
	return &gate{Store: store, reached: make(chan struct{}), open: make(chan struct{})}
}

func (g *gate) Create(ctx context.Context, name string) (objects.Writer, error) {
	w, err := g.Store.Create(context.WithoutCancel(ctx), name)
	return &gatedWriter{w, g}, err
}

type gatedWriter struct {
	objects.Writer
	g *gate
}

func (w *gatedWriter) Commit() error {
	if w.g.first.CompareAndSwap(false, true) {
		close(w.g.reached)
		<-w.g.open
	}
	return w.Writer.Commit()
}

func TestAnotherRunnerTakesOverAndTheZombieDoesNoHarm(t *testing.T) {
	w := newWorld(t)
	w.commit(5)
	tab := w.table()
	slow := newGate(w.store)
	stopSlow := w.runner(tab, slow, nil)
	r := w.submit(tab, 5, time.Hour)
	<-slow.reached
	// The first runner hangs with the file all but stored; the other gets its
	// slots when the group lets it go.
	stopped := make(chan struct{})
	go func() { defer close(stopped); stopSlow() }()
	other := w.table()
	r2, err := New(Config{Kafka: w.opts, Topic: "reports", Group: "another"}, Deps{Reports: other, Catalog: w.catalog, Store: w.store, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r2.Run(ctx) }()
	r = w.await(other, r.Request.ID, report.StatusCompleted)
	won := r.Result.Attempt
	close(slow.open)
	<-stopped
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := other.CatchUp(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if r, _ = other.Get("acme", r.Request.ID); r.Result.Attempt != won {
		t.Error("the zombie's result replaced the one that was answered")
	}
	if got := w.rows(r); got != 5 {
		t.Errorf("%d rows, want 5", got)
	}
}
