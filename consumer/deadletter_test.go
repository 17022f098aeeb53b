package consumer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/poison"
)

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

// TestEventsOfOtherAccountsAreSetAside where the configuration names the accounts.
func TestEventsOfOtherAccountsAreSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.Accounts = []string{"globex", "acme"} })
	w.event("p1", "c1", "SENT")
	w.produce("email-events", "p1", `{"correlation_id":"c2","type":"SENT","account_id":"acne","section":"s1"}`)
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 1 {
		t.Errorf("%d rows, want that of acme: %q", len(rows), rows)
	}
	dead := w.deadLetters()
	if len(dead) != 1 || !slices.ContainsFunc(dead[0].Headers, func(h kgo.RecordHeader) bool {
		return h.Key == "lockstitch.reason" && string(h.Value) == string(poison.UnknownAccount)
	}) {
		t.Errorf("dead letters: %+v", dead)
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

// TestLargeKeysAreSetAside: a key may be as large as a value. What is larger no segment may
// have room for, and a cut that fails for it would do so for all lanes and for ever.
func TestLargeKeysAreSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	big := w.client(kgo.DisableIdempotentWrite(), kgo.ProducerBatchMaxBytes(8<<20))
	for _, n := range []int{1 << 20, 1<<20 + 1} {
		key := bytes.Repeat([]byte("k"), n)
		for _, rec := range []*kgo.Record{
			{Topic: w.topics.Profiles, Key: key, Value: []byte(profileOf(fmt.Sprint("of ", n)))},
			{Topic: "email-events", Key: key, Value: fmt.Appendf(nil, `{"correlation_id":"%d","type":"SENT","account_id":"acme","section":"s1"}`, n)},
		} {
			if err := big.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := big.ProduceSync(t.Context(), &kgo.Record{Topic: w.topics.Profiles, Key: bytes.Repeat([]byte("k"), 1<<20+1)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), "\n"); got != "1048576 SENT of 1048576" {
		t.Errorf("rows:\n%s", got)
	}
	dead := w.deadLetters()
	for _, d := range dead {
		said := make(map[string]string)
		for _, h := range d.Headers {
			said[h.Key] = string(h.Value)
		}
		if said["lockstitch.reason"] != string(poison.TooLarge) || said["lockstitch.detail"] != "the key has 1048577 bytes, 1048576 are allowed" {
			t.Errorf("set aside with %v", said)
		}
	}
	if len(dead) != 3 {
		t.Errorf("%d dead letters, want an event, a profile and a deletion", len(dead))
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
