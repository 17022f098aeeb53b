package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/seed"
	"lockstitch/state/kafka"
)

func testBroker(t *testing.T, dir string) *broker {
	t.Helper()
	b, err := startBroker(dir, "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// The broker's time counts, whatever a producer claims and however it
// compresses; keys, values and headers are as they were sent.
func TestBrokerStampsRecordsWithItsOwnTime(t *testing.T) {
	ctx := testContext(t)
	b := testBroker(t, t.TempDir())
	defer b.Close()
	topics := kafka.DefaultTopics()
	if err := b.createTopics(ctx, topics, 1); err != nil {
		t.Fatal(err)
	}
	rng := seed.Rand(t)
	var sent []*kgo.Record
	for i, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ProducerBatchCompression(codec), kgo.TransactionalID(fmt.Sprint("t", i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		var recs []*kgo.Record
		for range 100 {
			recs = append(recs, &kgo.Record{Topic: topics.Events[0], Key: []byte(fmt.Sprint(rng.IntN(9))), Value: []byte(strings.Repeat("v", rng.IntN(300))),
				Timestamp: time.UnixMilli(rng.Int64N(4e12)), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{byte(rng.IntN(256))}}}})
		}
		before := time.Now().Truncate(time.Millisecond)
		if err := cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
		cl.Close()
		sent = append(sent, recs...)
		got := consumeAll(ctx, t, b, topics.Events[0], len(sent))
		for j, r := range got[len(got)-100:] {
			want := recs[j]
			if string(r.Key) != string(want.Key) || string(r.Value) != string(want.Value) || r.Headers[0].Value[0] != want.Headers[0].Value[0] {
				t.Fatalf("codec %d, record %d has changed", i, j)
			}
			if r.Timestamp.Before(before) || r.Timestamp.After(time.Now()) {
				t.Fatalf("codec %d, record %d has the time %s", i, j, r.Timestamp)
			}
		}
	}
}

func consumeAll(ctx context.Context, t *testing.T, b *broker, topic string, n int) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ConsumeTopics(topic), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	var out []*kgo.Record
	for len(out) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
		out = append(out, fs.Records()...)
	}
	return out
}

func TestBrokerContinuesAndIsAloneInItsDirectory(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	b := testBroker(t, dir)
	topics := kafka.DefaultTopics()
	if err := b.createTopics(ctx, topics, 2); err != nil {
		t.Fatal(err)
	}
	if other, err := startBroker(dir, "localhost:0"); err == nil {
		other.Close()
		t.Error("two brokers work in one directory")
	} else if !strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
	cl, err := sampleClient([]kgo.Opt{kgo.SeedBrokers(b.addr)})
	if err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topics.Profiles, Key: []byte("k"), Value: []byte("1")},
		&kgo.Record{Topic: topics.Profiles, Key: []byte("k"), Value: []byte("2")}, &kgo.Record{Topic: topics.Profiles, Key: []byte("k"), Value: []byte("3")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	found, err := kafka.Check(ctx, cl, topics)
	if err != nil || len(found) > 0 {
		t.Errorf("topics check: %v %v", found, err)
	}
	cl.Close()
	b.Close()
	b = testBroker(t, dir)
	defer b.Close()
	if got := consumeAll(ctx, t, b, topics.Profiles, 3); len(got) != 3 {
		t.Errorf("%d records after a restart, want all 3 versions", len(got))
	}
}

func TestBrokerWantsAHost(t *testing.T) {
	for _, listen := range []string{":9092", "0.0.0.0:9092", "nonsense", "localhost:x"} {
		if b, err := startBroker(t.TempDir(), listen); err == nil {
			b.Close()
			t.Errorf("%q was accepted", listen)
		}
	}
}

func FuzzStampBatch(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, batchHeader))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= batchHeader { // past the checksum, or nothing behind it would be tried
			binary.BigEndian.PutUint32(raw[batchCRC:], crc32.Checksum(raw[batchAttributes:], castagnoli))
		}
		if out, ok := stampBatch(raw, 7); ok && len(out) < batchHeader {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
