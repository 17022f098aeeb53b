package report

import (
	"errors"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestSweepRemovesAllRecords(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	old := request("acme")
	old.IdempotencyKey = "k"
	submit(t, tb, old, 0)
	repeat := request("acme")
	repeat.IdempotencyKey = "k"
	submit(t, tb, repeat, 0)
	if _, err := tb.WriteResult(t.Context(), "acme", old.ID, result("x")); err != nil {
		t.Fatal(err)
	}
	if err := tb.WriteExpired(t.Context(), "acme", old.ID); err != nil {
		t.Fatal(err)
	}
	young := request("acme")
	submit(t, tb, young, 0)
	orphan := ulid.Make().String()
	raw(t, tb, "acme", KeyProgress+orphan, &Progress{Version: Version})

	later := time.Now().Add(40 * 24 * time.Hour)
	gone := tb.Removable(later, 30*24*time.Hour, everybodys)
	if len(gone) != 1 || gone[0].Request.ID != old.ID {
		t.Fatalf("removable: %d", len(gone))
	}
	if len(tb.Removable(later, 60*24*time.Hour, everybodys)) != 0 {
		t.Error("removable before its time")
	}
	n, err := tb.Sweep(t.Context(), later, gone, everybodys)
	if err != nil || n != 3 {
		t.Errorf("Sweep removed %d, %v; want the report, its repeat and the orphan", n, err)
	}
	for i, tb := range []*Table{tb, open(t, opts)} {
		if err := tb.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		items, _, err := tb.List("acme", 50, "")
		if err != nil || len(items) != 1 || items[0].Request.ID != young.ID {
			t.Errorf("table %d lists %d, %v", i, len(items), err)
		}
		if len(tb.view.byID) != 1 || len(tb.view.orphans) != 0 || len(tb.Pending()) != 1 {
			t.Errorf("table %d keeps %d reports, %d orphans, %d pending", i, len(tb.view.byID), len(tb.view.orphans), len(tb.Pending()))
		}
	}
}

// everybodys says that this replica looks after all reports.
func everybodys(string) bool { return true }

// sweep removes what can be removed at a time, where reports are kept for 30 days.
func sweep(t *testing.T, tb *Table, at time.Time) int {
	t.Helper()
	n, err := tb.Sweep(t.Context(), at, tb.Removable(at, 30*24*time.Hour, everybodys), everybodys)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// nothingPending wants no report to be pending to anybody who reads the topic,
// however much of it has been compacted.
func nothingPending(t *testing.T, opts []kgo.Opt) {
	t.Helper()
	wrong := 0
	tables := compactions(t, opts)
	for _, tb := range tables {
		if len(tb.Pending()) > 0 {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("to %d of %d readers of a compacted topic a report is pending that does not count", wrong, len(tables))
	}
}

// TestALateStepStaysVoid: the request for a step whose number has been removed by the
// time it comes is void because of a later step, which is removed in its turn.
func TestALateStepStaysVoid(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	s := create(t, tb, newOrder("acme", "x"))
	makeStep(t, tb, s, 1, 0, "")
	makeStep(t, tb, s, 2, 0, "")
	if n := sweep(t, tb, time.Now()); n != 1 {
		t.Fatalf("%d reports are removed, want the first step: a later one has succeeded", n)
	}
	if _, err := tb.SubmitStep(t.Context(), stepOf(s, 1, 0)); !errors.Is(err, ErrVoid) {
		t.Fatalf("a late first step: %v", err)
	}
	makeStep(t, tb, s, 3, 0, "exports/3")
	if n := sweep(t, tb, time.Now()); n != 2 {
		t.Errorf("%d reports are removed, want the second step and what is void because of it", n)
	}
	nothingPending(t, opts)
}

// TestAClashStaysVoid though the request whose Idempotency-Key it used was withdrawn.
func TestAClashStaysVoid(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	old := time.Now().UTC().Add(-3 * IdempotencyTime)
	first, clash := request("acme"), request("acme")
	for body, q := range map[string]*Request{"one": first, "other": clash} {
		q.Version, q.IdempotencyKey, q.BodyHash, q.CreatedAt = Version, "k", body, old
	}
	raw(t, tb, "acme", KeyRequest+first.ID, first)
	raw(t, tb, "acme", KeyRequest+clash.ID, clash)
	raw(t, tb, "acme", KeyCancel+first.ID+"/"+ulid.Make().String(), &Cancel{Version: Version, At: old, Withdrawn: true})
	if n := sweep(t, tb, time.Now()); n != 2 {
		t.Errorf("%d reports are removed, want both", n)
	}
	nothingPending(t, opts)
}

// TestOneTooManyStaysVoid though the one that was pending before it was withdrawn.
func TestOneTooManyStaysVoid(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	now := time.Now().UTC()
	first, second := request("acme"), request("acme")
	first.CreatedAt, second.CreatedAt = now.Add(-90*time.Minute), now
	for _, q := range []*Request{first, second} {
		q.Version, q.MaxPending = Version, 1
		raw(t, tb, "acme", KeyRequest+q.ID, q)
	}
	raw(t, tb, "acme", KeyCancel+first.ID+"/"+ulid.Make().String(), &Cancel{Version: Version, At: now, Withdrawn: true})
	for later := range 72 {
		if sweep(t, tb, now.Add(time.Duration(later)*time.Hour)) > 0 {
			nothingPending(t, opts)
		}
	}
	if n := len(tb.view.byID); n != 0 {
		t.Errorf("%d requests are left", n)
	}
}

// TestVoidGoesBeforeWithdrawn where one sweep removes both, as after days without any.
func TestVoidGoesBeforeWithdrawn(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	old := time.Now().UTC().Add(-3 * IdempotencyTime)
	void := make(map[string]string) // key of a withdrawn request → of the one too many behind it
	for range 8 {                   // else chance could have them in order
		first, second := request("acme"), request("acme")
		for _, q := range []*Request{first, second} {
			q.Account, q.Version, q.MaxPending, q.CreatedAt = first.ID, Version, 1, old
			raw(t, tb, q.Account, KeyRequest+q.ID, q)
		}
		raw(t, tb, first.Account, KeyCancel+first.ID+"/"+ulid.Make().String(), &Cancel{Version: Version, At: old, Withdrawn: true})
		void[KeyRequest+first.ID] = KeyRequest + second.ID
	}
	if n := sweep(t, tb, time.Now()); n != 16 {
		t.Fatalf("%d requests are removed, want all", n)
	}
	gone := make(map[string]bool)
	for _, r := range everything(t, opts) {
		if r.Value != nil {
			continue
		}
		gone[string(r.Key)] = true
		if behind, withdrawn := void[string(r.Key)]; withdrawn && !gone[behind] {
			t.Errorf("%s goes before what is void because of it", r.Key)
		}
	}
}

// TestARepeatKeepsAReportHoweverLate: a withdrawal that was on its way for hours comes
// after a repeat was answered with the report.
func TestARepeatKeepsAReportHoweverLate(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	first, again := request("acme"), request("acme")
	for _, q := range []*Request{first, again} {
		q.Version, q.IdempotencyKey, q.BodyHash = Version, "k", "h"
	}
	first.CreatedAt = again.CreatedAt.Add(-IdempotencyTime / 2)
	raw(t, tb, "acme", KeyRequest+first.ID, first)
	if r := submit(t, tb, again, 0); r.Request.ID != first.ID {
		t.Fatalf("the repeat is answered with report %s", r.Request.ID)
	}
	raw(t, tb, "acme", KeyCancel+first.ID+"/"+ulid.Make().String(), &Cancel{Version: Version, At: again.CreatedAt, Withdrawn: true})
	if _, ok := tb.Get("acme", first.ID); !ok {
		t.Error("the report that the repeat was answered with is gone")
	}
}
