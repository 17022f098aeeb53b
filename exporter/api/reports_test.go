package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var definitions = []string{
	`{"kind":"section","account_id":"acme","discriminator":"s1","name":"One"}`,
	`{"kind":"attribute","account_id":"acme","version_id":"10","discriminator":"gender","section":"s1","name":"gender","type":"text"}`,
	`{"kind":"attribute","account_id":"acme","version_id":"9","discriminator":"gender","section":"s1","name":"gender","type":"boolean"}`,
	`{"kind":"attribute","account_id":"acme","version_id":"7","discriminator":"com.apsis1.attributes.email","section":"s1","name":"Email","type":"text"}`,
	`{"kind":"tag","account_id":"acme","version_id":"20","discriminator":"vip","section":"s1","name":"VIP"}`,
	`{"kind":"segment","account_id":"acme","discriminator":"seg-w","name":"women"}`,
	`{"kind":"segment","account_id":"acme","discriminator":"seg-e","name":"europe"}`,
}

// The seed's flow: token, request, poll, download; then the same with the
// credential in a header.
func TestFlow(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	if err := r.client.ProduceSync(t.Context(), &kgo.Record{Topic: "email-events", Partition: 0, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	body := `{"start_at":"2026-05-01t00:00:00.1239+00:00","end_at":"2026-06-01T00:00:00z","spreadsheet_safe":true,
		"segment_filter":{"segment_discriminators":{"women":"seg-w","europe":"seg-e"},"filter":"!(europe) & women"},
		"additional_attribute_mappings":[{"section_discriminator":"s1","discriminator":"gender"},{"version_id":"9"}],
		"additional_tag_mappings":[{"version_id":"20"}]}`
	before := time.Now().UnixMilli()
	a := r.do("POST", "/emails/reports", "a", body)
	var st Status
	a.json(t, &st)
	if a.StatusCode != 202 || st.Status != "requested" || a.Header.Get("Location") != r.url+"/emails/reports/"+st.ReportID {
		t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.body)
	}
	if int64(st.CompleteThrough) < before || int64(st.CompleteThrough) > time.Now().UnixMilli() {
		t.Fatalf("complete_through %s", st.CompleteThrough)
	}
	echo, _ := json.Marshal(st.Request)
	want := `{"start_at":"2026-05-01T00:00:00.123Z","end_at":"2026-06-01T00:00:00.000Z","segment_filter":{"segment_discriminators":{"europe":"seg-e","women":"seg-w"},"filter":"!(europe) \u0026 women"},"additional_attribute_mappings":[{"section_discriminator":"s1","discriminator":"gender"},{"version_id":"9"}],"additional_tag_mappings":[{"version_id":"20"}],"spreadsheet_safe":true}`
	if string(echo) != want {
		t.Fatalf("request echoed as %s", echo)
	}

	rep, ok := r.table.Get("acme", st.ReportID)
	if !ok {
		t.Fatal("the report is not in the table")
	}
	q := rep.Request.Question
	if fmt.Sprint(q.Attributes) != "[{s1 10 gender text} {s1 9 gender boolean}]" || fmt.Sprint(q.Tags) != "[{s1 20 VIP}]" ||
		fmt.Sprint(q.Email) != "map[s1:[{7 text}]]" || fmt.Sprint(q.Audiences) != "map[europe:seg-e women:seg-w]" || q.Filter != "!(europe) & women" {
		t.Fatalf("question %+v", q)
	}
	var below int64
	for _, e := range q.Barrier {
		below += e.Offset
	}
	if len(q.Barrier) != 2 || below != 1 {
		t.Fatalf("barrier %v", q.Barrier)
	}

	r.progress("acme", st.ReportID)
	st = r.status("a", st.ReportID)
	if st.Status != "processing" || st.Progress.SegmentsTotal != 4 || len(st.Waiting) != 1 || st.Waiting[0].Reason != "behind" || st.FileDownloadURL != "" {
		t.Fatalf("%+v", st)
	}

	file := someFile()
	r.complete("acme", st.ReportID, file)
	st = r.status("a", st.ReportID)
	if st.Status != "completed" || *st.Rows != 3 || *st.Bytes != int64(len(file)) || st.SHA256 == "" || st.FileExpiresAt == nil || len(st.Waiting) != 0 {
		t.Fatalf("%+v", st)
	}
	a = r.do("GET", st.FileDownloadURL, "", "")
	if a.StatusCode != 200 || string(a.body) != string(file) {
		t.Fatalf("download: %d, %d bytes", a.StatusCode, len(a.body))
	}

	a = r.do("GET", "/emails/reports/"+st.ReportID+"?header_auth=true", "a", "")
	a.json(t, &st)
	credential := a.Header.Get("x-apsis-auth")
	if credential == "" || strings.Contains(st.FileDownloadURL, "?") {
		t.Fatalf("header_auth: %q %s", credential, st.FileDownloadURL)
	}
	r.problem(r.do("GET", st.FileDownloadURL, "", ""), 403, "invalid-download-credential")
	if a = r.do("GET", st.FileDownloadURL, "", "", "x-apsis-auth", credential); string(a.body) != string(file) {
		t.Fatalf("download by header: %d", a.StatusCode)
	}
}

func TestRefusedRequests(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.ExportsPerMinute = 10_000 })
	r.define(definitions...)
	many := func(n int) string {
		var l []string
		for i := range n {
			l = append(l, fmt.Sprintf(`{"version_id":"%d"}`, i))
		}
		return "[" + strings.Join(l, ",") + "]"
	}
	for _, c := range []struct{ name, body, pointer string }{
		{"empty", ``, ""},
		{"not JSON", `{"start_at":`, ""},
		{"trailing", recently() + `{}`, ""},
		{"not an object", `[1]`, ""},
		{"null", `null`, ""},
		{"not UTF-8", "{\"start_at\":\"\xff\"}", ""},
		{"deep", strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000), "*"},
		{"no start", `{}`, "/start_at"},
		{"start null", `{"start_at":null}`, "/start_at"},
		{"start a number", `{"start_at":1}`, "/start_at"},
		{"offset", `{"start_at":"2026-05-01T00:00:00+02:00"}`, "/start_at"},
		{"end wrong", `{"start_at":"2026-05-01T00:00:00Z","end_at":"tomorrow"}`, "/end_at"},
		{"end before start", `{"start_at":"2026-05-01T00:00:00Z","end_at":"2026-05-01T00:00:00Z"}`, "/end_at"},
		{"window", `{"start_at":"2025-11-30T00:00:00Z","end_at":"2026-02-28T00:00:00.001Z"}`, "/end_at"},
		{"window to now", `{"start_at":"2020-01-01T00:00:00Z"}`, "/start_at"},
		{"unknown member", `{"start_at":"2026-05-01T00:00:00Z","end_at":"2026-05-02T00:00:00Z","a/b":1}`, "/a~1b"},
		{"other case", `{"Start_at":"2026-05-01T00:00:00Z"}`, "/Start_at"},
		{"twice", `{"start_at":"2026-05-01T00:00:00Z","start_at":"2026-05-01T00:00:00Z"}`, "/start_at"},
		{"safe", `{"start_at":"2026-05-01T00:00:00Z","spreadsheet_safe":"yes"}`, "/spreadsheet_safe"},
		{"mappings no list", `{"start_at":"2026-05-01T00:00:00Z","additional_attribute_mappings":{}}`, "/additional_attribute_mappings"},
		{"mapping no object", `{"start_at":"2026-05-01T00:00:00Z","additional_tag_mappings":["1"]}`, "/additional_tag_mappings/0"},
		{"mapping integer", `{"start_at":"2026-05-01T00:00:00Z","additional_tag_mappings":[{"version_id":20}]}`, "/additional_tag_mappings/0/version_id"},
		{"mapping of both shapes", `{"start_at":"2026-05-01T00:00:00Z","additional_tag_mappings":[{"version_id":"20","discriminator":"vip"}]}`, "/additional_tag_mappings/0/discriminator"},
		{"mapping half", `{"start_at":"2026-05-01T00:00:00Z","additional_tag_mappings":[{"discriminator":"vip"}]}`, "/additional_tag_mappings/0/section_discriminator"},
		{"unknown attribute", `{"start_at":"%","additional_attribute_mappings":[{"version_id":"9"},{"version_id":"11"}]}`, "/additional_attribute_mappings/1/version_id"},
		{"unknown attribute name", `{"start_at":"%","additional_attribute_mappings":[{"section_discriminator":"s2","discriminator":"gender"}]}`, "/additional_attribute_mappings/0/discriminator"},
		{"attribute twice", `{"start_at":"%","additional_attribute_mappings":[{"version_id":"010"},{"section_discriminator":"s1","discriminator":"gender"}]}`, "/additional_attribute_mappings/1"},
		{"unknown tag", `{"start_at":"%","additional_tag_mappings":[{"version_id":"10"}]}`, "/additional_tag_mappings/0/version_id"},
		{"76 attributes", `{"start_at":"%","additional_attribute_mappings":` + many(76) + `}`, "/additional_attribute_mappings"},
		{"26 tags", `{"start_at":"%","additional_tag_mappings":` + many(26) + `}`, "/additional_tag_mappings"},
		{"unknown member of a mapping", `{"start_at":"%","additional_tag_mappings":[{"version_id":"20","x":1}]}`, "/additional_tag_mappings/0/x"},
		{"mapping of 20 digits", `{"start_at":"%","additional_tag_mappings":[{"version_id":"00000000000000000020"}]}`, "/additional_tag_mappings/0/version_id"},
		{"tag twice", `{"start_at":"%","additional_tag_mappings":[{"version_id":"20"},{"section_discriminator":"s1","discriminator":"vip"}]}`, "/additional_tag_mappings/1"},
		{"unknown member of a filter", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"w","x":1}}`, "/segment_filter/x"},
		{"unknown segment behind an unused name", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w","v":"seg-x"},"filter":"w"}}`, "/segment_filter/segment_discriminators/v"},
		{"unused name that no filter can use", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w","a b":"seg-w"},"filter":"w"}}`, "/segment_filter/segment_discriminators/a b"},
		{"long unused name", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w","` + strings.Repeat("ö", 65) + `":"seg-w"},"filter":"w"}}`, "/segment_filter/segment_discriminators/" + strings.Repeat("ö", 64) + "…"},
		{"filter of blanks", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":" "}}`, "/segment_filter/filter"},
		{"deep filter", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"` + strings.Repeat("!", 100) + `w"}}`, "/segment_filter/filter"},
		{"long filter", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"w` + strings.Repeat(" &w", 4000) + `"}}`, "/segment_filter/filter"},
		{"filter no object", `{"start_at":"%","segment_filter":"seg-w"}`, "/segment_filter"},
		{"filter empty", `{"start_at":"%","segment_filter":{}}`, "/segment_filter/filter"},
		{"unknown segment", `{"start_at":"%","segment_filter":{"segment_discriminator":"seg-x"}}`, "/segment_filter/segment_discriminator"},
		{"both shapes", `{"start_at":"%","segment_filter":{"segment_discriminator":"seg-w","filter":"x"}}`, "/segment_filter/filter"},
		{"unknown segment by name", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-x"},"filter":"w"}}`, "/segment_filter/segment_discriminators/w"},
		{"unknown name", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"w & x"}}`, "/segment_filter/filter"},
		{"bad expression", `{"start_at":"%","segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"w &"}}`, "/segment_filter/filter"},
		{"no names", `{"start_at":"%","segment_filter":{"segment_discriminators":{},"filter":"w"}}`, "/segment_filter/segment_discriminators"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := *r
			r.t = t
			body := strings.ReplaceAll(c.body, `"%"`, fmt.Sprintf("%q", time.Now().UTC().Format(time.RFC3339)))
			p := r.problem(r.do("POST", "/emails/reports", "a", body, "Content-Type", "application/json"), 400, "invalid-request")
			if c.pointer != "*" && (len(p.Errors) == 0 || p.Errors[0].Pointer != c.pointer) {
				t.Fatalf("errors %v, want %q first", p.Errors, c.pointer)
			}
		})
	}
	if got := r.table.Pending(); len(got) != 0 {
		t.Fatalf("%d reports were written", len(got))
	}

	// Everything that is wrong is named, and the unknown by its name.
	p := r.problem(r.do("POST", "/emails/reports", "a", `{"start_at":"x","end_at":5,"spreadsheet_safe":1,"more":{}}`), 400, "invalid-request")
	var at []string
	for _, e := range p.Errors {
		at = append(at, e.Pointer)
	}
	if fmt.Sprint(at) != "[/more /start_at /end_at /spreadsheet_safe]" {
		t.Errorf("errors at %v", at)
	}
	p = r.problem(r.do("POST", "/emails/reports", "a", strings.Replace(recently(), "}", `,"segment_filter":{"segment_discriminator":"seg-x"},"additional_tag_mappings":[{"version_id":"77"}]}`, 1)), 400, "invalid-request")
	if len(p.Errors) != 2 || !strings.Contains(p.Errors[0].Detail, "77") || !strings.Contains(p.Errors[1].Detail, "seg-x") {
		t.Errorf("%+v", p.Errors)
	}

	big := `{"start_at":"` + strings.Repeat("x", 100_001) + `"}`
	r.problem(r.do("POST", "/emails/reports", "a", big), 413, "body-too-large")
	r.problem(r.do("POST", "/oauth/token", "", big), 413, "body-too-large")
	r.problem(r.do("POST", "/emails/reports", "a", recently(), "Content-Type", "text/plain"), 415, "unsupported-media-type")
	r.problem(r.do("POST", "/emails/reports", "a", recently(), "Content-Encoding", "gzip"), 415, "unsupported-media-type")
	r.problem(r.do("POST", "/emails/reports", "a", recently(), "Idempotency-Key", strings.Repeat("k", 256)), 400, "invalid-request")
	r.problem(r.do("POST", "/emails/reports", "a", recently(), "Idempotency-Key", "a b"), 400, "invalid-request")

	// Chunked: no Content-Length announces the size.
	req, err := http.NewRequest("POST", r.url+"/emails/reports", struct{ *strings.Reader }{strings.NewReader(big)})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	req.Header.Set("Authorization", "Bearer "+r.token("a"))
	r.problem(r.send(req), 413, "body-too-large")

	for i := range 26 {
		r.define(fmt.Sprintf(`{"kind":"section","account_id":"other","discriminator":"s%d","name":"n"}`, i))
	}
	r.problem(r.do("POST", "/emails/reports", "b", recently()), 413, "too-many-sections")
}

// What is unusual but legal: names that the filter does not use, an attribute
// and a tag of one version id, the same segment under two names, one segment.
func TestUnusualRequests(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	r.define(`{"kind":"tag","account_id":"acme","version_id":"9","discriminator":"nine","section":"s1","name":"n"}`)
	for _, media := range []string{"application/json; charset=utf-8", "Application/JSON", ""} {
		if a := r.do("POST", "/emails/reports", "a", recently(), "Content-Type", media); a.StatusCode != 202 {
			t.Errorf("Content-Type %q: %d %s", media, a.StatusCode, a.body)
		}
	}
	start := strings.TrimSuffix(recently(), "}")
	for more, want := range map[string]string{
		`,"segment_filter":{"segment_discriminators":{"w":"seg-w","e":"seg-e"},"filter":"w"}`:                                                    "map[w:seg-w] w",
		`,"segment_filter":{"segment_discriminators":{"a":"seg-w","b":"seg-w"},"filter":" !( a )|b\t"}`:                                          "map[a:seg-w b:seg-w]  !( a )|b\t",
		`,"segment_filter":{"segment_discriminator":"seg-e"}`:                                                                                    "map[segment:seg-e] segment",
		`,"additional_attribute_mappings":[{"version_id":"0000000000000000009"}],"additional_tag_mappings":[{"version_id":"9"}]`:                 "map[] ",
		`,"additional_attribute_mappings":[{"version_id":"9"},{"version_id":"10"}],"additional_tag_mappings":[],"end_at":"9999-01-01T00:00:00Z"`: "",
	} {
		a := r.do("POST", "/emails/reports", "a", start+more+"}")
		if want == "" {
			r.problem(a, 400, "invalid-request")
			continue
		}
		var st Status
		a.json(t, &st)
		rep, ok := r.table.Get("acme", st.ReportID)
		if a.StatusCode != 202 || !ok {
			t.Fatalf("%s: %d %s", more, a.StatusCode, a.body)
		}
		if q := rep.Request.Question; fmt.Sprintf("%v %s", q.Audiences, q.Filter) != strings.ReplaceAll(want, "\\t", "\t") {
			t.Errorf("%s: %v %q", more, q.Audiences, q.Filter)
		}
		for _, c := range rep.Request.Question.Attributes {
			if c.VersionID != "9" {
				t.Errorf("%s: attribute %+v", more, c)
			}
		}
	}
}

func TestListAndOwnership(t *testing.T) {
	r := newRig(t, nil)
	var ids []string
	for range 3 {
		ids = append(ids, r.request("a", recently()).ReportID)
	}
	r.request("b", recently())
	var got []string
	for token := ""; ; {
		a := r.do("GET", "/emails/reports?limit=2"+token, "a", "")
		var l ReportList
		a.json(t, &l)
		for _, st := range l.Items {
			got = append(got, st.ReportID)
		}
		if l.NextPageToken == "" {
			break
		}
		token = "&page_token=" + l.NextPageToken
	}
	if fmt.Sprint(got) != fmt.Sprint([]string{ids[2], ids[1], ids[0]}) {
		t.Fatalf("%v, want %v backwards", got, ids)
	}
	for _, q := range []string{"limit=0", "limit=201", "limit=x", "limit=", "limit=1&limit=2", "limit=%2B1", "page_token=zzz", "page_token=", "%zz"} {
		r.problem(r.do("GET", "/emails/reports?"+q, "a", ""), 400, "invalid-request")
	}
	r.problem(r.do("GET", "/emails/reports/"+ids[0]+"?header_auth=1", "a", ""), 400, "invalid-request")
	for _, id := range []string{
		ids[0], "01ARZ3NDEKTSV4RRFFQ69G5FAV", "x", "%00", "%ff%fe", "..", "%2e%2e", "%2e%2e%2f%2e%2e", "a%2fb", "..%5c",
		strings.ToLower(ids[0]), "q%2f" + ids[0], strings.Repeat("9", 5000), "%E2%80%AE",
	} {
		for _, m := range []string{"GET", "DELETE"} {
			r.problem(r.do(m, "/emails/reports/"+id, "b", ""), 404, "not-found")
		}
	}
	r.problem(r.do("GET", "/emails//reports", "a", ""), 404, "not-found")
	r.problem(r.do("GET", "/emails/../emails/reports", "a", ""), 404, "not-found")
	r.problem(r.do("GET", "/", "", ""), 404, "not-found")
	if st := r.status("a", ids[0]); st.Status != "requested" {
		t.Fatalf("a foreign DELETE changed the report: %s", st.Status)
	}
}

func TestMethods(t *testing.T) {
	r := newRig(t, nil)
	id := r.request("a", recently()).ReportID
	for path, allow := range map[string]string{
		"/emails/reports": "GET, HEAD, POST", "/emails/reports/" + id: "DELETE, GET, HEAD",
		"/oauth/token": "POST", "/docs": "GET, HEAD", "/emails/section/s/activities": "GET, HEAD",
	} {
		a := r.do("PATCH", path, "", "")
		r.problem(a, 405, "method-not-allowed")
		if a.Header.Get("Allow") != allow {
			t.Errorf("%s: Allow %q, want %q", path, a.Header.Get("Allow"), allow)
		}
	}
}

// A body with very many faults is not answered with a line for each.
func TestAProblemListsSoManyPlaces(t *testing.T) {
	r := newRig(t, nil)
	faults := func(n int) string {
		m := map[string]any{"start_at": time.Now().UTC().Add(-time.Hour).Format(time.RFC3339)}
		for i := range n {
			m[fmt.Sprintf("x%03d", i)] = i
		}
		body, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for n, want := range map[int]int{maxFieldErrors - 1: maxFieldErrors - 1, maxFieldErrors: maxFieldErrors, maxFieldErrors + 1: maxFieldErrors, 1000: maxFieldErrors} {
		p := r.problem(r.do("POST", "/emails/reports", "a", faults(n)), 400, "invalid-request")
		if len(p.Errors) != want || p.Errors[0].Pointer != "/x000" {
			t.Errorf("%d faults: %d places from %s on, want %d", n, len(p.Errors), p.Errors[0].Pointer, want)
		}
	}
}
