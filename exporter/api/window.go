package api

import (
	"fmt"
	"time"
)

// checkWindow checks the window of an export: start before end, and at most a
// number of calendar months long, measured to its end or, where it has none, to
// now. A month that is too short takes its last day: from 30 November three
// months reach to the end of February.
func checkWindow(start Time, end *Time, now Time, months int) error {
	if end != nil && start >= *end {
		return invalid(FieldError{"/end_at", "must be later than start_at"})
	}
	to, where := now, "/start_at"
	if end != nil {
		to, where = *end, "/end_at"
	}
	if latest := addMonths(start, months); to > latest {
		return invalid(FieldError{where, fmt.Sprintf("the window may span at most %d calendar months: from %s to %s", months, start, latest)})
	}
	return nil
}

// addMonths is the same day and time n calendar months later in UTC, clamped to
// the last day of that month.
func addMonths(t Time, n int) Time {
	at := time.UnixMilli(int64(t)).UTC()
	first := time.Date(at.Year(), at.Month(), 1, at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC).AddDate(0, n, 0)
	lastDay := time.Date(first.Year(), first.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return timeOf(first.AddDate(0, 0, min(at.Day(), lastDay)-1))
}
