package main

import (
	"net"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/twmb/franz-go/pkg/kgo"
)

// replicaMetrics are those of what the parts of a replica have in common. It is a hook of every
// Kafka client.
type replicaMetrics struct {
	throttled      prometheus.Counter
	connectFailed  prometheus.Counter
	deliveryFailed *prometheus.CounterVec
}

func newReplicaMetrics(reg prometheus.Registerer, s *Settings) *replicaMetrics {
	f := promauto.With(reg)
	f.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstitch_build_info", Help: "1; its labels say what this replica is."},
		[]string{"version", "goversion"}).WithLabelValues(versionText(), runtime.Version()).Set(1)
	f.NewGauge(prometheus.GaugeOpts{Name: "lockstitch_memory_limit_bytes", Help: "The setting memory_limit."}).Set(float64(s.Replica.MemoryLimit))
	settings := f.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstitch_setting_info",
		Help: "1 for each setting that must be the same on all replicas; the hash is that of its value, without secrets."}, []string{"setting", "hash"})
	for _, st := range s.stated {
		if slices.Contains(agreed, st.key) {
			settings.WithLabelValues(st.key, st.digest()).Set(1)
		}
	}
	m := &replicaMetrics{
		throttled: f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_kafka_throttle_seconds_total",
			Help: "Time for which brokers have made this replica's clients wait, as quotas were exceeded."}),
		connectFailed: f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_kafka_connect_failures_total",
			Help: "Connections to brokers that could not be made."}),
		deliveryFailed: f.NewCounterVec(prometheus.CounterOpts{Name: "lockstitch_delivery_failures_total",
			Help: "Tries to deliver a file of a rolling export that failed and are repeated."}, []string{"destination"}),
	}
	for _, d := range s.Replica.Destinations {
		m.deliveryFailed.WithLabelValues(d.Name)
	}
	return m
}

// OnBrokerThrottle is kgo.HookBrokerThrottle.
func (m *replicaMetrics) OnBrokerThrottle(_ kgo.BrokerMetadata, wait time.Duration, _ bool) {
	m.throttled.Add(wait.Seconds())
}

// OnBrokerConnect is kgo.HookBrokerConnect.
func (m *replicaMetrics) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		m.connectFailed.Inc()
	}
}

// showExpiry shows until when the API's certificate is good.
func (p *renewedPair) showExpiry(reg prometheus.Registerer) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{Name: "lockstitch_tls_not_after_timestamp_seconds",
		Help: "Until when the API's certificate is good, in seconds since the Unix epoch; 0: there is none that can be read."},
		func() float64 {
			pair, err := p.get(nil)
			if err != nil {
				return 0
			}
			return float64(pair.Leaf.NotAfter.Unix())
		})
}
