package api

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"
)

// readTimeout is for a request with its body. Over HTTP/1.1 it also ends the context of a
// call that is still being handled then, unless endBody has lifted it.
const readTimeout = 30 * time.Second

// NewServer makes the HTTP server of the API listener: HTTP/1.1 and HTTP/2
// (with TLS, and without it for clients that know), bounded headers, and time
// limits that a slow client cannot stretch. There is no limit on writing: the
// handlers set their own, as a large file takes as long as its reader. It is to
// take its connections from [Callers.Listen].
func NewServer(h http.Handler, callers *Callers, log *slog.Logger) *http.Server {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           callers.handler(h),
		ConnState:         callers.connState,
		ConnContext:       connContext,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       readTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         &p,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: greeted},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: streams,
			// A frame is held until it is whole, and by default may have 1 MiB.
			MaxReadFrameSize: 16 << 10,
			// What was sent of bodies that nobody has read yet; by default 1 MiB.
			MaxReceiveBufferPerConnection: streamWindow,
			MaxReceiveBufferPerStream:     streamWindow,
			// The deadlines of streams end no connection that takes no byte.
			WriteByteTimeout: stallTimeout,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Starting answers every call with 503: who listens before there is a handler from New
// tells callers to try again, instead of keeping them waiting.
func Starting() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rw := &responseWriter{ResponseWriter: w, route: "none"}
		rw.always()
		writeProblem(rw, unavailable("This replica is starting. Try again."))
	})
}
