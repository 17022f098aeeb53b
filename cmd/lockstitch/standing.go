package main

import (
	"context"
	"time"

	"lockstitch/exporter/api"
	"lockstitch/exporter/rolling"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
)

// buildRolling makes the part that works on standing orders.
func (r *replica) buildRolling() (err error) {
	r.rolling, err = rolling.New(rolling.Deps{
		Reports: r.reports, Slots: r.runner.Slots(), Boundary: r.boundary,
		Resolve: func(ctx context.Context, account string, body []byte) (report.Question, error) {
			if err := r.definitions.CatchUp(ctx); err != nil {
				return report.Question{}, err
			}
			return api.ResolveRolling(body, r.definitions.Account(account))
		},
		Log: r.log, Registerer: r.reg,
	})
	return err
}

// boundary is the position in the input that belongs to a time.
func (r *replica) boundary(ctx context.Context, at time.Time, before []report.End) ([]report.End, error) {
	ends, err := r.eventEnds(ctx)
	if err != nil {
		return nil, err
	}
	parts := make(map[string][]int32)
	for _, e := range ends {
		parts[e.Topic] = append(parts[e.Topic], e.Partition)
	}
	first, err := kafka.ListOffsets(ctx, r.asker, parts, at.UnixMilli(), kafka.HighWatermark)
	if err != nil {
		return nil, err
	}
	for i, e := range ends {
		if o := first[e.Topic][e.Partition]; o >= 0 {
			ends[i].Offset = o
		}
	}
	return report.Later(before, ends), nil
}
