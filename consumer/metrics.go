package consumer

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"lockstitch/state/kafka"
	"lockstitch/state/poison"
	"lockstitch/state/task"
)

// metrics of the consumer. The lag has a collector of its own (lag.go).
type metrics struct {
	ready        *prometheus.GaugeVec
	kept         prometheus.Counter
	duplicates   prometheus.Counter
	lookups      prometheus.Counter
	misrouted    prometheus.Counter
	left         prometheus.Counter
	late         prometheus.Counter
	dead         *prometheus.CounterVec
	cuts         prometheus.Counter
	cutFailures  *prometheus.CounterVec
	cutFailing   *prometheus.GaugeVec
	cutSeconds   prometheus.Histogram
	segmentBytes prometheus.Counter
	swept        prometheus.Counter
	tasks        task.Times
	diskFull     prometheus.Gauge
	retired      prometheus.Counter
	retiredBytes prometheus.Counter

	mergedSegments prometheus.Counter
}

// newMetrics registers the metrics; oldest is the server_time (ms) from which on everything
// is kept, segments how many are, and both are asked whenever the metrics are read.
func newMetrics(reg prometheus.Registerer, topics kafka.Topics, oldest func() int64, segments func() int) *metrics {
	f := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "lockstitch_" + name, Help: help})
	}
	m := &metrics{
		ready: f.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstitch_lane_ready",
			Help: "1 when the lane's events are read; 0 while it is taken over, catches up or is stopped."}, []string{"partition"}),
		kept:       counter("events_kept_total", "Events that became a row, counted again when a partition is read again that changed hands."),
		duplicates: counter("duplicates_dropped_total", "Events dropped because they repeat an earlier kept one."),
		lookups:    counter("dedup_lookups_total", "Deduplication keys looked up on disk: those of duplicates, and all where memory_limit leaves the filters no room."),
		misrouted:  counter("misrouted_total", "Events whose profile_id belongs to another partition than theirs."),
		left:       counter("profile_attributes_left_out_total", "Profile attributes left out because their value is an array or an object."),
		late:       counter("profile_versions_late_total", "Profile versions that came when an event of their time or later had been processed; those of their own profile were decorated without them."),
		dead: f.NewCounterVec(prometheus.CounterOpts{Name: "lockstitch_dead_letters_total",
			Help: "Records set aside in the dead-letter topic."}, []string{"topic", "reason"}),
		cuts: counter("cuts_total", "Cuts committed."),
		cutFailures: f.NewCounterVec(prometheus.CounterOpts{Name: "lockstitch_cut_failures_total",
			Help: "Cuts that failed and were tried again, by the stage that failed."}, []string{"stage"}),
		cutFailing: f.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstitch_cut_failing",
			Help: "1 since a cut has failed at the stage, until one has succeeded or nothing waits for one."}, []string{"stage"}),
		cutSeconds: f.NewHistogram(prometheus.HistogramOpts{Name: "lockstitch_cut_duration_seconds",
			Help: "Time that a cut took which was committed, its part in the local state included.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 17)}),
		segmentBytes: counter("segment_bytes_total", "Bytes of segment objects uploaded."),
		swept:        counter("objects_swept_total", "Orphaned segment objects removed, those of expired segments included."),
		retired:      counter("segments_expired_total", "Segments removed by retention."),
		retiredBytes: counter("segments_expired_bytes_total", "Bytes of the segments removed by retention."),

		mergedSegments: counter("segments_merged_total", "Small segments that another one has taken the place of."),
		tasks:          task.NewTimes(reg),
		diskFull: f.NewGauge(prometheus.GaugeOpts{Name: "lockstitch_disk_full",
			Help: "1 while the local state waits for room on its disk: nothing is processed."}),
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "lockstitch_oldest_available_timestamp_seconds",
		Help: "server_time, in seconds since the Unix epoch, from which on everything is kept; 0: retention has removed nothing yet."},
		func() float64 { return float64(oldest()) / 1000 })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "lockstitch_catalog_segments",
		Help: "Segments that the catalog names. Each replica holds all of them in its memory."},
		func() float64 { return float64(segments()) })
	for _, t := range topics.Inputs() {
		for _, r := range poison.Reasons {
			m.dead.WithLabelValues(t, string(r))
		}
	}
	for _, stage := range []string{stageUpload, stageTransaction} {
		m.cutFailures.WithLabelValues(stage)
	}
	m.cutsGoOn()
	return m
}

// Stages that a cut may fail at.
const (
	stageUpload      = "upload"
	stageTransaction = "transaction"
)

func (m *metrics) cutFailed(stage string) {
	m.cutFailures.WithLabelValues(stage).Inc()
	m.cutFailing.WithLabelValues(stage).Set(1)
}

// cutsGoOn notes that a cut has succeeded, or that nothing is there for one.
func (m *metrics) cutsGoOn() {
	m.cutFailing.WithLabelValues(stageUpload).Set(0)
	m.cutFailing.WithLabelValues(stageTransaction).Set(0)
}

// as is 1 for true, 0 for false.
func as(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (m *metrics) laneReady(n int32, ready bool) {
	m.ready.WithLabelValues(strconv.Itoa(int(n))).Set(as(ready))
}

// waitForRoom notes that writes to the local state wait for room on the disk, or do no more.
func (m *metrics) waitForRoom(waits bool) { m.diskFull.Set(as(waits)) }

func (m *metrics) forget(n int32) {
	m.ready.DeleteLabelValues(strconv.Itoa(int(n)))
	if n == retainLane {
		m.tasks.Forget(task.Retention, task.Merging)
	}
}

// count adds what a lane has counted and sets it back.
func (m *metrics) count(c *laneCounts) {
	m.kept.Add(float64(c.kept))
	m.duplicates.Add(float64(c.duplicates))
	m.lookups.Add(float64(c.lookups))
	m.misrouted.Add(float64(c.misrouted))
	m.left.Add(float64(c.left))
	m.late.Add(float64(c.late))
	for k, n := range c.dead {
		m.dead.WithLabelValues(k.topic, string(k.reason)).Add(float64(n))
	}
	*c = laneCounts{}
}
