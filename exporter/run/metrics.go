package run

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	rows    prometheus.Counter
	bytes   prometheus.Counter
	retries prometheus.Counter
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		rows:    prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_rows_total", Help: "Rows written to finished files."}),
		bytes:   prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_bytes_total", Help: "Bytes of finished files, compressed."}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_retries_total", Help: "Attempts at a report that failed and were repeated."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lockstitch_export_duration_seconds",
			Help: "Time from taking up a report to its result.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 18)}),
	}
	if reg != nil {
		reg.MustRegister(m.rows, m.bytes, m.retries, m.seconds)
	}
	return m
}
