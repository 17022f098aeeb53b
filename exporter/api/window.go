package api

import (
	"fmt"
	"time"

	"lockstitch/exporter/retained"
	"lockstitch/state/report"
)

// checkWindow checks the window of an export: start before end, and at most a
// number of calendar months long, measured to its end or, where it has none, to
// now. A month that is too short takes its last day: from 30 November three
// months reach to the end of February.
func checkWindow(start Time, end *Time, now Time, months int) error {
	if end != nil && start >= *end {
		return invalid(FieldError{"/end_at", "must be later than start_at"})
	}
	to, where, ends := now, "/start_at", fmt.Sprintf("; without end_at it is measured to now, %s", now)
	if end != nil {
		to, where, ends = *end, "/end_at", ""
	}
	if latest := addMonths(start, months); to > latest {
		return invalid(FieldError{where, fmt.Sprintf("the window may span at most %d calendar months: from %s to %s%s", months, start, latest, ends)})
	}
	return nil
}

// checkKept checks that retention has removed nothing of what an export asks for,
// once its barrier is known, and lets one from the beginning begin at the oldest
// data kept. What is accepted stays readable for a day.
func (s *server) checkKept(q *report.Question, fromBeginning bool) error {
	floor := s.deps.Catalog.Retention().Refused
	if fromBeginning {
		q.After = retained.Beginning(floor)
	}
	switch p := retained.Problem(floor, q); {
	case p == nil:
		return nil
	case q.Rolling:
		return problemOf(p)
	default:
		refused := invalid(FieldError{"/start_at", fmt.Sprintf("is before %s, the oldest_available: older events were removed", Time(floor.OldestAvailable))})
		refused.OldestAvailable = ptr(Time(floor.OldestAvailable))
		return refused
	}
}

// addMonths is the same day and time n calendar months later in UTC, clamped to
// the last day of that month.
func addMonths(t Time, n int) Time {
	at := time.UnixMilli(int64(t)).UTC()
	first := time.Date(at.Year(), at.Month(), 1, at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC).AddDate(0, n, 0)
	lastDay := time.Date(first.Year(), first.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return timeOf(first.AddDate(0, 0, min(at.Day(), lastDay)-1))
}
