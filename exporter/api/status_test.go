package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/state/report"
)

// What each status says, what DELETE makes of it, and that doing it again
// changes nothing.
func TestEveryStatus(t *testing.T) {
	r := newRig(t, nil)
	body := recently()
	ids := map[string]string{}
	for _, c := range []struct {
		status string
		reach  func(id string)
		then   string // after DELETE
	}{
		{"requested", func(string) {}, "cancelled"},
		{"processing", func(id string) { r.progress("acme", id) }, "cancelled"},
		{"completed", func(id string) { r.progress("acme", id); r.complete("acme", id, someFile()) }, "expired"},
		{"error", func(id string) { r.progress("acme", id); r.fail("acme", id, report.TooLarge.Problem("shorter")) }, "error"},
		{"cancelled", func(id string) { r.progress("acme", id); r.delete("a", id) }, "cancelled"},
		{"expired", func(id string) { r.progress("acme", id); r.complete("acme", id, someFile()); r.delete("a", id) }, "expired"},
	} {
		before := time.Now().UnixMilli()
		id := r.request("a", body).ReportID
		c.reach(id)
		ids[c.status] = id
		r.checkStatus(id, c.status, body, before)

		twin := r.request("a", body).ReportID
		c.reach(twin)
		for range 2 {
			r.delete("a", twin)
			r.checkStatus(twin, c.then, body, before)
		}
	}
	listed := map[string]string{}
	for _, st := range r.list("a") {
		listed[st.ReportID] = st.Status
		if st.FileDownloadURL != "" {
			t.Errorf("the list gives the URL %s", st.FileDownloadURL)
		}
	}
	for status, id := range ids {
		if listed[id] != status {
			t.Errorf("the list says %q of the report that is %s", listed[id], status)
		}
	}
	want := `
# HELP lockstitch_reports Reports known to this replica, by status.
# TYPE lockstitch_reports gauge
lockstitch_reports{status="cancelled"} 4
lockstitch_reports{status="completed"} 1
lockstitch_reports{status="error"} 2
lockstitch_reports{status="expired"} 3
lockstitch_reports{status="processing"} 1
lockstitch_reports{status="requested"} 1
`
	if err := testutil.GatherAndCompare(r.metrics, strings.NewReader(want), "lockstitch_reports"); err != nil {
		t.Error(err)
	}

	// Time makes the completed one expire.
	url := r.status("a", ids["completed"]).FileDownloadURL
	clear(r.tokens)
	r.ahead.Store(int64(25 * time.Hour))
	r.checkStatus(ids["completed"], "expired", body, 0)
	r.problem(r.do("GET", url, "", ""), 403, "invalid-download-credential")
}

// checkStatus checks all that the status of a report must say, and must not.
func (r *rig) checkStatus(id, want, body string, since int64) {
	r.t.Helper()
	a := r.do("GET", "/emails/reports/"+id+"?header_auth=true", "a", "")
	var st Status
	a.json(r.t, &st)
	if a.StatusCode != 200 || st.ReportID != id || st.Status != want {
		r.t.Fatalf("%d, want %s: %s", a.StatusCode, want, a.body)
	}
	if int64(st.CreatedAt) < since || st.CompleteThrough < st.CreatedAt || int64(st.CompleteThrough) > time.Now().UnixMilli() {
		r.t.Errorf("%s: created %s, complete through %s", want, st.CreatedAt, st.CompleteThrough)
	}
	if echo := fmt.Sprintf(`{"start_at":%q}`, st.Request.StartAt); echo != strings.Replace(body, "Z", ".000Z", 1) {
		r.t.Errorf("%s: request echoed as %s, it was %s", want, echo, body)
	}
	members := map[string]any{}
	a.json(r.t, &members)
	for name, in := range map[string][]string{
		"waiting": {"processing"}, "waiting_total": {"processing"}, "error": {"error"},
		"rows": {"completed"}, "bytes": {"completed"}, "sha256": {"completed"},
		"file_download_url": {"completed"}, "file_download_url_expires_at": {"completed"}, "file_expires_at": {"completed"},
	} {
		if _, is := members[name]; is != (in[0] == want) {
			r.t.Errorf("%s: %s is there: %v", want, name, is)
		}
	}
	if (a.Header.Get("x-apsis-auth") != "") != (want == "completed") {
		r.t.Errorf("%s: x-apsis-auth is %q", want, a.Header.Get("x-apsis-auth"))
	}
	switch want {
	case "processing":
		if st.Progress != (Progress{1, 4, 7, 99}) || st.Waiting[0] != (Waiting{"email-events", 1, 5, 3, "behind"}) || st.WaitingTotal != 1 {
			r.t.Errorf("%+v", st)
		}
	case "completed":
		if *st.Rows != 3 || *st.Bytes != int64(len(someFile())) || len(st.SHA256) != 64 || st.Progress != (Progress{2, 2, 3, *st.Bytes}) {
			r.t.Errorf("%+v", st)
		}
		if end := int64(*st.FileDownloadURLExpiresAt) - time.Now().UnixMilli(); end > (15*time.Minute).Milliseconds() || end < (14*time.Minute).Milliseconds() {
			r.t.Errorf("the URL expires in %d ms", end)
		}
	case "error":
		if e := st.Error; e.Type != "/problems/file-too-large" || e.Status != 413 || e.Title == "" || e.Detail != "shorter" {
			r.t.Errorf("%+v", st.Error)
		}
	}
}

// TestAStatusNamesSomeOfThousands of partitions, also where an earlier version wrote all,
// and counts all.
func TestAStatusNamesSomeOfThousands(t *testing.T) {
	all := make([]report.Waiting, 2048)
	for name, p := range map[string]*report.Progress{
		"an earlier version": {Waiting: all},
		"this one":           {Waiting: all[:report.MaxWaiting], WaitingTotal: len(all)},
	} {
		s := &server{now: time.Now}
		st, err := s.status(&report.Report{Request: &report.Request{Body: []byte("{}")}, Progress: p})
		if err != nil || len(st.Waiting) != 100 || st.WaitingTotal != len(all) {
			t.Errorf("%s: %d of %d are named, %v", name, len(st.Waiting), st.WaitingTotal, err)
		}
	}
}
