package model

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/consumer"
	"lockstitch/exporter/api"
	"lockstitch/exporter/auth"
	"lockstitch/exporter/barrier"
	"lockstitch/exporter/cursor"
	"lockstitch/exporter/rolling"
	exportrun "lockstitch/exporter/run"
	"lockstitch/state/catalog"
	"lockstitch/state/definition"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
)

// replica is a place where a process runs: it has a disk, which outlives
// crashes unless it is wiped, and at most one living process.
type replica struct {
	w     *world
	name  string
	clock clock

	mu   sync.Mutex
	disk *vfs.MemFS
	proc *process // nil: none runs
}

// process is one life of a replica, wired as `lockstitch serve` does. A process
// that has crashed winds down in the background: its cable is cut, its door to
// the store shut and its disk is a copy that nobody looks at.
type process struct {
	r       *replica
	disk    *vfs.MemFS
	cable   *cable
	store   *door
	lake    *door // the destination
	stop    context.CancelFunc
	done    chan struct{}
	reg     *prometheus.Registry
	crashAt string // the step of a cut at which it crashes; guarded by mu
	stallAt string // the step at which it stands still for stallFor
	stall   time.Duration

	mu      sync.Mutex
	handler http.Handler                // nil until it is open
	catchUp func(context.Context) error // with all reports, as asking whether it is ready does
	dead    bool
}

func (w *world) newReplica(i int) *replica {
	return &replica{w: w, name: fmt.Sprintf("r%d", i), clock: clock{w: w}, disk: vfs.NewCrashableMem()}
}

// start begins a process unless one lives.
func (r *replica) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{r: r, disk: r.disk, cable: newCable(r.w), store: &door{b: r.w.bucket}, lake: &door{b: r.w.lake}, stop: cancel, done: make(chan struct{})}
	r.proc = p
	r.w.lives.Go(func() {
		defer close(p.done)
		p.live(ctx)
	})
}

func (r *replica) living() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proc
}

// shutdown ends the process in order, as SIGTERM does.
func (r *replica) shutdown() {
	r.mu.Lock()
	p := r.proc
	r.mu.Unlock()
	if p == nil {
		return
	}
	p.stop()
	<-p.done
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == p {
		r.proc = nil
	}
}

// crash ends the process at once. Of what it wrote and did not sync, each block
// survives with the given probability; 100: only the process died, not the
// machine.
func (r *replica) crash(rng *rand.Rand, survive int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.proc
	if p == nil {
		return
	}
	p.mu.Lock()
	p.dead = true
	p.mu.Unlock()
	p.cable.sever()
	p.store.close()
	p.lake.close()
	r.disk = p.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rng})
	r.proc = nil
	p.stop()
}

// wipe throws the disk away; only where no process lives.
func (r *replica) wipe() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.proc == nil {
		r.disk = vfs.NewCrashableMem()
	}
}

func (p *process) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// live opens and runs the process until it is stopped, beginning anew after
// failures, as a supervisor does.
func (p *process) live(ctx context.Context) {
	for ctx.Err() == nil {
		err := p.run(ctx)
		p.mu.Lock()
		p.handler = nil
		p.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		p.r.w.notef("%s: the process ended: %v", p.r.name, err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (p *process) run(ctx context.Context) error {
	w := p.r.w
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: dropTime})).With("replica", p.r.name)
	opts := append(w.connection(), kgo.Dialer(kafka.FailSlowly(p.cable.dial)))
	p.mu.Lock()
	p.reg = prometheus.NewRegistry()
	reg := p.reg
	p.mu.Unlock()

	octx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	asker, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer asker.Close()
	cat, err := catalog.Open(octx, catalog.Config{Opts: opts, Topic: w.topics.Catalog, Log: log})
	if err != nil {
		return err
	}
	defer cat.Close()
	reports, err := report.Open(octx, report.Config{Opts: append(slices.Clip(opts), kgo.WithHooks(stamped{w})), Topic: w.topics.Reports, Log: log, Registerer: reg})
	if err != nil {
		return err
	}
	defer reports.Close()
	defs, err := definition.Open(octx, definition.Config{Opts: opts, Topic: w.topics.Definitions, Log: log, Registerer: reg})
	if err != nil {
		return err
	}
	defer defs.Close()
	for _, v := range []interface{ CatchUp(context.Context) error }{cat, defs} {
		if err := v.CatchUp(octx); err != nil {
			return err
		}
	}
	instance := ""
	if w.static {
		instance = p.r.name
	}
	var spans []time.Duration // the default
	if w.merges {
		spans = mergeSpans
	}
	cons, err := consumer.New(consumer.Config{
		Kafka: opts, InstanceID: instance, Topics: w.topics, DataDir: "/data/local", FS: p.disk, MemoryBytes: 16 << 20,
		FlushInterval: w.flushInterval, DedupHorizon: w.horizon, SessionTimeout: w.sessionTimeout, TransactionTimeout: 4 * time.Second,
		Retention: w.retention, RemovalNotice: removalNotice, SweepAge: sweepAge, SweepEvery: sweepEvery, Hook: p.hook,
		MergeSpans: spans, MergeEvery: mergeEvery,
	}, consumer.Deps{Store: p.store, Catalog: cat, Reports: reports, Log: log, Registerer: reg})
	if err != nil {
		return err
	}
	runner, err := exportrun.New(exportrun.Config{
		Kafka: opts, Topic: w.topics.Reports, Profiles: w.topics.Profiles, SessionTimeout: w.sessionTimeout, MaxBytes: w.maxFile,
	}, exportrun.Deps{Reports: reports, Catalog: cat, Store: p.store, Log: log, Registerer: reg})
	if err != nil {
		return err
	}
	keys := []auth.Key{{ID: "k1", Secret: []byte("0123456789abcdef0123456789abcdef")}}
	orders, err := rolling.New(rolling.Deps{
		Reports: reports, Slots: runner.Slots(), Floor: func() catalog.Floor { return cat.Retention().Refused },
		Boundary: func(ctx context.Context, at time.Time) ([]report.End, error) {
			return rolling.Boundary(ctx, cat, asker, w.topics.Events, at)
		},
		Resolve: func(ctx context.Context, account string, body []byte) (report.Question, error) {
			if err := defs.CatchUp(ctx); err != nil {
				return report.Question{}, err
			}
			return api.ResolveRolling(body, defs.Account(account))
		},
		Deliver: func(ctx context.Context, destination string, f rolling.File) error {
			if destination != lakeName {
				return fmt.Errorf("there is no destination %q", destination)
			}
			return rolling.Deliver(ctx, p.lake, p.store, f)
		},
		Cursors: cursor.New(keys), Clock: p.r.clock, Log: log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	handler, err := api.New(api.Config{
		PublicURL:      publicURL,
		SigningKeys:    keys,
		Clients:        w.clients,
		BarrierTimeout: barrierTimeout,
		Limits:         api.Limits{Pending: 100, TokensPerMinute: 10_000, ExportsPerMinute: 10_000, DownloadsPerMinute: 10_000, CallsPerMinute: 1_000_000, ReportsBytes: 1 << 40, AllReportsBytes: 1 << 40},
	}, api.Deps{
		Reports: reports, Definitions: defs, Catalog: cat, Store: p.store, Log: log, Registerer: reg,
		Ends:        func(ctx context.Context) ([]report.End, error) { return barrier.Read(ctx, asker, cat, w.topics.Events) },
		Destination: func(_, name string) bool { return name == lakeName },
		Now:         p.r.clock.Now,
	})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.handler, p.catchUp = handler, reports.CatchUpAll
	p.mu.Unlock()

	rctx, rcancel := context.WithCancel(ctx)
	defer rcancel()
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	part := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(rctx); err != nil {
				errs <- fmt.Errorf("%s: %w", name, err)
			}
			rcancel()
		})
	}
	part("consumer", cons.Run)
	part("report runner", runner.Run)
	part("standing orders", orders.Run)
	wg.Wait()
	close(errs)
	return <-errs
}

// hook is called at every step of a cut.
func (p *process) hook(step string) {
	p.mu.Lock()
	crash, stall := p.crashAt == step && !p.dead, time.Duration(0) // a zombie must not take the living one with it
	if crash {
		p.crashAt = ""
	}
	if p.stallAt == step {
		p.stallAt, stall = "", p.stall
	}
	p.mu.Unlock()
	switch {
	case crash:
		p.r.w.crashed(p.r, step)
	case stall > 0:
		p.r.w.notef("%s stands still for %v at %s", p.r.name, stall, step)
		time.Sleep(stall)
	}
}

// answer is what the API said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call asks the process's API; ok is false if it has none at the moment, or
// breaks off its answer.
func (p *process) call(method, path, token, body string, headers ...string) (_ answer, ok bool) {
	p.mu.Lock()
	h := p.handler
	p.mu.Unlock()
	if h == nil {
		return answer{}, false
	}
	req := httptest.NewRequest(method, strings.TrimPrefix(path, publicURL), strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		headers = append(headers, "Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	rec := httptest.NewRecorder()
	defer func() {
		v := recover()
		if err, _ := v.(error); v != nil && !errors.Is(err, http.ErrAbortHandler) {
			panic(v)
		}
	}()
	h.ServeHTTP(rec, req)
	return answer{rec.Code, rec.Result().Header, rec.Body.Bytes()}, !p.isDead()
}

// dropTime leaves out what the story says already.
func dropTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
