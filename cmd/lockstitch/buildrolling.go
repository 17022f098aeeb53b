package main

import (
	"context"
	"time"

	"lockstitch/exporter/api"
	"lockstitch/exporter/cursor"
	"lockstitch/exporter/rolling"
	"lockstitch/state/catalog"
	"lockstitch/state/report"
)

// buildRolling makes the part that works on rolling exports.
func (r *replica) buildRolling() (err error) {
	r.rolling, err = rolling.New(rolling.Deps{
		Reports: r.reports, Slots: r.runner.Slots(),
		Floor: func() catalog.Floor { return r.catalog.Retention().Refused },
		Boundary: func(ctx context.Context, at time.Time) ([]report.End, error) {
			return rolling.Boundary(ctx, r.catalog, r.asker, r.s.Topics.Events, at)
		},
		Time: r.reports.Time,
		Resolve: func(ctx context.Context, account string, body []byte) (report.Question, error) {
			if err := r.definitions.CatchUp(ctx); err != nil {
				return report.Question{}, err
			}
			return api.ResolveRolling(body, r.definitions.Account(account))
		},
		Deliver: r.deliver, Cursors: cursor.New(r.s.apiConfig().SigningKeys),
		Log: r.log, Registerer: r.reg,
	})
	return err
}
