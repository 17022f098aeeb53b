package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
)

// A topic that is deleted and made anew leaves what was kept of the old one in
// every export, before the rows of the new one where times are equal: while the
// new one is not adopted yet, and afterwards.
func TestExportHoldsAllIncarnations(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	produce := func(subject string) {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(y.b.addr), kgo.DisableIdempotentWrite())
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for i := range 6 {
			value := fmt.Sprintf(`{"correlation_id":"c%d","type":"SENT","account_id":"demo","section":"s","subject":%q,"server_time":1790000000000}`, i, subject)
			if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "email-events", Key: fmt.Appendf(nil, "p%d", i), Value: []byte(value)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	subjects := func() string {
		t.Helper()
		text, _ := y.export(ctx, y.r.localURL(), anything...)
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, row := range rows[1:] {
			out = append(out, row[5])
		}
		return strings.Join(out, " ")
	}
	remake := func() {
		t.Helper()
		cl, err := kgo.NewClient(kgo.SeedBrokers(y.b.addr))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		adm := kadm.NewClient(cl)
		if _, err := adm.DeleteTopic(ctx, "email-events"); err != nil {
			t.Fatal(err)
		}
		if _, err := adm.CreateTopic(ctx, 3, 1, nil, "email-events"); err != nil {
			t.Fatal(err)
		}
	}
	adopt := func() {
		t.Helper()
		if status, out, errs := command(ctx, []string{"LOCKSTITCH_BROKERS=" + y.b.addr}, "topics", "adopt"); status != 0 || !strings.Contains(out, "email-events") {
			t.Fatalf("topics adopt: exit %d: %s%s", status, out, errs)
		}
	}

	six := func(s string) string { return strings.TrimSpace(strings.Repeat(s+" ", 6)) }
	want := six("first")
	produce("first")
	if got := subjects(); got != want {
		t.Fatalf("rows of %q, want %q", got, want)
	}
	for _, name := range []string{"second", "third"} {
		remake()
		if got := subjects(); got != want {
			t.Fatalf("not adopted: rows of %q, want %q", got, want)
		}
		adopt()
		produce(name)
		want += " " + six(name)
		if got := subjects(); got != want {
			t.Fatalf("adopted: rows of %q, want %q", got, want)
		}
	}
}

// Only the questions have a limit, not the reading of the catalog, which an open
// transaction holds up here as its length does elsewhere.
func TestTheCatalogIsReadForAsLongAsItTakes(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	b := testBroker(t, t.TempDir())
	defer b.Close()
	topics := kafka.DefaultTopics()
	if err := b.createTopics(ctx, topics, 1); err != nil {
		t.Fatal(err)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(b.addr)}
	v, err := catalog.Open(ctx, catalog.Config{Opts: opts, Topic: topics.Catalog, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := errors.Join(v.Load(ctx, 0), catalog.Register(ctx, opts, topics.Catalog, v, topics.Inputs()...)); err != nil {
		t.Fatal(err) // a replica has been there
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.TransactionalID("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: topics.Catalog, Value: []byte("of a cut that is under way")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	const ask = 4 * time.Second
	ended := make(chan string, 3)
	start := func(ctx context.Context, line string) {
		go func() {
			var out bytes.Buffer
			status := run(ctx, &app{out: &out, err: &out, ask: ask}, append(strings.Fields(line), "--brokers", b.addr))
			ended <- fmt.Sprintf("%s: exit %d: %s", line, status, &out)
		}()
	}
	ictx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	start(ctx, "topics adopt")
	start(ctx, "segments ls")
	start(ictx, "segments verify")
	select {
	case how := <-ended:
		t.Fatalf("before the catalog was read: %s", how)
	case <-time.After(ask + ask/2):
	}
	interrupt()
	if how := <-ended; !strings.Contains(how, "segments verify: exit 130") {
		t.Errorf("interrupted: %s", how)
	}
	if err := cl.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if how := <-ended; !strings.Contains(how, "exit 0") {
			t.Error(how)
		}
	}
}
