package consumer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/objects"
	"lockstitch/state/poison"
)

var quietLog = slog.New(slog.DiscardHandler)

// deadLetters reads all committed dead letters.
func (w *world) deadLetters() []*kgo.Record {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	tail := make(chan *kgo.Record, 10_000)
	tl, err := kafka.StartTail(ctx, kafka.TailConfig{Opts: w.opts, Topic: w.topics.DeadLetters, Apply: func(r *kgo.Record) error { tail <- r; return nil }, Log: quietLog})
	if err != nil {
		w.t.Fatal(err)
	}
	defer tl.Close()
	if err := tl.CatchUp(ctx); err != nil {
		w.t.Fatal(err)
	}
	var out []*kgo.Record
	for len(tail) > 0 {
		out = append(out, <-tail)
	}
	return out
}

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
	deadline := time.Now().Add(30 * time.Second)
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

// TestMisroutedEventsAreCounted: those whose profile_id belongs to another partition.
func TestMisroutedEventsAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	here, there := keyIn(0), keyIn(1)
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
	if rows := w.rows(r.cat); len(rows) != 3 {
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

func TestDeadLettersAreWhole(t *testing.T) {
	if testing.Short() {
		t.Skip("much to compute")
	}
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	big := w.client(kgo.DisableIdempotentWrite(), kgo.ProducerBatchMaxBytes(32<<20))
	at := time.UnixMilli(1_790_000_000_123)
	header := kgo.RecordHeader{Key: "h\xff", Value: []byte("v\x00")}
	long := strings.Repeat("k", 950_000)
	many := slices.Repeat([]kgo.RecordHeader{{Key: "h"}}, 400_000) // most of it are lengths
	for _, rec := range []*kgo.Record{
		{Key: []byte("k\xff"), Value: []byte("{small"), Headers: []kgo.RecordHeader{header}},
		{Key: []byte("k\xff"), Value: []byte(strings.Repeat("v", 10_000_000)), Headers: []kgo.RecordHeader{header}},
		{Key: []byte(long), Value: []byte("{long key"), Headers: []kgo.RecordHeader{header}},
		{Key: []byte("k\xff"), Value: []byte("{many headers"), Headers: append([]kgo.RecordHeader{header}, many...)},
	} {
		rec.Topic, rec.Timestamp = "email-events", at
		if err := big.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	w.settle(r.cat)
	dead := w.deadLetters()
	if len(dead) != 4 {
		t.Fatalf("%d dead letters", len(dead))
	}
	object := func(name string) []byte {
		t.Helper()
		rd, err := w.store.Open(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer rd.Close()
		b, err := io.ReadAll(rd)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, d := range dead {
		h := make(map[string]string)
		for _, x := range d.Headers {
			h[x.Key] = string(x.Value)
		}
		if h[headerTopic] != "email-events" || h[headerPartition] == "" || h[headerOffset] == "" || h[headerTimestamp] != "1790000000123" || h[headerReason] == "" || h[headerDetail] == "" {
			t.Errorf("headers %v", h)
		}
		key, value, first, headers := d.Key, d.Value, d.Headers[0], 1
		if name := h[headerObject]; name != "" {
			value = object(name)
			sum := sha256.Sum256(value)
			if h[headerSHA256] != hex.EncodeToString(sum[:]) || d.Value != nil {
				t.Errorf("the SHA-256 of %s is wrong, or the value is there twice", name)
			}
		}
		if name := h[headerRest]; name != "" {
			var r rest
			if err := json.Unmarshal(object(name), &r); err != nil {
				t.Fatal(err)
			}
			headers = len(r.Headers)
			key, first = r.Key, kgo.RecordHeader{Key: string(r.Headers[0].Key), Value: r.Headers[0].Value}
		}
		if first.Key != header.Key || string(first.Value) != string(header.Value) {
			t.Errorf("header %q: %q", first.Key, first.Value)
		}
		switch {
		case string(value) == "{small" && string(key) == "k\xff" && h[headerObject] == "":
		case len(value) == 10_000_000 && string(key) == "k\xff" && h[headerReason] == "too_large":
		case string(value) == "{long key" && string(key) == long && headers == 1:
		case string(value) == "{many headers" && string(key) == "k\xff" && headers == 1+len(many):
		default:
			t.Errorf("a dead letter of key %.10q and value %.10q, %d and %d bytes, with %v", key, value, len(key), len(value), h)
		}
	}
}

// TestDeadLetterIsStoredOnce: nothing sweeps dead letters, a cut is tried again for as long
// as it fails, and lanes are taken over while it does.
func TestDeadLetterIsStoredOnce(t *testing.T) {
	t.Parallel()
	files, err := objects.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	store := &flakyStore{Store: files}
	long := bytes.Repeat([]byte("x"), maxDeadLetter)
	d := newDeadLetter(&kgo.Record{Topic: "email-events", Key: long, Value: long}, poison.New(poison.NotJSON, "x"))
	store.failAfter(1) // the value is stored, the key is not
	if _, err := d.record(t.Context(), "dead", store); err == nil {
		t.Fatal("nothing failed")
	}
	store.fail(false)
	var first *kgo.Record
	for range 3 {
		r, err := d.record(t.Context(), "dead", store)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r
		}
		if !slices.EqualFunc(r.Headers, first.Headers, func(a, b kgo.RecordHeader) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }) {
			t.Errorf("another attempt is another record: %q, before %q", r.Headers, first.Headers)
		}
	}
	again := newDeadLetter(d.rec, d.why) // of a later owner of the lane
	if r, err := again.record(t.Context(), "dead", store); err != nil || fmt.Sprint(r.Headers) != fmt.Sprint(first.Headers) {
		t.Errorf("read again it is another record: %v, %v", r, err)
	}
	n := 0
	if err := files.List(t.Context(), "dead-letters/", func(objects.Info) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d objects, want one of the value and one of the key: %v", n, err)
	}
}

// TestADeadLetterTellsNullFromEmpty, also where its key is too large for a record.
func TestADeadLetterTellsNullFromEmpty(t *testing.T) {
	t.Parallel()
	store, err := objects.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for name, value := range map[string][]byte{"null": nil, "empty": {}} {
		d := newDeadLetter(&kgo.Record{Topic: "email-events", Key: make([]byte, maxDeadLetter), Value: value}, poison.New(poison.NotJSON, "x"))
		r, err := d.record(t.Context(), "dead", store)
		if err != nil {
			t.Fatal(err)
		}
		object := slices.ContainsFunc(r.Headers, func(h kgo.RecordHeader) bool { return h.Key == headerObject })
		if r.Value != nil || object != (value != nil) {
			t.Errorf("%s: value %v, an object of it: %v", name, r.Value, object)
		}
	}
}

// TestDeadLettersOfLongTopicNames: Kafka takes 249 characters, a part of an object's
// name 240.
func TestDeadLettersOfLongTopicNames(t *testing.T) {
	t.Parallel()
	store, err := objects.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for topic, prefix := range map[string]string{
		"email-events":                 "dead-letters/email-events/2/7-",
		"eu.Email_events-2":            "dead-letters/eu.Email_events-2/2/7-",
		strings.Repeat("a", 249):       "dead-letters/%sha256-",
		strings.Repeat("a", 248) + "b": "dead-letters/%sha256-",
	} {
		d := newDeadLetter(&kgo.Record{Topic: topic, Partition: 2, Offset: 7, Value: make([]byte, maxDeadLetter)}, poison.New(poison.NotJSON, "x"))
		if _, err := d.record(t.Context(), "dead", store); err != nil || !strings.HasPrefix(d.value, prefix) {
			t.Errorf("of %s stored as %q: %v; want %s…", topic, d.value, err, prefix)
		}
	}
}

// A record as it was fetched holds memory of all that was fetched with it.
func TestDeadLettersHoldMemoryOfTheirOwn(t *testing.T) {
	fetched := []byte("keyvaluevalue")
	d := newDeadLetter(&kgo.Record{Key: fetched[:3], Value: fetched[3:8], Headers: []kgo.RecordHeader{{Key: "h", Value: fetched[8:]}}}, nil)
	clear(fetched)
	if string(d.rec.Key) != "key" || string(d.rec.Value) != "value" || string(d.rec.Headers[0].Value) != "value" {
		t.Errorf("%q %q %q", d.rec.Key, d.rec.Value, d.rec.Headers[0].Value)
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

// While partitions are being added the old lanes go on; a new one begins when
// every topic has it.
func TestPartitionsAddedUnderARunningReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.SessionTimeout = 6 * time.Second })
	r.awaitReady(t)
	adm := kadm.NewClient(w.prod)
	key := "p0"
	for i := 0; router(lanes+1)([]byte(key)) != lanes; i++ {
		key = fmt.Sprint("p", i)
	}
	for i, topic := range []string{"email-events", "profiles"} {
		added, err := adm.UpdatePartitions(t.Context(), lanes+1, topic)
		if err == nil {
			err = added.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
		w.prod = w.client(kgo.DisableIdempotentWrite())
		w.event(key, fmt.Sprint("new", i), "SENT")
		if i == 0 {
			r.awaitLag(t, "events that nobody reads have no lag", shows(map[string]float64{fmt.Sprintf("processing_lag_records email-events/%d", lanes): 1}))
		}
		r.await(t, "the lanes are not as they should be", func(c *Consumer) bool {
			if i == 0 {
				if len(c.unread) != 1 {
					return false
				}
				return len(c.lanes) == lanes && c.lanes[0].stage == ready && c.lanes[1].stage == ready
			}
			return len(c.lanes) == lanes+1 && c.lanes[lanes].stage == ready
		})
	}
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 2 {
		t.Errorf("rows %v", rows)
	}
	// By the new number of partitions nothing is in a wrong one.
	r.await(t, "it is still told that nobody reads it", func(c *Consumer) bool { return len(c.unread) == 0 })
	for i := range 3 * (lanes + 1) {
		w.event(fmt.Sprint("q", i), fmt.Sprint("routed", i), "SENT")
	}
	w.settle(r.cat)
	if n, err := w.counter(r, "lockstitch_misrouted_total"); n != 0 || err != nil {
		t.Errorf("%v events count as misrouted, %v", n, err)
	}
}

// A static member that starts again is given what it had before (KIP-345), also if it
// leads the group and partitions were added meanwhile.
func TestPartitionsAddedWhileAStaticMemberIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		line := w.cable()
		start := func(dir string, tweak func(*Config)) *replica {
			return w.start(dir, func(c *Config) {
				c.FS, c.InstanceID, c.SessionTimeout = vfs.NewMem(), "a", time.Minute
				tweak(c)
			})
		}
		r := start("/a", line.connect)
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		line.sever() // it cannot leave the group
		if err := r.stop(); err != nil {
			t.Log("it ended with:", err)
		}
		added, err := kadm.NewClient(w.prod).UpdatePartitions(t.Context(), lanes+1, "email-events", "profiles")
		if err == nil {
			err = added.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
		r = start("/b", func(*Config) {})
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes+1 })
	})
}

// TestATopicAddedAtAStaticMember: who comes back with a topic more than it had gets what it
// had, parts of lanes, and nobody has a reason to assign them anew. It asks for that itself.
func TestATopicAddedAtAStaticMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		line := w.cable()
		start := func(name, dir string, tweak func(*Config)) *replica {
			return w.start(dir, func(c *Config) {
				c.FS, c.InstanceID, c.SessionTimeout = vfs.NewMem(), name, time.Minute
				tweak(c)
			})
		}
		// Apache Kafka does not look at what has changed in the subscription of a static
		// member that comes back; the embedded broker does.
		var mu sync.Mutex
		var had, back []byte // how b has joined, and shall seem to
		w.broker.ControlKey(kmsg.JoinGroup.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			mu.Lock()
			defer mu.Unlock()
			req := kreq.(*kmsg.JoinGroupRequest)
			if *req.InstanceID != "b" {
				return nil, nil, false
			}
			if back != nil && req.MemberID == "" {
				req.Protocols[0].Metadata, back = back, nil
			}
			had = req.Protocols[0].Metadata
			return nil, nil, false
		})
		a := start("a", "/a", func(*Config) {}) // leads the group
		a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		b := start("b", "/b", line.connect)
		b.awaitLanes(t, func(ready, all int) bool { return ready > 0 && ready == all })
		if _, err := kadm.NewClient(w.prod).CreateTopic(t.Context(), lanes, 1, nil, "more-events"); err != nil {
			t.Fatal(err)
		}
		line.sever() // it cannot leave the group
		if err := b.stop(); err != nil {
			t.Log("it ended with:", err)
		}
		mu.Lock()
		back = had
		mu.Unlock()
		log := &logged{}
		w.log = slog.New(slog.NewTextHandler(log, nil))
		b = start("b", "/c", func(c *Config) { c.Topics.Events = append(slices.Clip(c.Topics.Events), "more-events") })
		b.awaitLanes(t, func(ready, all int) bool { return ready > 0 && ready == all })
		log.await(t, "the group gave parts of lanes")
	})
}

// meanwhile is a file system that calls a function before it is used.
type meanwhile struct {
	vfs.FS
	f func()
}

func (m *meanwhile) MkdirAll(dir string, perm os.FileMode) error {
	m.f()
	return m.FS.MkdirAll(dir, perm)
}

// A topic that is not there as a replica joins the group, because it is made anew
// just then, makes no lanes: the others' partitions alone are of no use. As soon as
// it is there the lanes come.
func TestLanesComeWithTheLastTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	adm := kadm.NewClient(w.prod)
	gone := sync.OnceFunc(func() {
		if _, err := adm.DeleteTopic(t.Context(), "email-events"); err != nil {
			t.Error(err)
		}
	})
	r := w.start("/d", func(c *Config) { c.FS = &meanwhile{vfs.NewMem(), gone} })
	r.await(t, "the replica is in no group", func(c *Consumer) bool {
		if c.group == nil {
			return false
		}
		member, generation := c.group.GroupMetadata()
		return member != "" && generation > 0
	})
	if _, err := adm.CreateTopic(t.Context(), lanes, 1, nil, "email-events"); err != nil {
		t.Fatal(err)
	}
	w.prod = w.client(kgo.DisableIdempotentWrite())
	w.adopt()
	w.event("p1", "c1", "SENT")
	r.await(t, "the lanes do not come", func(c *Consumer) bool {
		c.group.ForceMetadataRefresh()
		return len(c.lanes) == lanes && c.lanes[0].stage == ready && c.lanes[1].stage == ready
	})
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 1 {
		t.Errorf("rows %v", rows)
	}
}

// A lane that is given in parts, by a replica of an older version that leads the
// group, runs once it is whole.
func TestLanesInParts(t *testing.T) {
	t.Parallel()
	h := newHeld([]string{"e", "p"})
	add := func(m map[string][]int32) string {
		whole, part := h.add(m)
		return fmt.Sprint("whole ", whole, " part ", part)
	}
	remove := func(m map[string][]int32) string { return fmt.Sprint("gone ", h.remove(m)) }
	for i, step := range []struct{ got, want string }{
		{add(map[string][]int32{"e": {0, 1}, "p": {0}}), "whole [0] part [1]"},
		{add(map[string][]int32{"p": {1, 2}, "another's": {1, 2, 3}}), "whole [1] part [2]"},
		{remove(map[string][]int32{"e": {0}}), "gone [0]"},
		{add(map[string][]int32{"e": {0, 2}}), "whole [0 2] part []"},
		{remove(map[string][]int32{"e": {0, 1, 2}, "p": {0, 1}}), "gone [0 1 2]"},
		{remove(map[string][]int32{"another's": {1, 2, 3}}), "gone []"},
		{add(map[string][]int32{"e": {0, 2}}), "whole [2] part [0]"},
		{remove(map[string][]int32{"e": {0, 2}, "p": {2}}), "gone [0 2]"},
	} {
		if step.got != step.want {
			t.Errorf("step %d: %s, want %s", i, step.got, step.want)
		}
	}
	if len(h.lanes) != 0 {
		t.Errorf("still held: %v", h.lanes)
	}
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
	case <-time.After(30 * time.Second):
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
