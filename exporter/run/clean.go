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
	remove := time.NewTicker(removeEvery)
	defer remove.Stop()
	for {
		changed, moved := r.deps.Reports.Changed(), r.slots.Changed()
		next, err := r.clean(ctx)
		if err != nil && ctx.Err() == nil {
			r.log.Warn("removing files of expired reports", "err", err)
		}
		wait := cleanEvery
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), cleanSoon))
		}
		late := time.NewTimer(wait)
		select {
		case <-changed:
		case <-moved:
		case <-late.C:
		case <-remove.C:
			if err := r.remove(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("removing old reports", "err", err)
			}
		case <-ctx.Done():
		}
		late.Stop()
		// Not more often than this: every look goes over all reports.
		soon := time.NewTimer(cleanSoon)
		select {
		case <-soon.C:
		case <-ctx.Done():
			soon.Stop()
			return
		}
	}
}

// clean removes what is due, and says when the next file expires.
func (r *Runner) clean(ctx context.Context) (next time.Time, err error) {
	due, next := r.deps.Reports.HavingFiles(time.Now())
	for _, rep := range due {
		if !r.slots.Mine(rep.Request.ID) {
			continue
		}
		r.at(StepClean)
		if err := r.removeFiles(ctx, rep); err != nil {
			return next, err
		}
		r.at(StepExpired)
		if err := r.deps.Reports.WriteExpired(ctx, rep.Request.Account, rep.Request.ID); err != nil {
			return next, err
		}
		r.at(StepCleaned)
		r.log.Info("removed the files of a report", "report", rep.Request.ID, "status", string(rep.Status(time.Now())))
	}
	return next, nil
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

// remove removes reports that have long been over, with what is left of them.
func (r *Runner) remove(ctx context.Context) error {
	now := time.Now()
	var mine []*report.Report
	for _, rep := range r.deps.Reports.Removable(now, r.cfg.Retention) {
		if !r.slots.Mine(rep.Request.ID) {
			continue
		}
		// A runner may have stored a file after the others were removed, and died
		// before it took it away. Steps without rows make none.
		if rep.Request.Step == nil || rep.MadeFile() {
			if err := r.removeFiles(ctx, rep); err != nil {
				return err
			}
		}
		mine = append(mine, rep)
	}
	_, err := r.deps.Reports.Sweep(ctx, now, mine, r.slots.Mine)
	return err
}
