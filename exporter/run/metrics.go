package run

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"lockstitch/state/report"
	"lockstitch/state/task"
)

type metrics struct {
	rows    prometheus.Counter
	bytes   prometheus.Counter
	retries prometheus.Counter
	seconds *prometheus.HistogramVec
	failed  *prometheus.CounterVec
	tasks   task.Times
}

// Who an export is made for: somebody who waits for it, or a rolling export, whose file is
// due at the end of a period and waits for all input of that.
const (
	kindReport  = "report"
	kindRolling = "rolling"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		rows:    f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_rows_total", Help: "Rows written to finished files."}),
		bytes:   f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_bytes_total", Help: "Bytes of finished files, compressed."}),
		retries: f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_export_retries_total", Help: "Attempts at a report that failed and were repeated."}),
		seconds: f.NewHistogramVec(prometheus.HistogramOpts{Name: "lockstitch_export_duration_seconds",
			Help:    "Time from the acceptance of a report, or of a file of a rolling export, to its result.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 1200, 3600},
		}, []string{"kind"}),
		failed: f.NewCounterVec(prometheus.CounterOpts{Name: "lockstitch_exports_failed_total",
			Help: "Reports and files of rolling exports that ended in an error, by the last word of the problem's type."}, []string{"problem"}),
		tasks: task.NewTimes(reg),
	}
	m.seconds.WithLabelValues(kindReport)
	m.seconds.WithLabelValues(kindRolling)
	for _, k := range report.ProblemKinds {
		m.failed.WithLabelValues(k.Word)
	}
	return m
}
