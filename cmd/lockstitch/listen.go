package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	rungroup "github.com/oklog/run"

	"lockstitch/exporter/api"
)

// serveAdmin answers on the admin address from now on until everything else is
// closed: a replica that starts or stops slowly says so.
func (r *replica) serveAdmin() {
	srv := &http.Server{Handler: r.adminHandler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(r.admin)
	}()
	r.onClose(func() {
		_ = srv.Close()
		<-done
	})
}

// apiServer answers on the API's address.
type apiServer struct {
	*http.Server
	handler atomic.Pointer[http.Handler]
	ending  chan struct{} // closed when it is to take no more calls: those that wait end
	done    chan struct{} // closed when it takes no more connections
	err     error         // why, once done is closed
}

// serveAPI answers on the API's address from now on: with 503 until answerWith gives the
// handler. A connection to an address that is bound is taken by the kernel, and whoever
// made it would wait for as long as the start takes.
func (r *replica) serveAPI() {
	s := &apiServer{ending: make(chan struct{}), done: make(chan struct{})}
	s.answerWith(api.Starting())
	s.Server = api.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		(*s.handler.Load()).ServeHTTP(w, req)
	}), r.callers, r.log)
	h := r.s.HTTP
	if h.TLSCertFile != "" {
		pair := &renewedPair{cert: h.TLSCertFile, key: h.TLSKeyFile, log: r.log}
		pair.showExpiry(r.reg)
		s.TLSConfig.GetCertificate = pair.get
	}
	go func() {
		defer close(s.done)
		if h.TLSCertFile != "" {
			s.err = s.ServeTLS(r.api, "", "")
		} else {
			s.err = s.Serve(r.api)
		}
	}()
	r.server = s
	r.onClose(func() {
		_ = s.Close()
		<-s.done
	})
}

// answerWith has h answer all calls that begin from now on.
func (s *apiServer) answerWith(h http.Handler) { s.handler.Store(&h) }

// addAPI serves the API until the group ends and for shutdown_delay longer, as load
// balancers take a while to see that the replica is not ready any more. Then it lets calls
// in flight finish for shutdown_timeout.
func (r *replica) addAPI(g *rungroup.Group) {
	drained := make(chan struct{})
	g.Add(func() error {
		<-r.server.done
		if err := r.server.err; !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("API listener: %w", err)
		}
		<-drained
		return nil
	}, func(error) {
		// In a goroutine of its own: the consumer must not wait for a slow
		// reader of a large file. drained is waited for above.
		go func() {
			defer close(drained)
			delay := time.NewTimer(r.s.Replica.ShutdownDelay)
			defer delay.Stop()
			select {
			case <-delay.C:
			case <-r.server.done: // it has failed
			}
			close(r.server.ending)
			ctx, cancel := context.WithTimeout(context.Background(), r.s.Replica.ShutdownTimeout)
			defer cancel()
			if err := r.server.Shutdown(ctx); err != nil {
				r.log.Warn("calls in flight were cut off", "after", r.s.Replica.ShutdownTimeout)
				_ = r.server.Close()
			}
		}()
	})
}

// renewedPair reads a certificate and its key at every handshake, so that renewed
// ones need no restart. While the files do not fit together, as in the middle of
// a renewal, the last good pair counts.
type renewedPair struct {
	cert, key string // PEM files
	log       *slog.Logger

	mu   sync.Mutex
	last *tls.Certificate
	bad  bool // the files were unusable at the last handshake
}

func (p *renewedPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.last, p.bad = &pair, false
		return p.last, nil
	}
	if !p.bad {
		p.log.Error("the API's certificate cannot be read; the one before is used", "err", err)
		p.bad = true
	}
	if p.last == nil {
		return nil, err
	}
	return p.last, nil
}
