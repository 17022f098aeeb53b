package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"path"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/render"
	"lockstitch/exporter/retained"
	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// missingTries is how often an object that the catalog names may be missing
// before that is taken for what it is: damage.
const missingTries = 3

// writeLimit is the longest that one try at writing a result may take.
const writeLimit = 10 * time.Second

// run brings a report to its end: waits for its barrier, renders, stores,
// writes the result. Failures of Kafka and of the store are tried again until
// ctx ends; what no repetition cures becomes the report's error.
func (r *Runner) run(ctx context.Context, rep *report.Report) {
	show := r.newProgress(ctx, rep)
	defer show.stop()
	log := r.logOf(rep)

	r.at(StepBarrier)
	problem, err := r.awaitBarrier(ctx, rep, show, log)
	if err != nil {
		return // ctx has ended
	}
	if problem != nil {
		r.finish(ctx, rep, report.Result{Attempt: ulid.Make().String(), Problem: problem})
		log.Warn("a report failed", "problem", problem.Type, "detail", problem.Detail)
		return
	}
	missing := 0
	res, err := backoff.Retry(ctx, func() (report.Result, error) {
		end, err := r.turns.wait(ctx, rep.Request.Account, rep.Request.Step != nil)
		if err != nil {
			return report.Result{}, backoff.Permanent(err)
		}
		defer end()
		res, err := r.attempt(ctx, rep, show)
		if err != nil && ctx.Err() == nil {
			if errors.Is(err, objects.ErrNotExist) {
				missing++
			}
			if p := r.problemOf(err, rep, missing); p != nil {
				log.Warn("a report failed", "problem", p.Type, "err", err)
				res, err = report.Result{Attempt: ulid.Make().String(), Problem: p}, nil
			} else {
				level := slog.LevelWarn
				if version := (*segment.VersionError)(nil); errors.As(err, &version) {
					level = slog.LevelError // goes on until somebody has upgraded this replica
				}
				log.Log(ctx, level, "an attempt at a report failed; trying again", "err", err)
				r.metrics.retries.Inc()
			}
		}
		return res, err
	}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(&backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, Multiplier: 2, MaxInterval: 10 * time.Second, RandomizationFactor: 0.2,
	}))
	if err != nil {
		return // ctx has ended
	}
	r.finish(ctx, rep, res) // after its turn: it may wait for Kafka
}

// attempt renders the file into an object of its own, of a rolling report the
// longest one that fits, roughly. Whether it fits depends on how it is divided
// and compressed, so that two attempts may end at two positions; the result that
// counts says which one holds.
func (r *Runner) attempt(ctx context.Context, rep *report.Report, show *progress) (report.Result, error) {
	r.at(StepPlan)
	q := rep.Request.Question // a copy
	// All segments below the barrier must be visible before planning.
	if err := r.deps.Catalog.CatchUp(ctx); err != nil {
		return report.Result{}, err
	}
	slices := r.slices(rep.Request.Account, &q)
	// After they were listed: none of those that are missing went unnoticed.
	if p := retained.Problem(r.deps.Catalog.Retention().Removed, &q); p != nil {
		return report.Result{Attempt: ulid.Make().String(), Problem: p}, nil
	}
	res, err := r.file(ctx, rep, &q, slices, show)
	for large := (*render.TooLargeError)(nil); q.Rolling && errors.As(err, &large); {
		r.at(StepShorten)
		through, ok := shorten(q.After, q.Barrier, slices, large.Fits)
		if !ok {
			break
		}
		q.Barrier = through
		res, err = r.file(ctx, rep, &q, slices, show)
		res.Through, res.More = through, true
	}
	return res, err
}

// slices are those that a file is planned from: of a window those of its time,
// of a walk those of the input since its last file, whatever else is stored.
func (r *Runner) slices(account string, q *report.Question) []catalog.SliceRef {
	if q.Rolling {
		return r.deps.Catalog.SlicesIn(account, report.Between(q.After, q.Barrier))
	}
	end := int64(math.MaxInt64)
	if q.EndAt != nil {
		end = *q.EndAt
	}
	return r.deps.Catalog.Slices(account, q.StartAt, end)
}

// file renders one file. That of a period without rows is not made, unless it is
// wanted; without slices the store is not even asked.
func (r *Runner) file(ctx context.Context, rep *report.Report, q *report.Question, slices []catalog.SliceRef, show *progress) (report.Result, error) {
	attempt := ulid.Make().String()
	step := rep.Request.Step
	needless := step != nil && !step.EmptyFiles // without rows
	nothing := func(read int) report.Result {
		now := time.Now().UTC()
		return report.Result{Attempt: attempt, At: now, Slices: read, Expires: now}
	}
	if needless && len(slices) == 0 {
		return nothing(0), nil
	}
	r.at(StepRender)
	name := filesOf(rep) + attempt + ".csv.gz"
	w, err := r.deps.Store.Create(ctx, name)
	if err != nil {
		return report.Result{}, err
	}
	defer w.Abort()
	totals, err := render.Export(ctx, render.Params{
		Store:    r.deps.Store,
		Slices:   slices,
		Question: q, MaxBytes: r.cfg.MaxBytes, Parallel: r.cfg.Workers,
		Progress: func(done, total int, rows, bytes int64) {
			show.set(report.Progress{SegmentsDone: done, SegmentsTotal: total, Rows: rows, Bytes: bytes})
		},
	}, w)
	if err != nil {
		return report.Result{}, err
	}
	if needless && totals.Rows == 0 {
		return nothing(totals.Slices), nil
	}
	r.at(StepStore)
	if err := w.Commit(); err != nil {
		return report.Result{}, err
	}
	r.metrics.rows.Add(float64(totals.Rows))
	r.metrics.bytes.Add(float64(totals.Bytes))
	now := time.Now().UTC()
	return report.Result{
		Attempt: attempt, At: now, Object: name, Rows: totals.Rows, Bytes: totals.Bytes,
		SHA256: totals.SHA256, Slices: totals.Slices, Expires: now.Add(r.cfg.FileLifetime),
	}, nil
}

// finish writes the result, until it is written or ctx ends. An attempt that
// does not count takes its object away.
func (r *Runner) finish(ctx context.Context, rep *report.Report, res report.Result) {
	if res.At.IsZero() {
		res.At = time.Now().UTC()
		res.Expires = res.At.Add(r.cfg.FileLifetime)
	}
	r.at(StepResult)
	won, err := backoff.Retry(ctx, func() (bool, error) {
		// Not with ctx: it ends when the result shows, before it is known
		// whether it counts.
		wctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
		defer cancel()
		return r.deps.Reports.WriteResult(wctx, rep.Request.Account, rep.Request.ID, res)
	}, backoff.WithMaxElapsedTime(0), backoff.WithBackOff(backoff.NewConstantBackOff(time.Second)))
	if err == nil && !won && res.Object != "" {
		r.at(StepLost)
		if derr := r.deps.Store.Delete(context.WithoutCancel(ctx), res.Object); derr != nil {
			r.logOf(rep).Warn("cannot remove the file of an attempt that came too late; it goes when the report expires", "object", res.Object, "err", derr)
		}
	}
	if err == nil && won && res.Problem != nil {
		r.metrics.failed.WithLabelValues(path.Base(res.Problem.Type)).Inc()
	}
	if err == nil && won {
		kind := kindReport
		if rep.Request.Step != nil {
			kind = kindRolling
		}
		// By the clock of who accepted it.
		r.metrics.seconds.WithLabelValues(kind).Observe(max(0, time.Since(rep.Request.CreatedAt)).Seconds())
		r.logOf(rep).Info("report finished", "rows", res.Rows, "bytes", res.Bytes, "failed", res.Problem != nil)
	}
	r.at(StepDone)
}

// logOf says of every line whose report it is about, and of a step which file of which
// standing order it is to make: its id is in no alert and in no answer of the API.
func (r *Runner) logOf(rep *report.Report) *slog.Logger {
	log := r.log.With("report", rep.Request.ID, "account", rep.Request.Account)
	if step := rep.Request.Step; step != nil {
		log = log.With("order", step.Name, "number", step.Files+1)
	}
	return log
}

// filesOf is the prefix of the names of a report's files.
func filesOf(rep *report.Report) string {
	return fmt.Sprintf("exports/%s/%s/", objects.Part(rep.Request.Account), rep.Request.ID)
}

// problemOf is the error a report ends in, or nil if the attempt is to be
// repeated. What another version has stored is no reason to end: its replicas can
// read it, and one of them may own the slot next.
func (r *Runner) problemOf(err error, rep *report.Report, missing int) *report.Problem {
	var corrupt *segment.CorruptError
	switch {
	case errors.Is(err, render.ErrTooLarge):
		advice := "Request a shorter window, fewer attributes and tags, or a narrower segment_filter."
		if rep.Request.Question.Rolling {
			advice = "The events at one position of the input do not fit. Request fewer attributes and tags."
		}
		return report.TooLarge.Problem(fmt.Sprintf("The file would exceed %d bytes. %s", r.cfg.MaxBytes, advice))
	case errors.As(err, &corrupt), errors.Is(err, objects.ErrNotExist) && missing >= missingTries:
		// What exactly is damaged is in the log; it says nothing to who asked.
		return report.Damaged.Problem("Stored events that the export would hold are damaged or missing, and an export is never short. The damage was logged.")
	}
	return nil
}
