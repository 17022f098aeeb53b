package rolling

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/cursor"
	"lockstitch/exporter/retained"
	"lockstitch/state/report"
)

// tryLimit is the longest that one try at submitting a step may take.
const tryLimit = 30 * time.Second

// step submits the next step of an order, which is due. The step's outcome
// shows in the table.
func (g *Generator) step(ctx context.Context, s *report.Standing) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	// What another replica has done before makes this step void; that the order was
	// paused or changed before does not.
	still, err := g.still(ctx, s, work{kind: step, revision: s.Settings.Revision, seq: s.Seq()})
	if err != nil || !still {
		return err
	}
	q, err := g.deps.Resolve(ctx, s.Order.Account, s.Settings.Body)
	var refused *Refusal
	switch {
	case errors.As(err, &refused):
		return g.trouble(ctx, s, refused.Problem)
	case err != nil:
		return fmt.Errorf("resolving its names: %w", err)
	}
	p := Next(s)
	q.Rolling, q.After, q.CompleteThrough = true, s.Order.From, p.End
	floor := g.deps.Floor()
	switch {
	case s.Last != nil:
		q.After = s.Last.Through()
	case len(s.Order.From) == 0:
		q.After = retained.Beginning(floor)
	}
	if n := s.Newest; n != nil && n.Request.Step.PeriodEnd.Equal(p.End) {
		// A boundary is fixed once: the period goes on behind a file that was
		// full, or an attempt at it failed.
		q.Barrier = n.Request.Question.Barrier
	} else if err := g.passed(ctx, s, p.End); err != nil {
		return err
	} else if q.Barrier, err = g.boundary(ctx, p.End, q.After); err != nil {
		return fmt.Errorf("finding the boundary %s: %w", p.End.Format(time.RFC3339), err)
	}
	if gone := retained.Problem(floor, &q); gone != nil {
		gone.Detail = "The next file would not hold every event: the rolling export was held up for longer than events are kept. Delete it and create it anew. " + gone.Detail
		return g.trouble(ctx, s, *gone)
	}
	_, err = g.deps.Reports.SubmitStep(ctx, &report.Request{
		ID: ulid.Make().String(), Account: s.Order.Account, CreatedAt: g.deps.Clock.Now().UTC(), Question: q,
		Step: &report.Step{
			Order: s.Order.ID, Name: s.Order.Name, Revision: s.Settings.Revision, Seq: s.Seq() + 1, Files: s.Files(),
			PeriodStart: p.Start, PeriodEnd: p.End, EmptyFiles: s.Settings.EmptyFiles, Deliver: s.Settings.Destination != "",
		},
	})
	switch {
	case errors.Is(err, report.ErrVoid):
		return nil // the table knows more than was known here
	case errors.Is(err, report.ErrTooLarge):
		return g.trouble(ctx, s, *report.Invalid.Problem("The next file: " + q.TooLarge()))
	}
	return err
}

// boundary is the position that belongs to a time, nowhere below before and with every
// partition that before names. It is read for all orders that have a step due then, which
// are many at a whole minute.
func (g *Generator) boundary(ctx context.Context, at time.Time, before []report.End) ([]report.End, error) {
	ends, err := g.readings.Do(ctx, at.UnixMilli(), func(ctx context.Context) ([]report.End, error) {
		return g.deps.Boundary(ctx, at)
	})
	if err != nil {
		return nil, err
	}
	return report.Later(ends, before), nil
}

// still tells whether the work is due by all that was written about the order up to now.
func (g *Generator) still(ctx context.Context, s *report.Standing, w work) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	if err := g.deps.Reports.CatchUp(ctx, s.Order.Account); err != nil {
		return false, err
	}
	now, ok := g.deps.Reports.Order(s.Order.ID)
	if !ok {
		return false, nil
	}
	is, _ := due(now, g.deps.Clock.Now())
	return is == w, nil
}

// passed fails while a boundary lies ahead by Kafka's clock. A machine whose own is
// weeks ahead would else fix those of weeks within minutes, and no file would come
// until that time. The first step of an order has no report to ask about and may be
// early, by one period.
func (g *Generator) passed(ctx context.Context, s *report.Standing, boundary time.Time) error {
	if g.deps.Time == nil || s.Newest == nil {
		return nil
	}
	at, err := g.deps.Time(ctx, s.Order.Account, s.Newest.Request.ID)
	switch {
	case err != nil:
		return fmt.Errorf("asking Kafka for the time: %w", err)
	case at.Before(boundary):
		return fmt.Errorf("the boundary %s has not come: by Kafka's clock it is %s, this machine's is ahead", boundary.Format(time.RFC3339), at.Format(time.RFC3339))
	}
	return nil
}

// trouble stops an order until it is changed.
func (g *Generator) trouble(ctx context.Context, s *report.Standing, p report.Problem) error {
	g.log.Warn("a rolling export cannot go on until it is changed", "account", s.Order.Account, "order", s.Order.Name, "problem", p.Detail)
	return unlessGone(g.deps.Reports.WriteTrouble(ctx, s.Order.Account, s.Order.ID, s.Settings.Revision, p))
}

// deliver brings the last file of an order to its destination.
func (g *Generator) deliver(ctx context.Context, s *report.Standing) error {
	if g.deps.Deliver == nil || g.deps.Cursors == nil {
		return errors.New("this replica has no destinations")
	}
	// A table that is behind may know of a file that was delivered long ago, and taken
	// away there since.
	still, err := g.still(ctx, s, work{kind: deliver, revision: s.Settings.Revision, seq: s.Seq(), number: s.Files()})
	if err != nil || !still {
		return err
	}
	err = g.deps.Deliver(ctx, s.Settings.Destination, FileOf(s.Order, s.Last, g.deps.Cursors))
	wctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
		g.log.Error("a finished file cannot be delivered", "account", s.Order.Account, "order", s.Order.Name, "number", s.Files(), "err", err)
		return g.trouble(wctx, s, *report.Damaged.Problem(fmt.Sprintf(
			"File %d was finished and cannot be delivered: it is damaged or gone. Changed again, the rolling export tries once more; changed to have no destination, it goes on with the next file.", s.Files())))
	}
	if err != nil {
		return fmt.Errorf("delivering file %d to %s: %w", s.Files(), s.Settings.Destination, err)
	}
	return unlessGone(g.deps.Reports.WriteDelivered(wctx, s.Order.Account, s.Order.ID, s.Files()))
}

// FileOf describes the file that a step of an order has made.
func FileOf(o *report.Order, r *report.Report, cursors *cursor.Codec) File {
	step, res := r.Request.Step, r.Result
	f := File{
		Account: o.Account, Name: o.Name, Order: o.ID, Number: r.Files(), Object: res.Object,
		PeriodStart: step.PeriodStart, PeriodEnd: step.PeriodEnd, To: cursors.Encode(o.Account, r.Through()),
		Rows: res.Rows, Bytes: res.Bytes, SHA256: res.SHA256,
	}
	if after := r.Request.Question.After; len(after) > 0 {
		f.From = cursors.Encode(o.Account, after)
	}
	if !res.More {
		f.CompleteThrough = step.PeriodEnd
	}
	return f
}

// unlessGone takes an order that was deleted meanwhile for no error.
func unlessGone(err error) error {
	if errors.Is(err, report.ErrNotFound) {
		return nil
	}
	return err
}
