package definition

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// Config says which definitions a View follows.
type Config struct {
	Opts       []kgo.Opt
	Topic      string                // of one partition
	Log        *slog.Logger          // nil: slog.Default()
	Registerer prometheus.Registerer // nil: no metrics are registered
}

// View is the local copy of the definitions. It is safe for concurrent use.
type View struct {
	tail    *kafka.Tail
	topic   string
	log     *slog.Logger
	table   *table
	bad     map[string]struct{} // keys whose newest record is malformed; for apply alone
	metrics *metrics
}

type metrics struct {
	malformed prometheus.Counter
	unusable  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		malformed: promauto.With(reg).NewCounter(prometheus.CounterOpts{
			Name: "lockstitch_definitions_malformed_total",
			Help: "Records of the definitions topic that were no definition; each deleted what its key said before.",
		}),
		// A counter does not tell whether they have been put right, nor of those that are
		// there when it is scraped first.
		unusable: promauto.With(reg).NewGauge(prometheus.GaugeOpts{
			Name: "lockstitch_definitions_unusable",
			Help: "Keys of the definitions topic whose newest record is no definition: what they said before is deleted.",
		}),
	}
}

// Open follows the definitions topic from its start. It fails if the topic does
// not exist or the brokers cannot be asked; it does not wait until the end is
// reached, CatchUp does.
func Open(ctx context.Context, cfg Config) (*View, error) {
	v := newView(cfg)
	tail, err := kafka.StartTail(ctx, kafka.TailConfig{Opts: cfg.Opts, Topic: cfg.Topic, Apply: v.apply, Log: v.log})
	if err != nil {
		return nil, err
	}
	v.tail = tail
	return v, nil
}

func newView(cfg Config) *View {
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	return &View{topic: cfg.Topic, log: log, table: newTable(), bad: make(map[string]struct{}), metrics: newMetrics(cfg.Registerer)}
}

// apply takes over one record. It refuses none.
func (v *View) apply(r *kgo.Record) error {
	key := string(r.Key)
	var def *definition
	delete(v.bad, key)
	if r.Value != nil {
		d, err := decode(r.Value)
		if err == nil {
			def = &d
		} else {
			v.metrics.malformed.Inc()
			v.bad[key] = struct{}{}
			v.log.Warn("malformed definition: what its key said before is deleted",
				"topic", v.topic, "partition", r.Partition, "offset", r.Offset, "key", excerpt(key), "err", err)
		}
	}
	v.table.put(key, r.Offset, def)
	v.metrics.unusable.Set(float64(len(v.bad)))
	return nil
}

// CatchUp waits until everything that was acknowledged before the call is
// applied.
func (v *View) CatchUp(ctx context.Context) error { return v.tail.CatchUp(ctx) }

// Load is CatchUp for whoever has just opened the view: it is an error once nothing more
// was read for as long as patience.
func (v *View) Load(ctx context.Context, patience time.Duration) error {
	return v.tail.Load(ctx, patience)
}

// Account is what exists on an account as far as it was applied; never nil.
func (v *View) Account(id string) *Account { return v.table.account(id) }

// Close stops following and waits for it to end.
func (v *View) Close() { v.tail.Close() }
