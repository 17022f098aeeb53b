package consumer

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// testClock is the time as the lag knows it; it stands until it is moved.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// stopClock makes the replica's lag go by a clock that stands.
func (r *replica) stopClock() *testClock {
	clock := &testClock{t: time.Now().Truncate(time.Millisecond)}
	r.c.lag.mu.Lock()
	defer r.c.lag.mu.Unlock()
	r.c.lag.now = clock.now
	return clock
}

// lag is what a scrape shows: "processing_lag_records email-events/0" and so on.
func (r *replica) lag(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]float64)
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "lockstitch_")
		if !strings.Contains(name, "_lag_") {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make(map[string]string)
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			out[fmt.Sprintf("%s %s/%s", name, labels["topic"], labels["partition"])] = m.GetGauge().GetValue()
		}
	}
	return out
}

// awaitLag scrapes until ok.
func (r *replica) awaitLag(t *testing.T, what string, ok func(map[string]float64) bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		lag := r.lag(t)
		if ok(lag) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s; the lag is %v", what, lag)
		}
		time.Sleep(time.Millisecond)
	}
}

// shows compares some series.
func shows(want map[string]float64) func(map[string]float64) bool {
	return func(lag map[string]float64) bool {
		for k, v := range want {
			if got, ok := lag[k]; !ok || got != v {
				return false
			}
		}
		return true
	}
}

// allZero wants every series of every partition of the topics.
func allZero(topics ...string) func(map[string]float64) bool {
	want := make(map[string]float64)
	for _, topic := range topics {
		for p := range lanes {
			for _, name := range []string{"processing_lag_records", "processing_lag_seconds", "durable_lag_records", "durable_lag_seconds"} {
				want[fmt.Sprintf("%s %s/%d", name, topic, p)] = 0
			}
		}
	}
	return shows(want)
}

// partitionOfKey is where the default partitioner puts a key.
func partitionOfKey(key string) int32 { return router(lanes)([]byte(key)) }

// produceAt produces a record with a Kafka time of its own.
func (w *world) produceAt(at time.Time, topic, key, value string) {
	w.t.Helper()
	if err := w.prod.ProduceSync(w.t.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value), Timestamp: at}).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// openTransaction leaves one record in an open transaction; the returned
// function ends it.
func (w *world) openTransaction(topic, key, value string) (end func(kgo.TransactionEndTry)) {
	w.t.Helper()
	p := w.client(kgo.TransactionalID("upstream "+topic), kgo.TransactionTimeout(10*time.Minute))
	if err := p.BeginTransaction(); err != nil {
		w.t.Fatal(err)
	}
	if err := p.ProduceSync(w.t.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
	return func(how kgo.TransactionEndTry) {
		w.t.Helper()
		if err := p.EndTransaction(w.t.Context(), how); err != nil {
			w.t.Fatal(err)
		}
	}
}

const lagEvent = `{"correlation_id":"c1","type":"SENT","account_id":"acme","section":"s1"}`

func TestLagIsZeroWhenNothingIsToBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	r.awaitLag(t, "an empty topic has lag", allZero("email-events", "profiles"))
	// The last offsets are those of transaction markers and aborted records.
	w.openTransaction("email-events", "p1", lagEvent)(kgo.TryCommit)
	w.openTransaction("email-events", "p1", lagEvent)(kgo.TryAbort)
	w.openTransaction("profiles", "p1", profileOf("v"))(kgo.TryAbort)
	w.settle(r.cat)
	r.awaitLag(t, "an idle topic has lag", allZero("email-events", "profiles"))
}

func TestLagRisesWhileProfilesAreMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	r.awaitReady(t)
	clock := r.stopClock()
	r.awaitLag(t, "an empty topic has lag", allZero("email-events", "profiles"))
	born, p := clock.now(), partitionOfKey("p1")
	end := w.openTransaction("profiles", "p1", profileOf("v"))
	w.produceAt(born.Add(-90*time.Second), "email-events", "p1", lagEvent)
	for _, passed := range []time.Duration{0, 2 * time.Hour, time.Minute} {
		clock.move(passed)
		stuck := clock.now().Sub(born).Seconds()
		r.awaitLag(t, "the stuck lane's lag does not tick", shows(map[string]float64{
			// The event was fetched: its age. The profile cannot be: since its
			// end was seen.
			fmt.Sprintf("processing_lag_records email-events/%d", p): 1,
			fmt.Sprintf("processing_lag_seconds email-events/%d", p): stuck + 90,
			fmt.Sprintf("durable_lag_records email-events/%d", p):    1,
			fmt.Sprintf("durable_lag_seconds email-events/%d", p):    stuck + 90,
			fmt.Sprintf("processing_lag_records profiles/%d", p):     1,
			fmt.Sprintf("processing_lag_seconds profiles/%d", p):     stuck,
			fmt.Sprintf("durable_lag_seconds profiles/%d", p):        stuck,
		}))
	}
	end(kgo.TryCommit)
	w.settle(r.cat)
	r.awaitLag(t, "lag stays when all is committed", allZero("email-events", "profiles"))
}

func TestDurableLagRisesWhileNothingCanBeStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flaky := &flakyStore{Store: w.store}
	w.store = flaky
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	r.awaitReady(t)
	r.awaitLag(t, "an empty topic has lag", allZero("email-events", "profiles"))
	flaky.fail(true)
	clock := r.stopClock()
	born, p := clock.now(), partitionOfKey("p1")
	w.produceAt(born.Add(-90*time.Second), "email-events", "p1", lagEvent)
	w.produceAt(born.Add(-30*time.Second), "email-events", "p1", strings.Replace(lagEvent, "c1", "c2", 1))
	r.awaitLag(t, "the events are not processed", shows(map[string]float64{
		fmt.Sprintf("processing_lag_records email-events/%d", p): 0,
		fmt.Sprintf("durable_lag_records email-events/%d", p):    2,
	}))
	w.produceAt(born.Add(-10*time.Second), "profiles", "p1", profileOf("v"))
	for _, passed := range []time.Duration{0, 2 * time.Hour, time.Minute} {
		clock.move(passed)
		stuck := clock.now().Sub(born).Seconds()
		r.awaitLag(t, "the durable lag does not tick", shows(map[string]float64{
			fmt.Sprintf("processing_lag_records email-events/%d", p): 0,
			fmt.Sprintf("processing_lag_seconds email-events/%d", p): 0,
			fmt.Sprintf("durable_lag_records email-events/%d", p):    2,
			fmt.Sprintf("durable_lag_seconds email-events/%d", p):    stuck + 90,
			fmt.Sprintf("processing_lag_records profiles/%d", p):     0,
			fmt.Sprintf("durable_lag_records profiles/%d", p):        1,
			fmt.Sprintf("durable_lag_seconds profiles/%d", p):        stuck + 10,
		}))
	}
	flaky.fail(false)
	w.settle(r.cat)
	r.awaitLag(t, "lag stays when all is committed", allZero("email-events", "profiles"))
}

func TestLagIsAbsentWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	line := w.cable()
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) {
		line.connect(c)
	})
	r.awaitReady(t)
	clock := r.stopClock()
	r.awaitLag(t, "an empty topic has lag", allZero("email-events", "profiles"))
	line.sever()
	r.awaitLag(t, "lag is shown without a broker", func(lag map[string]float64) bool {
		clock.move(endsStale + time.Second) // an answer may have been on its way
		return len(r.lag(t)) == 0
	})
	line.mend()
	r.awaitLag(t, "lag does not come back", allZero("email-events", "profiles"))
}

// A partition that cannot be asked takes away its own series only.
func TestLagOfOneTopicOutlivesAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.topics.Events = append(w.topics.Events, "more-events")
	if _, err := kafka.Create(t.Context(), w.prod, w.topics, kafka.CreateOptions{Partitions: lanes, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	clock := r.stopClock()
	r.awaitLag(t, "an empty topic has lag", allZero("email-events", "more-events", "profiles"))
	if _, err := kadm.NewClient(w.prod).DeleteTopics(t.Context(), "more-events"); err != nil {
		t.Fatal(err)
	}
	still := allZero("email-events", "profiles")
	r.awaitLag(t, "a deleted topic has lag, or takes away another's", func(lag map[string]float64) bool {
		clock.move(time.Second)
		for k := range lag {
			if strings.Contains(k, "more-events") {
				return false
			}
		}
		return still(lag)
	})
}

func TestLagGoesWithItsLane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start(filepath.Join(t.TempDir(), "a"), nil)
	a.awaitLag(t, "one replica shows all lanes", allZero("email-events", "profiles"))
	b := w.start(filepath.Join(t.TempDir(), "b"), nil)
	b.awaitReady(t)
	of := func(lag map[string]float64, topic string) string {
		var out []string
		for p := range lanes {
			if _, ok := lag[fmt.Sprintf("durable_lag_records %s/%d", topic, p)]; ok {
				out = append(out, fmt.Sprint(p))
			}
		}
		return strings.Join(out, " ")
	}
	b.awaitLag(t, "a lane's lag is not shown by its new owner only", func(theirs map[string]float64) bool {
		ours := a.lag(t)
		for _, topic := range []string{"email-events", "profiles"} {
			x, y := of(ours, topic), of(theirs, topic)
			if x+y != "01" && x+y != "10" || len(x) != 1 {
				return false
			}
		}
		return true
	})
}
