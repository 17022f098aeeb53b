package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

const lanes = 2

// world is a broker, a store and the topics.
type world struct {
	t      *testing.T
	broker *kfake.Cluster
	dial   dialer
	// session is the replicas' session timeout; zero: the default. In real time it is long:
	// nobody is put out because the machine is busy.
	session time.Duration
	opts    []kgo.Opt
	topics  kafka.Topics
	store   objects.Store
	prod    *kgo.Client
	at      time.Time    // Kafka time of what is produced; zero: now
	log     *slog.Logger // the replicas'; nil: none
}

func newWorld(t *testing.T, kopts ...kfake.Opt) *world {
	t.Helper()
	w := newWorldOn(t, new(net.Dialer).DialContext, kopts...)
	w.session = 5 * time.Minute
	return w
}

// newVirtualWorld is one for a test within synctest.Test: nobody waits for
// sessions, transactions and back-offs there. It has a broker for each port, and one.
func newVirtualWorld(t *testing.T, ports ...int) *world {
	t.Helper()
	n := &kfake.VirtualNetwork{}
	return newWorldOn(t, n.DialContext, kfake.Ports(append(ports, 9092)...), kfake.ListenFn(n.Listen), kfake.GroupMinSessionTimeout(100*time.Millisecond))
}

func newWorldOn(t *testing.T, dial dialer, kopts ...kfake.Opt) *world {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, kopts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := &world{t: t, broker: c, dial: dial, opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(dial), kgo.MaxDecompressBatchBytes(kafka.MaxBatchBytes)}, topics: kafka.DefaultTopics()}
	w.prod = w.client(kgo.DisableIdempotentWrite())
	if _, err := kafka.Create(t.Context(), w.prod, w.topics, kafka.CreateOptions{Partitions: lanes, ReplicationFactor: int16(len(c.ListenAddrs()))}); err != nil {
		t.Fatal(err)
	}
	w.store, err = objects.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	return w
}

func (w *world) client(more ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, w.opts...), more...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Close)
	return cl
}

func (w *world) produce(topic, key, value string) {
	w.t.Helper()
	r := &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}
	if value == "" {
		r.Value = nil
	}
	if !w.at.IsZero() {
		w.at = w.at.Add(25 * time.Second)
		r.Timestamp = w.at
	}
	if err := w.prod.ProduceSync(w.t.Context(), r).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) event(profile, corr, typ string) {
	w.t.Helper()
	w.produce("email-events", profile, fmt.Sprintf(`{"correlation_id":%q,"type":%q,"account_id":"acme","section":"s1","activity_id":"a1","server_time":%d}`, corr, typ, time.Now().UnixMilli()))
}

func (w *world) catalog() *catalog.View {
	w.t.Helper()
	v, err := catalog.Open(w.t.Context(), catalog.Config{Opts: w.opts, Topic: w.topics.Catalog, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(v.Close)
	return v
}

// caughtUp is the catalog as it stands now.
func (w *world) caughtUp() *catalog.View {
	w.t.Helper()
	v := w.catalog()
	if err := v.CatchUp(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return v
}

// replica is a running consumer.
type replica struct {
	c    *Consumer
	cat  *catalog.View
	reg  *prometheus.Registry
	stop func() error
	done chan struct{} // closed when Run has returned
}

func (w *world) start(dir string, tweak func(*Config)) *replica {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if w.log != nil {
		log = w.log
	}
	cat := w.catalog()
	tab, err := report.Open(w.t.Context(), report.Config{Opts: w.opts, Topic: w.topics.Reports, Log: log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(tab.Close)
	cfg := Config{Kafka: w.opts, Topics: w.topics, DataDir: dir, FlushInterval: 50 * time.Millisecond, SessionTimeout: w.session}
	if tweak != nil {
		tweak(&cfg)
	}
	reg := prometheus.NewRegistry()
	c, err := New(cfg, Deps{Store: w.store, Catalog: cat, Reports: tab, Log: log, Registerer: reg})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &replica{c: c, cat: cat, reg: reg, done: make(chan struct{})}
	var ended error
	go func() {
		defer close(r.done)
		ended = c.Run(ctx)
	}()
	stopped := false
	r.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		<-r.done
		return ended
	}
	w.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			w.t.Error(err)
		}
	})
	return r
}

// settle waits until the catalog's positions have reached the ends of all
// input partitions.
func (w *world) settle(cat *catalog.View) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	ends, err := kafka.Ends(ctx, w.prod, append(append([]string{}, w.topics.Events...), w.topics.Profiles)...)
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		changed := cat.Changed()
		behind := ""
		for _, ps := range ends {
			for _, p := range ps {
				pos, ok := cat.Position(p.TopicID, p.Partition)
				if !ok && p.End > 0 || pos.Next < p.End {
					behind += fmt.Sprintf(" %s/%d at %d of %d;", p.Topic, p.Partition, pos.Next, p.End)
				}
			}
		}
		if behind == "" {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.t.Fatal("not settled:", behind)
		}
	}
}

// rows reads what is committed for account acme: "corr type attribute" in
// order of the slices' rows.
func (w *world) rows(cat *catalog.View) []string {
	w.t.Helper()
	var out []string
	for _, ref := range cat.Slices("acme", 0, math.MaxInt64) {
		r, err := w.store.Open(w.t.Context(), ref.Object, ref.Info.Offset, ref.Info.Length)
		if err != nil {
			w.t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			w.t.Fatal(err)
		}
		_ = r.Close()
		s, err := segment.OpenSlice(ref.Object, ref.Info, data)
		if err != nil {
			w.t.Fatal(err)
		}
		types, _ := s.Types()
		snaps, _ := s.SnapshotCodes()
		col, err := s.Attribute("s1", "7")
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range s.Rows() {
			corr, _ := s.AppendCorrelation(nil, i)
			val := "-"
			if snaps[i] > 0 {
				val = ""
				if col != nil && col.Codes[snaps[i]-1] > 0 {
					val = string(col.Dict[col.Codes[snaps[i]-1]-1].Raw)
				}
			}
			out = append(out, fmt.Sprintf("%s %s %s", corr, types[i], val))
		}
	}
	sort.Strings(out)
	return out
}

// tick waits until Kafka's clock shows a later millisecond: versions and events
// of one millisecond are of the same time.
func (w *world) tick() {
	time.Sleep(2 * time.Millisecond)
}

// awaitReady waits until the replica reads a lane.
func (r *replica) awaitReady(t *testing.T) {
	t.Helper()
	r.awaitLanes(t, func(ready, all int) bool { return ready > 0 })
}

// awaitStopped waits until the replica has lanes and reads none.
func (r *replica) awaitStopped(t *testing.T) {
	t.Helper()
	r.awaitLanes(t, func(ready, all int) bool { return all > 0 && ready == 0 })
}

func (r *replica) awaitLanes(t *testing.T, ok func(ready, all int) bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		families, err := r.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		ready, all := 0, 0
		for _, f := range families {
			if f.GetName() == "lockstitch_lane_ready" {
				for _, m := range f.GetMetric() {
					all++
					ready += int(m.GetGauge().GetValue())
				}
			}
		}
		if ok(ready, all) {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the replica's lanes are not as they should be")
}

func profileOf(val string) string {
	return fmt.Sprintf(`{"account_id":"acme","sections":{"s1":{"attributes":{"7":%q}}}}`, val)
}

func TestEventsBecomeRowsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce("profiles", "p1", profileOf("old"))
	w.event("p1", "c1", "SENT")
	w.event("p1", "c1", "SENT") // a retry
	w.event("p1", "c1", "OPENED")
	w.produce("email-events", "p1", "{broken")
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.settle(r.cat)
	w.tick()
	w.produce("profiles", "p1", profileOf("new"))
	w.event("p1", "c2", "SENT")
	w.tick()
	w.produce("profiles", "p1", "")
	w.event("p1", "c3", "SENT")
	w.event("p1", "c2", "SENT")
	w.settle(r.cat)
	want := "c1 OPENED old\nc1 SENT old\nc2 SENT new\nc3 SENT -"
	if got := strings.Join(w.rows(r.cat), "\n"); got != want {
		t.Errorf("rows:\n%s\nwant:\n%s", got, want)
	}
	dead := w.client(kgo.ConsumeTopics(w.topics.DeadLetters), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	fs := dead.PollFetches(t.Context())
	if recs := fs.Records(); len(recs) != 1 || string(recs[0].Value) != "{broken" {
		t.Errorf("dead letters: %v", recs)
	}
}

func TestRestartOnAnEmptyDiskKnowsDuplicatesAndProfiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "a"), nil)
	for i := range 20 {
		w.produce("profiles", fmt.Sprintf("p%d", i), profileOf("v"))
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
	}
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = w.start(filepath.Join(t.TempDir(), "b"), nil)
	for i := range 20 {
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("d%02d", i), "SENT")
	}
	w.settle(r.cat)
	rows := w.rows(r.cat)
	if len(rows) != 40 {
		t.Fatalf("%d rows, want 40:\n%s", len(rows), strings.Join(rows, "\n"))
	}
	for _, row := range rows {
		if !strings.HasSuffix(row, " v") {
			t.Errorf("row %q is not decorated", row)
		}
	}
}

func TestPositionsPassTransactionMarkersAndEmptiedLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	for _, topic := range []string{"email-events", "profiles"} {
		for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
			p := w.client(kgo.TransactionalID(fmt.Sprintf("%s-%d", topic, i)))
			if err := p.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			val := fmt.Sprintf(`{"correlation_id":"t%d","type":"SENT","account_id":"acme","section":"s1"}`, i)
			if topic == "profiles" {
				val = profileOf("x")
			}
			if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("p1"), Value: []byte(val)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			if err := p.EndTransaction(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 1 {
		t.Errorf("rows %v, want only the committed t0", rows)
	}
}

func TestLanesMoveBetweenReplicas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.session = 30 * time.Second // with the heartbeat, a quarter of that, one hears that another has come
	a := w.start(filepath.Join(t.TempDir(), "a"), nil)
	for i := range 10 {
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
	}
	w.settle(a.cat)
	b := w.start(filepath.Join(t.TempDir(), "b"), nil)
	b.awaitReady(t)
	for i := range 10 {
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("d%02d", i), "SENT")
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
	}
	w.settle(b.cat)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("e%02d", i), "SENT")
		w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("d%02d", i), "SENT")
	}
	w.settle(b.cat)
	if rows := w.rows(b.cat); len(rows) != 30 {
		t.Errorf("%d rows, want 30:\n%s", len(rows), strings.Join(rows, "\n"))
	}
}

func TestTopicMadeAnewStopsItsLanesUntilAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(w.prod)
	if _, err := adm.DeleteTopics(t.Context(), "email-events"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopics(t.Context(), lanes, 1, nil, "email-events"); err != nil {
		t.Fatal(err)
	}
	w.prod = w.client()
	w.event("p1", "c1", "SENT")
	r = w.start(filepath.Join(t.TempDir(), "e"), nil)
	stoppedAt := time.Now()
	for time.Since(stoppedAt) < time.Second {
		if err := r.cat.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(w.rows(r.cat)); n != 1 {
			t.Fatalf("%d rows before the new topic was adopted", n)
		}
	}
	changed, err := catalog.Adopt(t.Context(), w.opts, w.topics, slog.New(slog.DiscardHandler))
	if err != nil || len(changed) != 1 {
		t.Fatalf("adopt: %v, %v", changed, err)
	}
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 2 {
		t.Errorf("rows %v, want one of each incarnation", rows)
	}
}

// counter is the value of a metric without labels.
func (w *world) counter(r *replica, name string) (float64, error) {
	families, err := r.reg.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue(), nil
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// remake deletes a topic and makes it anew.
func (w *world) remake(topic string, partitions int32) {
	w.t.Helper()
	adm := kadm.NewClient(w.prod)
	if _, err := adm.DeleteTopics(w.t.Context(), topic); err != nil {
		w.t.Fatal(err)
	}
	if _, err := adm.CreateTopics(w.t.Context(), partitions, 1, nil, topic); err != nil {
		w.t.Fatal(err)
	}
	w.prod = w.client(kgo.DisableIdempotentWrite())
}

func (w *world) adopt() {
	w.t.Helper()
	if changed, err := catalog.Adopt(w.t.Context(), w.opts, w.topics, slog.New(slog.DiscardHandler)); err != nil || len(changed) != 1 {
		w.t.Fatalf("adopt: %v, %v", changed, err)
	}
}

// The same with a replica that runs all the while: its clients hold the old
// topic.
func TestTopicMadeAnewUnderARunningReplica(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"email-events", "profiles"} {
		t.Run(topic, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.FlushInterval, c.SessionTimeout = 2*time.Second, 30*time.Second }) // with its heartbeat it hears of the other
			w.produce("profiles", "p1", profileOf("old"))
			w.tick()
			w.event("p1", "c1", "SENT")
			// Processed and, unless the lane's end cuts it, not committed.
			p := partitionOfKey("p1")
			r.awaitLag(t, "the event is not processed", func(lag map[string]float64) bool {
				kept, err := w.counter(r, "lockstitch_events_kept_total")
				return err == nil && kept >= 1 && lag[fmt.Sprintf("processing_lag_records profiles/%d", p)] == 0
			})
			before, err := kafka.Describe(t.Context(), w.prod, w.topics.Inputs()...)
			if err != nil {
				t.Fatal(err)
			}
			w.remake(topic, lanes)
			if topic == "profiles" {
				w.produce("profiles", "p1", profileOf("new"))
				w.tick()
			}
			w.event("p1", "c2", "SENT")
			r.awaitStopped(t)
			// Stuck at the start of the new topic, whatever was read of the old one.
			r.awaitLag(t, "a stopped lane has no lag", shows(map[string]float64{
				fmt.Sprintf("processing_lag_records %s/%d", topic, p): 1,
				fmt.Sprintf("durable_lag_records %s/%d", topic, p):    1,
			}))
			if rows := w.rows(r.cat); len(rows) != 1 {
				t.Errorf("rows %v before the new topic was adopted", rows)
			}
			w.adopt()
			w.settle(r.cat)
			want := "c1 SENT old\nc2 SENT old"
			if topic == "profiles" {
				want = "c1 SENT old\nc2 SENT new"
			}
			if got := strings.Join(w.rows(r.cat), "\n"); got != want {
				t.Errorf("rows:\n%s\nwant:\n%s", got, want)
			}
			// What a broker tells that has not heard of it stops no lane.
			told := make(chan string, 1)
			r.c.mail.post(func(context.Context) error { told <- r.c.anew(before); return nil })
			if topic := <-told; topic != "" {
				t.Errorf("by an answer of before it was adopted %s was made anew", topic)
			}
			if err := r.c.adopted(before, before); err == nil || errors.As(err, new(*stoppedError)) {
				t.Errorf("a takeover that such a broker answers: %v, want one that is tried again", err)
			}
			// The group goes on with the new topic.
			b := w.start(filepath.Join(t.TempDir(), "b"), nil)
			b.awaitReady(t)
			for i := range 10 {
				w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("d%d", i), "SENT")
			}
			w.settle(b.cat)
			if rows := w.rows(b.cat); len(rows) != 12 {
				t.Errorf("%d rows with two replicas, want 12", len(rows))
			}
		})
	}
}

// TestMalformedProfilesAreDeadLetteredOnceOverRestarts: local state may be ahead
// of the position record; what was malformed in between must not be skipped.
func TestMalformedProfilesAreDeadLetteredOnceOverRestarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flaky := &flakyStore{Store: w.store}
	w.store = flaky
	dir := filepath.Join(t.TempDir(), "d")
	r := w.start(dir, nil)
	r.awaitReady(t)
	w.produce("profiles", "p1", "[]")
	w.event("p1", "c0", "SENT")
	w.settle(r.cat)
	flaky.fail(true)
	w.event("p1", "c1", "SENT") // makes every cut fail: an object is to be stored
	w.produce("profiles", "p1", "{broken")
	w.produce("profiles", "p1", profileOf("v"))
	for flaky.failures() < 3 {
		if err := r.cat.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m, ok, err := r.c.db.Lane(0).ProfileMarker()
	if err != nil {
		t.Fatal(err)
	}
	m1, ok1, err := r.c.db.Lane(1).ProfileMarker()
	if err != nil || !ok && !ok1 || m.Next+m1.Next != 3 {
		t.Fatalf("the profiles are read to %d and %d, want 3 in all: %v", m.Next, m1.Next, err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	flaky.fail(false)
	r = w.start(dir, nil)
	w.settle(r.cat)
	dead := w.client(kgo.ConsumeTopics(w.topics.DeadLetters), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	var got []string
	for len(got) < 2 {
		for _, rec := range dead.PollFetches(t.Context()).Records() {
			got = append(got, string(rec.Value))
		}
	}
	sort.Strings(got)
	if strings.Join(got, " ") != "[] {broken" {
		t.Errorf("dead letters %q", got)
	}
}
