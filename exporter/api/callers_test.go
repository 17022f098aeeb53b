package api

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attacked is an API that has little memory for callers.
type attacked struct {
	t       *testing.T
	r       *rig
	srv     *httptest.Server
	callers *Callers
	limit   int64          // memory_limit
	settled chan string    // what became of a call, or of a connection: "held", its status, "done", "over"
	got     map[string]int // how many have settled how
	before  uint64         // the heap
}

// newAttacked has each call settled as "held" when so many bytes of its body have been read.
func newAttacked(t *testing.T, secure bool, bodyBytes int) *attacked {
	a := &attacked{t: t, r: newRig(t, nil), limit: 64 << 20, settled: make(chan string, 10_000), got: make(map[string]int)}
	a.callers = NewCallers(a.limit, prometheus.NewRegistry())
	a.srv = httptest.NewUnstartedServer(nil)
	a.srv.Listener = a.callers.Listen(a.srv.Listener)
	a.srv.Config = NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &awaited{r.Body, bodyBytes, a.settled}
		a.r.handler.ServeHTTP(w, r)
		a.settled <- "done"
	}), a.callers, slog.New(slog.DiscardHandler))
	// No limit of time comes before that of memory.
	a.srv.Config.ReadHeaderTimeout, a.srv.Config.ReadTimeout = time.Hour, time.Hour
	if secure {
		a.srv.TLS, a.srv.EnableHTTP2 = a.srv.Config.TLSConfig, true
		a.srv.StartTLS()
	} else {
		a.srv.Start()
	}
	t.Cleanup(a.srv.Close)
	a.before = heap()
	return a
}

// awaited is a body that tells when so much of it has come.
type awaited struct {
	io.ReadCloser
	left    int
	settled chan string
}

func (b *awaited) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left > 0 {
		if b.left -= n; b.left <= 0 {
			b.settled <- "held"
		}
	}
	return n, err
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what pools have kept
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func (a *attacked) dial() net.Conn {
	a.t.Helper()
	c, err := net.Dial("tcp", a.srv.Listener.Addr().String())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		a.t.Fatal(err)
	}
	return c
}

// await counts what becomes of calls and connections, until that is enough.
func (a *attacked) await(enough func() bool) {
	a.t.Helper()
	late := time.After(30 * time.Second)
	for !enough() {
		select {
		case how := <-a.settled:
			a.got[how]++
		case <-late:
			a.t.Fatalf("%v", a.got)
		}
	}
}

// holds checks that what is held is not more than it may be: by what is counted, and by
// the heap, in which the attacker is, too.
func (a *attacked) holds(connections int) {
	a.t.Helper()
	calls, headers := testutil.ToFloat64(a.callers.calls.held), testutil.ToFloat64(a.callers.headers.held)
	grown := int64(heap()) - int64(a.before)
	a.t.Logf("%d connections: %.0f B of calls and %.0f B of headers are counted, the heap has grown by %d B", connections, calls, headers, grown)
	if calls > float64(a.limit/16) || headers > float64(a.limit/16) {
		a.t.Errorf("more is held than the %d bytes of each", a.limit/16)
	}
	if may := int64(connections*connectionBytes) + int64(calls+headers); grown > may {
		a.t.Errorf("the heap has grown by %d bytes, beyond %d", grown, may)
	}
}

// field is one of many short ones: distinct names take most memory.
func field(i int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	name := ""
	for i++; i > 0; i /= len(letters) {
		i--
		name += string(letters[i%len(letters)])
	}
	return name
}

// Without a credential, calls over HTTP/2 with a full header, whose bodies never end, hold
// no more than the share of memory_limit for them; those beyond are told to come again.
func TestWhatCallersHoldOverHTTP2(t *testing.T) {
	const connections, sent = 60, 4000
	a := newAttacked(t, false, sent)
	for range connections {
		c := a.dial()
		f := http2.NewFramer(c, c)
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if err := f.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				got, err := f.ReadFrame()
				if err != nil {
					return
				}
				if h, ok := got.(*http2.MetaHeadersFrame); ok {
					how := h.PseudoValue("status")
					for _, f := range h.RegularFields() {
						if f.Name == "retry-after" {
							how += " with Retry-After"
						}
					}
					a.settled <- how
				}
			}
		}()
		var head bytes.Buffer
		e := hpack.NewEncoder(&head)
		for id := uint32(1); id < 2*streams; id += 2 {
			head.Reset()
			size := 0
			add := func(name, value string) {
				h := hpack.HeaderField{Name: name, Value: value}
				size += int(h.Size())
				if err := e.WriteField(h); err != nil {
					t.Fatal(err)
				}
			}
			add(":method", "POST")
			add(":scheme", "http")
			add(":authority", "x")
			add(":path", "/oauth/token")
			for i := 0; size < maxHeaderBytes; i++ {
				add(field(i), "")
			}
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			if err := f.WriteData(id, false, bytes.Repeat([]byte(" "), sent)); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.await(func() bool { return a.got["held"]+a.got["503 with Retry-After"] == connections*streams })
	if a.got["held"] == 0 || a.got["503 with Retry-After"] == 0 {
		t.Errorf("%v", a.got)
	}
	a.holds(connections)
	a.srv.CloseClientConnections()
	a.srv.Close()
}

// TestAHeaderThatIsTooLargeOverHTTP2 is answered before anything of ours hears of the call: it
// is none of HTTP/1.1 all the same.
func TestAHeaderThatIsTooLargeOverHTTP2(t *testing.T) {
	for _, secure := range []bool{false, true} {
		a := newAttacked(t, secure, 1)
		c := a.dial()
		if secure {
			c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		}
		f := http2.NewFramer(c, c)
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		var head bytes.Buffer
		e := hpack.NewEncoder(&head)
		header := []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "x"}, {Name: ":path", Value: "/"}}
		for range 11 {
			header = append(header, hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 2000), Sensitive: true})
		}
		for _, h := range header {
			if err := e.WriteField(h); err != nil {
				t.Fatal(err)
			}
		}
		const frame = 16 << 10
		_, err := io.WriteString(c, http2.ClientPreface)
		if err := errors.Join(err, f.WriteSettings(),
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Next(frame), EndStream: true}),
			f.WriteContinuation(1, true, head.Bytes())); err != nil {
			t.Fatal(err)
		}
		for idle := false; !idle; {
			got, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch got := got.(type) {
			case *http2.MetaHeadersFrame:
				if status := got.PseudoValue("status"); status != "431" {
					t.Errorf("status %s", status)
				}
				if err := f.WritePing(false, [8]byte{}); err != nil { // answered when the stream is over
					t.Fatal(err)
				}
			case *http2.PingFrame:
				idle = got.IsAck()
			}
		}
		if held := testutil.ToFloat64(a.callers.headers.held); held > 0 {
			t.Errorf("TLS %v: %f bytes are held", secure, held)
		}
	}
}

// A header of HTTP/1.1 that is not whole is no call yet, and takes many times what has come
// of it: many of them hold no more than the share for them.
func TestHeadersThatAreNotWhole(t *testing.T) {
	const connections = 60
	a := newAttacked(t, false, 1)
	header := longHeader(24_000)
	var conns []net.Conn
	for range connections {
		c := a.dial()
		conns = append(conns, c)
		_, _ = io.WriteString(c, header) // it may be refused before it is whole
		a.reads(c)
	}
	a.await(func() bool { return a.got["over"] >= connections-a.headersHeld(header) })
	a.holds(connections)
	for _, c := range conns {
		_, _ = io.WriteString(c, "\r\n")
	}
	a.await(func() bool { return a.got["404"] > 0 && a.got["404"]+a.got["over"] >= connections })
	a.srv.Close()
	if got := testutil.ToFloat64(a.callers.headers.held); got != 0 {
		t.Errorf("%f bytes are held by nobody", got)
	}
}

// Nor do those that are sent ahead, with the call before: of TLS up to 16 kB have been read
// by then.
func TestHeadersThatAreSentAhead(t *testing.T) {
	const connections = 60
	a := newAttacked(t, true, 1)
	header := longHeader(15_000)
	for range connections {
		c := tls.Client(a.dial(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true})
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"+header); err != nil {
			t.Fatal(err)
		}
		a.reads(c)
	}
	a.await(func() bool { return a.got["404"] > 0 && a.got["over"] >= connections-a.headersHeld(header) })
	a.holds(connections)
}

// Nor does one that has been answered, while the rest of its body is waited for.
func TestAnAnsweredCallHoldsNoHeader(t *testing.T) {
	const connections = 60
	a := newAttacked(t, false, 1)
	header := longHeader(24_000) + "Content-Length: 200000\r\n\r\n"
	for i := range connections {
		if _, err := io.WriteString(a.dial(), header); err != nil {
			t.Fatal(err)
		}
		a.await(func() bool { return a.got["done"] > i })
	}
	a.holds(connections)
}

// longHeader is one of HTTP/1.1 that is not whole.
func longHeader(size int) string {
	header := "GET / HTTP/1.1\r\nHost: x\r\n"
	for i := 0; len(header) < size; i++ {
		header += field(i) + ":\n"
	}
	return header
}

// headersHeld is of how many connections there is room for such a header.
func (a *attacked) headersHeld(header string) int {
	return int(a.limit / 16 / int64(headerFactor*(len(header)-freeHeaderBytes)))
}

// reads settles a connection as the status of each answer, and as over.
func (a *attacked) reads(c net.Conn) {
	go func() {
		r := bufio.NewReader(c)
		for {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				a.settled <- "over"
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			a.settled <- strconv.Itoa(resp.StatusCode)
		}
	}()
}

// A call holds what it takes until it has been answered, and what comes of its body beyond
// what there is room for is refused as a call is.
func TestACallHoldsItsBody(t *testing.T) {
	r := newRig(t, nil)
	callers := NewCallers(16<<20, prometheus.NewRegistry()) // 1 MiB for calls
	held := func() float64 { return testutil.ToFloat64(callers.calls.held) }
	post := func(path string, h http.Handler, body string) *httptest.ResponseRecorder {
		w, req := httptest.NewRecorder(), httptest.NewRequest("POST", path, strings.NewReader(body))
		callers.handler(h).ServeHTTP(w, req)
		return w
	}
	refused := 0
	var nested func(depth int) http.Handler // calls under way, each with a body that it has read
	nested = func(depth int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			before := held()
			if n, err := io.Copy(io.Discard, req.Body); err != nil || held() != before+2*float64(n) {
				t.Errorf("a body of %d bytes: %v, %f held, before %f", n, err, held(), before)
			}
			if depth > 0 {
				post("/", nested(depth-1), strings.Repeat(" ", 90_000))
				return
			}
			for _, body := range []string{`{}`, strings.Repeat(" ", 31_000), strings.Repeat("{", 31_000)} {
				w := post("/oauth/token", r.handler, body)
				if w.Code == 503 && w.Header().Get("Retry-After") != "" {
					refused++
				}
			}
		})
	}
	post("/", nested(4), strings.Repeat(" ", 90_000))
	if got := testutil.ToFloat64(callers.refused); refused != 2 || got != 2 {
		t.Errorf("%d calls were refused and %f counted, want the two with a body", refused, got)
	}
	if got := held(); got != 0 {
		t.Errorf("%f bytes are held by nobody", got)
	}
}

// A call that finds no room is told to come again, and answered once others have ended.
func TestACallWithoutRoom(t *testing.T) {
	a := newAttacked(t, false, 1)
	if !a.callers.calls.take(a.limit / 16) {
		t.Fatal("there is no room")
	}
	ask := func() answer {
		return a.r.do("POST", a.srv.URL+"/oauth/token", "", `{"grant_type":"client_credentials","client_id":"a","client_secret":"secret-a"}`)
	}
	a.r.problem(ask(), 503, "unavailable")
	if got := testutil.ToFloat64(a.callers.refused); got != 1 {
		t.Errorf("%f calls were refused", got)
	}
	a.callers.calls.give(a.limit / 16)
	if got := ask(); got.StatusCode != 200 {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
}

// Of the default memory_limit a thousand clients may wait for files at once, or look again
// and again, each by its own connection and with a token of usual size.
func TestAThousandCallersHaveRoom(t *testing.T) {
	callers := NewCallers(512<<20, nil)
	if callers.connections < 1000 {
		t.Errorf("%d connections", callers.connections)
	}
	wait := httptest.NewRequest("GET", "/emails/rolling-exports/hourly/files?after=12345&wait=60&limit=200", nil)
	for i := range 12 {
		wait.Header.Set("X-Header-"+strconv.Itoa(i), strings.Repeat("x", 20))
	}
	wait.Header.Set("Authorization", "Bearer "+strings.Repeat("x", 1500))
	const share = 32 << 20
	if n := callBytes(wait); n*1000 > share {
		t.Errorf("a call takes %d bytes", n)
	}
}

// TestARefusedBodyIsNotWaitedFor: a client that waits to be told to send it (Expect), or one
// whose body is too large, has its answer before that has come.
func TestARefusedBodyIsNotWaitedFor(t *testing.T) {
	a := newAttacked(t, false, 1)
	for name, header := range map[string]string{
		"Expect":    "POST /emails/reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n",
		"too large": "POST /emails/reports HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500000\r\n\r\n",
	} {
		c := a.dial()
		if _, err := c.Write([]byte(header)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second)) // it would be waited for for an hour
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %v, %v", name, resp, err)
		} else if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestIdleConnectionsHoldNoHeader, whatever the calls were like that they have had, and however
// many, answered with their bodies read or without: honest clients keep thousands of them.
func TestIdleConnectionsHoldNoHeader(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for name, body := range map[string]string{
			"long":    "Content-Length: 25000\r\n\r\n" + strings.Repeat("x", 25_000),
			"short":   "Content-Length: 1\r\n\r\nx",
			"none":    "\r\n",
			"chunked": "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1f4\r\n"+strings.Repeat("x", 500)+"\r\n", 50) + "0\r\n\r\n",
		} {
			for _, path := range []string{"/oauth/token", "/emails/reports"} {
				t.Run(fmt.Sprint(name, path, secure), func(t *testing.T) {
					a := newAttacked(t, secure, 1<<20)
					c := a.dial()
					if secure {
						c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
					}
					answers := bufio.NewReader(c)
					for range 1000 {
						if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: export.example.com\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n%s", path, strings.Repeat("t", 1500), body); err != nil {
							t.Fatal(err)
						}
						resp, err := http.ReadResponse(answers, nil)
						if err != nil {
							t.Fatal(err)
						}
						if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close {
							t.Fatalf("%d: %v, closed: %v", resp.StatusCode, err, resp.Close)
						}
						resp.Body.Close()
					}
					// It idles, or is about to.
					for range 100 {
						if held := testutil.ToFloat64(a.callers.headers.held); held > 0 {
							t.Fatalf("%f bytes are held", held)
						}
						runtime.Gosched()
					}
				})
			}
		}
	}
}
