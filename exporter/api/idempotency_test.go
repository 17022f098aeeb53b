package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestIdempotencyAndPending(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.Pending = 2 })
	body := recently()
	first := r.request("a", body, "Idempotency-Key", "k")
	// The same said otherwise.
	for _, same := range []string{
		body, strings.Replace(body, "Z", ".000+00:00", 1), " " + strings.Replace(body, "Z", "z", 1),
		strings.Replace(body, "}", `, "spreadsheet_safe": false, "additional_tag_mappings": []}`, 1),
	} {
		a := r.do("POST", "/emails/reports", "a", same, "Idempotency-Key", "k")
		var again Status
		a.json(t, &again)
		if a.StatusCode != 202 || first.ReportID != again.ReportID || a.Header.Get("Location") != r.url+"/emails/reports/"+first.ReportID {
			t.Fatalf("a repeat made another report: %d %v %s", a.StatusCode, a.Header, a.body)
		}
	}
	if other := r.request("b", body, "Idempotency-Key", "k"); other.ReportID == first.ReportID {
		t.Fatal("keys of two accounts are the same")
	}
	r.problem(r.do("POST", "/emails/reports", "a", strings.Replace(body, "}", `,"spreadsheet_safe":true}`, 1), "Idempotency-Key", "k"), 422, "idempotency-key-reused")
	second := r.request("a", body)
	r.problem(r.do("POST", "/emails/reports", "a", body), 429, "too-many-pending")
	r.problem(r.do("POST", "/emails/reports", "a", body, "Idempotency-Key", "k2"), 429, "too-many-pending")
	if again := r.request("a", body, "Idempotency-Key", "k"); again.ReportID != first.ReportID {
		t.Fatal("a repeat made another report, beyond the limit")
	}
	if a := r.do("DELETE", "/emails/reports/"+second.ReportID, "a", ""); a.StatusCode != 204 {
		t.Fatal(a.StatusCode)
	}
	if st := r.status("a", second.ReportID); st.Status != "cancelled" {
		t.Fatal(st.Status)
	}
	third := r.request("a", body, "Idempotency-Key", "k2") // which stood for nothing yet
	r.complete("acme", third.ReportID, someFile())
	// A repeat of a completed one is answered with what its status says, URL included.
	if st := r.request("a", body, "Idempotency-Key", "k2"); st.Status != "completed" || st.FileDownloadURLExpiresAt == nil || st.FileExpiresAt == nil ||
		string(r.do("GET", st.FileDownloadURL, "", "").body) != string(someFile()) {
		t.Fatalf("%+v", st)
	}
	r.request("a", body)
	if got := r.list("a"); len(got) != 4 {
		t.Fatalf("%d reports of four requests", len(got))
	}
	// The key stands for its report whatever became of it.
	for _, id := range []string{first.ReportID, third.ReportID} {
		if a := r.do("DELETE", "/emails/reports/"+id, "a", ""); a.StatusCode != 204 {
			t.Fatal(a.StatusCode)
		}
	}
	if st := r.request("a", body, "Idempotency-Key", "k"); st.ReportID != first.ReportID || st.Status != "cancelled" {
		t.Fatalf("%+v", st)
	}
	if st := r.request("a", body, "Idempotency-Key", "k2"); st.ReportID != third.ReportID || st.Status != "expired" {
		t.Fatalf("%+v", st)
	}
}

// A repeat is judged by its key and body alone: that the window has become too
// long by now, or that a definition is gone, does not make it another request.
func TestRepeatsAreNotJudgedAnew(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	now := time.Now()
	start := timeOf(now.AddDate(0, 0, -95)) // the first hour of which three months reach beyond now
	for addMonths(start, 3) < timeOf(now.Add(time.Hour)) {
		start += Time(time.Hour.Milliseconds())
	}
	body := fmt.Sprintf(`{"start_at":%q,"additional_attribute_mappings":[{"version_id":"9"}],"segment_filter":{"segment_discriminator":"seg-w"}}`, start)
	first := r.request("a", body, "Idempotency-Key", "k")
	r.undefine(definitions...)
	for i := range 26 {
		r.define(fmt.Sprintf(`{"kind":"section","account_id":"acme","discriminator":"x%d","name":"n"}`, i))
	}
	r.problem(r.do("POST", "/emails/reports", "a", recently()), 413, "too-many-sections")
	r.ahead.Store(int64(24*time.Hour - time.Minute))
	r.problem(r.do("POST", "/emails/reports", "a", body), 400, "invalid-request")
	for range 2 {
		if again := r.request("a", body, "Idempotency-Key", "k"); again.ReportID != first.ReportID {
			t.Fatal("a repeat made another report")
		}
	}
	r.problem(r.do("POST", "/emails/reports", "a", recently(), "Idempotency-Key", "k"), 422, "idempotency-key-reused")
	clear(r.tokens)
	r.ahead.Store(int64(24*time.Hour + time.Minute)) // the key is forgotten
	r.problem(r.do("POST", "/emails/reports", "a", body, "Idempotency-Key", "k"), 400, "invalid-request")
}

// After 24 hours a key may stand for another request.
func TestIdempotencyKeysAreForgotten(t *testing.T) {
	r := newRig(t, nil)
	body := recently()
	first := r.request("a", body, "Idempotency-Key", "k")
	clear(r.tokens)
	r.ahead.Store(int64(24*time.Hour + time.Minute))
	second := r.request("a", body, "Idempotency-Key", "k")
	if second.ReportID == first.ReportID {
		t.Fatal("the key is remembered for longer than 24 hours")
	}
	for key, status := range map[string]int{
		"": 400, "a b": 400, "é": 400, strings.Repeat("k", 256): 400, strings.Repeat("k", 255): 202, "!~": 202,
	} {
		if a := r.do("POST", "/emails/reports", "a", body, "Idempotency-Key", key); a.StatusCode != status {
			t.Errorf("key %.10q: %d, want %d", key, a.StatusCode, status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/emails/reports", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + r.token("a")}, "Idempotency-Key": {"x", "y"}}
	r.problem(r.send(req), 400, "invalid-request")
}
