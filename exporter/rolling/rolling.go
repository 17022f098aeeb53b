// Package rolling makes the files of standing orders (contract 6.2). It renders
// nothing itself: an order is a generator of reports, each a step between two
// positions in the input, run by exporter/run like any other report.
//
// Where an order stands is its newest successful step in the table of reports;
// nothing is kept beside it. A step begins where that one ended and ends at the
// boundary of the next period, which is fixed by the step's request itself: of
// two requests for one step the first in the log counts. So two replicas that
// both think an order theirs, a clock that goes backwards or a crash between any
// two steps make no file twice and leave none out.
//
//	period.go     when the next step is due
//	generator.go  the loop over the orders of this replica
//	step.go       submitting a step, having a file delivered
//	boundary.go   the position that belongs to a boundary
//	deliver.go    writing a file to a destination
//	metrics.go    how far orders are behind
package rolling

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstitch/exporter/cursor"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
)

// Grace is how long after a boundary its step is made, so that a broker whose
// clock is behind has most likely reached it too. Whether it has changes only
// which of two neighbouring files an event goes into.
const Grace = 250 * time.Millisecond

// Slots say which orders are this replica's; *run.Slots are.
type Slots interface {
	Mine(id string) bool
	Changed() <-chan struct{}
}

// Clock tells the time and waits for it.
type Clock interface {
	Now() time.Time
	// At returns a channel that gets something at a time, and what ends the
	// waiting.
	At(t time.Time) (<-chan time.Time, func())
}

// Deps are what a Generator works with. They outlive it. All but Floor,
// Deliver, Time, Clock, Log and Registerer are needed.
type Deps struct {
	Reports *report.Table
	Slots   Slots
	// Boundary gives the position that belongs to the time of a boundary.
	Boundary func(ctx context.Context, at time.Time) ([]report.End, error)
	// Floor is the edge of what is kept, which a step may not begin below. nil:
	// everything is kept.
	Floor func() catalog.Floor
	// Resolve turns the body of an order into a question by the definitions as
	// they are now. Only an error that is a *Refusal stops the order.
	Resolve func(ctx context.Context, account string, body []byte) (report.Question, error)
	// Deliver writes a file to a destination; again, if it is there already,
	// without effect. nil: there are no destinations.
	Deliver func(ctx context.Context, destination string, f File) error
	// Time is the time by Kafka's clock, which is asked about a report of an account.
	// nil: this machine's clock, which decides when a step is due, is not checked.
	Time       func(ctx context.Context, account, id string) (time.Time, error)
	Cursors    *cursor.Codec // needed to deliver
	Clock      Clock         // nil: the machine's
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Refusal is an error that no repetition cures: the order must be changed.
type Refusal struct{ Problem report.Problem }

func (r *Refusal) Error() string { return r.Problem.Title + ": " + r.Problem.Detail }

// Generator makes the steps of this replica's orders.
type Generator struct {
	deps     Deps
	log      *slog.Logger
	readings *kafka.Shared[int64, []report.End] // of boundaries, by their time (ms)
}

// New checks what it is given. Run does the work.
func New(deps Deps) (*Generator, error) {
	if deps.Reports == nil || deps.Slots == nil || deps.Boundary == nil || deps.Resolve == nil {
		return nil, errors.New("standing orders: Reports, Slots, Boundary and Resolve are needed")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Floor == nil {
		deps.Floor = func() catalog.Floor { return catalog.Floor{} }
	}
	if deps.Clock == nil {
		deps.Clock = machineClock{}
	}
	g := &Generator{deps: deps, log: deps.Log.With("component", "rolling exports"), readings: kafka.NewShared[int64, []report.End]()}
	if deps.Registerer != nil {
		deps.Registerer.MustRegister(newCollector(deps))
	}
	return g, nil
}

type machineClock struct{}

func (machineClock) Now() time.Time { return time.Now() }

func (machineClock) At(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}
