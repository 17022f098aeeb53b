package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
)

// TestAStartReadsTheCatalogForAsLongAsItGetsOn: a broker that gives it piece by piece takes
// longer than start_timeout in all. Behind a transaction that is open nothing more comes.
// The pauses between two pieces are far below start_timeout, as a machine may stand still
// in one; TestATopicIsLoadedForAsLongAsItGetsOn has the exact times.
func TestAStartReadsTheCatalogForAsLongAsItGetsOn(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := testBroker(t, t.TempDir())
	defer b.Close()
	topics := kafka.DefaultTopics()
	if err := b.createTopics(ctx, topics, 1); err != nil {
		t.Fatal(err)
	}
	producer := func(more ...kgo.Opt) *kgo.Client {
		cl, err := kgo.NewClient(append(more, kgo.SeedBrokers(b.addr))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	passedOver := func() *kgo.Record { // as it is of a later kind
		return kafka.Stamp(&kgo.Record{Topic: topics.Catalog, Key: []byte("X/x"), Value: []byte(`{"v":2}`)})
	}
	cl := producer()
	const timeout, records, pause = 30 * time.Second, 11, 3 * time.Second
	for range records {
		if err := cl.ProduceSync(ctx, passedOver()).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	serve := func(ctx context.Context, timeout string, log *watch) int {
		return run(ctx, &app{out: io.Discard, err: log}, []string{"serve", "--shutdown-delay", "0s", "--brokers", b.addr, "--start-timeout", timeout, "--signing-keys", testKey,
			"--http-listen", "localhost:0", "--admin-listen", "localhost:0", "--store-url", "file://" + filepath.ToSlash(t.TempDir()), "--data-dir", t.TempDir()})
	}

	var fetched atomic.Value // what a view's fetch does before it is answered
	fetched.Store(func() { b.cluster.SleepControl(func() { time.Sleep(pause) }) })
	b.cluster.ControlKey(kmsg.Fetch.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if f := req.(*kmsg.FetchRequest); f.MaxWaitMillis == 5000 {
			f.MaxBytes = 1 // one batch an answer
			fetched.Load().(func())()
		}
		return nil, nil, false
	})
	sctx, stop := context.WithCancel(ctx)
	defer stop()
	log := newWatch("replica started", stop)
	began := time.Now()
	if status := serve(sctx, timeout.String(), log); status != 0 || !strings.Contains(log.text(), "reading the catalog") {
		t.Errorf("a catalog that comes slowly: exit %d: %s", status, log.text())
	}

	if took := time.Since(began); took <= timeout {
		t.Errorf("it has come within %s, start_timeout is %s", took, timeout)
	}

	cl = producer(kgo.TransactionalID("open"))
	if err := errors.Join(cl.BeginTransaction(), cl.ProduceSync(ctx, passedOver()).FirstErr()); err != nil {
		t.Fatal(err)
	}
	fetched.Store(func() {})
	log = newWatch("", nil)
	if status := serve(ctx, "10s", log); status != 1 || !strings.Contains(log.text(), "nothing more was read for 10s (start_timeout)") {
		t.Errorf("a catalog that does not come: exit %d: %s", status, log.text())
	}
	sctx, stop = context.WithCancel(ctx)
	fetched.Store((func())(stop))
	log = newWatch("", nil)
	if status := serve(sctx, "10m", log); status != statusInterrupted {
		t.Errorf("told to stop meanwhile: exit %d: %s", status, log.text())
	}
}
