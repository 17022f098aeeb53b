package api

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/auth"
	"lockstitch/exporter/cursor"
	"lockstitch/state/catalog"
	"lockstitch/state/report"
)

// TestWhatIsNoLongerKeptIsRefused asks on both sides of the edge: to a millisecond
// of the window, to an offset of the cursor.
func TestWhatIsNoLongerKeptIsRefused(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.ExportsPerMinute = 10_000; c.Limits.Pending = 1000 })
	r.define(definitions...)
	for i := range 30 {
		if err := r.client.ProduceSync(t.Context(), &kgo.Record{Topic: "email-events", Key: []byte{byte(i)}, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := r.deps.Ends(t.Context())
	if err != nil || len(ends) != 2 || ends[0].Offset < 5 || ends[1].Offset < 5 {
		t.Fatalf("%v, %v", ends, err)
	}
	at := func(first, second int64) []report.End {
		a := []report.End{ends[0], ends[1]}
		a[0].Offset, a[1].Offset = first, second
		return a
	}
	oldest := time.Now().Add(-24 * time.Hour).UTC().Truncate(time.Millisecond)
	window := func(d time.Duration) string {
		return fmt.Sprintf(`{"start_at":%q}`, oldest.Add(d).Format(time.RFC3339Nano))
	}
	cursors := cursor.New([]auth.Key{testKey})
	after := func(at []report.End) string { return fmt.Sprintf(`{"after":%q}`, cursors.Encode("acme", at)) }

	// As long as nothing was removed nothing is refused.
	r.request("a", `{"start_at":"0000-01-01T00:00:00Z","end_at":"0000-02-01T00:00:00Z"}`)
	early := r.request("a", after(at(0, 0)))
	r.request("a", window(-time.Millisecond), "Idempotency-Key", "before")

	r.slices.retention.Refused = catalog.Floor{OldestAvailable: oldest.UnixMilli(), Ends: []catalog.FloorEnd{
		{TopicID: ends[0].TopicID, Partition: 0, Next: 3}, {TopicID: ends[1].TopicID, Partition: 1, Next: 5},
	}}
	gone := func(body string, status int, word string) []FieldError {
		t.Helper()
		p := r.problem(r.do("POST", "/emails/reports", "a", body), status, word)
		if p.OldestAvailable == nil || *p.OldestAvailable != timeOf(oldest) {
			t.Errorf("%s: oldest_available %v, want %v", body, p.OldestAvailable, oldest)
		}
		return p.Errors
	}
	for _, body := range []string{
		window(-time.Millisecond), `{"start_at":"0000-01-01T00:00:00Z","end_at":"0000-02-01T00:00:00Z"}`, `{"start_at":"1970-01-01T00:00:00Z","end_at":"1970-02-01T00:00:00Z"}`,
	} {
		if errs := gone(body, 400, "invalid-request"); len(errs) != 1 || errs[0].Pointer != "/start_at" {
			t.Errorf("%s: %+v", body, errs)
		}
	}
	for _, at := range [][]report.End{at(2, 5), at(3, 4), at(0, 0), at(3, 5)[:1], {ends[1]}} {
		gone(after(at), 410, "no-longer-kept")
	}
	r.request("a", window(0))
	r.request("a", window(time.Millisecond))
	for _, at := range [][]report.End{at(3, 5), at(4, 5), at(1<<40, 5)} {
		r.request("a", after(at))
	}
	// From the beginning is from the oldest data kept.
	q := r.question(r.request("a", `{"after":"beginning"}`).ReportID)
	if len(q.After) != 2 || q.After[0].Offset != 3 || q.After[1].Offset != 5 {
		t.Errorf("from the beginning is after %v", q.After)
	}
	// A repeat is not judged anew, and what was accepted stays so.
	r.request("a", window(-time.Millisecond), "Idempotency-Key", "before")
	if got := r.status("a", early.ReportID).Status; got != "requested" {
		t.Errorf("the report accepted before is %s", got)
	}

	// What a report ends in says it too.
	result := report.Result{Attempt: "x", Problem: report.NoLongerKept.Problem("gone")}
	result.Problem.OldestAvailable = oldest.UnixMilli()
	if won, err := r.table.WriteResult(t.Context(), "acme", early.ReportID, result); err != nil || !won {
		t.Fatal(won, err)
	}
	if p := r.status("a", early.ReportID).Error; p == nil || p.Type != "/problems/no-longer-kept" || p.OldestAvailable == nil || *p.OldestAvailable != timeOf(oldest) {
		t.Errorf("error %+v", p)
	}
}
