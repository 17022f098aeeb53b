package report

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// SweepAtOnce bounds the number of reports that one Sweep removes.
const SweepAtOnce = 1000

// HavingFiles returns the reports that were cancelled or have expired and whose
// files are still to be removed, and the time at which the next report expires
// (zero: none will). One that was withdrawn may have been run before and counts
// as cancelled. A file that waits for its delivery is not removed. What it costs goes
// by the reports that are due, not by all that there are.
func (t *Table) HavingFiles(now time.Time) (due []*Report, next time.Time) {
	if t.Err() != nil {
		return nil, time.Time{}
	}
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	next = t.view.files.until(now, func(e *entry) {
		if !t.view.held(e) {
			due = append(due, e.report)
		}
	})
	return due, next
}

// FilesDue tells whether files of a report are to be removed at a time, as HavingFiles
// does for all, by what the view has of it now.
func (t *Table) FilesDue(id string, now time.Time) bool {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	e := t.view.byID[id]
	return e != nil && e.leavesFiles() && !now.Before(e.due()) && !t.view.held(e)
}

// held tells whether the report's file is still to be delivered.
func (v *view) held(e *entry) bool {
	if e.withdrawn || e.report.Request.Step == nil {
		return false
	}
	o := v.orders[e.report.Request.Step.Order]
	return o != nil && o.live() && o.last() == e && o.snapshot().Undelivered()
}

// Removable returns reports that have been over for longer than retention and
// could be removed altogether, of those that mine picks by their ids, SweepAtOnce
// at most. Steps of standing orders can be as soon as their files are gone and a
// later step tells where the order stands. Requests that were never shown to
// anybody are not among them; Sweep knows them itself.
func (t *Table) Removable(now time.Time, retention time.Duration, mine func(id string) bool) []*Report {
	if t.Err() != nil {
		return nil
	}
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	var out []*Report
	for id, e := range t.view.byID {
		if t.view.removable(e, now, retention) && mine(id) {
			out = append(out, e.report)
			if len(out) == SweepAtOnce {
				break
			}
		}
	}
	return out
}

func (v *view) removable(e *entry, now time.Time, retention time.Duration) bool {
	r := e.report
	over := r.over()
	switch {
	case !e.visible() || over.IsZero():
		return false
	case r.Request.Step == nil:
		return now.Sub(over) > retention
	}
	o := v.orders[r.Request.Step.Order]
	return (o == nil || o.superseded(e)) && (r.Expired || r.Result != nil && !r.MadeFile())
}

// grave lists records to remove. The first of them is what gives the others a
// meaning, so that a stop half way leaves orphans and revives nothing.
type grave struct {
	partition int32
	keys      []string
}

func (e *entry) grave() grave {
	return grave{e.partition, append([]string{KeyRequest + e.report.Request.ID}, e.keys...)}
}

// tied tells whether what made a request void is still there.
func (v *view) tied(e *entry) bool {
	return e.behind != nil && v.byID[e.behind.report.Request.ID] == e.behind
}

// unseenFor is how old a request gets that nobody is shown. One too many goes long
// before those that were withdrawn, which may have been pending before it.
func (e *entry) unseenFor() time.Duration {
	if e.withdrawn {
		return 2 * IdempotencyTime
	}
	return IdempotencyTime
}

// removableOrders are the void orders, and the deleted ones that have no steps
// left. A void order would come to life without what stood in its way, so
// orders of an account go only when it has no void ones.
func (v *view) removableOrders(now time.Time, mine func(id string) bool) (out []grave) {
	void := make(map[string]bool)
	for _, o := range v.orders {
		if o.void {
			void[o.standing.Order.Account] = true
		}
	}
	for id, o := range v.orders {
		c := o.standing.Order
		gone := o.standing.Deleted && len(o.steps) == 0 && !void[c.Account]
		if (o.void || gone) && mine(id) && now.Sub(c.CreatedAt) > IdempotencyTime && len(out) < SweepAtOnce {
			out = append(out, grave{o.partition, append([]string{KeyOrder + id}, o.keys...)})
		}
	}
	return out
}

// Sweep removes reports, all their records, from the topic, and with them what
// was left of others: void and withdrawn requests that are old, records whose request
// or order is gone, and standing orders that are void or were deleted. mine tells for
// the id of a report or an order whether this replica looks after it.
//
// A request that is void because of another goes with that one and before it: without
// the other it would come to life, and a repeat keeps the first from being withdrawn.
// Should it have come while that one was removed it goes at once.
func (t *Table) Sweep(ctx context.Context, now time.Time, reports []*Report, mine func(id string) bool) (removed int, err error) {
	going := make(map[string]bool, len(reports))
	for _, r := range reports {
		going[r.Request.ID] = true
	}
	var tied, unseen, withdrawn, then []grave
	t.view.mu.RLock()
	unseenAtOnce := len(going) + SweepAtOnce
	for id, e := range t.view.byID {
		if len(going) < unseenAtOnce && !e.visible() && !t.view.tied(e) && mine(id) && (e.behind != nil || now.Sub(e.report.Request.CreatedAt) > e.unseenFor()) {
			going[id] = true
		}
	}
	for id, e := range t.view.byID {
		switch {
		case t.view.tied(e) && going[e.behind.report.Request.ID]:
			tied = append(tied, e.grave())
		case !going[id]:
		case e.visible():
			then = append(then, e.grave())
		case e.withdrawn:
			withdrawn = append(withdrawn, e.grave())
		default:
			unseen = append(unseen, e.grave())
		}
	}
	for key, o := range t.view.orphans {
		if _, id, err := splitKey(key); err == nil && mine(id) && now.Sub(o.written) > IdempotencyTime && len(then) < 2*SweepAtOnce {
			then = append(then, grave{o.partition, []string{key}})
		}
	}
	orders := t.view.removableOrders(now, mine)
	t.view.mu.RUnlock()
	for _, graves := range [][]grave{tied, unseen, withdrawn, then, orders} {
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
