package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
)

var quietLog = slog.New(slog.DiscardHandler)

// versionsOn reads the versions of a profile on a disk that no replica uses.
func (w *world) versionsOn(dir, profile string) []local.Version {
	w.t.Helper()
	cluster, err := clusterID(w.t.Context(), w.prod)
	if err != nil {
		w.t.Fatal(err)
	}
	db, err := local.Open(dir, cluster, "lockstitch", local.Options{Log: quietLog})
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	versions, _, err := db.Lane(partitionOfKey(profile)).Versions([]byte(profile), math.MaxInt, math.MaxInt64)
	if err != nil {
		w.t.Fatal(err)
	}
	return versions
}

// await runs the condition in the turn loop until it holds.
func (r *replica) await(t *testing.T, what string, ok func(c *Consumer) bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		got := make(chan bool, 1)
		r.c.mail.post(func(context.Context) error {
			got <- ok(r.c)
			return nil
		})
		if <-got {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal(what)
}

// While the profiles are read anew, cuts of the lane must not move their
// position back: what was dead-lettered once would be again.
func TestProfilesReadAnewAreNotDeadLetteredAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	often := func(c *Config) { c.FlushInterval = time.Nanosecond }
	r := w.start(filepath.Join(t.TempDir(), "a"), often)
	var records []*kgo.Record
	for range pollRecords + 1 { // more than one turn reads
		records = append(records, &kgo.Record{Topic: "profiles", Key: []byte("p1"), Value: []byte(profileOf("v"))})
	}
	if err := w.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.produce("profiles", "p1", "[]")
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	w.produce("profiles", "p1", profileOf("w"))
	w.event("p1", "c1", "SENT")
	r = w.start(filepath.Join(t.TempDir(), "b"), often)
	w.settle(r.cat)
	if dead := w.deadLetters(); len(dead) != 1 {
		t.Errorf("%d dead letters for one malformed profile", len(dead))
	}
	if got := w.rows(r.cat); len(got) != 1 || got[0] != "c1 SENT w" {
		t.Errorf("rows %v", got)
	}
}

// A transaction that hangs on the profiles of one lane fills no memory and holds
// up no other lane.
func TestEventsThatWaitForProfilesAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.MemoryBytes = 8 << 20 })
	r.await(t, "the lanes are not ready", func(c *Consumer) bool {
		return len(c.lanes) == lanes && c.lanes[0].stage == ready && c.lanes[1].stage == ready
	})
	end := w.openTransaction("profiles", "p1", profileOf("v"))
	p := partitionOfKey("p1")
	const events, size = 600, 10_000 // four times what all buffers may hold
	var records []*kgo.Record
	for i := range events {
		records = append(records, &kgo.Record{Topic: "email-events", Key: []byte("p1"),
			Value: fmt.Appendf(nil, `{"correlation_id":"c%03d","type":"SENT","account_id":"acme","section":"s1","subject":%q}`, i, strings.Repeat("x", size))})
	}
	if err := w.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	r.await(t, "fetching goes on", func(c *Consumer) bool { return c.lanes[p].paused })
	other := "p2"
	for i := 3; partitionOfKey(other) == p; i++ {
		other = fmt.Sprint("p", i)
	}
	w.event(other, "other", "SENT")
	r.await(t, "the other lane waits too", func(c *Consumer) bool { return c.lanes[1-p].inputs[0].committed.Next == 1 })
	r.await(t, "more is held than the limit and one fetch", func(c *Consumer) bool {
		// A fetch ends behind the batch with which it has 1 MiB, and a batch has as much at the most.
		return c.lanes[p].waitBytes > c.waitLimit() && c.lanes[p].waitBytes < c.waitLimit()+2<<20
	})
	end(kgo.TryCommit)
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != events+1 {
		t.Errorf("%d rows, want %d", len(rows), events+1)
	}
}

// The horizon decides where an entry is found: a replica that is given another
// one must not look for the old entries in vain.
func TestDuplicatesAreKnownAfterTheHorizonChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	r := w.start(dir, nil)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = w.start(dir, func(c *Config) { c.DedupHorizon = 5 * 24 * time.Hour })
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 1 {
		t.Errorf("rows %v", rows)
	}
}

// What a replica has pruned for one event topic, the backlog of another may ask
// for: the bytes must be those that an empty disk would give.
func TestANewEventTopicFindsVersionsThatWerePruned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	now := time.Now()
	r := w.start(dir, nil)
	w.produceAt(now.Add(-10*time.Hour), "profiles", "p1", profileOf("v1"))
	w.produceAt(now.Add(-5*time.Hour), "profiles", "p1", profileOf("v2"))
	w.produceAt(now, "email-events", "p1", lagEvent)
	w.settle(r.cat)
	w.produceAt(now, "profiles", "p1", profileOf("v3"))
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if versions := w.versionsOn(dir, "p1"); len(versions) != 2 {
		t.Fatalf("%d versions are on the disk, want the two that were not pruned", len(versions))
	}
	w.topics.Events = append(w.topics.Events, "more-events")
	if _, err := kafka.Create(t.Context(), w.prod, w.topics, kafka.CreateOptions{Partitions: lanes, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	w.produceAt(now.Add(-20*time.Hour), "more-events", "p1", lagEvent)
	r = w.start(dir, nil)
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), "\n"); got != "c1 SENT v1\nc1 SENT v2" {
		t.Errorf("rows:\n%s", got)
	}
}

// TestMisroutedEventsAreCounted: those whose profile_id belongs to another partition. What
// counts of a key is what the producer had: in bytes that are no UTF-8 the id has U+FFFD.
func TestMisroutedEventsAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	here, there := keyIn(0), keyIn(1)
	odd := "\xff" // of another partition than its text
	for partitionOfKey(odd) == partitionOfKey(strings.ToValidUTF8(odd, "\uFFFD")) {
		odd += "x"
	}
	w.produce("email-events", odd, `{"correlation_id":"odd","type":"SENT","account_id":"acme","section":"s1"}`)
	for i, profile := range []string{there, here, ""} {
		value := fmt.Sprintf(`{"correlation_id":"c%d","type":"SENT","account_id":"acme","section":"s1","profile_id":%q}`, i, profile)
		if profile == "" {
			value = strings.Replace(value, `,"profile_id":""`, "", 1)
		}
		w.produce("email-events", here, value)
	}
	w.settle(r.cat)
	r.await(t, "the cut does not end", func(*Consumer) bool { return true })
	if n, err := w.counter(r, "lockstitch_misrouted_total"); n != 1 || err != nil {
		t.Errorf("%v events are misrouted, %v, want 1", n, err)
	}
	if rows := w.rows(r.cat); len(rows) != 4 {
		t.Errorf("rows %v", rows)
	}
}

// TestVersionsAreKeptForClocksThatDiffer: an event whose Kafka time is a little before that
// of the one that was processed last asks for a version that was replaced in between.
func TestVersionsAreKeptForClocksThatDiffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	r := w.start(dir, nil)
	now := time.Now().Truncate(time.Millisecond)
	edge := now.Add(-time.Duration(clockSkew) * time.Millisecond)
	for i, at := range []time.Time{edge.Add(-time.Second), edge.Add(time.Second)} {
		w.produceAt(at, "profiles", "p1", profileOf(fmt.Sprint("v", i)))
	}
	w.produceAt(now, "email-events", "p1", lagEvent)
	w.settle(r.cat)
	w.produceAt(now, "profiles", "p1", profileOf("new")) // prunes what is below the floor
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if versions := w.versionsOn(dir, "p1"); len(versions) != 3 {
		t.Errorf("%d versions are on the disk, want all three: an event of %v may ask for the first", len(versions), edge)
	}
}

// Of a topic that could not be read for long, deletions may be gone: a replica
// that runs all the while must not go on with what it has.
func TestStaleProfilesAreReadAnewWhileRunning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.ProfileStale = time.Second })
	w.produce("profiles", "p1", profileOf("v"))
	w.settle(r.cat)
	p := partitionOfKey("p1")
	var stuck, other *lane
	r.await(t, "the lanes are not ready", func(c *Consumer) bool {
		stuck, other = c.lanes[p], c.lanes[1-p]
		return stuck != nil && other != nil && stuck.stage == ready && other.stage == ready
	})
	end := w.openTransaction("profiles", "p1", profileOf("w"))
	r.await(t, "the profiles are not read anew", func(c *Consumer) bool { return c.lanes[p] != stuck })
	r.await(t, "profiles that are current are read anew", func(c *Consumer) bool { return c.lanes[1-p] == other })
	end(kgo.TryCommit)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	if got := w.rows(r.cat); len(got) != 1 || got[0] != "c1 SENT w" {
		t.Errorf("rows %v", got)
	}
}

func TestLateVersionsAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.produce("profiles", "p1", profileOf("v"))
	w.tick()
	w.produceAt(time.Now().Add(time.Hour), "email-events", "p1", lagEvent)
	w.settle(r.cat)
	if n, err := w.counter(r, "lockstitch_profile_versions_late_total"); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	w.produce("profiles", "p1", profileOf("w"))
	w.settle(r.cat)
	r.awaitLag(t, "the late version is not counted", func(map[string]float64) bool {
		n, err := w.counter(r, "lockstitch_profile_versions_late_total")
		return err == nil && n == 1
	})
}

// Events that retention took before they were read stop their lane until
// somebody says that they are given up; nothing is skipped in silence.
func TestEventsLostByTheLogAreGivenUpOnRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	r := w.start(dir, nil)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	w.event("p1", "c2", "SENT")
	w.event("p1", "c3", "SENT")
	p := partitionOfKey("p1")
	gone := make(kadm.Offsets)
	gone.AddOffset("email-events", p, 2, -1)
	if res, err := kadm.NewClient(w.prod).DeleteRecords(t.Context(), gone); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	r = w.start(dir, nil)
	r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
	r.awaitLag(t, "a stopped lane has no lag", shows(map[string]float64{fmt.Sprintf("durable_lag_records email-events/%d", p): 2}))
	w.adopt()
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), ", "); got != "c1 SENT -, c3 SENT -" {
		t.Errorf("rows %s", got)
	}
	if changed, err := catalog.Adopt(t.Context(), w.opts, w.topics, quietLog); err != nil || len(changed) != 0 {
		t.Errorf("adopted again: %v, %v", changed, err)
	}
}

func TestTwoProcessesCannotShareAnInstanceID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
	same := func(c *Config) { c.InstanceID, c.SessionTimeout = "one", 2*time.Second }
	a := w.start(filepath.Join(t.TempDir(), "a"), same)
	a.awaitReady(t)
	b := w.start(filepath.Join(t.TempDir(), "b"), same)
	select {
	case <-a.done:
	case <-time.After(2 * time.Minute):
		t.Fatal("the replica whose id was taken goes on")
	}
	if err := a.stop(); err == nil || !strings.Contains(err.Error(), `instance id "one"`) {
		t.Errorf("it ended with %v", err)
	}
	w.event("p1", "c1", "SENT")
	w.settle(b.cat)
	if rows := w.rows(b.cat); len(rows) != 1 {
		t.Errorf("rows %v", rows)
	}
}
