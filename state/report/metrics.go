package report

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics counts what the table ignores; its collector counts the reports when
// it is asked.
type metrics struct {
	reg     prometheus.Registerer
	ignored prometheus.Counter
	reports *collector
}

func newMetrics(reg prometheus.Registerer, v *view) *metrics {
	m := &metrics{
		reg: reg,
		ignored: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "lockstitch_report_records_ignored_total",
			Help: "Records of the reports topic that were ignored: the request or standing order was there already.",
		}),
		reports: &collector{
			view:   v,
			counts: prometheus.NewDesc("lockstitch_reports", "Reports known to this replica, by status.", []string{"status"}, nil),
			bytes:  prometheus.NewDesc("lockstitch_reports_memory_bytes", "What reports and files of rolling exports take of this replica's memory.", nil, nil),
			oldest: prometheus.NewDesc("lockstitch_reports_oldest_pending_seconds",
				"Age of the oldest report, or step of a standing order, without a result; 0 if there is none. Every replica tells it of all, while it is ready.", nil, nil),
		},
	}
	if reg != nil {
		reg.MustRegister(m.reports)
	}
	return m
}

func (m *metrics) unregister() {
	if m.reg != nil {
		m.reg.Unregister(m.ignored)
		m.reg.Unregister(m.reports)
	}
}

type collector struct {
	view                  *view
	counts, bytes, oldest *prometheus.Desc
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.counts
	ch <- c.bytes
	ch <- c.oldest
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	counts := make(map[Status]int, len(Statuses))
	c.view.mu.RLock()
	for _, e := range c.view.byID {
		if e.visible() && e.report.Request.Step == nil {
			counts[e.report.Status(now)]++
		}
	}
	bytes, current := c.view.size, c.view.current(now)
	var age time.Duration
	for _, e := range c.view.pending {
		age = max(age, now.Sub(e.report.Request.CreatedAt))
	}
	c.view.mu.RUnlock()
	ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.GaugeValue, float64(bytes))
	if current {
		ch <- prometheus.MustNewConstMetric(c.oldest, prometheus.GaugeValue, age.Seconds())
	}
	for _, s := range Statuses {
		ch <- prometheus.MustNewConstMetric(c.counts, prometheus.GaugeValue, float64(counts[s]), string(s))
	}
}
