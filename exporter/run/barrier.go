package run

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// lookEvery is how often the reasons for waiting are looked for anew.
const lookEvery = time.Second

// awaitBarrier waits until every event partition's position record has reached
// the end that was read when the report was accepted. After the time that the
// report has for that it gives the problem to end in; an error only when ctx ends.
//
// The time counts from when this replica began to wait: two clocks that differ by
// more than the time would end a report at once that is only to wait for the next
// cut, or never. Who takes a report up after another waits for the whole time again.
func (r *Runner) awaitBarrier(ctx context.Context, rep *report.Report, show *progress) (*report.Problem, error) {
	var late <-chan time.Time // nil: the step of a standing order, which waits
	if rep.Request.Step == nil {
		// Both by the clock of who accepted the report.
		deadline := time.NewTimer(rep.Request.BarrierDeadline.Sub(rep.Request.Question.CompleteThrough))
		defer deadline.Stop()
		late = deadline.C
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		changed := r.deps.Catalog.Changed()
		waiting := r.waitingFor(rep)
		if len(waiting) == 0 {
			show.waiting(nil)
			return nil, nil
		}
		select {
		case <-changed:
		case <-look.C:
			r.explain(ctx, waiting)
			show.waiting(waiting)
		case <-late:
			r.explain(ctx, waiting)
			return report.Barrier.Problem("Events acknowledged before the request were not processed within the barrier timeout, and an export is never short. Still waiting for " + describe(waiting)), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *Runner) waitingFor(rep *report.Report) []report.Waiting {
	var out []report.Waiting
	for _, e := range rep.Request.Question.Barrier {
		if e.Offset == 0 {
			continue // nothing was ever produced
		}
		pos, _ := r.deps.Catalog.Position(e.TopicID, e.Partition)
		if pos.Next < e.Offset && !(rep.Request.Step != nil && r.over(e)) {
			out = append(out, report.Waiting{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset, Position: pos.Next, Reason: "not processed yet"})
		}
	}
	return out
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

// explain finds out why partitions are waited for.
func (r *Runner) explain(ctx context.Context, waiting []report.Waiting) {
	rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	parts := make(map[string][]int32)
	for i := range waiting {
		parts[waiting[i].Topic] = append(parts[waiting[i].Topic], waiting[i].Partition)
	}
	cl := r.deps.Catalog.Client()
	topics := make([]string, 0, len(parts))
	for t := range parts {
		topics = append(topics, t)
	}
	infos, err := kafka.Describe(rctx, cl, topics...)
	if err != nil {
		return
	}
	stable, err := kafka.ListOffsets(rctx, cl, parts, kafka.AtEnd, kafka.LastStable)
	if err != nil {
		return
	}
	for i := range waiting {
		w := &waiting[i]
		ids := r.deps.Catalog.Adopted(w.Topic)
		switch {
		case len(ids) > 0 && ids[len(ids)-1] != segment.TopicID(infos[w.Topic].ID):
			w.Reason = "the topic was made anew and is not adopted"
		case stable[w.Topic][w.Partition] < w.Offset:
			w.Reason = fmt.Sprintf("a producer's transaction is open at offset %d", stable[w.Topic][w.Partition])
		default:
			if at, open := r.profilesOpen(rctx, w.Partition); open {
				w.Reason = fmt.Sprintf("a producer's transaction is open on %s/%d at offset %d, and the events wait for their profiles", r.cfg.Profiles, w.Partition, at)
			}
		}
	}
}

// profilesOpen says whether a transaction is open on a partition of the
// profiles, and where.
func (r *Runner) profilesOpen(ctx context.Context, partition int32) (at int64, open bool) {
	part := map[string][]int32{r.cfg.Profiles: {partition}}
	cl := r.deps.Catalog.Client()
	end, err := kafka.ListOffsets(ctx, cl, part, kafka.AtEnd, kafka.HighWatermark)
	if err != nil {
		return 0, false
	}
	stable, err := kafka.ListOffsets(ctx, cl, part, kafka.AtEnd, kafka.LastStable)
	if err != nil {
		return 0, false
	}
	at = stable[r.cfg.Profiles][partition]
	return at, at < end[r.cfg.Profiles][partition]
}

func describe(waiting []report.Waiting) string {
	const most = 10
	var b strings.Builder
	for i, w := range waiting {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(waiting)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s/%d (at %d of %d: %s)", w.Topic, w.Partition, w.Position, w.Offset, w.Reason)
	}
	return b.String() + "."
}
