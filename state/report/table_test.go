package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"lockstitch/state/kafka"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "lockstitch.reports"

func cluster(t *testing.T) []kgo.Opt {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
}

func open(t *testing.T, opts []kgo.Opt) *Table {
	t.Helper()
	tb, err := Open(t.Context(), Config{Opts: opts, Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tb.Close)
	return tb
}

func request(account string) *Request {
	return &Request{
		ID: ulid.Make().String(), Account: account, CreatedAt: time.Now().UTC(), Body: []byte(`{}`),
		Question:        Question{StartAt: 5, Barrier: []End{{Topic: "email-events", Offset: 7}}},
		BarrierDeadline: time.Now().Add(time.Minute),
	}
}

func submit(t *testing.T, tb *Table, q *Request, max int) *Report {
	t.Helper()
	r, err := tb.Submit(t.Context(), q, max)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func result(object string) Result {
	now := time.Now().UTC()
	return Result{Attempt: ulid.Make().String(), At: now, Object: object, Rows: 3, Expires: now.Add(time.Hour)}
}

func mustStatus(t *testing.T, tb *Table, q *Request, want Status) *Report {
	t.Helper()
	if err := tb.CatchUp(t.Context(), q.Account); err != nil {
		t.Fatal(err)
	}
	r, ok := tb.Get(q.Account, q.ID)
	if !ok {
		t.Fatalf("report %s is unknown", q.ID)
	}
	if got := r.Status(time.Now()); got != want {
		t.Fatalf("status %s, want %s", got, want)
	}
	return r
}

func TestLifeOfAReport(t *testing.T) {
	opts := cluster(t)
	a, b := open(t, opts), open(t, opts)
	q := request("acme")
	if r := submit(t, a, q, 10); r.Request.ID != q.ID {
		t.Fatalf("Submit returned %s", r.Request.ID)
	}
	r := mustStatus(t, b, q, StatusRequested)
	if r.Request.Question.StartAt != 5 || r.Request.Question.Barrier[0].Offset != 7 {
		t.Errorf("question came back as %+v", r.Request.Question)
	}
	if _, ok := b.Get("other", q.ID); ok {
		t.Error("another account sees the report")
	}
	if p := b.Pending(); len(p) != 1 || p[0].Request.ID != q.ID {
		t.Errorf("pending: %v", p)
	}
	if err := a.WriteProgress(t.Context(), "acme", q.ID, Progress{SegmentsTotal: 4}); err != nil {
		t.Fatal(err)
	}
	if r := mustStatus(t, b, q, StatusProcessing); r.Progress.SegmentsTotal != 4 {
		t.Errorf("progress %+v", r.Progress)
	}
	won, err := a.WriteResult(t.Context(), "acme", q.ID, result("exports/acme/x"))
	if err != nil || !won {
		t.Fatalf("WriteResult: %v %v", won, err)
	}
	if r := mustStatus(t, b, q, StatusCompleted); r.Result.Object != "exports/acme/x" {
		t.Errorf("result %+v", r.Result)
	}
	if p := b.Pending(); len(p) != 0 {
		t.Errorf("still pending: %v", p)
	}
	if err := b.Cancel(t.Context(), "acme", q.ID); err != nil {
		t.Fatal(err)
	}
	if r := mustStatus(t, a, q, StatusExpired); !r.HasFiles(time.Now()) {
		t.Error("the file counts as gone")
	}
	if err := b.WriteExpired(t.Context(), "acme", q.ID); err != nil {
		t.Fatal(err)
	}
	if r := mustStatus(t, a, q, StatusExpired); r.HasFiles(time.Now()) {
		t.Error("the file does not count as gone")
	}
	if err := b.Cancel(t.Context(), "other", q.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("Cancel of another account: %v", err)
	}
}

func TestTwoTablesRaceForTheLimit(t *testing.T) {
	opts := cluster(t)
	tables := []*Table{open(t, opts), open(t, opts)}
	const limit, tries = 5, 20
	errs := make([]error, tries)
	var wg sync.WaitGroup
	for i := range tries {
		wg.Go(func() { _, errs[i] = tables[i%2].Submit(t.Context(), request("acme"), limit) })
	}
	wg.Wait()
	accepted := 0
	for _, err := range errs {
		if err == nil {
			accepted++
		} else if !errors.Is(err, ErrTooManyPending) {
			t.Error(err)
		}
	}
	if accepted != limit {
		t.Errorf("%d accepted, the limit is %d", accepted, limit)
	}
	for i, tb := range append(tables, open(t, opts)) {
		if err := tb.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(tb.Pending()); n != limit {
			t.Errorf("table %d: %d pending", i, n)
		}
	}
	// Another account is not concerned, and a result makes room.
	submit(t, tables[0], request("other"), 1)
	p := tables[0].Pending()[0]
	if _, err := tables[0].WriteResult(t.Context(), p.Request.Account, p.Request.ID, result("x")); err != nil {
		t.Fatal(err)
	}
	submit(t, tables[1], request("acme"), limit)
}

func TestTwoTablesRaceForAnIdempotencyKey(t *testing.T) {
	opts := cluster(t)
	tables := []*Table{open(t, opts), open(t, opts)}
	const tries = 16
	ids := make([]string, tries)
	var wg sync.WaitGroup
	for i := range tries {
		wg.Go(func() {
			q := request("acme")
			q.IdempotencyKey, q.BodyHash = "k", "h"
			r, err := tables[i%2].Submit(t.Context(), q, 1)
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = r.Request.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("one key, several reports: %q", ids)
		}
	}
	q := request("acme")
	q.IdempotencyKey, q.BodyHash = "k", "other"
	if _, err := tables[0].Submit(t.Context(), q, 0); !errors.Is(err, ErrIdempotencyClash) {
		t.Errorf("other body: %v", err)
	}
	q.ID, q.Account = ulid.Make().String(), "beta"
	if r := submit(t, tables[0], q, 0); r.Request.ID != q.ID {
		t.Error("the key of another account counts")
	}
	q = request("acme")
	q.IdempotencyKey, q.BodyHash, q.CreatedAt = "k", "other", time.Now().Add(IdempotencyTime+time.Minute)
	if r := submit(t, tables[0], q, 0); r.Request.ID != q.ID {
		t.Error("the key counts after 24 h")
	}
	items, _, err := tables[0].List("acme", 50, "")
	if err != nil || len(items) != 2 {
		t.Errorf("List shows %d reports, %v; want 2", len(items), err)
	}
}

// raw produces one record as another, perhaps broken, replica would.
func raw(t *testing.T, tb *Table, account, key string, v any) {
	t.Helper()
	var data []byte
	switch v := v.(type) {
	case nil:
	case string:
		data = []byte(v)
	default:
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	p := tb.partition(account)
	next, err := tb.produce(t.Context(), p, &kgo.Record{Key: []byte(key), Value: data})
	if err != nil {
		t.Fatal(err)
	}
	if err := tb.tail.WaitFor(t.Context(), p, next); err != nil {
		t.Fatal(err)
	}
}

func TestWithdrawnRequestsAreInvisibleUnlessAnswered(t *testing.T) {
	tb := open(t, cluster(t))
	withdrawn := &Cancel{Version: Version, Withdrawn: true}

	q := request("acme")
	q.IdempotencyKey = "one"
	submit(t, tb, q, 1)
	raw(t, tb, "acme", KeyCancel+q.ID+"/1", withdrawn)
	if _, ok := tb.Get("acme", q.ID); ok || len(tb.Pending()) != 0 {
		t.Error("a withdrawn request is visible")
	}
	again := request("acme")
	again.IdempotencyKey = "one"
	if r := submit(t, tb, again, 1); r.Request.ID != again.ID {
		t.Error("a withdrawn request answers for its key")
	}
	repeat := request("acme")
	repeat.IdempotencyKey = "one"
	if r := submit(t, tb, repeat, 1); r.Request.ID != again.ID {
		t.Error("the repeat made a report of its own")
	}
	raw(t, tb, "acme", KeyCancel+again.ID+"/1", withdrawn)
	if _, ok := tb.Get("acme", again.ID); !ok {
		t.Error("a report that a repeat was answered with has disappeared")
	}
}

// Whoever gave up a request may have been answered by its effect alone: the
// report was run, and nobody knows of its file.
func TestTheFileOfAWithdrawnRequestGoes(t *testing.T) {
	tb := open(t, cluster(t))
	q := request("acme")
	submit(t, tb, q, 1)
	if won, err := tb.WriteResult(t.Context(), "acme", q.ID, result("exports/x")); err != nil || !won {
		t.Fatal(won, err)
	}
	raw(t, tb, "acme", KeyCancel+q.ID+"/1", &Cancel{Version: Version, Withdrawn: true})
	if due, _ := tb.HavingFiles(time.Now()); len(due) != 1 || due[0].Request.ID != q.ID {
		t.Fatalf("%d reports with files to remove", len(due))
	}
	if err := tb.WriteExpired(t.Context(), "acme", q.ID); err != nil {
		t.Fatal(err)
	}
	if due, _ := tb.HavingFiles(time.Now()); len(due) != 0 {
		t.Error("the file is removed again and again")
	}
}

// A replica whose clock is ahead takes a file for expired that others still give
// away: a deletion that it acknowledges holds for them too.
func TestADeletionIsWrittenWhateverTheClockShows(t *testing.T) {
	tb := open(t, cluster(t))
	q := request("acme")
	submit(t, tb, q, 0)
	over := result("x")
	over.Expires = over.At.Add(-time.Hour)
	if won, err := tb.WriteResult(t.Context(), "acme", q.ID, over); !won || err != nil {
		t.Fatal(won, err)
	}
	mustStatus(t, tb, q, StatusExpired)
	if err := tb.Cancel(t.Context(), "acme", q.ID); err != nil {
		t.Fatal(err)
	}
	if r := mustStatus(t, tb, q, StatusExpired); r.Status(over.Expires.Add(-time.Hour)) != StatusExpired {
		t.Error("by another clock the file is still there")
	}
}

func TestUnknownOutcomeIsWithdrawn(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	tb := open(t, []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)})
	// A transaction stands open in front of the request, so that it is stored
	// but cannot be read back. Submit first catches up; for that one look the
	// broker says that the topic is empty.
	p, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("open"), kgo.DefaultProduceTopic(topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := p.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := p.ProduceSync(t.Context(), kafka.Stamp(&kgo.Record{Key: []byte("g/x"), Value: fmt.Appendf(nil, `{"v":%d}`, Version)})).FirstErr(); err != nil {
		t.Fatal(err)
	}
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = topic
		rp := kmsg.NewListOffsetsResponseTopicPartition()
		rp.Offset = 0
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
	q := request("acme")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { // once
		time.AfterFunc(2*time.Second, cancel)
		return nil, nil, false
	})
	if r, err := tb.Submit(ctx, q, 1); err == nil {
		t.Fatalf("Submit returned %v", r.Request.ID)
	}
	tb.background.Wait()
	if end, err := kafka.Ends(t.Context(), tb.producer, topic); err != nil || end[topic][0].End != 3 {
		t.Fatalf("the topic does not hold the open record, the request and its withdrawal: %v %v", end, err)
	}
	if err := p.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	if err := tb.CatchUp(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	if _, ok := tb.Get("acme", q.ID); ok {
		t.Error("a request that was answered with an error is visible")
	}
	submit(t, tb, request("acme"), 1)
}

func TestCancelAndResultAreOrderedByOffset(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)

	first := request("acme")
	submit(t, tb, first, 0)
	if err := tb.Cancel(t.Context(), "acme", first.ID); err != nil {
		t.Fatal(err)
	}
	won, err := tb.WriteResult(t.Context(), "acme", first.ID, result("a"))
	if err != nil || won {
		t.Errorf("a result after the cancel: won %v, %v", won, err)
	}
	// A zombie that does not know of the cancel writes its result all the same.
	late := result("b")
	late.Version = Version
	raw(t, tb, "acme", KeyResult+first.ID+"/zombie", &late)
	// The cancel is repeated: it must not move behind the result when the topic
	// is compacted.
	raw(t, tb, "acme", KeyCancel+first.ID+"/again", &Cancel{Version: Version})
	mustStatus(t, tb, first, StatusCancelled)

	second := request("acme")
	submit(t, tb, second, 0)
	mine := result("mine")
	if won, err := tb.WriteResult(t.Context(), "acme", second.ID, mine); err != nil || !won {
		t.Fatalf("WriteResult: %v %v", won, err)
	}
	if won, err := tb.WriteResult(t.Context(), "acme", second.ID, mine); err != nil || !won {
		t.Errorf("the same result again: %v %v", won, err)
	}
	if won, err := tb.WriteResult(t.Context(), "acme", second.ID, result("other")); err != nil || won {
		t.Errorf("another attempt's result: %v %v", won, err)
	}
	raw(t, tb, "acme", KeyResult+second.ID+"/zombie", &late)
	if r := mustStatus(t, tb, second, StatusCompleted); r.Result.Object != "mine" {
		t.Errorf("the result that counts is %s", r.Result.Object)
	}
	fresh := open(t, opts)
	mustStatus(t, fresh, first, StatusCancelled)
	if r := mustStatus(t, fresh, second, StatusCompleted); r.Result.Object != "mine" {
		t.Errorf("a fresh view takes %s", r.Result.Object)
	}
}

func TestNoTwoRecordsShareAKeyWhoseOrderCounts(t *testing.T) {
	opts := cluster(t)
	a, b := open(t, opts), open(t, opts)
	q := request("acme")
	submit(t, a, q, 0)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			tb := []*Table{a, b}[i%2]
			if _, err := tb.WriteResult(t.Context(), "acme", q.ID, result("x")); err != nil {
				t.Error(err)
			}
			if err := tb.Cancel(t.Context(), "acme", q.ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	cl, err := kgo.NewClient(append(opts, kgo.ConsumeTopics(topic))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	seen := make(map[string]bool)
	want := a.tail.Position(a.partition("acme"))
	for int64(len(seen)) < want {
		fs := cl.PollFetches(t.Context())
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if seen[string(r.Key)] {
				t.Errorf("key %s was written twice: compaction would change the order", r.Key)
				want--
			}
			seen[string(r.Key)] = true
		})
	}
}

func TestListPages(t *testing.T) {
	tb := open(t, cluster(t))
	var ids []string
	for range 7 {
		q := request("acme")
		submit(t, tb, q, 0)
		ids = append([]string{q.ID}, ids...)
	}
	var got []string
	token := ""
	for pages := 0; ; pages++ {
		items, next, err := tb.List("acme", 3, token)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range items {
			got = append(got, r.Request.ID)
		}
		if next == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		token = next
	}
	if fmt.Sprint(got) != fmt.Sprint(ids) {
		t.Errorf("listed %v\nwant   %v", got, ids)
	}
	for _, bad := range []string{"x", "!!", "cg", "ci0x", strings.Repeat("A", 1000)} {
		if _, _, err := tb.List("acme", 3, bad); !errors.Is(err, ErrBadPageToken) {
			t.Errorf("token %.10q: %v", bad, err)
		}
	}
	if items, next, err := tb.List("nobody", 3, ""); len(items) != 0 || next != "" || err != nil {
		t.Errorf("List of an unknown account: %v %q %v", items, next, err)
	}
}

func TestWhatIsThereAlreadyIsIgnored(t *testing.T) {
	opts := cluster(t)
	reg := prometheus.NewRegistry()
	tb, err := Open(t.Context(), Config{Opts: opts, Topic: topic, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tb.Close)
	q := request("acme")
	submit(t, tb, q, 0)
	o := create(t, tb, newOrder("acme", "x"))
	raw(t, tb, "acme", KeyRequest+q.ID, &Request{Version: Version, ID: q.ID, Account: "acme"})
	raw(t, tb, "acme", KeyOrder+o.Order.ID, &Order{Version: Version, ID: o.Order.ID, Account: "acme", Name: "y", Settings: settings(time.Hour)})
	if now, ok := tb.Order(o.Order.ID); !ok || now.Order.Name != "x" {
		t.Errorf("%+v", now)
	}
	mustStatus(t, tb, q, StatusRequested)
	want := `
# HELP lockstitch_report_records_ignored_total Records of the reports topic that were ignored: the request or standing order was there already.
# TYPE lockstitch_report_records_ignored_total counter
lockstitch_report_records_ignored_total 2
# HELP lockstitch_reports Reports known to this replica, by status.
# TYPE lockstitch_reports gauge
lockstitch_reports{status="cancelled"} 0
lockstitch_reports{status="completed"} 0
lockstitch_reports{status="error"} 0
lockstitch_reports{status="expired"} 0
lockstitch_reports{status="processing"} 0
lockstitch_reports{status="requested"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "lockstitch_report_records_ignored_total", "lockstitch_reports"); err != nil {
		t.Error(err)
	}
}

// How long the oldest report has been without a result is known to every replica,
// whoever is to run it.
func TestOldestPending(t *testing.T) {
	t.Parallel()
	v, offset := newView(), int64(0)
	apply := func(key string, value any) {
		t.Helper()
		offset++
		if err := v.apply(stamped(t, offset, key, value)); err != nil {
			t.Fatal(err)
		}
	}
	reg := prometheus.NewRegistry()
	newMetrics(reg, v)
	told := func() (age time.Duration, ok bool) {
		t.Helper()
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.GetName() == "lockstitch_reports_oldest_pending_seconds" {
				return time.Duration(m.GetMetric()[0].GetGauge().GetValue() * float64(time.Second)), true
			}
		}
		return 0, false
	}
	age := func() time.Duration {
		t.Helper()
		v.caughtUp = time.Now()
		age, ok := told()
		if !ok {
			t.Fatal("there is no such metric")
		}
		return age
	}
	if got, ok := told(); ok {
		t.Errorf("a table that was not read tells %s", got)
	}
	if got := age(); got != 0 {
		t.Errorf("without reports %s", got)
	}
	begin := time.Now()
	old, young, ahead := request("a"), request("b"), request("c")
	old.CreatedAt, young.CreatedAt, ahead.CreatedAt = begin.Add(-2*time.Hour), begin.Add(-time.Hour), begin.Add(100*time.Hour)
	for _, q := range []*Request{ahead, young, old} {
		q.Version = Version
		apply(KeyRequest+q.ID, q)
	}
	between := func(least time.Duration) {
		t.Helper()
		if got, most := age(), least+time.Since(begin); got < least || got > most {
			t.Errorf("%s, want %s to %s", got, least, most)
		}
	}
	between(2 * time.Hour)
	apply(KeyCancel+old.ID+"/1", &Cancel{Version: Version})
	between(time.Hour)
	apply(KeyResult+young.ID+"/1", &Result{Version: Version, Attempt: "1", Object: "o"})
	if got := age(); got != 0 {
		t.Errorf("with one of the future %s", got)
	}
	v.caughtUp = time.Now().Add(-currentFor)
	if got, ok := told(); ok {
		t.Errorf("a table that stands still tells %s", got)
	}
}
