package run

import (
	"context"
	"time"

	"lockstitch/state/objects"
	"lockstitch/state/report"
)

const (
	cleanEvery  = time.Minute // how often expired files are looked for
	cleanSoon   = time.Second // how soon after a change, for those that were cancelled
	removeEvery = time.Hour   // how often reports long over are removed
)

// cleanLoop removes the files of expired and cancelled reports of this
// replica's slots, and much later the reports.
func (r *Runner) cleanLoop(ctx context.Context) {
	var removed time.Time
	for {
		changed := r.deps.Reports.Changed()
		if err := r.clean(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("removing files of expired reports", "err", err)
		}
		if time.Since(removed) > removeEvery {
			removed = time.Now()
			if err := r.remove(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("removing old reports", "err", err)
			}
		}
		soon := time.NewTimer(cleanSoon)
		select {
		case <-soon.C:
		case <-ctx.Done():
			soon.Stop()
			return
		}
		late := time.NewTimer(cleanEvery)
		select {
		case <-changed:
		case <-late.C:
		case <-ctx.Done():
		}
		late.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (r *Runner) clean(ctx context.Context) error {
	due, _ := r.deps.Reports.HavingFiles(time.Now())
	for _, rep := range due {
		if !r.slots.mine(rep.Request.ID) {
			continue
		}
		if err := r.removeFiles(ctx, rep); err != nil {
			return err
		}
		if err := r.deps.Reports.WriteExpired(ctx, rep.Request.Account, rep.Request.ID); err != nil {
			return err
		}
		r.log.Info("removed the files of a report", "report", rep.Request.ID, "status", string(rep.Status(time.Now())))
	}
	return nil
}

// removeFiles deletes everything under the report's prefix: its file, and what
// attempts that did not count have left.
func (r *Runner) removeFiles(ctx context.Context, rep *report.Report) error {
	var names []string
	if err := r.deps.Store.List(ctx, filesOf(rep), func(i objects.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		return err
	}
	for _, n := range names {
		if err := r.deps.Store.Delete(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) remove(ctx context.Context) error {
	now := time.Now()
	var mine []*report.Report
	for _, rep := range r.deps.Reports.Removable(now, r.cfg.Retention) {
		if r.slots.mine(rep.Request.ID) {
			mine = append(mine, rep)
		}
	}
	_, err := r.deps.Reports.Sweep(ctx, now, mine, r.slots.mine)
	return err
}
