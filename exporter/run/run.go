// Package run turns accepted requests into files. Every report has a work slot,
// a hash of its id over the partitions of the reports topic; a consumer group
// hands the slots, not the records, to the replicas and on when one dies. A
// report may thus be run twice, by the old owner and the new one: each attempt
// writes an object of its own, and the first result in the log counts.
package run

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/render"
	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// Config are the settings of a Runner. Zero values take the defaults.
type Config struct {
	Kafka          []kgo.Opt     // the connection
	Topic          string        // the reports topic
	Profiles       string        // the profiles topic, to say when events wait for it
	Group          string        // consumer group that hands out the work; "lockstitch-reports"
	Parallel       int           // reports rendered at a time, beside one step of a standing order; one for each processor, two at least, as far as Memory goes
	Memory         int64         // bytes that the default of Parallel goes by; 0: one report at a time
	Workers        int           // pieces of a file rendered at a time; one for each processor
	FileLifetime   time.Duration // how long a finished file is kept; 7 days
	Retention      time.Duration // how long a report is known after that; 2 days
	MaxBytes       int64         // of a file, compressed; 2 GiB
	SessionTimeout time.Duration // of the group; 10 s
	// Hook, if set, is called at every named step of a job, by several goroutines;
	// tests crash there.
	Hook func(step string)
}

// The named steps of a job, in their order; Config.Hook is called as each begins,
// with StepDone after the last.
const (
	StepBarrier = "report/barrier" // wait for the position records to pass the barrier
	StepPlan    = "report/plan"    // read the catalog past its high watermark, choose the slices
	StepRender  = "report/render"  // begin an object and stream the file into it
	StepShorten = "report/shorten" // only if it would be too large: choose a nearer position, and render again
	StepStore   = "report/store"   // make the object durable and visible
	StepResult  = "report/result"  // write the result
	StepLost    = "report/lost"    // only if another result counts: remove the object
	StepDone    = "report/done"
)

// The named steps of the cleaning of a report that has expired or was cancelled.
const (
	StepClean   = "report/clean"   // remove everything under its prefix
	StepExpired = "report/expired" // write that its files are gone
	StepCleaned = "report/cleaned"
)

// Deps are what a Runner works with. They outlive it.
type Deps struct {
	Reports    *report.Table
	Catalog    *catalog.View
	Store      objects.Store
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Runner runs the reports of this replica's work slots.
type Runner struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	slots   *Slots
	waits   waits
	turns   *turns
	misled  time.Time // when files had last expired by this machine's clock alone; cleanLoop's
}

// New checks the configuration. Run does the work.
func New(cfg Config, deps Deps) (*Runner, error) {
	if cfg.Topic == "" {
		return nil, errors.New("report runner: no reports topic is configured")
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.FileLifetime, 7*24*time.Hour)
	def(&cfg.Retention, 2*24*time.Hour)
	def(&cfg.SessionTimeout, 10*time.Second)
	if cfg.Group == "" {
		cfg.Group = "lockstitch-reports"
	}
	if cfg.Parallel <= 0 {
		room := cfg.Memory / render.Memory(cfg.Workers)
		cfg.Parallel = int(max(1, min(room, int64(max(2, runtime.GOMAXPROCS(0))))))
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 2 << 30
	}
	return &Runner{
		cfg: cfg, deps: deps, log: deps.Log.With("component", "runner"), metrics: newMetrics(deps.Registerer),
		slots: newSlots(), turns: newTurns(cfg.Parallel),
		waits: waits{of: make(map[*progress]waiting)},
	}, nil
}

// Slots are this replica's share of the work, for others to share alike.
func (r *Runner) Slots() *Slots { return r.slots }

// Run works, once, until ctx ends; then it stops its jobs, which others take up, leaves
// the group and returns nil.
func (r *Runner) Run(ctx context.Context) error {
	slots := r.slots
	if err := slots.join(r.cfg, r.deps.Reports.Partitions(), r.log); err != nil {
		return err
	}
	defer slots.leave()
	var bg sync.WaitGroup
	bg.Go(func() { r.cleanLoop(ctx) })
	bg.Go(func() { r.explainLoop(ctx) })
	defer bg.Wait()

	jobs := make(map[string]*job)
	ended := make(chan *job)
	defer func() {
		for _, j := range jobs {
			j.cancel()
		}
		for range jobs {
			<-ended
		}
	}()
	for {
		changed, moved := r.deps.Reports.Changed(), slots.Changed()
		pending := make(map[string]bool)
		for _, rep := range r.deps.Reports.Pending() {
			id := rep.Request.ID
			if !slots.Mine(id) {
				continue
			}
			pending[id] = true
			if jobs[id] == nil {
				jobs[id] = r.start(ctx, rep, ended)
			}
		}
		for id, j := range jobs {
			if !pending[id] {
				j.cancel() // cancelled, finished elsewhere, or another's now
			}
		}
		select {
		case <-changed:
		case <-moved:
		case j := <-ended:
			delete(jobs, j.rep.Request.ID)
		case <-ctx.Done():
			return nil
		}
	}
}

// job is one report being run.
type job struct {
	rep    *report.Report
	cancel context.CancelFunc
}

func (r *Runner) start(ctx context.Context, rep *report.Report, ended chan<- *job) *job {
	jctx, cancel := context.WithCancel(ctx)
	j := &job{rep: rep, cancel: cancel}
	go func() {
		defer func() {
			cancel()
			ended <- j
		}()
		r.run(jctx, rep)
	}()
	return j
}

func (r *Runner) at(step string) {
	if r.cfg.Hook != nil {
		r.cfg.Hook(step)
	}
}
