package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	panics   prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, reportsBytes int64) *metrics {
	f := promauto.With(reg)
	f.NewGauge(prometheus.GaugeOpts{
		Name: "lockstitch_reports_memory_limit_bytes",
		Help: "What reports and files of rolling exports may take of this replica's memory.",
	}).Set(float64(reportsBytes))
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "lockstitch_http_requests_total",
			Help: "Answers of the API by route (\"none\": no such path), method and status code.",
		}, []string{"route", "method", "code"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lockstitch_http_request_duration_seconds",
			Help:    "Time from a request's header to the end of its answer, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120, 600},
		}, []string{"route"}),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "lockstitch_http_panics_total",
			Help: "Handlers of the API that panicked; each is a defect.",
		}),
	}
}

func (m *metrics) observe(w *responseWriter, r *http.Request, took time.Duration) {
	code := w.code
	if !w.wrote {
		code = http.StatusOK
	}
	m.requests.WithLabelValues(w.route, methodLabel(r.Method), strconv.Itoa(code)).Inc()
	m.duration.WithLabelValues(w.route).Observe(took.Seconds())
}

// methodLabel bounds the label: a method is whatever a client writes.
func methodLabel(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return m
	}
	return "other"
}
