package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/state/catalog"
	"lockstitch/state/report"
)

// panicky is a catalog with a defect.
type panicky struct{}

func (panicky) CatchUp(context.Context) error                  { return nil }
func (panicky) Retention() catalog.Retention                   { panic("defect") }
func (panicky) Live(string) bool                               { panic("defect") }
func (panicky) Slices(string, int64, int64) []catalog.SliceRef { panic("defect") }

func TestPanicsAreAnsweredAndCounted(t *testing.T) {
	r := newRig(t, func(_ *Config, d *Deps) { d.Catalog = panicky{} })
	r.define(definitions...)
	p := r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 500, "internal-error")
	if strings.Contains(p.Detail, "defect") {
		t.Error("the panic is shown to the caller")
	}
	want := `
# HELP lockstitch_http_panics_total Handlers of the API that panicked; each is a defect.
# TYPE lockstitch_http_panics_total counter
lockstitch_http_panics_total 1
# HELP lockstitch_http_requests_total Answers of the API by route ("none": no such path), method and status code.
# TYPE lockstitch_http_requests_total counter
lockstitch_http_requests_total{code="200",method="POST",route="/oauth/token"} 1
lockstitch_http_requests_total{code="404",method="other",route="none"} 1
lockstitch_http_requests_total{code="500",method="GET",route="/emails/sections/{section_discriminator}/activities"} 1
`
	r.problem(r.do("BREW", "/coffee", "", ""), 404, "not-found")
	if err := testutil.GatherAndCompare(r.metrics, strings.NewReader(want), "lockstitch_http_panics_total", "lockstitch_http_requests_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(r.metrics); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// A handler that panics in the middle of its answer breaks the connection: its length
// is not known beforehand, and half of it would look like the whole, or the problem
// like the other half.
func TestAPanicWithinAnAnswer(t *testing.T) {
	s := &server{log: slog.New(slog.DiscardHandler), metrics: newMetrics(prometheus.NewRegistry(), 0)}
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = newTestServer(s.outermost(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half an answer")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/defect" {
			panic("defect")
		}
	})), s.log)
	srv.Start()
	defer srv.Close()
	get := func(path string) (string, error) {
		t.Helper()
		resp, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Fatal(resp.StatusCode)
		}
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if got, err := get("/"); err != nil || got != "half an answer" {
		t.Fatalf("without a panic: %q, %v", got, err)
	}
	if got, err := get("/defect"); !errors.Is(err, io.ErrUnexpectedEOF) || got != "half an answer" {
		t.Errorf("%q, %v", got, err)
	}
	if n := testutil.ToFloat64(s.metrics.panics); n != 1 {
		t.Errorf("%v panics are counted", n)
	}
}

// URLs come from the setting, whatever a request says about hosts.
func TestPublicURL(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.PublicURL = "https://exports.example/api" })
	a := r.do("POST", "/emails/reports", "a", recently(), "X-Forwarded-Host", "evil.example", "X-Forwarded-Proto", "ftp", "Forwarded", "host=evil.example", "X-Forwarded-For", "1.2.3.4")
	var st Status
	a.json(t, &st)
	if got := a.Header.Get("Location"); got != "https://exports.example/api/emails/reports/"+st.ReportID {
		t.Error(got)
	}
	r.complete("acme", st.ReportID, someFile())
	st = r.status("a", st.ReportID)
	if !strings.HasPrefix(st.FileDownloadURL, "https://exports.example/api/emails/reports/"+st.ReportID+"/file?token=") {
		t.Error(st.FileDownloadURL)
	}
	if st.FileDownloadURLExpiresAt == nil || time.Until(time.UnixMilli(int64(*st.FileDownloadURLExpiresAt))) > 15*time.Minute {
		t.Errorf("%v", st.FileDownloadURLExpiresAt)
	}
}

func TestPages(t *testing.T) {
	r := newRig(t, nil)
	var doc struct {
		OpenAPI string                               `json:"openapi"`
		Paths   map[string]map[string]map[string]any `json:"paths"`
	}
	a := r.do("GET", "/openapi.json", "", "")
	a.json(t, &doc)
	if a.StatusCode != 200 || !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) != 14 {
		t.Fatalf("%d %s with %d paths", a.StatusCode, doc.OpenAPI, len(doc.Paths))
	}
	if a := r.do("GET", "/openapi.yaml", "", ""); a.StatusCode != 200 || !strings.HasPrefix(string(a.body), "components:\n") || !strings.Contains(string(a.body), "\nopenapi: 3.1.0\n") {
		t.Fatalf("%d %.100s", a.StatusCode, a.body)
	}
	a = r.do("GET", "/docs", "", "")
	page := string(a.body)
	for _, want := range []string{"spreadsheet_safe", "header_auth=true", "retry that reaches another partition", `{"after":"beginning"}`, "/problems/file-gone", "/emails/reports/{report_id}/file", r.url + "/oauth/token"} {
		if !strings.Contains(page, want) {
			t.Errorf("/docs does not say %q", want)
		}
	}
	for path, methods := range doc.Paths {
		for method := range methods {
			if want := "<code>" + strings.ToUpper(method) + " " + path + "</code>"; !strings.Contains(page, want) {
				t.Errorf("/docs does not show %s", want)
			}
		}
	}
	for _, no := range []string{"<script", "<img", "<link", "src=", "@import", "url("} {
		if strings.Contains(page, no) {
			t.Errorf("/docs has %q; it must need nothing from elsewhere", no)
		}
	}
	if !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Error("no Content-Security-Policy")
	}
	for _, k := range kinds {
		if !strings.Contains(page, fmt.Sprintf(`id="problem-%s"`, k.word)) {
			t.Errorf("/docs does not explain %s", k.word)
		}
	}
	for _, k := range report.ProblemKinds {
		if !strings.Contains(page, fmt.Sprintf(`id="problem-%s"`, k.Word)) {
			t.Errorf("/docs does not explain %s", k.Word)
		}
	}
}

// What is not HTTP, or not a path, is answered or dropped, never a panic.
func TestRawRequests(t *testing.T) {
	r := newRig(t, nil)
	for _, line := range []string{
		"GET /emails/reports/\x00 HTTP/1.1", "GET /\xff HTTP/1.1", "GET * HTTP/1.1", "OPTIONS * HTTP/1.1", "GET http://evil.example/docs HTTP/1.1",
		"CONNECT evil.example:443 HTTP/1.1", "GET /emails/reports?limit=\xff HTTP/1.1", "GET /emails/reports/%zz HTTP/1.1", "GET //evil.example/docs HTTP/1.1",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s\r\nHost: x\r\nConnection: close\r\n\r\n", line)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode >= 500 || resp.StatusCode >= 300 && resp.StatusCode < 400 {
				t.Errorf("%q: %d", line, resp.StatusCode)
			}
		}
		conn.Close()
	}
	want := `
# HELP lockstitch_http_panics_total Handlers of the API that panicked; each is a defect.
# TYPE lockstitch_http_panics_total counter
lockstitch_http_panics_total 0
`
	if err := testutil.GatherAndCompare(r.metrics, strings.NewReader(want), "lockstitch_http_panics_total"); err != nil {
		t.Error(err)
	}
}

// deadlined tells what limit on writing its connections were given last.
type deadlined struct {
	net.Listener
	write *atomic.Int64 // ns since the Unix epoch; that it was lifted is not told
}

func (d deadlined) Accept() (net.Conn, error) {
	c, err := d.Listener.Accept()
	return deadlinedConn{c, d}, err
}

type deadlinedConn struct {
	net.Conn
	d deadlined
}

func (c deadlinedConn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		c.d.write.Store(t.UnixNano())
	}
	return c.Conn.SetWriteDeadline(t)
}

// observed is a catalog that says when it is asked.
type observed struct {
	*sliceList
	asked func()
}

func (o observed) CatchUp(ctx context.Context) error {
	o.asked()
	return o.sliceList.CatchUp(ctx)
}

// A client that does not read must not hold a handler, whatever it asks for. But
// finding the answer takes nothing from the time to write it.
// Calls that may take longer than the connection is read from do not wait for the
// body of a request that never comes; one that does come changes nothing.
func TestABodyThatNeverComes(t *testing.T) {
	r := newRig(t, nil)
	r.put("a", "x", `{"every":"P1D","start":"now"}`, 201)
	st, file := r.finished()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = newTestServer(r.handler, slog.New(slog.DiscardHandler))
	srv.Config.ReadTimeout = 2 * time.Second
	srv.Start()
	defer srv.Close()
	const waiting = "/emails/rolling-exports/x/files?wait="
	download := strings.TrimPrefix(st.FileDownloadURL, r.url)
	for _, path := range []string{waiting + "60", download} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 10\r\n\r\n{", path, r.token("a")); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(c) // until the server ends the connection
		if err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 400 ") {
			t.Errorf("%.40s: %v, %.200s", path, err, said)
		}
		if a := r.do("GET", srv.URL+path, "a", strings.Repeat(" ", 100_001)); a.StatusCode != 413 {
			t.Errorf("%.40s: %d %s", path, a.StatusCode, a.body)
		}
	}
	if a := r.do("GET", srv.URL+waiting+"1", "a", "{}"); a.StatusCode != 200 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := r.do("GET", srv.URL+download, "", "{}"); a.StatusCode != 200 || string(a.body) != string(file) {
		t.Errorf("%d, %d bytes", a.StatusCode, len(a.body))
	}
}

func TestDeadlines(t *testing.T) {
	d := deadlined{write: new(atomic.Int64)}
	var asked atomic.Int64
	r := newRig(t, func(_ *Config, deps *Deps) {
		look := func() { asked.Store(time.Now().UnixNano()) }
		ends := deps.Ends
		deps.Ends = func(ctx context.Context) ([]report.End, error) {
			look()
			return ends(ctx)
		}
		deps.Catalog = observed{deps.Catalog.(*sliceList), look}
	})
	r.define(definitions...)
	st, _ := r.finished()
	srv := httptest.NewUnstartedServer(nil)
	d.Listener = srv.Listener
	srv.Listener, srv.Config = d, newTestServer(r.handler, slog.New(slog.DiscardHandler))
	srv.Start()
	defer srv.Close()
	for _, c := range []struct {
		method, path, client string
		code                 int
	}{
		{"GET", "/emails/reports", "a", 200}, {"GET", "/docs", "", 200}, {"GET", "/openapi.json", "", 200}, {"GET", "/nothing", "", 404}, {"PATCH", "/docs", "", 405},
		{"GET", "//x", "", 404}, {"GET", "/emails/reports", "", 401}, {"GET", strings.TrimPrefix(st.FileDownloadURL, r.url), "", 200}, {"GET", "/docs", "", 200},
	} {
		begin := time.Now()
		d.write.Store(0)
		if a := r.do(c.method, srv.URL+c.path, c.client, ""); a.StatusCode != c.code {
			t.Fatalf("%s %s: %d", c.method, c.path, a.StatusCode)
		}
		if at := time.Unix(0, d.write.Load()); at.Before(begin.Add(answerTimeout)) || at.After(time.Now().Add(stallTimeout)) {
			t.Errorf("%s %s: writing is limited to %s, the request came at %s", c.method, c.path, at, begin)
		}
	}
	for _, c := range [][3]string{{"POST", "/emails/reports", recently()}, {"GET", "/emails/sections/s1/activities", ""}} {
		asked.Store(0)
		if a := r.do(c[0], srv.URL+c[1], "a", c[2]); a.StatusCode >= 300 || asked.Load() == 0 {
			t.Fatalf("%s: %d %s", c[1], a.StatusCode, a.body)
		}
		if time.Unix(0, d.write.Load()).Before(time.Unix(0, asked.Load()).Add(answerTimeout)) {
			t.Errorf("%s: the time to write counts from before the answer was there", c[1])
		}
	}
}

// Clients that send their header or body too slowly are dropped; a transfer
// that takes longer than a request may take to be read is not.
func TestServerTimeouts(t *testing.T) {
	g := &gated{reached: make(chan struct{}), release: make(chan struct{})}
	r := newRig(t, func(_ *Config, d *Deps) { g.Store, d.Store = d.Store, g })
	st, file := r.finished()
	srv := httptest.NewUnstartedServer(nil)
	srv.Config = newTestServer(r.handler, slog.New(slog.DiscardHandler))
	if s := srv.Config; s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 || s.HTTP2.WriteByteTimeout <= 0 {
		t.Fatalf("%+v", s)
	}
	srv.Config.ReadHeaderTimeout, srv.Config.ReadTimeout = time.Second, 2*time.Second
	srv.Start()
	defer srv.Close()
	release := sync.OnceFunc(func() { close(g.release) })
	defer release() // or a failure would wait in Close for the transfer

	resp, err := http.Get(srv.URL + strings.TrimPrefix(st.FileDownloadURL, r.url))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-g.reached

	// By the time these two are dropped, the transfer is older than ReadTimeout.
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"POST /oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, request)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q: the connection was not closed", request)
		}
		conn.Close()
	}
	release()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != string(file) {
		t.Fatalf("%d of %d bytes: %v", len(got), len(file), err)
	}
}
