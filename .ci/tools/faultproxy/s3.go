package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// s3Proxy passes requests on, Host and signature untouched. Its kinds:
//
//	500, 503  an error, the request is not passed on
//	reset     the connection is reset in the middle of the request's body (PUT)
//	          or of the answer's (GET)
//	timeout   the request is taken and never answered
//	lost      the server does what is asked and the reply is lost
//	slow      every request waits a second first
//	away      every connection is closed
type s3Proxy struct {
	*faults
	upstream *url.URL
	pass     *httputil.ReverseProxy
}

func newS3Proxy(f *faults, upstream string) *s3Proxy {
	u := &url.URL{Scheme: "http", Host: upstream}
	return &s3Proxy{faults: f, upstream: u, pass: &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host },
		FlushInterval: -1,
	}}
}

func (p *s3Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, due := p.strike("s3", r.Method, "500", "503", "reset", "timeout", "lost", "slow", "away")
	if !due {
		p.pass.ServeHTTP(w, r)
		return
	}
	switch f.kind {
	case "500", "503":
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(map[string]int{"500": 500, "503": 503}[f.kind])
		code := map[string]string{"500": "InternalError", "503": "SlowDown"}[f.kind]
		_, _ = io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code+`</Code><Message>asked for</Message></Error>`)
	case "reset":
		if r.Method == http.MethodGet {
			p.pass.ServeHTTP(&half{ResponseWriter: w}, r)
		} else {
			_, _ = io.CopyN(io.Discard, r.Body, max(0, r.ContentLength/2))
		}
		cut(w)
	case "timeout":
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-r.Context().Done():
		case <-time.After(15 * time.Second):
		}
		cut(w)
	case "lost":
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		p.pass.ServeHTTP(&nowhere{header: make(http.Header)}, r)
		cut(w)
	case "slow":
		time.Sleep(time.Second)
		p.pass.ServeHTTP(w, r)
	case "away":
		cut(w)
	}
}

// cut resets the connection of a request.
func cut(w http.ResponseWriter) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// half ends an answer in its middle.
type half struct {
	http.ResponseWriter
}

func (h *half) Write(p []byte) (int, error) {
	_, _ = h.ResponseWriter.Write(p[:len(p)/2])
	_ = http.NewResponseController(h.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// nowhere takes an answer that nobody gets.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}
