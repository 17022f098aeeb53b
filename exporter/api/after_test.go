package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/auth"
	"lockstitch/exporter/cursor"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// finishAt writes the result of a rolling report as its runner would.
func (r *rig) finishAt(account, id string, through []report.End) {
	r.t.Helper()
	now := time.Now().UTC()
	attempt := ulid.Make().String()
	won, err := r.table.WriteResult(r.t.Context(), account, id, report.Result{
		Attempt: attempt, At: now, Object: "exports/" + attempt, Through: through, More: through != nil, Expires: now.Add(time.Hour),
	})
	if err != nil || !won {
		r.t.Fatal(won, err)
	}
}

func (r *rig) question(id string) report.Question {
	r.t.Helper()
	rep, ok := r.table.Get("acme", id)
	if !ok {
		r.t.Fatal("the report is not in the table")
	}
	return rep.Request.Question
}

// A client's way from the beginning: a file that ends early, one that ends at
// its barrier, and a repeat of that call.
func TestFromCursorToCursor(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	for i := range 30 {
		if err := r.client.ProduceSync(t.Context(), &kgo.Record{Topic: "email-events", Key: []byte{byte(i)}, Value: []byte("x")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	st := r.request("a", `{"after":"beginning","additional_tag_mappings":[{"version_id":"20"}],"segment_filter":{"segment_discriminator":"seg-w"}}`)
	q := r.question(st.ReportID)
	if !q.Rolling || q.After != nil || q.StartAt != 0 || q.EndAt != nil || len(q.Barrier) != 2 || len(q.Tags) != 1 || q.Filter == "" {
		t.Fatalf("question %+v", q)
	}
	echo, err := json.Marshal(st.Request)
	if want := `{"after":"beginning","segment_filter":{"segment_discriminator":"seg-w"},"additional_tag_mappings":[{"version_id":"20"}]}`; err != nil || string(echo) != want {
		t.Fatalf("request echoed as %s, %v", echo, err)
	}
	if st.Cursor != "" || st.More != nil {
		t.Fatalf("a cursor before there is a file: %+v", st)
	}
	through := []report.End{{Topic: "email-events", TopicID: q.Barrier[0].TopicID, Partition: 0, Offset: 3}, {Topic: "email-events", TopicID: q.Barrier[0].TopicID, Partition: 1, Offset: 2}}
	r.finishAt("acme", st.ReportID, through)
	st = r.status("a", st.ReportID)
	if st.Status != "completed" || st.More == nil || !*st.More || st.Cursor == "" {
		t.Fatalf("%+v", st)
	}

	body := fmt.Sprintf(`{"after":%q}`, st.Cursor)
	second := r.request("a", body, "Idempotency-Key", "k")
	q = r.question(second.ReportID)
	if got := q.After; !q.Rolling || len(got) != 2 || got[0].Offset != 3 || got[1].Offset != 2 || got[0].TopicID != through[0].TopicID {
		t.Fatalf("after %v, want %v", q.After, through)
	}
	if again := r.request("a", body, "Idempotency-Key", "k"); again.ReportID != second.ReportID || again.Request.After != st.Cursor {
		t.Fatal("a repeat made another report")
	}
	r.problem(r.do("POST", "/emails/reports", "a", `{"after":"beginning"}`, "Idempotency-Key", "k"), 422, "idempotency-key-reused")
	r.finishAt("acme", second.ReportID, nil)
	done := r.status("a", second.ReportID)
	if done.More == nil || *done.More {
		t.Fatalf("%+v", done)
	}
	third := r.request("a", fmt.Sprintf(`{"after":%q}`, done.Cursor))
	if got, want := r.question(third.ReportID).After, report.Later(q.After, q.Barrier); len(got) != 2 || got[0].Offset != want[0].Offset || got[1].Offset != want[1].Offset {
		t.Fatalf("after %v, want %v", got, want)
	}

	// A window's file ends at its barrier, and nothing is said of more.
	window := r.request("a", recently())
	r.complete("acme", window.ReportID, someFile())
	if window = r.status("a", window.ReportID); window.Cursor != done.Cursor || window.More != nil {
		t.Fatalf("%+v, want the cursor %s", window, done.Cursor)
	}
}

func TestRefusedCursors(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.ExportsPerMinute = 10_000 })
	at := []report.End{{TopicID: segment.TopicID{1}, Offset: 77}, {TopicID: segment.TopicID{2}, Partition: 5, Offset: 1 << 33}}
	good := cursor.New([]auth.Key{testKey}).Encode("acme", at)
	var said []string
	refuse := func(client, text string) {
		t.Helper()
		body, err := json.Marshal(map[string]string{"after": text})
		if err != nil {
			t.Fatal(err)
		}
		p := r.problem(r.do("POST", "/emails/reports", client, string(body)), 400, "invalid-request")
		if len(p.Errors) != 1 || p.Errors[0].Pointer != "/after" {
			t.Fatalf("%q: %+v", text, p)
		}
		said = append(said, p.Detail)
	}
	for i := range len(good) {
		other := "A"
		if good[i] == 'A' {
			other = "B"
		}
		refuse("a", good[:i]+other+good[i+1:])
	}
	for _, text := range []string{"", "begin", "Beginning", " beginning", "AQ", good + "\n", good + "=", good[:len(good)-1], strings.Repeat("A", 50_000), "é"} {
		refuse("a", text)
	}
	refuse("b", good)
	unknown := auth.Key{ID: "k2", Secret: testKey.Secret}
	refuse("a", cursor.New([]auth.Key{unknown}).Encode("acme", at))
	forged := auth.Key{ID: testKey.ID, Secret: []byte(strings.Repeat("f", 32))}
	refuse("a", cursor.New([]auth.Key{forged}).Encode("acme", at))
	for _, s := range said {
		if s != said[0] {
			t.Fatalf("two ways to be refused can be told apart: %q and %q", s, said[0])
		}
	}
	// Neither is a token a cursor, nor a cursor a token.
	refuse("a", r.token("a"))
	r.tokens["cursor"] = good
	r.problem(r.do("GET", "/emails/reports", "cursor", ""), 401, "unauthorized")

	for body, pointers := range map[string][]string{
		`{"after":5}`:    {"/after"},
		`{"after":null}`: {"/after"},
		`{"after":"beginning","start_at":"2026-05-01T00:00:00Z"}`:                                    {"/start_at"},
		`{"after":"beginning","end_at":"2026-05-01T00:00:00Z"}`:                                      {"/end_at"},
		`{"after":"` + good + `","start_at":"2026-05-01T00:00:00Z","end_at":"2026-06-01T00:00:00Z"}`: {"/start_at", "/end_at"},
		`{"after":"beginning","segment_filter":{"segment_discriminator":"none"}}`:                    {"/segment_filter/segment_discriminator"},
		`{"end_at":"2026-05-01T00:00:00Z"}`:                                                          {"/start_at"},
	} {
		var got []string
		for _, e := range r.problem(r.do("POST", "/emails/reports", "a", body), 400, "invalid-request").Errors {
			got = append(got, e.Pointer)
		}
		if !reflect.DeepEqual(got, pointers) {
			t.Errorf("%s: errors at %v, want %v", body, got, pointers)
		}
	}
	if got := r.table.Pending(); len(got) != 0 {
		t.Fatalf("%d reports were written", len(got))
	}
	if st := r.request("a", fmt.Sprintf(`{"after":%q}`, good)); !reflect.DeepEqual(r.question(st.ReportID).After, at) {
		t.Fatalf("after %v, want %v", r.question(st.ReportID).After, at)
	}
}
