package report

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// sweepAtOnce bounds the number of reports that one Sweep removes.
const sweepAtOnce = 1000

// HavingFiles returns the reports that were cancelled or have expired and whose
// files are still to be removed, and the time at which the next report expires
// (zero: none will).
func (t *Table) HavingFiles(now time.Time) (due []*Report, next time.Time) {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	for _, e := range t.view.byID {
		r := e.report
		switch {
		case !e.visible():
		case r.HasFiles(now):
			due = append(due, r)
		case r.Status(now) == StatusCompleted && (next.IsZero() || r.Result.Expires.Before(next)):
			next = r.Result.Expires
		}
	}
	return due, next
}

// Removable returns reports that have been over for longer than retention and
// could be removed altogether. Requests that were never shown to anybody are
// not among them; Sweep knows them itself.
func (t *Table) Removable(now time.Time, retention time.Duration) []*Report {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	var out []*Report
	for _, e := range t.view.byID {
		over := e.report.over()
		if e.visible() && !over.IsZero() && now.Sub(over) > retention {
			out = append(out, e.report)
			if len(out) == sweepAtOnce {
				break
			}
		}
	}
	return out
}

// Sweep removes reports, all their records, from the topic, and with them what
// was left of others: void and withdrawn requests twice as old as an
// idempotency key lives, and records whose request is gone. mine tells for a
// report id whether this replica looks after it.
//
// Requests that are void because of another go first: without the other they
// would come to life.
func (t *Table) Sweep(ctx context.Context, now time.Time, reports []*Report, mine func(id string) bool) (removed int, err error) {
	going := make(map[string]bool, len(reports))
	for _, r := range reports {
		going[r.Request.ID] = true
	}
	type grave struct {
		partition int32
		keys      []string
	}
	var first, then []grave
	t.view.mu.RLock()
	for id, e := range t.view.byID {
		if e.visible() {
			continue
		}
		// A repeat is what keeps its original from being withdrawn: they go
		// together.
		tied := e.original != nil && t.view.byID[e.original.report.Request.ID] == e.original
		old := len(first) < sweepAtOnce && mine(id) && !tied && now.Sub(e.report.Request.CreatedAt) > 2*IdempotencyTime
		if old || (tied && going[e.original.report.Request.ID]) {
			first = append(first, grave{e.partition, append([]string{KeyRequest + id}, e.keys...)})
		}
	}
	for id := range going {
		if e := t.view.byID[id]; e != nil {
			then = append(then, grave{e.partition, append([]string{KeyRequest + id}, e.keys...)})
		}
	}
	for key, o := range t.view.orphans {
		if _, id, err := splitKey(key); err == nil && mine(id) && now.Sub(o.written) > IdempotencyTime && len(then) < 2*sweepAtOnce {
			then = append(then, grave{o.partition, []string{key}})
		}
	}
	t.view.mu.RUnlock()
	for _, graves := range [][]grave{first, then} {
		for _, g := range graves {
			recs := make([]*kgo.Record, 0, len(g.keys))
			for _, k := range g.keys {
				recs = append(recs, &kgo.Record{Key: []byte(k)})
			}
			next, err := t.produce(ctx, g.partition, recs...)
			if err != nil {
				return removed, err
			}
			if err := t.tail.WaitFor(ctx, g.partition, next); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}
