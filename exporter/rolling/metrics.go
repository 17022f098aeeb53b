package rolling

import "github.com/prometheus/client_golang/prometheus"

// collector says how far orders are behind, when it is asked. Each replica tells it of
// all: where none has joined the group of those that work on them, nobody else would. An
// order that is paused or deleted has no series.
type collector struct {
	deps           Deps
	files, seconds *prometheus.Desc
}

func newCollector(deps Deps) *collector {
	labels := []string{"account", "order"}
	return &collector{
		deps: deps,
		files: prometheus.NewDesc("lockstitch_rolling_lag_files",
			"Periods of a rolling export that are over and not exported and delivered yet.", labels, nil),
		seconds: prometheus.NewDesc("lockstitch_rolling_lag_seconds",
			"Time since the end of the first period of a rolling export that is not exported and delivered yet; 0 when there is none.", labels, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.files; ch <- c.seconds }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	if !c.deps.Reports.Current() {
		return
	}
	now := c.deps.Clock.Now()
	for _, s := range c.deps.Reports.Orders(func(string) bool { return true }) {
		if s.Paused {
			continue
		}
		files, since := Lag(s, now)
		ch <- prometheus.MustNewConstMetric(c.files, prometheus.GaugeValue, float64(files), s.Order.Account, s.Order.Name)
		ch <- prometheus.MustNewConstMetric(c.seconds, prometheus.GaugeValue, since.Seconds(), s.Order.Account, s.Order.Name)
	}
}
