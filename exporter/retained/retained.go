// Package retained says whether all that an export asks for is still stored, as far
// as retention is concerned.
package retained

import (
	"fmt"
	"time"

	"lockstitch/state/catalog"
	"lockstitch/state/report"
)

// Beginning is the position at which the oldest data kept begins: in no partition
// below the floor. Empty if nothing is below it.
func Beginning(f catalog.Floor) []report.End {
	var out []report.End
	for _, e := range f.Ends {
		out = append(out, report.End{TopicID: e.TopicID, Partition: e.Partition, Offset: e.Next})
	}
	return out
}

// Problem is what an export ends in that begins below a floor: its window before
// the oldest that is available, or its way through the input before the newest
// offset below the floor in a partition that it has a way to go in. Nil if it
// begins nowhere below.
func Problem(f catalog.Floor, q *report.Question) *report.Problem {
	what := ""
	switch {
	case !q.Rolling && f.OldestAvailable > 0 && q.StartAt < f.OldestAvailable:
		what = "The window begins before what is kept"
	case q.Rolling && cuts(f, q):
		what = "What follows the cursor is no longer all kept"
	default:
		return nil
	}
	p := report.NoLongerKept.Problem(fmt.Sprintf("%s: events before %s were removed, by the retention of this installation. Events with a server_time from then on are all there.", what, text(f.OldestAvailable)))
	p.OldestAvailable = f.OldestAvailable
	return p
}

func cuts(f catalog.Floor, q *report.Question) bool {
	for _, way := range report.Between(q.After, q.Barrier) {
		if src := way.Source(); way.Min < f.Next(src.ID, src.Partition) {
			return true
		}
	}
	return false
}

// text writes a time in ms as the API does.
func text(ms int64) string {
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}
