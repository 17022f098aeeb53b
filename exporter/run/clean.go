package run

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/task"
)

const (
	cleanEvery  = time.Minute // how often expired files are looked for, and Kafka is asked for the time
	cleanSoon   = time.Second // how soon after a change, for those that were cancelled
	removeEvery = time.Hour   // how often reports long over are removed
	askLimit    = 10 * time.Second
	clockOff    = time.Minute // a difference of clocks that is worth a warning
)

// cleanLoop removes the files of expired and cancelled reports of this
// replica's slots, and much later the reports.
func (r *Runner) cleanLoop(ctx context.Context) {
	remove := time.NewTimer(removeEvery)
	defer remove.Stop()
	r.metrics.tasks.Done(task.Cleaning)
	for {
		changed, moved := r.deps.Reports.Changed(), r.slots.Changed()
		next, err := r.clean(ctx)
		switch {
		case err == nil:
			r.metrics.tasks.Done(task.Cleaning)
		case ctx.Err() == nil:
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
			more, err := r.remove(ctx)
			if err != nil && ctx.Err() == nil {
				r.log.Warn("removing old reports", "err", err)
			}
			if more { // the rest behind the next look at the files, which is not to wait for it
				remove.Reset(0)
			} else {
				remove.Reset(removeEvery)
			}
		case <-ctx.Done():
		}
		late.Stop()
		// Not more often than this: a look is due with every record of any report.
		soon := time.NewTimer(cleanSoon)
		select {
		case <-soon.C:
		case <-ctx.Done():
			soon.Stop()
			return
		}
	}
}

// clean removes what is due, and says when the next file expires. What has
// expired by this machine's clock alone, which may be wrong, is not due.
func (r *Runner) clean(ctx context.Context) (next time.Time, err error) {
	now := time.Now()
	due, next := r.deps.Reports.HavingFiles(now)
	shuffle(due)
	var kafka time.Time // unless it is known yet
	var failed objects.Failures
	for _, rep := range due {
		if !r.slots.Mine(rep.Request.ID) {
			continue
		}
		if failed.Add(r.cleanOne(ctx, rep, now, &kafka)) {
			break
		}
	}
	return next, failed.First
}

// shuffle puts reports in another order each time: see objects.Failures.
func shuffle(reports []*report.Report) {
	rand.Shuffle(len(reports), func(i, j int) { reports[i], reports[j] = reports[j], reports[i] })
}

// cleanOne removes what is due of one report. It asks for Kafka's time if nobody has yet.
func (r *Runner) cleanOne(ctx context.Context, rep *report.Report, now time.Time, kafka *time.Time) (err error) {
	if rep.Status(time.Time{}) == report.StatusCompleted { // not cancelled: time alone ends it
		if kafka.IsZero() && now.Sub(r.misled) < cleanEvery {
			return nil
		}
		if kafka.IsZero() {
			*kafka, err = r.time(ctx, rep)
		}
		switch {
		case errors.Is(err, report.ErrNotFound): // it was withdrawn: nobody knows of its file
		case err != nil:
			return err
		case !rep.HasFiles(*kafka):
			r.misled = now
			return nil
		}
	}
	// What stood in the log when it was looked at may not have been read then: that
	// the file is to be delivered before.
	if due, err := r.stillDue(ctx, rep, *kafka); err != nil || !due {
		return err
	}
	r.at(StepClean)
	if err := r.removeFiles(ctx, rep); err != nil {
		return err
	}
	r.at(StepExpired)
	if err := r.deps.Reports.WriteExpired(ctx, rep.Request.Account, rep.Request.ID); err != nil {
		return err
	}
	r.at(StepCleaned)
	r.logOf(rep).Info("removed the files of a report", "status", string(rep.Status(time.Now())))
	return nil
}

// time is Kafka's, in whose time files expire.
func (r *Runner) time(ctx context.Context, rep *report.Report) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	at, err := r.deps.Reports.Time(ctx, rep.Request.Account, rep.Request.ID)
	if ahead := time.Since(at); err == nil && ahead > clockOff {
		r.log.Warn("this machine's clock is ahead of Kafka's, by which files and reports expire", "by", ahead.Round(time.Second))
	}
	return at, err
}

// stillDue tells whether files of a report are to be removed at a time by all that was
// written about it up to now.
func (r *Runner) stillDue(ctx context.Context, rep *report.Report, at time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := r.deps.Reports.CatchUp(ctx, rep.Request.Account); err != nil {
		return false, err
	}
	return r.deps.Reports.FilesDue(rep.Request.ID, at), nil
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
	var failed objects.Failures
	for _, n := range names {
		if failed.Add(r.deps.Store.Delete(ctx, n)) {
			break
		}
	}
	return failed.First
}

// remove removes reports that have long been over, with what is left of them, a
// bounded number; more says that there may be others. One whose files cannot be removed
// stays. By Kafka's clock too, which is asked when this machine's says so.
func (r *Runner) remove(ctx context.Context) (more bool, err error) {
	now := time.Now()
	mine := r.removable(now)
	if len(mine) > 0 {
		at, err := r.time(ctx, mine[0])
		if err != nil {
			return false, err
		}
		if at.Before(now) {
			now, mine = at, r.removable(at)
		}
	}
	shuffle(mine)
	var failed objects.Failures
	bare := make([]*report.Report, 0, len(mine)) // without files
	for _, rep := range mine {
		// A runner may have stored a file after the others were removed, and died
		// before it took it away. Steps that have succeeded without rows make none.
		if rep.Request.Step == nil || rep.MadeFile() || !rep.Succeeded() {
			err := r.removeFiles(ctx, rep)
			if failed.Add(err) {
				break
			}
			if err != nil {
				continue
			}
		}
		bare = append(bare, rep)
	}
	removed, err := r.deps.Reports.Sweep(ctx, now, bare, r.slots.Mine)
	// Those that stay are picked again: there is an end once they are all that is.
	more = err == nil && removed > 0 && removed+len(mine)-len(bare) >= report.SweepAtOnce
	return more, cmp.Or(err, failed.First)
}

// removable are those of this replica's reports that have long been over.
func (r *Runner) removable(now time.Time) []*report.Report {
	return r.deps.Reports.Removable(now, r.cfg.Retention, r.slots.Mine)
}
