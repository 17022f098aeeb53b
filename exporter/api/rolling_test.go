package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/report"
)

// put creates or changes a rolling export.
func (r *rig) put(client, name, body string, code int) (st RollingExport) {
	r.t.Helper()
	a := r.do("PUT", "/emails/rolling-exports/"+name, client, body)
	if a.StatusCode != code {
		r.t.Fatalf("PUT %s: %d %s, want %d", name, a.StatusCode, a.body, code)
	}
	a.json(r.t, &st)
	return st
}

func (r *rig) rolling(client, name string) (st RollingExport) {
	r.t.Helper()
	a := r.do("GET", "/emails/rolling-exports/"+name, client, "")
	if a.StatusCode != 200 {
		r.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	a.json(r.t, &st)
	return st
}

// step makes the next step of a standing order as its generator would, with a
// file unless the file is nil.
func (r *rig) step(account, name string, file []byte, tweak func(*report.Request, *report.Result)) *report.Report {
	r.t.Helper()
	if err := r.table.CatchUp(r.t.Context(), account); err != nil {
		r.t.Fatal(err)
	}
	o, ok := r.table.OrderNamed(account, name)
	if !ok {
		r.t.Fatalf("there is no order %s", name)
	}
	end := o.Order.CreatedAt.Truncate(time.Minute).Add(time.Minute)
	req := &report.Request{
		ID: ulid.Make().String(), Account: account, CreatedAt: time.Now().UTC(),
		Question: report.Question{Rolling: true, After: o.Order.From, Barrier: []report.End{{TopicID: [16]byte{1}, Offset: o.Seq() + 1}}, CompleteThrough: end},
		Step:     &report.Step{Order: o.Order.ID, Name: name, Revision: o.Settings.Revision, Seq: o.Seq() + 1, Files: o.Files(), PeriodEnd: end, Deliver: true},
	}
	if o.Last != nil {
		req.Question.After, req.Step.PeriodStart, req.Step.PeriodEnd = o.Last.Through(), o.Last.Request.Step.PeriodEnd, o.Last.Request.Step.PeriodEnd.Add(time.Minute)
	}
	now := time.Now().UTC()
	res := report.Result{Attempt: ulid.Make().String(), At: now, Expires: now.Add(time.Hour)}
	if file != nil {
		sum := sha256.Sum256(file)
		res.Object = "exports/" + account + "/" + req.ID + "/x.csv.gz"
		res.Rows, res.Bytes, res.SHA256 = 3, int64(len(file)), hex.EncodeToString(sum[:])
		if err := r.store.Put(r.t.Context(), res.Object, file); err != nil {
			r.t.Fatal(err)
		}
	}
	if tweak != nil {
		tweak(req, &res)
	}
	if _, err := r.table.SubmitStep(r.t.Context(), req); err != nil {
		r.t.Fatal(err)
	}
	won, err := r.table.WriteResult(r.t.Context(), account, req.ID, res)
	if err != nil || !won {
		r.t.Fatal(won, err)
	}
	rep, _ := r.table.Get(account, req.ID)
	return rep
}

func (r *rig) files(client, name, query string) (page RollingFileList) {
	r.t.Helper()
	a := r.do("GET", "/emails/rolling-exports/"+name+"/files"+query, client, "")
	if a.StatusCode != 200 {
		r.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	a.json(r.t, &page)
	return page
}

func TestRollingExportLifeOverHTTP(t *testing.T) {
	r := newRig(t, func(_ *Config, d *Deps) {
		d.Destination = func(account, name string) bool { return account == "acme" && name == "lake" }
	})
	r.define(definitions...)
	if err := r.client.ProduceSync(t.Context(), &kgo.Record{Topic: "email-events", Partition: 0, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	body := `{"every":"PT1M","start":"now","destination":"lake","segment_filter":{"segment_discriminator":"seg-w"},"additional_attribute_mappings":[{"version_id":"9"}],"spreadsheet_safe":true}`
	a := r.do("PUT", "/emails/rolling-exports/hourly-1", "a", body)
	var st RollingExport
	a.json(t, &st)
	if a.StatusCode != 201 || a.Header.Get("Location") != r.url+"/emails/rolling-exports/hourly-1" || st.State != "active" || st.Files != 0 || st.OrderID == "" ||
		*st.Delivered != 0 || st.Next.Start == nil || *st.Next.Start != st.CreatedAt || int64(st.Next.End)%60_000 != 0 || st.Next.End <= st.CreatedAt {
		t.Fatalf("%d %v %s", a.StatusCode, a.Header, a.body)
	}
	o, ok := r.table.OrderNamed("acme", "hourly-1")
	if !ok || o.Settings.Every != time.Minute || o.Settings.Destination != "lake" || len(o.Order.From) != 2 || o.Order.From[0].Offset+o.Order.From[1].Offset != 1 {
		t.Fatalf("%+v", o)
	}
	q, err := ResolveRolling(o.Settings.Body, r.deps.Definitions.Account("acme"))
	if err != nil || fmt.Sprint(q.Attributes) != "[{s1 9 gender boolean}]" || fmt.Sprint(q.Audiences) != "map[segment:seg-w]" || !q.SpreadsheetSafe {
		t.Fatalf("%+v %v", q, err)
	}

	// Another account sees nothing of it and may use the name.
	r.problem(r.do("GET", "/emails/rolling-exports/hourly-1", "b", ""), 404, "not-found")
	r.put("b", "hourly-1", `{"every":"P1D","start":"beginning"}`, 201)

	st = r.put("a", "hourly-1", `{"every":"PT15M","empty_files":true}`, 200)
	if st.Request.Every != "PT15M" || st.Request.Start != "now" || !st.Request.EmptyFiles || st.Request.Attributes != nil || st.Delivered != nil {
		t.Fatalf("changed to %+v", st.Request)
	}
	r.put("a", "hourly-1", `{"every":"PT15M","start":"now"}`, 200)

	for _, verb := range []string{"pause", "pause", "resume", "resume"} {
		if a := r.do("POST", "/emails/rolling-exports/hourly-1/"+verb, "a", ""); a.StatusCode != 204 {
			t.Fatalf("%s: %d %s", verb, a.StatusCode, a.body)
		}
		if st = r.rolling("a", "hourly-1"); (st.State == "paused") != (verb == "pause") {
			t.Fatalf("after %s: %s", verb, st.State)
		}
	}

	for _, name := range []string{"b", "a", "c"} {
		r.put("a", name, `{"every":"PT1H","start":"beginning"}`, 201)
	}
	var names []string
	for token, n := "", 0; n == 0 || token != ""; n++ {
		path := "/emails/rolling-exports?limit=3"
		if token != "" {
			path += "&page_token=" + token
		}
		var page RollingList
		r.do("GET", path, "a", "").json(t, &page)
		for _, i := range page.Items {
			names = append(names, i.Name)
		}
		token = page.NextPageToken
	}
	if fmt.Sprint(names) != "[a b c hourly-1]" {
		t.Fatalf("listed %v", names)
	}

	old := st.OrderID
	if a := r.do("DELETE", "/emails/rolling-exports/hourly-1", "a", ""); a.StatusCode != 204 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	for _, call := range []string{"GET ", "DELETE ", "GET /files", "GET /files/1", "POST /pause", "POST /resume"} {
		method, rest, _ := strings.Cut(call, " ")
		r.problem(r.do(method, "/emails/rolling-exports/hourly-1"+rest, "a", ""), 404, "not-found")
	}
	if st = r.put("a", "hourly-1", `{"every":"PT1M","start":"beginning"}`, 201); st.OrderID == old || st.Next.Start != nil {
		t.Fatalf("made again as %+v", st)
	}
}

func TestRollingExportStopsWithAProblem(t *testing.T) {
	r := newRig(t, nil)
	st := r.put("a", "x", `{"every":"PT1M","start":"beginning"}`, 201)
	o, _ := r.table.OrderNamed("acme", "x")
	p := report.Problem{Type: "/problems/invalid-request", Title: "The request is not valid", Status: 400, Detail: "there is no attribute 9"}
	if err := r.table.WriteTrouble(t.Context(), "acme", st.OrderID, o.Settings.Revision, p); err != nil {
		t.Fatal(err)
	}
	r.ahead.Store(int64(3 * time.Minute))
	st = r.rolling("a", "x")
	if st.State != "error" || st.Error == nil || st.Error.Detail != p.Detail || st.Lag.Files < 2 || st.Lag.Seconds < 60 {
		t.Fatalf("%+v", st)
	}
	if st = r.put("a", "x", `{"every":"PT1M"}`, 200); st.State != "active" || st.Error != nil {
		t.Fatalf("%+v", st)
	}
}

// Whoever reads the status of a rolling export cannot see the operator's settings.
func TestARollingExportWhoseDestinationIsGoneSaysSo(t *testing.T) {
	var gone atomic.Bool
	r := newRig(t, func(_ *Config, d *Deps) {
		d.Destination = func(_, name string) bool { return name == "lake" && !gone.Load() }
	})
	r.put("a", "x", `{"every":"PT1M","start":"now","destination":"lake"}`, 201)
	r.put("a", "y", `{"every":"PT1M","start":"now"}`, 201)
	status := func(name string) (st RollingExport) {
		r.do("GET", "/emails/rolling-exports/"+name, "a", "").json(t, &st)
		return st
	}
	if st := status("x"); st.HeldUp != "" {
		t.Errorf("held up where the destination is there: %s", st.HeldUp)
	}
	gone.Store(true)
	if st := status("x"); st.State != "active" || !strings.Contains(st.HeldUp, `no destination "lake"`) {
		t.Errorf("state %s, held up by %q", st.State, st.HeldUp)
	}
	if st := status("y"); st.HeldUp != "" {
		t.Errorf("one without a destination is held up: %s", st.HeldUp)
	}
	if st := r.put("a", "x", `{"every":"PT1M"}`, 200); st.HeldUp != "" {
		t.Errorf("changed to have no destination: %s", st.HeldUp)
	}
}

func TestRefusedRollingExports(t *testing.T) {
	r := newRig(t, func(c *Config, d *Deps) {
		c.Limits.ExportsPerMinute, c.Limits.RollingExports = 10_000, 2
		d.Destination = func(account, name string) bool { return account == "other" && name == "lake" }
	})
	r.define(definitions...)
	for _, c := range []struct{ name, body, pointer string }{
		{"x", ``, ""},
		{"x", `[]`, ""},
		{"x", `{"start":"now"}`, "/every"},
		{"x", `{"every":"PT7M","start":"now"}`, "/every"},
		{"x", `{"every":"PT30S","start":"now"}`, "/every"},
		{"x", `{"every":15,"start":"now"}`, "/every"},
		{"x", `{"every":"PT1M"}`, "/start"},
		{"x", `{"every":"PT1M","start":"later"}`, "/start"},
		{"x", `{"every":"PT1M","start":null}`, "/start"},
		{"x", `{"every":"PT1M","start":"now","empty_files":"yes"}`, "/empty_files"},
		{"x", `{"every":"PT1M","start":"now","spreadsheet_safe":1}`, "/spreadsheet_safe"},
		{"x", `{"every":"PT1M","start":"now","destination":""}`, "/destination"},
		{"x", `{"every":"PT1M","start":"now","destination":"lake"}`, "/destination"}, // another account's
		{"x", `{"every":"PT1M","start":"now","start_at":"2026-05-01T00:00:00Z"}`, "/start_at"},
		{"x", `{"every":"PT1M","start":"now","segment_filter":{"segment_discriminator":"seg-x"}}`, "/segment_filter/segment_discriminator"},
		{"x", `{"every":"PT1M","start":"now","additional_attribute_mappings":[{"version_id":"99"}]}`, "/additional_attribute_mappings/0/version_id"},
		{"x", `{"every":"PT1M","start":"now","additional_tag_mappings":[{"version_id":"20"},{"version_id":"20"}]}`, "/additional_tag_mappings/1"},
		{"X", `{"every":"PT1M","start":"now"}`, "/name"},
		{"a_b", `{"every":"PT1M","start":"now"}`, "/name"},
		{"a%2Fb", `{"every":"PT1M","start":"now"}`, "/name"},
		{strings.Repeat("x", 64), `{"every":"PT1M","start":"now"}`, "/name"},
	} {
		p := r.problem(r.do("PUT", "/emails/rolling-exports/"+c.name, "a", c.body), 400, "invalid-request")
		if len(p.Errors) != 1 || p.Errors[0].Pointer != c.pointer {
			t.Errorf("%s %s: %+v, want %s", c.name, c.body, p.Errors, c.pointer)
		}
	}
	r.put("a", strings.Repeat("x", 63), `{"every":"PT1M","start":"beginning"}`, 201)
	p := r.problem(r.do("PUT", "/emails/rolling-exports/"+strings.Repeat("x", 63), "a", `{"every":"PT1M","start":"now"}`), 400, "invalid-request")
	if p.Errors[0].Pointer != "/start" {
		t.Errorf("%+v", p)
	}
	r.put("a", "y", `{"every":"PT1M","start":"now"}`, 201)
	r.problem(r.do("PUT", "/emails/rolling-exports/z", "a", `{"every":"PT1M","start":"now"}`), 429, "too-many-rolling-exports")
	r.put("a", "y", `{"every":"PT2M"}`, 200) // a change needs no room
	if a := r.do("DELETE", "/emails/rolling-exports/y", "a", ""); a.StatusCode != 204 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	r.put("a", "z", `{"every":"PT1M","start":"now"}`, 201)

	r.problem(r.do("PUT", "/emails/rolling-exports/q", "", `{"every":"PT1M","start":"now"}`), 401, "unauthorized")
	r.problem(r.do("PUT", "/emails/rolling-exports/q", "a", `{"every":"PT1M","start":"now"}`, "Content-Type", "text/plain"), 415, "unsupported-media-type")
	r.problem(r.do("PUT", "/emails/rolling-exports/q", "a", strings.Repeat(" ", 100_001)), 413, "body-too-large")
	r.problem(r.do("POST", "/emails/rolling-exports/z", "a", ""), 405, "method-not-allowed")
	for _, path := range []string{"?limit=0", "?limit=201", "?page_token=", "?page_token=x", "?page_token=" + "b1g"} {
		r.problem(r.do("GET", "/emails/rolling-exports"+path, "a", ""), 400, "invalid-request")
	}
	for _, path := range []string{"?after=-1", "?after=x", "?after=1&after=2", "?page_token=cjU", "?limit=0", "?wait=61", "?wait=PT5S", "?wait=-1", "?wait=1.5"} {
		r.problem(r.do("GET", "/emails/rolling-exports/z/files"+path, "a", ""), 400, "invalid-request")
	}
	for _, n := range []string{"0", "1", "-1", "x", "01"} {
		r.problem(r.do("GET", "/emails/rolling-exports/z/files/"+n, "a", ""), 404, "not-found")
	}
}

func TestRollingExportsWithoutKafka(t *testing.T) {
	r := newRig(t, nil)
	r.put("a", "x", `{"every":"PT1M","start":"beginning"}`, 201)
	r.deps.Reports = away{r.table}
	r.deps.Registerer = nil
	h, err := New(r.cfg, r.deps)
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"GET /x", "PUT /x", "DELETE /x", "POST /x/pause", "POST /x/resume", "GET /x/files", "GET /x/files/1", "GET "} {
		method, path, _ := strings.Cut(call, " ")
		req := httptest.NewRequestWithContext(t.Context(), method, "/emails/rolling-exports"+path, strings.NewReader(`{"every":"PT1M","start":"now"}`))
		req.Header.Set("Authorization", "Bearer "+r.token("a"))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		r.problem(answer{w.Result(), w.Body.Bytes()}, 503, "unavailable")
	}
}

func TestRollingFilesOverHTTP(t *testing.T) {
	r := newRig(t, nil)
	st := r.put("a", "x", `{"every":"PT1M","start":"beginning"}`, 201)
	if page := r.files("a", "x", ""); len(page.Items) != 0 || page.OrderID != st.OrderID {
		t.Fatalf("%+v", page)
	}
	one, two := []byte("the first file"), someFile()
	r.step("acme", "x", one, nil)
	r.step("acme", "x", nil, nil) // a period without rows
	r.step("acme", "x", two, func(_ *report.Request, res *report.Result) {
		res.More, res.Through = true, []report.End{{TopicID: [16]byte{1}, Offset: 2}}
	})
	page := r.files("a", "x", "")
	if len(page.Items) != 2 || page.Files != 2 || page.Items[0].Number != 1 || page.Items[1].Number != 2 {
		t.Fatalf("%+v", page)
	}
	f, g := page.Items[0], page.Items[1]
	if f.Start != nil || f.Rows != 3 || f.Bytes != int64(len(one)) || f.CompleteThrough == nil || *f.CompleteThrough != f.End || f.Cursor.From != "" || f.Cursor.To == "" || f.Delivered {
		t.Errorf("file 1: %+v", f)
	}
	if *g.Start != f.End+60_000 || g.CompleteThrough != nil || g.Cursor.From == f.Cursor.To || g.Cursor.From == "" {
		t.Errorf("file 2: %+v", g)
	}
	for i, want := range [][]byte{one, two} {
		a := r.do("GET", page.Items[i].FileDownloadURL, "", "")
		if a.StatusCode != 200 || string(a.body) != string(want) || a.Header.Get("Content-Disposition") != fmt.Sprintf(`attachment; filename="x-%d.csv.gz"`, i+1) {
			t.Errorf("download: %d %v", a.StatusCode, a.Header)
		}
	}
	if p := r.files("a", "x", "?after=1"); len(p.Items) != 1 || p.Items[0].Number != 2 {
		t.Errorf("after 1: %+v", p)
	}
	if p := r.files("a", "x", "?limit=1"); len(p.Items) != 1 || p.Items[0].Number != 1 {
		t.Errorf("limit 1: %+v", p)
	}
	if p := r.files("a", "x", "?after=2&wait=0"); len(p.Items) != 0 {
		t.Errorf("after 2: %+v", p)
	}
	// The cursor goes on where the file ended.
	if a := r.do("POST", "/emails/reports", "a", fmt.Sprintf(`{"after":%q}`, g.Cursor.To)); a.StatusCode != 202 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}

	// The credential apart.
	a := r.do("GET", "/emails/rolling-exports/x/files/2?header_auth=true", "a", "")
	var apart RollingFile
	a.json(t, &apart)
	credential := a.Header.Get("x-apsis-auth")
	if apart.Number != 2 || credential == "" || strings.Contains(apart.FileDownloadURL, "?") {
		t.Fatalf("%v %s", a.Header, a.body)
	}
	r.problem(r.do("GET", apart.FileDownloadURL, "", ""), 403, "invalid-download-credential")
	if a = r.do("GET", apart.FileDownloadURL, "", "", "x-apsis-auth", credential); string(a.body) != string(two) {
		t.Errorf("download by header: %d", a.StatusCode)
	}
	r.problem(r.do("GET", "/emails/rolling-exports/x/files/3", "a", ""), 404, "not-found")

	if err := r.table.WriteDelivered(t.Context(), "acme", st.OrderID, 1); err != nil {
		t.Fatal(err)
	}
	if p := r.files("a", "x", ""); !p.Items[0].Delivered || p.Items[1].Delivered {
		t.Errorf("delivered: %+v", p)
	}
	// Steps are no reports of the account.
	rep := r.table.Files(st.OrderID, 0, 1, time.Now())[0]
	r.problem(r.do("GET", "/emails/reports/"+rep.Request.ID, "a", ""), 404, "not-found")
	r.problem(r.do("DELETE", "/emails/reports/"+rep.Request.ID, "a", ""), 404, "not-found")
	var list ReportList
	r.do("GET", "/emails/reports", "a", "").json(t, &list)
	if len(list.Items) != 1 {
		t.Errorf("%d reports are listed, want the one that was requested", len(list.Items))
	}
	// Files expire; those after them keep their numbers.
	r.ahead.Store(int64(2 * time.Hour))
	if p := r.files("a", "x", ""); len(p.Items) != 0 || p.Files != 2 {
		t.Errorf("expired: %+v", p)
	}
	r.problem(r.do("GET", "/emails/rolling-exports/x/files/1", "a", ""), 410, "file-gone")
	r.problem(r.do("GET", f.FileDownloadURL, "", ""), 403, "invalid-download-credential")
}

func TestWaitingForAFile(t *testing.T) {
	stopping := make(chan struct{})
	r := newRig(t, func(_ *Config, d *Deps) { d.Stopping = stopping })
	r.put("a", "x", `{"every":"PT1M","start":"beginning"}`, 201)
	r.put("a", "y", `{"every":"PT1M","start":"beginning"}`, 201)
	r.put("a", "z", `{"every":"PT1M","start":"beginning"}`, 201)
	token := r.token("a")
	wait := func(name string) <-chan answer {
		out := make(chan answer, 1)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/emails/rolling-exports/"+name+"/files?after=0&wait=60", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		go func() { out <- r.send(req) }()
		return out
	}
	x, y, z := wait("x"), wait("y"), wait("z")
	r.step("acme", "x", []byte("file"), nil)
	var page RollingFileList
	a := <-x
	a.json(t, &page)
	if a.StatusCode != 200 || len(page.Items) != 1 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := r.do("DELETE", "/emails/rolling-exports/y", "a", ""); a.StatusCode != 204 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	r.problem(<-y, 404, "not-found")
	close(stopping)
	late := time.NewTimer(20 * time.Second) // long before the wait is over
	defer late.Stop()
	select {
	case a = <-z:
	case <-late.C:
		t.Fatal("a call waits on although the server stops")
	}
	a.json(t, &page)
	if a.StatusCode != 200 || len(page.Items) != 0 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
}

// away is a table whose brokers cannot be reached.
type away struct{ Reports }

func (away) CatchUp(context.Context, string) error { return errors.New("brokers away") }

// TestDeliveredIsWhatWasWritten: what was passed over because the order had lost its
// destination was not.
func TestDeliveredIsWhatWasWritten(t *testing.T) {
	r := newRig(t, func(_ *Config, d *Deps) { d.Destination = func(_, name string) bool { return name == "lake" } })
	const with, without = `{"every":"PT1M","start":"beginning","destination":"lake"}`, `{"every":"PT1M"}`
	id := r.put("a", "x", with, 201).OrderID
	delivered := func(number int64) {
		t.Helper()
		if err := r.table.WriteDelivered(t.Context(), "acme", id, number); err != nil {
			t.Fatal(err)
		}
	}
	r.step("acme", "x", []byte("one"), nil)
	delivered(1)
	r.step("acme", "x", []byte("two"), nil) // the destination is away
	r.put("a", "x", without, 200)
	r.step("acme", "x", []byte("three"), func(q *report.Request, _ *report.Result) { q.Step.Deliver = false })
	r.put("a", "x", with, 200)
	r.step("acme", "x", []byte("four"), nil)
	delivered(4)
	r.step("acme", "x", []byte("five"), nil)
	var got []int64
	for _, f := range r.files("a", "x", "").Items {
		if f.Delivered {
			got = append(got, f.Number)
		}
	}
	if !slices.Equal(got, []int64{1, 4}) {
		t.Errorf("said to be delivered: %v, want 1 and 4", got)
	}
}

// meanwhile does something right after the reports were asked for the files behind one.
type meanwhile struct {
	Reports
	after int64
	then  func()
}

func (m *meanwhile) Files(id string, after int64, limit int, now time.Time) []*report.Report {
	files := m.Reports.Files(id, after, limit, now)
	if then := m.then; then != nil && after == m.after {
		m.then = nil
		then()
	}
	return files
}

// TestAFileFinishedWhileItIsLookedFor is not one that has expired: who asks must not be
// told of more files than it was shown and could have been.
func TestAFileFinishedWhileItIsLookedFor(t *testing.T) {
	m := &meanwhile{after: 1}
	r := newRig(t, func(_ *Config, d *Deps) { m.Reports, d.Reports = d.Reports, m })
	r.put("a", "x", `{"every":"PT1M","start":"beginning"}`, 201)
	r.step("acme", "x", []byte("one"), nil)
	m.then = func() { r.step("acme", "x", []byte("two"), nil) }
	if p := r.files("a", "x", "?after=1"); len(p.Items) != 0 || p.Files != 1 {
		t.Errorf("%d items after file 1, and %d files", len(p.Items), p.Files)
	}
	if p := r.files("a", "x", "?after=1"); len(p.Items) != 1 || p.Files != 2 {
		t.Errorf("later %d items, and %d files", len(p.Items), p.Files)
	}
}

// TestANameThatIsUsedAgainWhileACallWaits: the call asked for the files of what had the
// name before, which is gone, and there is nothing more to wait for.
func TestANameThatIsUsedAgainWhileACallWaits(t *testing.T) {
	m := &meanwhile{}
	r := newRig(t, func(_ *Config, d *Deps) { m.Reports, d.Reports = d.Reports, m })
	const body = `{"every":"PT1M","start":"beginning"}`
	before := r.put("a", "x", body, 201).OrderID
	m.then = func() {
		if a := r.do("DELETE", "/emails/rolling-exports/x", "a", ""); a.StatusCode != 204 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if after := r.put("a", "x", body, 201).OrderID; after == before {
			t.Errorf("both are %s", before)
		}
	}
	r.problem(r.do("GET", "/emails/rolling-exports/x/files?wait=30", "a", ""), 404, "not-found")
	if m.then != nil {
		t.Error("the call did not look for files")
	}
	if p := r.files("a", "x", ""); p.OrderID == before || len(p.Items) != 0 {
		t.Errorf("another call: %+v", p)
	}
}
