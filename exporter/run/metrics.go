package run

import (
	"github.com/prometheus/client_golang/prometheus"

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
	m := &metrics{
		rows:    prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_rows_total", Help: "Rows written to finished files."}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_bytes_total", Help: "Bytes of finished files, compressed."}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_retries_total", Help: "Attempts at a report that failed and were repeated."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lockstitch_export_duration_seconds",
			Help: "Time from taking up a report to its result.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 18)}),
	}
	m.failed = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lockstitch_exports_failed_total",
		Help: "Reports and files of standing orders that ended in an error, by the last word of the problem's type."}, []string{"problem"})
	for _, k := range report.ProblemKinds {
		m.failed.WithLabelValues(k.Word)
	}
	if reg != nil {
		reg.MustRegister(m.rows, m.bytes, m.retries, m.seconds, m.failed)
	}
	return m
}
