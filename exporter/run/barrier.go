package run

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"lockstitch/state/report"
)

// How long a report waits until the log says for what, and how often it says so after
// that: found by who looks for it, and no flood where many wait for the same.
const (
	tellAfter = time.Minute
	tellEvery = 5 * time.Minute
)

// awaitBarrier waits until every event partition's position record has reached
// the end that was read when the report was accepted. After the time that the
// report has for that it gives the problem to end in; an error only when ctx ends.
//
// The time counts from when this replica began to wait: two clocks that differ by
// more than the time would end a report at once that is only to wait for the next
// cut, or never. Who takes a report up after another waits for the whole time again.
func (r *Runner) awaitBarrier(ctx context.Context, rep *report.Report, show *progress, log *slog.Logger) (*report.Problem, error) {
	var late <-chan time.Time // nil: the step of a standing order, which waits
	if rep.Request.Step == nil {
		// Both by the clock of who accepted the report.
		deadline := time.NewTimer(rep.Request.BarrierDeadline.Sub(rep.Request.Question.CompleteThrough))
		defer deadline.Stop()
		late = deadline.C
	}
	tell := time.NewTimer(tellAfter)
	defer tell.Stop()
	defer r.waits.set(show, waiting{})
	left := slices.Clone(rep.Request.Question.Barrier)
	for {
		changed := r.deps.Catalog.Changed()
		var what waiting
		if left, what = r.waitingFor(rep, left); len(left) == 0 {
			return nil, nil
		}
		r.waits.set(show, what)
		select {
		case <-changed:
		case <-tell.C:
			log.Warn("a report waits for its input", "for", r.waits.explain(what).describe())
			tell.Reset(tellEvery)
		case <-late:
			return report.Barrier.Problem("Events acknowledged before the request were not processed within the barrier timeout, and an export is never short. Still waiting for " + r.waits.explain(what).describe()), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// waitingFor takes out of left, the ends that were waited for up to now, those that need
// not be waited for any more, and says what is waited for. None ever need be again:
// positions do not fall, and what was over once will never be processed.
func (r *Runner) waitingFor(rep *report.Report, left []report.End) ([]report.End, waiting) {
	var w waiting
	left = slices.DeleteFunc(left, func(e report.End) bool {
		pos, _ := r.deps.Catalog.Position(e.TopicID, e.Partition)
		// At 0 nothing was ever produced.
		if pos.Next >= e.Offset || rep.Request.Step != nil && r.over(e) {
			return true
		}
		if w.total++; len(w.named) < report.MaxWaiting {
			w.named = append(w.named, report.Waiting{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset, Position: pos.Next, Reason: "not processed yet"})
		}
		return false
	})
	return left, w
}

// over tells whether nothing more will ever be consumed of a partition, whatever
// its end: its topic was made anew and adopted, and its lane has since cut as one
// of the present topic, so that no earlier owner can cut any more. A report waits
// for such an end until its deadline, since it would be short of what was
// acknowledged; the step of a standing order would wait for ever.
func (r *Runner) over(e report.End) bool {
	ids := r.deps.Catalog.Adopted(e.Topic)
	i := slices.Index(ids, e.TopicID)
	if i < 0 || i == len(ids)-1 {
		return false
	}
	_, cut := r.deps.Catalog.Position(ids[len(ids)-1], e.Partition)
	return cut
}
