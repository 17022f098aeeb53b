package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"lockstitch/state/report"
)

// frozen stops the clock of the API, so that no allowance comes back while a
// slow machine uses it up, and the time of acceptance is known.
func frozen(at string) func(*Config, *Deps) {
	return func(_ *Config, d *Deps) {
		now := time.Now()
		if v, ok := ParseTime(at); ok {
			now = time.UnixMilli(int64(v)).Add(456_789 * time.Nanosecond)
		}
		d.Now = func() time.Time { return now }
	}
}

// The limits that the contract names are the defaults, and each is allowed to be
// reached.
func TestDefaultLimits(t *testing.T) {
	r := newRig(t, frozen(""))
	body := recently()
	for i := range 10 {
		if st := r.request("a", body); i == 0 {
			r.complete("acme", st.ReportID, someFile())
			for range 60 {
				if a := r.do("HEAD", r.status("a", st.ReportID).FileDownloadURL, "", ""); a.StatusCode != 200 {
					t.Fatal(a.StatusCode)
				}
			}
			r.problem(r.do("GET", r.status("a", st.ReportID).FileDownloadURL, "", ""), 429, "rate-limit")
		}
	}
	last := r.request("a", body) // the tenth that is pending
	if rep, ok := r.table.Get("acme", last.ReportID); !ok || rep.Request.BarrierDeadline.Sub(rep.Request.Question.CompleteThrough) != 20*time.Minute {
		t.Errorf("%v %+v", ok, rep)
	}
	for range 49 {
		r.problem(r.do("POST", "/emails/reports", "a", body), 429, "too-many-pending")
	}
	r.problem(r.do("POST", "/emails/reports", "a", body), 429, "rate-limit") // the 61st request
	r.request("b", body)                                                     // another account

	credentials := `{"grant_type":"client_credentials","client_id":"nobody","client_secret":"x"}`
	for range 10 {
		r.problem(r.do("POST", "/oauth/token", "", credentials), 401, "unauthorized")
	}
	r.problem(r.do("POST", "/oauth/token", "", credentials), 429, "rate-limit")
	r.problem(r.do("POST", "/oauth/token", "", strings.Replace(credentials, "nobody", "b", 1)), 401, "unauthorized")
}

// What an account's reports hold in memory is bounded, those that were cancelled
// count too, and so is what those of all hold; a repeat asks for nothing new.
func TestReportsOfAnAccountAreBounded(t *testing.T) {
	const bound, all = 12_000, 20_000
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.ReportsBytes, c.Limits.AllReportsBytes = bound, all })
	body := recently()
	fill := func(client string) (kept int, p Problem) {
		t.Helper()
		for {
			a := r.do("POST", "/emails/reports", client, body, "Idempotency-Key", "k"+fmt.Sprint(kept))
			if a.StatusCode != 202 {
				return kept, r.problem(a, 429, "too-many-reports")
			}
			var st Status
			a.json(t, &st)
			r.delete(client, st.ReportID)
			if kept++; kept > 20 {
				t.Fatalf("%d reports have %+v bytes", kept, r.table.Sizes("acme", report.Plan{}))
			}
		}
	}
	kept, p := fill("a")
	if got := r.table.Sizes("acme", report.Plan{}).Account; got > bound || got < bound*2/3 || kept < 3 {
		t.Errorf("%d reports have %d bytes of %d", kept, got, bound)
	}
	if !strings.Contains(p.Detail, "max_reports_size") || !strings.Contains(p.Detail, "of 12.0 kB") {
		t.Errorf("%q", p.Detail)
	}
	r.request("a", body, "Idempotency-Key", "k0")
	if got := len(r.list("a")); got != kept {
		t.Errorf("%d reports, want %d", got, kept)
	}
	others, p := fill("b")
	if got := r.table.Sizes("other", report.Plan{}); others >= kept || others < 1 || got.All > all || got.Account >= bound*2/3 {
		t.Errorf("%d reports of another account, which have %+v", others, got)
	}
	if !strings.Contains(p.Detail, "memory_limit") {
		t.Errorf("%q", p.Detail)
	}
}

func TestListLimits(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.Pending, c.Limits.ExportsPerMinute = 1000, 1000 })
	for range 51 {
		r.request("a", recently())
	}
	for query, want := range map[string]int{"": 50, "?limit=50": 50, "?limit=1": 1, "?limit=200": 51, "?limit=51": 51} {
		var l ReportList
		r.do("GET", "/emails/reports"+query, "a", "").json(t, &l)
		if len(l.Items) != want || (l.NextPageToken == "") != (want == 51) {
			t.Errorf("%q: %d items, next page %q", query, len(l.Items), l.NextPageToken)
		}
	}
}

// A page ends where its requests have enough bytes, and none is left out. They are
// shown as they were sent, which is the shorter way for a filter.
func TestPagesOfLargeRequests(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) {
		c.Limits.Pending, c.Limits.ExportsPerMinute, c.Limits.RollingExports = 100, 1000, 100
	})
	r.define(definitions...)
	filter := strings.Repeat("w&", 4999) + "w"
	about := `,"segment_filter":{"segment_discriminators":{"w":"seg-w"},"filter":"` + filter + `"}}`
	const n = 32
	for i := range n {
		r.request("a", strings.TrimSuffix(recently(), "}")+about)
		r.put("a", fmt.Sprintf("x%d", i), `{"every":"P1D","start":"beginning"`+about, 201)
	}
	for _, path := range []string{"/emails/reports", "/emails/rolling-exports"} {
		pages, seen := 0, make(map[string]bool)
		for token := ""; pages == 0 || token != ""; pages++ {
			var page struct {
				Items []struct {
					ReportID string `json:"report_id"`
					Name     string
				}
				NextPageToken string `json:"next_page_token"`
			}
			a := r.do("GET", path+"?limit=200"+token, "a", "")
			a.json(t, &page)
			for _, i := range page.Items {
				seen[i.ReportID+i.Name] = true
			}
			if shown := strings.Count(string(a.body), filter); shown != len(page.Items) {
				t.Errorf("%s: %d of %d filters are shown as they were sent", path, shown, len(page.Items))
			}
			if token = page.NextPageToken; token != "" {
				token = "&page_token=" + token
			}
		}
		if pages != 2 || len(seen) != n {
			t.Errorf("%s: %d of %d items in %d pages", path, len(seen), n, pages)
		}
	}
}

// The window is measured to end_at or, without one, to the time of acceptance;
// three calendar months exactly are allowed.
func TestWindowOverHTTP(t *testing.T) {
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("2026-05-28T12:00:00.123Z")(c, d)
		c.Limits.Pending = 100
	})
	for _, c := range []struct {
		start, end, pointer string // pointer "": accepted
	}{
		{"2026-02-28T12:00:00.123Z", "", ""},
		{"2026-02-28T12:00:00.122Z", "", "/start_at"},
		{"2025-11-30T00:00:00Z", "2026-02-28T00:00:00Z", ""},
		{"2025-11-30T00:00:00Z", "2026-02-28T00:00:00.0009Z", ""}, // floored
		{"2025-11-30T00:00:00Z", "2026-02-28T00:00:00.001Z", "/end_at"},
		{"2023-11-30T00:00:00Z", "2024-02-29T00:00:00Z", ""},
		{"2023-11-30T00:00:00Z", "2024-02-29T00:00:00.001Z", "/end_at"},
		{"2026-01-31T00:00:00Z", "2026-04-30T00:00:00Z", ""},
		{"2027-01-01T00:00:00Z", "", ""}, // in the future
		{"2027-01-01T00:00:00Z", "2027-04-01T00:00:00Z", ""},
		{"2027-01-01T00:00:00Z", "2027-01-01T00:00:00.001Z", ""},
		{"2027-01-01T00:00:00Z", "2027-01-01T00:00:00.0009Z", "/end_at"}, // the same, floored
		{"2027-01-01T00:00:00Z", "2026-12-31T00:00:00Z", "/end_at"},
		{"1969-12-31T23:59:59.9999Z", "1970-01-01T00:00:00Z", ""},
		{"0000-01-01T00:00:00Z", "0000-04-01T00:00:00Z", ""},
		{"9999-12-31T23:59:59.998Z", "9999-12-31T23:59:59.999Z", ""},
		{"9999-12-31T23:59:59.999Z", "", ""},
		{"9999-12-31T23:59:59.999Z", "10000-01-01T00:00:00Z", "/end_at"},
	} {
		body := fmt.Sprintf(`{"start_at":%q}`, c.start)
		if c.end != "" {
			body = fmt.Sprintf(`{"start_at":%q,"end_at":%q}`, c.start, c.end)
		}
		a := r.do("POST", "/emails/reports", "a", body)
		if c.pointer == "" && a.StatusCode != 202 {
			t.Errorf("%s to %q: %d %s", c.start, c.end, a.StatusCode, a.body)
		}
		if c.pointer != "" {
			if p := r.problem(a, 400, "invalid-request"); p.Errors[0].Pointer != c.pointer {
				t.Errorf("%s to %q: %v", c.start, c.end, p.Errors)
			} else if says := strings.Contains(p.Errors[0].Detail, "without end_at it is measured to now, 2026-05-28T12:00:00.123Z"); says != (c.end == "") {
				t.Errorf("%s to %q: %v", c.start, c.end, p.Errors)
			}
		}
	}
}

// Times are taken in every form of RFC 3339 in UTC and written in one.
func TestTimesOverHTTP(t *testing.T) {
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("2026-05-28T12:00:00.123Z")(c, d)
		c.Limits.Pending = 100
	})
	for in, want := range map[string]string{
		"2026-05-01T00:00:00Z": "2026-05-01T00:00:00.000Z", "2026-05-01t00:00:00z": "2026-05-01T00:00:00.000Z",
		"2026-05-01T00:00:00+00:00": "2026-05-01T00:00:00.000Z", "2026-05-01t00:00:00.5+00:00": "2026-05-01T00:00:00.500Z",
		"2026-05-01T00:00:00.123456789Z": "2026-05-01T00:00:00.123Z", "2026-05-01T23:59:59.999999999Z": "2026-05-01T23:59:59.999Z",
		"2026-05-01T00:00:00.1234567890Z": "", "2026-05-01T00:00:00.Z": "", "2026-05-01T00:00:00-00:00": "", "2026-05-01T00:00:00+01:00": "",
		"2026-05-01T00:00:00": "", "2026-05-01 00:00:00Z": "", "2026-05-01": "", "2026-02-29T00:00:00Z": "", "2026-05-01T24:00:00Z": "",
	} {
		a := r.do("POST", "/emails/reports", "a", fmt.Sprintf(`{"start_at":%q}`, in))
		if want == "" {
			if p := r.problem(a, 400, "invalid-request"); p.Errors[0].Pointer != "/start_at" {
				t.Errorf("%s: %v", in, p.Errors)
			}
			continue
		}
		text := string(a.body)
		if a.StatusCode != 202 || !strings.Contains(text, `"request":{"start_at":"`+want+`"}`) ||
			!strings.Contains(text, `"created_at":"2026-05-28T12:00:00.123Z"`) || !strings.Contains(text, `"complete_through":"2026-05-28T12:00:00.123Z"`) {
			t.Errorf("%s: %d %s", in, a.StatusCode, a.body)
		}
	}
}

// Without the ends of the input nothing is accepted.
func TestEndsCannotBeRead(t *testing.T) {
	r := newRig(t, func(_ *Config, d *Deps) {
		d.Ends = func(context.Context) ([]report.End, error) { return nil, errors.New("a partition has no leader") }
	})
	r.problem(r.do("POST", "/emails/reports", "a", recently()), 503, "unavailable")
	if n := len(r.list("a")); n != 0 {
		t.Fatalf("%d reports", n)
	}
}

// The API speaks HTTP/2 too, a download included.
func TestHTTP2(t *testing.T) {
	r := newRig(t, nil)
	st, file := r.finished()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	get := func(method, u, body string) answer {
		req, err := http.NewRequestWithContext(t.Context(), method, u, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example"
		req.Header.Set("Authorization", "Bearer "+r.token("a"))
		return r.read(client.Do(req))
	}
	if a := get("GET", st.FileDownloadURL, ""); a.ProtoMajor != 2 || a.StatusCode != 200 || string(a.body) != string(file) {
		t.Fatalf("%s %d, %d bytes", a.Proto, a.StatusCode, len(a.body))
	}
	a := get("POST", r.url+"/emails/reports", recently())
	if a.ProtoMajor != 2 || a.StatusCode != 202 || !strings.HasPrefix(a.Header.Get("Location"), r.url+"/emails/reports/") {
		t.Fatalf("%s %d %v", a.Proto, a.StatusCode, a.Header)
	}
}

// What a connection of HTTP/2 may have under way, and hold, before anybody is known.
func TestHTTP2Limits(t *testing.T) {
	r := newRig(t, nil)
	dial := func() (*http2.Framer, net.Conn) {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		f := http2.NewFramer(c, c)
		if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
			t.Fatal(err)
		}
		if err := f.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		return f, c
	}
	// next is the first frame of a kind.
	next := func(f *http2.Framer, kind http2.FrameType) http2.Frame {
		for {
			got, err := f.ReadFrame()
			if err != nil {
				t.Fatalf("no %s: %v", kind, err)
			}
			if got.Header().Type == kind {
				return got
			}
		}
	}

	f, _ := dial()
	next(f, http2.FrameSettings)
	if err := f.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	e := hpack.NewEncoder(&head)
	for i := range uint32(streams + 1) { // each waits for its body
		head.Reset()
		for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/oauth/token"}} {
			if err := e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	if end := next(f, http2.FrameRSTStream).(*http2.RSTStreamFrame); end.StreamID != 2*streams+1 || end.ErrCode != http2.ErrCodeProtocol {
		t.Errorf("%v: %v", end, end.ErrCode)
	}

	f, c := dial()
	if _, err := c.Write([]byte{0x0f, 0xff, 0xff, 0x77, 0, 0, 0, 0, 0}); err != nil { // the head of a frame of nearly 1 MiB
		t.Fatal(err)
	}
	if end := next(f, http2.FrameGoAway).(*http2.GoAwayFrame); end.ErrCode != http2.ErrCodeFrameSize {
		t.Errorf("%v: %v", end, end.ErrCode)
	}
}
