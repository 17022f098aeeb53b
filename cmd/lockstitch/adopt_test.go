package main

import (
	"encoding/csv"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
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
		text, _ := y.export(ctx, y.r.localURL(), "--start-at", "2026-09-01T00:00:00Z")
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
