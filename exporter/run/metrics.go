package run

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"lockstitch/state/report"
)

type metrics struct {
	rows    prometheus.Counter
	bytes   prometheus.Counter
	retries prometheus.Counter
	seconds prometheus.Histogram
	failed  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		rows:    f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_rows_total", Help: "Rows written to finished files."}),
		bytes:   f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_bytes_total", Help: "Bytes of finished files, compressed."}),
		retries: f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_retries_total", Help: "Attempts at a report that failed and were repeated."}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{Name: "lockstitch_export_duration_seconds",
			Help: "Time from taking up a report to its result.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 18)}),
		failed: f.NewCounterVec(prometheus.CounterOpts{Name: "lockstitch_exports_failed_total",
			Help: "Reports and files of rolling exports that ended in an error, by the last word of the problem's type."}, []string{"problem"}),
	}
	for _, k := range report.ProblemKinds {
		m.failed.WithLabelValues(k.Word)
	}
	return m
}
