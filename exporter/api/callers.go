package api

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"
)

// Callers bounds what all callers together make a replica hold, whoever they are: what is
// held before anybody is known, and beside that what a call reads. It is three eighths of
// memory_limit, 192 of the default 512 MiB:
//
//	1/4   connections (128 MiB: 1,024), each of connectionBytes: one that is idle, or
//	      whose first header is coming, over HTTP/2 and with TLS
//	1/16  calls under way (32 MiB), each of what [callBytes] says and, as it comes, of
//	      twice its body
//	1/16  headers of HTTP/1.1 that are not whole (32 MiB), which are beyond
//	      freeHeaderBytes of a connection: headerFactor for each byte
//
// Who comes when all connections are taken waits. A call that finds no room is answered
// with 503, and a connection whose header finds none ends. Honest callers take little:
// a call with a header of 1 kB and its body some 25 kB, while it is under way.
type Callers struct {
	connections int
	calls       *room
	headers     *room
	open        prometheus.Gauge
	refused     prometheus.Counter
}

const (
	// connectionBytes: an idle connection takes 20 kB, over HTTP/2 30 kB, with TLS some
	// 30 kB more. A header of HTTP/2 that is not whole takes 50 kB, one of
	// HTTP/1.1 of freeHeaderBytes 64 kB.
	connectionBytes = 128 << 10

	// maxHeaderBytes bounds a header: a token of 16 KiB and what clients and proxies add.
	// To HTTP/1.1 net/http allows 4 KiB more, over HTTP/2 a field counts 32 bytes more.
	maxHeaderBytes = 20 << 10
	// headerFactor: a field of four bytes ("ab:\n") has 120 once it is parsed.
	headerFactor    = 32
	freeHeaderBytes = 2 << 10

	// A call: its goroutine, request and buffers; each field of its header, parameter of
	// its URL, and further value of a field. streamWindow is what may have come of a
	// body over HTTP/2 before it is read, less than which no client expects.
	callBaseBytes = 16 << 10
	fieldBytes    = 160
	valueBytes    = 32
	streamWindow  = 64 << 10

	// streams is how many calls a connection of HTTP/2 has under way.
	streams = 8
)

// NewCallers bounds callers by a memory_limit.
func NewCallers(memoryLimit int64, reg prometheus.Registerer) *Callers {
	f := promauto.With(reg)
	cs := &Callers{
		connections: max(1, int(memoryLimit/4/connectionBytes)),
		open: f.NewGauge(prometheus.GaugeOpts{
			Name: "lockstitch_http_connections",
			Help: "Open connections to the API.",
		}),
		refused: f.NewCounter(prometheus.CounterOpts{
			Name: "lockstitch_http_refused_total",
			Help: "Calls and connections that were refused as those under way take all the memory for them.",
		}),
	}
	f.NewGauge(prometheus.GaugeOpts{
		Name: "lockstitch_http_connections_limit",
		Help: "Connections that the API may have at once; further ones wait until one of them ends.",
	}).Set(float64(cs.connections))
	held := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "lockstitch_http_held_bytes",
		Help: "Memory of calls to the API that are under way, and of headers that are not whole (at most).",
	}, []string{"of"})
	limit := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "lockstitch_http_held_limit_bytes",
		Help: "What lockstitch_http_held_bytes may be; further calls are refused.",
	}, []string{"of"})
	newRoom := func(of string, size int64) *room {
		limit.WithLabelValues(of).Set(float64(size))
		return &room{semaphore.NewWeighted(size), held.WithLabelValues(of)}
	}
	cs.calls, cs.headers = newRoom("calls", memoryLimit/16), newRoom("headers", memoryLimit/16)
	return cs
}

// room is memory that callers share, in bytes.
type room struct {
	free *semaphore.Weighted
	held prometheus.Gauge
}

func (r *room) take(n int64) bool {
	ok := r.free.TryAcquire(n)
	if ok {
		r.held.Add(float64(n))
	}
	return ok
}

func (r *room) give(n int64) {
	r.free.Release(n)
	r.held.Sub(float64(n))
}

// handler has next answer the calls that there is room for.
func (cs *Callers) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What is left of a call when it has been answered goes at once: net/http holds
		// the header while it waits for the rest of a body.
		defer func() { r.Header = nil }()
		b := &countedBody{ReadCloser: r.Body, callers: cs, taken: callBytes(r)}
		switch c, ok := r.Context().Value(connKey{}).(*conn); {
		case ok && r.ProtoMajor == 2:
			c.multiplexes()
		case ok:
			header := headerBytes(r)
			defer func() { c.passes(header + b.end(w, r)) }()
		}
		if !cs.calls.take(b.taken) {
			cs.refuse(w, r)
			return
		}
		defer func() { cs.calls.give(b.taken) }()
		if r.ProtoMajor == 2 {
			defer r.Body.Close()
		}
		counted := *r // net/http knows its own kinds of body in the request that it has made
		counted.Body = b
		next.ServeHTTP(w, &counted)
	})
}

var errNoRoom = unavailable("Calls that are under way take all the memory for them. Try again.")

func (cs *Callers) refuse(w http.ResponseWriter, r *http.Request) {
	cs.refused.Inc()
	if r.ContentLength != 0 {
		// What is under way comes, so that the connection need not end; no more is waited for.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second))
	}
	rw := &responseWriter{ResponseWriter: w, route: "none"}
	rw.always()
	writeProblem(rw, errNoRoom)
}

// callBytes is what a call holds without what is read of its body, at most.
func callBytes(r *http.Request) int64 {
	n := callBaseBytes + len(r.RequestURI)*4 + fieldBytes*strings.Count(r.URL.RawQuery, "&")
	for name, values := range r.Header {
		n += fieldBytes + len(name)
		for _, v := range values {
			n += valueBytes + len(v)
		}
	}
	if r.ProtoMajor == 2 && r.ContentLength != 0 {
		if r.ContentLength < 0 || r.ContentLength > streamWindow {
			return int64(n) + streamWindow
		}
		return int64(n) + r.ContentLength
	}
	return int64(n)
}

// headerBytes is what a header of HTTP/1.1 had at least, as it came.
func headerBytes(r *http.Request) int64 {
	n := len(r.Method) + len(r.RequestURI) + len(r.Proto)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(":") + len(v) + len("\n")
		}
	}
	return int64(n)
}

// countedBody takes room for a body as it comes: those who read it hold it, and a copy of
// it when it grows.
type countedBody struct {
	io.ReadCloser
	callers *Callers
	taken   int64
	read    int64
	refused bool
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if !b.callers.calls.take(2 * int64(n)) {
		if !b.refused {
			b.refused = true
			b.callers.refused.Inc()
		}
		return 0, errNoRoom
	}
	b.taken += 2 * int64(n)
	return n, err
}

// maxDrained is how much of a body that nobody has read net/http reads, to have the
// connection for the next call.
const maxDrained = 256 << 10

// end is how long the body of a call of HTTP/1.1 is, if its connection is used further. Of
// one that tells no length the rest is read to know, as net/http would.
func (b *countedBody) end(w http.ResponseWriter, r *http.Request) int64 {
	if r.ContentLength < 0 && r.Header.Get("Expect") == "" && w.Header().Get("Connection") != "close" {
		n, _ := io.CopyN(io.Discard, b.ReadCloser, maxDrained)
		b.read += n
	}
	return max(b.read, r.ContentLength)
}
