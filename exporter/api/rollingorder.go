package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/rolling"
	"lockstitch/state/report"
)

// createRolling stores a new standing order, which asks for q. report.ErrNameTaken if
// another was there first.
func (s *server) createRolling(c *call, name string, req *RollingRequest, q *report.Question) error {
	if req.Start == "" {
		return invalid(FieldError{"/start", "is missing; a new rolling export begins now or at the beginning"})
	}
	o := &report.Order{ID: ulid.Make().String(), Account: c.account, Name: name, CreatedAt: s.now().UTC().Truncate(time.Millisecond)}
	var err error
	if o.Settings, err = settingsOf(req); err != nil {
		return err
	}
	at, err := s.ends(c)
	if err != nil {
		return err
	}
	if req.Start == startNow {
		o.From = at
	}
	more := o.Size() + q.Size() + s.plan(at).Steps(c.account, o.Settings.Every)
	return s.withRoom(c, at, more, req, func(ctx context.Context) error {
		_, err := s.deps.Reports.CreateOrder(ctx, o, s.cfg.Limits.RollingExports)
		if errors.Is(err, report.ErrTooManyOrders) {
			return limited(kindRolling, time.Hour, fmt.Sprintf("The account may have %d rolling exports. Delete one.", s.cfg.Limits.RollingExports))
		}
		return err
	}, func(ctx context.Context) error {
		return s.deps.Reports.DeleteOrder(ctx, c.account, o.ID)
	})
}

// changeRolling replaces the settings of a standing order, which then asks for q.
// report.ErrNotFound if it was deleted meanwhile. One that asks for the same in periods
// that are not shorter needs no room, nor does one that has stopped.
func (s *server) changeRolling(c *call, old *report.Standing, req *RollingRequest, q *report.Question) error {
	start := startOf(old.Order)
	if req.Start != "" && req.Start != start {
		return invalid(FieldError{"/start", fmt.Sprintf("cannot be changed; it is %s", start)})
	}
	whole := *req
	whole.Start = start
	settings, err := settingsOf(&whole)
	if err != nil {
		return err
	}
	write := func(settings report.Settings) func(context.Context) error {
		return func(ctx context.Context) error {
			return s.deps.Reports.ChangeOrder(ctx, c.account, old.Order.ID, settings)
		}
	}
	same := sameExport(old.Settings.Body, req)
	if settings.Every >= old.Settings.Every && (same || old.Trouble != nil) {
		return s.withOrders(c, write(settings))
	}
	at, err := s.ends(c)
	if err != nil {
		return err
	}
	held, plan := s.deps.Reports.StepsSize(old.Order.ID), s.plan(at)
	more := max(held, plan.Steps(c.account, settings.Every)) - max(held, plan.Steps(c.account, old.Settings.Every))
	if !same { // the steps before hold what they asked for
		more += q.Size() + int64(len(settings.Body))
	}
	if more <= 0 {
		return s.withOrders(c, write(settings))
	}
	return s.withRoom(c, at, more, req, write(settings), func(ctx context.Context) error {
		if now, ok := s.deps.Reports.OrderNamed(c.account, old.Order.Name); !ok || now.Settings.Revision != settings.Revision {
			return nil // somebody else has changed it since
		}
		return write(old.Settings)(ctx)
	})
}

// withRoom is withOrders for what needs room. Others may take it at the same time, at
// other replicas too: what was written is looked at again, with all that was written
// before it, and undone if that is too much.
func (s *server) withRoom(c *call, at []report.End, more int64, req *RollingRequest, do, undo func(context.Context) error) error {
	what := fmt.Sprintf("A rolling export with a file every %s, each kept for %s (file_lifetime),", req.Every, s.cfg.FileLifetime)
	if err := s.room(c.account, at, more, what, false); err != nil {
		return err
	}
	if err := s.withOrders(c, do); err != nil {
		return err
	}
	refused := s.room(c.account, at, more, what, true)
	if refused == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), s.cfg.KafkaTimeout) // also for a caller that has gone
	defer cancel()
	if err := undo(ctx); err != nil && !errors.Is(err, report.ErrNotFound) {
		return unavailable("The rolling export could not be taken back. Try again.")
	}
	return refused
}

func startOf(o *report.Order) string {
	if len(o.From) == 0 {
		return startBeginning
	}
	return startNow
}

func settingsOf(req *RollingRequest) (report.Settings, error) {
	every, _ := rolling.ParseEvery(req.Every)
	body, err := json.Marshal(req)
	if err != nil {
		return report.Settings{}, fmt.Errorf("encoding a request: %w", err)
	}
	return report.Settings{
		Revision: ulid.Make().String(), Every: every, EmptyFiles: req.EmptyFiles, Destination: req.Destination, Body: body,
	}, nil
}

// withOrders is within for writing to the table: what the table says of the
// order itself comes through as it is.
func (s *server) withOrders(c *call, f func(context.Context) error) (said error) {
	err := s.within(c, "The table of reports", func(ctx context.Context) error {
		said = f(ctx)
		var p *Problem
		if errors.Is(said, report.ErrNotFound) || errors.Is(said, report.ErrNameTaken) || errors.As(said, &p) {
			return nil
		}
		return said
	})
	if err != nil {
		return err
	}
	return said
}
