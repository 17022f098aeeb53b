package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// everyCall calls f with each operation of the document and a path for it.
func (r *rig) everyCall(report string, f func(op *huma.Operation, path string)) {
	fill := strings.NewReplacer("{report_id}", report, "{section_discriminator}", "s1", "{activity_id}", "x", "{name}", "hourly", "{number}", "1")
	for path, item := range r.doc.Paths {
		for _, op := range operationsOf(item) {
			f(op, fill.Replace(path))
		}
	}
}

// All calls but those for tokens and downloads need an access token.
func TestEveryCallNeedsAToken(t *testing.T) {
	r := newRig(t, nil)
	st, _ := r.finished()
	r.everyCall(st.ReportID, func(op *huma.Operation, path string) {
		a := r.do(op.Method, path, "", "")
		if op.Path == "/oauth/token" || op.Path == "/emails/reports/{report_id}/file" {
			if a.StatusCode == 401 || len(op.Security) > 0 {
				t.Errorf("%s %s: %d without a token", op.Method, path, a.StatusCode)
			}
			return
		}
		r.problem(a, 401, "unauthorized")
		for _, h := range []string{"x", "Bearer", "Bearer ", "Basic YTpi", "Bearer x", "Bearer x y", r.token("a")} {
			r.problem(r.do(op.Method, path, "", "", "Authorization", h), 401, "unauthorized")
		}
		req, err := http.NewRequestWithContext(t.Context(), op.Method, r.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header["Authorization"] = []string{"Bearer " + r.token("a"), "Bearer " + r.token("b")}
		r.problem(r.send(req), 401, "unauthorized")
	})
	if now := r.status("a", st.ReportID); now.Status != "completed" {
		t.Fatalf("a call without a token did something: %s", now.Status)
	}
	for _, path := range []string{"/openapi.json", "/openapi.yaml", "/docs"} {
		if a := r.do("GET", path, "", ""); a.StatusCode != 200 {
			t.Errorf("%s without a token: %d", path, a.StatusCode)
		}
	}
}

func TestEveryCallReadsItsQuery(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	st, _ := r.finished()
	_, token, _ := strings.Cut(st.FileDownloadURL, "?")
	r.everyCall(st.ReportID, func(op *huma.Operation, path string) {
		r.problem(r.do(op.Method, path+"?%zz", "a", ""), 400, "invalid-request")
	})
	r.problem(r.do("GET", "/emails/reports/"+st.ReportID+"/file?"+token+"&"+token, "", ""), 400, "invalid-request")
}

// A replica that cannot ask Kafka gives no answer about reports.
func TestKafkaAway(t *testing.T) {
	r := newRig(t, nil)
	st, _ := r.finished()
	r.cfg.KafkaTimeout = 200 * time.Millisecond
	r = r.replica()
	_, token, _ := strings.Cut(st.FileDownloadURL, "?")
	r.cluster.Close()
	r.everyCall(st.ReportID, func(op *huma.Operation, path string) {
		if op.Path == "/oauth/token" {
			return // asks nobody
		}
		body := ""
		switch op.Method {
		case http.MethodPost:
			body = recently()
		case http.MethodPut:
			body = `{"every":"PT1H","start":"now"}`
		}
		r.problem(r.do(op.Method, path+"?"+token, "a", body), 503, "unavailable")
	})
}
