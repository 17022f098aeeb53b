package api

import (
	"sync"
	"testing"
)

// What one replica acknowledged every other shows, at once; and the limits and
// keys that count over all replicas do.
func TestNoAnswerIsStale(t *testing.T) {
	a := newRig(t, func(c *Config, _ *Deps) { c.Limits.Pending = 5 })
	b := a.replica()
	body := recently()
	for range 5 {
		st := a.request("a", body)
		if got := b.status("a", st.ReportID); got.Status != "requested" || got.CompleteThrough != st.CompleteThrough {
			t.Fatalf("%+v", got)
		}
		if l := b.list("a"); l[0].ReportID != st.ReportID {
			t.Fatal("the list does not begin with the newest")
		}
		b.delete("a", st.ReportID)
		if got := a.status("a", st.ReportID); got.Status != "cancelled" {
			t.Fatal(got.Status)
		}
	}
	done := a.request("a", body)
	b.complete("acme", done.ReportID, someFile())
	url := a.status("a", done.ReportID).FileDownloadURL
	b.delete("a", done.ReportID)
	a.problem(a.do("GET", url, "", ""), 410, "file-gone")

	// What was defined just now is known to either.
	for i, r := range []*rig{a, b} {
		r.define(definitions[i+1])
		r.request("a", body[:len(body)-1]+`,"additional_attribute_mappings":[{"version_id":"`+[]string{"10", "9"}[i]+`"}]}`)
	}

	// Two requests are pending. Of what both replicas are asked at once, three more
	// can be accepted.
	var wg sync.WaitGroup
	codes := make([]int, 20)
	for i := range codes {
		r := *[]*rig{a, b}[i%2]
		r.token("a")
		wg.Go(func() { codes[i] = r.do("POST", "/emails/reports", "a", body).StatusCode })
	}
	wg.Wait()
	count := map[int]int{}
	for _, code := range codes {
		count[code]++
	}
	if count[202] != 3 || count[429] != 17 {
		t.Fatalf("with 2 of 5 pending, 20 more requests were answered with %v", count)
	}
	for _, st := range b.list("a") {
		b.delete("a", st.ReportID)
	}

	// One key is one report.
	ids := make([]string, 10)
	for i := range ids {
		r := *[]*rig{a, b}[i%2]
		wg.Go(func() {
			ids[i] = r.do("POST", "/emails/reports", "a", body, "Idempotency-Key", "k").Header.Get("Location")
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || id == "" {
			t.Fatalf("one key stands for %v", ids)
		}
	}
	a.problem(b.do("POST", "/emails/reports", "a", body[:len(body)-1]+`,"spreadsheet_safe":true}`, "Idempotency-Key", "k"), 422, "idempotency-key-reused")
}
