package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/cockroachdb/pebble/v2/vfs"
	rungroup "github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/consumer"
	"lockstitch/exporter/api"
	"lockstitch/exporter/barrier"
	"lockstitch/exporter/rolling"
	exportrun "lockstitch/exporter/run"
	"lockstitch/state/catalog"
	"lockstitch/state/definition"
	"lockstitch/state/local"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// replica is one running Lockstitch: everything that serve starts, and that dev
// and demo start beside their broker. openReplica builds it from the leaves up
// and Run takes it down in the reverse order.
type replica struct {
	s       *Settings
	log     *slog.Logger
	reg     *prometheus.Registry
	api     net.Listener
	callers *api.Callers // of the API
	admin   net.Listener

	metrics *replicaMetrics

	asker        *kgo.Client // asks for the ends of the event topics
	store        objects.Store
	destinations *destinations
	topics       *topicCheck
	catalog      *catalog.View
	reports      *report.Table
	definitions  *definition.View
	consumer     *consumer.Consumer
	runner       *exportrun.Runner
	rolling      *rolling.Generator
	server       *apiServer

	stopping chan struct{} // closed when the replica begins to shut down
	ready    chan struct{} // closed when the API accepts calls
	closers  []func()
}

// gcPercent is by how much the heap may grow before garbage is collected.
const gcPercent = 50

// These are nil but in a binary that is built to fail on request (faults.go).
var (
	stepHook      func(step string)
	tweakConsumer func(*consumer.Config)
)

// openReplica binds the addresses, locks the data directory, opens the views and
// the store, and builds the parts. Calls are answered with 503 until these are there;
// nothing is consumed until Run.
func openReplica(ctx context.Context, s *Settings, log *slog.Logger) (_ *replica, err error) {
	r := &replica{s: s, log: log, reg: prometheus.NewRegistry(), stopping: make(chan struct{}), ready: make(chan struct{})}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	r.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.metrics = newReplicaMetrics(r.reg, s)
	opts, err := s.Kafka.Config().Opts()
	if err != nil {
		return nil, usage(err)
	}
	opts = append(opts, kgo.WithHooks(r.metrics))
	// Addresses first: one that is taken shows at once.
	if err := r.listen(); err != nil {
		return nil, err
	}
	r.serveAdmin()
	r.tellReady()
	r.serveAPI()
	if err := r.lockDataDir(); err != nil {
		return nil, err
	}
	if r.store, err = openStore(ctx, s.Replica); err != nil {
		return nil, err
	}
	r.onClose(func() { _ = r.store.Close() })
	r.store = objects.Measured(r.store, r.reg)
	r.destinations = openDestinations(ctx, objects.OpenForOthers, s.Replica.Destinations, log)
	r.onClose(r.destinations.close)

	if err := reach(ctx, s, opts, log); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, s.Replica.StartTimeout)
	defer cancel()
	// A broker has answered, so the settings are right: a connection that ends
	// at once means that a broker goes away, not that TLS or SASL is missing.
	opts = append(opts, kgo.AlwaysRetryEOF())
	// Of what asks here, requests are repeated for as long as a start may take, not
	// for the library's 30 s: a broker that was chosen may be out of reach that long.
	asking := append(slices.Clip(opts), kgo.RetryTimeout(s.Replica.StartTimeout))
	if r.asker, err = kgo.NewClient(asking...); err != nil {
		return nil, usage(fmt.Errorf("kafka client: %w", err))
	}
	r.onClose(r.asker.Close)
	r.topics = newTopicCheck(r.asker, s.Topics.TopicNames(), log, r.reg)
	if err := errors.Join(r.topics.look(limit)); err != nil {
		return nil, err
	}
	if err := r.openViews(limit, asking); err != nil {
		return nil, err
	}
	if err := r.loadViews(ctx); err != nil {
		return nil, err
	}
	if err := r.ownStore(ctx); err != nil {
		return nil, err
	}
	if err := r.ownGroup(ctx); err != nil {
		return nil, err
	}
	if err := r.build(opts); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *replica) onClose(f func()) { r.closers = append(r.closers, f) }

// close takes down what was built, last first.
func (r *replica) close() {
	for i := len(r.closers) - 1; i >= 0; i-- {
		r.closers[i]()
	}
	r.closers = nil
}

func (r *replica) listen() (err error) {
	h := &r.s.HTTP
	l, err := net.Listen("tcp", h.Listen)
	if err != nil {
		return fmt.Errorf("the API cannot listen: %w; choose another address with --http-listen", err)
	}
	r.callers = api.NewCallers(int64(r.s.Replica.MemoryLimit), r.reg)
	r.api = r.callers.Listen(l)
	r.onClose(func() { _ = r.api.Close() })
	if r.admin, err = net.Listen("tcp", h.AdminListen); err != nil {
		return fmt.Errorf("the admin listener cannot listen: %w; choose another address with --admin-listen", err)
	}
	r.onClose(func() { _ = r.admin.Close() })
	if h.PublicURL == "" {
		h.PublicURL = r.localURL()
	}
	return nil
}

// lockDataDir takes the data directory for this replica, before anything is asked of
// others: what is wrong with it shows at once.
func (r *replica) lockDataDir() error {
	dir := r.s.Replica.DataDir
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return fmt.Errorf("the data directory cannot be made: %w; choose another with --data-dir", err)
	}
	lock, err := local.Lock(vfs.Default, filepath.Join(dir, "LOCK"))
	if err != nil {
		return fmt.Errorf("the data directory %s %w; choose another with --data-dir", dir, err)
	}
	r.onClose(func() { _ = lock.Close() })
	return nil
}

// localURL is the API's address for callers on this machine.
func (r *replica) localURL() string {
	scheme := "http"
	if r.s.HTTP.TLSCertFile != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(r.api.Addr().String())
	if err != nil {
		return scheme + "://" + r.api.Addr().String()
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// reach sees whether any broker can be used with the settings, and waits up to
// start_timeout for one: all may be on their way down or up.
func reach(ctx context.Context, s *Settings, opts []kgo.Opt, log *slog.Logger) error {
	limit, cancel := context.WithTimeoutCause(ctx, s.Replica.StartTimeout, fmt.Errorf("none has answered for %s (start_timeout)", s.Replica.StartTimeout))
	defer cancel()
	// The client greets a broker under its own context: one that takes the
	// connection and says nothing held up a start, and its end, for 20 s.
	cl, err := kgo.NewClient(append(slices.Clip(opts), kgo.RequestRetries(0), kgo.WithContext(limit))...)
	if err != nil {
		return usage(fmt.Errorf("kafka client: %w", err))
	}
	defer cl.Close()
	// Wrong settings look alike: whoever watches is told at once.
	_, err = backoff.Retry(limit, func() (struct{}, error) {
		return struct{}{}, cl.Ping(limit)
	}, backoff.WithMaxElapsedTime(s.Replica.StartTimeout), backoff.WithNotify(func(err error, _ time.Duration) {
		log.Warn("no broker can be used", "brokers", s.Kafka.Brokers, "err", err)
	}))
	if err != nil {
		return unreachable(s, err)
	}
	return nil
}

func (r *replica) openViews(ctx context.Context, opts []kgo.Opt) (err error) {
	t := r.s.Topics.TopicNames()
	if r.catalog, err = catalog.Open(ctx, catalog.Config{Opts: opts, Topic: t.Catalog, Log: r.log}); err != nil {
		return err
	}
	r.onClose(r.catalog.Close)
	if r.reports, err = report.Open(ctx, report.Config{Opts: opts, Topic: t.Reports, Log: r.log, Registerer: r.reg}); err != nil {
		return err
	}
	r.onClose(r.reports.Close)
	if r.definitions, err = definition.Open(ctx, definition.Config{Opts: opts, Topic: t.Definitions, Log: r.log, Registerer: r.reg}); err != nil {
		return err
	}
	r.onClose(r.definitions.Close)
	return nil
}

// loadViews reads the catalog and the definitions for as long as it gets on: the catalog of
// a year takes minutes, and who gave up would begin at its start again.
func (r *replica) loadViews(ctx context.Context) error {
	patience := r.s.Replica.StartTimeout
	for _, v := range []interface {
		Load(context.Context, time.Duration) error
	}{r.catalog, r.definitions} {
		err := v.Load(ctx, patience)
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("nothing more was read for %s (start_timeout): %w", patience, err)
		}
		if err != nil {
			return err
		}
	}
	r.tellOtherTopics()
	return r.catalog.Err()
}

// tellOtherTopics says which topics nothing more is read of: one may have been left out
// by mistake.
func (r *replica) tellOtherTopics() {
	said := make(map[string]bool)
	for _, p := range r.catalog.OtherEvents(r.s.Topics.Events) {
		if !said[p.Topic] {
			said[p.Topic] = true
			r.log.Info("a topic is not in events_topics any more: nothing more is read of it; what was kept of it stays in exports", "topic", p.Topic)
		}
	}
}

// build makes the parts that work: consumer, report runner, rolling exports, API.
func (r *replica) build(opts []kgo.Opt) (err error) {
	cfg := r.s.consumerConfig(opts)
	if tweakConsumer != nil {
		tweakConsumer(&cfg)
	}
	if r.consumer, err = consumer.New(cfg, consumer.Deps{Store: r.store, Catalog: r.catalog, Reports: r.reports, Log: r.log, Registerer: r.reg, Owned: r.askOwner}); err != nil {
		return err
	}
	runs := exportrun.Deps{Reports: r.reports, Catalog: r.catalog, Store: r.store, Log: r.log, Registerer: r.reg}
	if r.runner, err = exportrun.New(r.s.runnerConfig(opts), runs); err != nil {
		return err
	}
	if err := r.buildRolling(); err != nil {
		return err
	}
	handler, err := api.New(r.s.apiConfig(), api.Deps{
		Reports: r.reports, Definitions: r.definitions, Catalog: r.catalog, Store: r.store,
		Ends: r.eventEnds, Destination: r.destinations.allows, Stopping: r.server.ending, Log: r.log, Registerer: r.reg,
	})
	if err != nil {
		return err
	}
	if r.s.HTTP.ownNames {
		handler = ownNames(r.s.HTTP, handler)
	}
	r.server.answerWith(handler)
	return nil
}

// eventEnds reads how far the input reaches: a barrier.
func (r *replica) eventEnds(ctx context.Context) ([]report.End, error) {
	return barrier.Read(ctx, r.asker, r.catalog, r.s.Topics.Events)
}

// Run works until ctx ends or a part fails, then shuts down: the API goes on for
// shutdown_delay, stops accepting and lets downloads finish, the runner hands its
// reports back, the consumer cuts a last time and leaves the group. A clean stop
// returns nil.
func (r *replica) Run(ctx context.Context) error {
	defer r.close()
	// An export may add little to what is resident, so garbage is collected twice
	// as often as by default.
	limit := int64(r.s.Replica.MemoryLimit)
	debug.SetMemoryLimit(heapLimit(limit, 0))
	defer debug.SetMemoryLimit(math.MaxInt64)
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))

	var g rungroup.Group
	stop, stopped := context.WithCancel(ctx)
	g.Add(func() error { <-stop.Done(); return nil }, func(error) {
		stopped()
		close(r.stopping)
	})
	r.addAPI(&g)
	r.addPart(&g, "memory limit", func(ctx context.Context) error { return stayWithin(ctx, limit) })
	r.addPart(&g, "consumer", r.consumer.Run)
	r.addPart(&g, "report runner", r.runner.Run)
	r.addPart(&g, "rolling exports", r.rolling.Run)
	r.addPart(&g, "topic check", r.topics.Run)
	r.log.Info("replica started", "api", r.localURL(), "admin", "http://"+r.admin.Addr().String(), "group", r.s.Replica.Group)
	close(r.ready)
	if err := g.Run(); err != nil {
		r.log.Error("replica stopped", "err", err)
		return err
	}
	r.log.Info("replica stopped")
	return nil
}

// addPart runs one part until the group ends.
func (r *replica) addPart(g *rungroup.Group, name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	g.Add(func() error {
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}, func(error) { cancel() })
}
