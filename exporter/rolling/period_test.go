package rolling

import (
	"testing"
	"time"

	"lockstitch/state/report"
)

func TestParseEvery(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"PT1M": time.Minute, "PT15M": 15 * time.Minute, "PT90M": 90 * time.Minute, "PT1H30M": 90 * time.Minute, "PT1H": time.Hour,
		"PT24H": 24 * time.Hour, "PT1440M": 24 * time.Hour, "P1D": 24 * time.Hour, "PT0H5M": 5 * time.Minute,
	} {
		if got, ok := ParseEvery(text); !ok || got != want {
			t.Errorf("%s: %s %t, want %s", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "P", "PT", "PT0M", "PT7M", "PT25H", "P2D", "PT30S", "PT1M30S", "PT1.5H", "PT1M1H", "pt1m", "PT-1M", "PT+1M",
		"PT1", "1M", "P1M", "P1DT0H", " PT1M", "PT1M ", "PTM", "PTH", "PT1H7M", "PT99999999999999999999M", "PT65536H", "PT23H60M1M"} {
		if got, ok := ParseEvery(text); ok {
			t.Errorf("%q was taken for %s", text, got)
		}
	}
}

func TestBoundariesAreMultiplesSinceMidnightUTC(t *testing.T) {
	day := time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC) // clocks change in Europe
	for _, c := range []struct {
		at, every, want time.Duration
	}{
		{0, time.Minute, time.Minute},
		{59*time.Second + 999*time.Millisecond, time.Minute, time.Minute},
		{time.Minute, time.Minute, 2 * time.Minute},
		{23 * time.Hour, 90 * time.Minute, 24 * time.Hour},
		{22*time.Hour + 30*time.Minute, 90 * time.Minute, 24 * time.Hour},
		{1, 24 * time.Hour, 24 * time.Hour},
	} {
		zone := day.Add(c.at).In(time.FixedZone("", 5400))
		if got := nextBoundary(zone, c.every); !got.Equal(day.Add(c.want)) || got.Location() != time.UTC {
			t.Errorf("after %s every %s: %s", c.at, c.every, got)
		}
	}
}

// A step is due a little after its boundary, and not while something stands in
// its way.
func TestDue(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 1, 0, 0, time.UTC).Add(Grace)
	standing := func() *report.Standing {
		return &report.Standing{Order: &report.Order{CreatedAt: at.Add(-Grace - time.Second)}, Settings: report.Settings{Every: time.Minute}}
	}
	if w, again := due(standing(), at.Add(-time.Nanosecond)); w.kind != nothing || !again.Equal(at) {
		t.Errorf("before it: %v, again %s", w, again)
	}
	if w, _ := due(standing(), at); w.kind != step {
		t.Errorf("at it: %v", w)
	}
	for what, f := range map[string]func(*report.Standing){
		"paused": func(s *report.Standing) { s.Paused = true }, "deleted": func(s *report.Standing) { s.Deleted = true },
		"error": func(s *report.Standing) { s.Trouble = &report.Trouble{} }, "pending": func(s *report.Standing) { s.Newest = &report.Report{Request: &report.Request{}} },
	} {
		s := standing()
		f(s)
		if w, again := due(s, at); w.kind != nothing || !again.IsZero() {
			t.Errorf("%s: %v, again %s", what, w, again)
		}
	}
}
