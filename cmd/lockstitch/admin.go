package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readyTimeout bounds how long /readyz asks.
const readyTimeout = 3 * time.Second

// readyEvery is how often a replica asks itself what /readyz asks.
const readyEvery = 15 * time.Second

// adminHandler answers on the admin address: nothing of it is on the API's.
func (r *replica) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r.reg, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, req *http.Request) {
		if why := r.unready(req.Context()); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	if r.s.HTTP.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// unready says why calls cannot be answered, or "" if they can: it asks what every
// call would ask. It does not ask for the ends of the event topics: those only a
// request for an export needs, which answers 503 by itself without them.
func (r *replica) unready(ctx context.Context) string {
	select {
	case <-r.stopping:
		return "shutting down"
	default:
	}
	select {
	case <-r.ready:
	default:
		return "starting"
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := r.catalog.CatchUp(ctx); err != nil {
		return fmt.Sprintf("the catalog cannot be read: %v", err)
	}
	if err := r.definitions.CatchUp(ctx); err != nil {
		return fmt.Sprintf("the definitions cannot be read: %v", err)
	}
	if err := r.reports.CatchUpAll(ctx); err != nil {
		return fmt.Sprintf("the reports cannot be read: %v", err)
	}
	return ""
}

// tellReady shows what /readyz says as a gauge, from now on until everything else is
// closed: once no replica is ready no call comes that could be counted as refused.
func (r *replica) tellReady() {
	ready := promauto.With(r.reg).NewGauge(prometheus.GaugeOpts{
		Name: "lockstitch_ready",
		Help: "1 when calls can be answered, as /readyz says; asked every 15 s.",
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		watchReady(ctx, ready, r.unready, r.ready, r.stopping)
	}()
	r.onClose(func() {
		cancel()
		<-done
	})
}

// watchReady asks every readyEvery, and at once when started or stopping is closed.
func watchReady(ctx context.Context, ready prometheus.Gauge, unready func(context.Context) string, started, stopping <-chan struct{}) {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		if unready(ctx) == "" {
			ready.Set(1)
		} else {
			ready.Set(0)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-started:
			started = nil
		case <-stopping:
			stopping = nil
		}
	}
}
