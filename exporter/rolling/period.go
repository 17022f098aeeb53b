package rolling

import (
	"strconv"
	"strings"
	"time"

	"lockstitch/state/report"
)

// ParseEvery reads the time between two boundaries: an ISO 8601 duration of
// whole minutes, PT1M to P1D, that divides 24 hours.
func ParseEvery(s string) (every time.Duration, ok bool) {
	if s == "P1D" {
		return 24 * time.Hour, true
	}
	rest, ok := strings.CutPrefix(s, "PT")
	if !ok || rest == "" {
		return 0, false
	}
	for _, u := range []struct {
		letter string
		length time.Duration
	}{{"H", time.Hour}, {"M", time.Minute}} {
		number, after, found := strings.Cut(rest, u.letter)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return 0, false
		}
		every, rest = every+time.Duration(n)*u.length, after
	}
	if rest != "" || every < time.Minute || every > 24*time.Hour || 24*time.Hour%every != 0 {
		return 0, false
	}
	return every, true
}

// Period is the stretch of time between two boundaries of an order.
type Period struct {
	Start time.Time // zero: the oldest data kept
	End   time.Time // a boundary
}

// nextBoundary is the first multiple of every since 00:00Z that is after t.
func nextBoundary(t time.Time, every time.Duration) time.Time {
	return t.UTC().Truncate(every).Add(every) // Truncate counts from a midnight in UTC
}

// Next is the period of an order's next step.
func Next(s *report.Standing) Period {
	switch {
	case s.Last == nil && len(s.Order.From) == 0:
		return Period{End: nextBoundary(s.Order.CreatedAt, s.Settings.Every)}
	case s.Last == nil:
		return Period{Start: s.Order.CreatedAt, End: nextBoundary(s.Order.CreatedAt, s.Settings.Every)}
	}
	step := s.Last.Request.Step
	if s.Last.Result.More {
		return Period{Start: step.PeriodStart, End: step.PeriodEnd}
	}
	return Period{Start: step.PeriodEnd, End: nextBoundary(step.PeriodEnd, s.Settings.Every)}
}

// Lag is how far an order is behind: boundaries that have passed and whose
// period is not done, a file that is still to be delivered counted as one, and
// the time since the first of them. Both are 0 when all is done.
func Lag(s *report.Standing, now time.Time) (files int64, since time.Duration) {
	if first := Next(s).End; !now.Before(first) {
		since = now.Sub(first)
		files = int64(since/s.Settings.Every) + 1
	}
	if s.Undelivered() {
		files++
		since = max(0, since, now.Sub(s.Last.Request.Step.PeriodEnd))
	}
	return files, since
}

// work is what is to be done about an order now. It stays the same while the
// same is to be done.
type work struct {
	kind     kind
	revision string // of the settings
	seq      int64  // of the newest step
	number   int64  // file to deliver
}

type kind int

const (
	nothing kind = iota
	deliver
	step
)

// due says what is to be done about an order, and if that is nothing, when to
// look again, unless something changes before (zero: never).
func due(s *report.Standing, now time.Time) (w work, again time.Time) {
	if s.Deleted || s.Paused || s.Trouble != nil || s.Newest != nil && s.Newest.Pending() {
		return work{}, time.Time{}
	}
	w = work{revision: s.Settings.Revision, seq: s.Seq()}
	if s.Undelivered() {
		w.kind, w.number = deliver, s.Last.Files()
		return w, time.Time{}
	}
	if at := Next(s).End.Add(Grace); now.Before(at) {
		return work{}, at
	}
	w.kind = step
	return w, time.Time{}
}
