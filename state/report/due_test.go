package report

import (
	"slices"
	"testing"
	"time"
)

// wantDue compares what HavingFiles finds at a time with a look at every report.
func (v *view) wantDue(t *testing.T, after string, now time.Time) {
	t.Helper()
	var want []string
	var next time.Time
	for id, e := range v.byID {
		at, ever := e.report.filesDue()
		switch {
		case e.withdrawn && !e.report.Expired:
			want = append(want, id)
		case !e.visible() || !ever:
		case now.Before(at):
			if next.IsZero() || at.Before(next) {
				next = at
			}
		case !v.held(e):
			want = append(want, id)
		}
	}
	due, soon := (&Table{view: v}).HavingFiles(now)
	var got []string
	for _, r := range due {
		got = append(got, r.Request.ID)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || !soon.Equal(next) {
		t.Fatalf("after %s: %v are due and then at %v, want %v and %v", after, got, soon, want, next)
	}
}

// TestWhatIsNotDueIsNotLookedAt: of many reports with files only those that are due
// are, and the next ones; the others are taken away here.
func TestWhatIsNotDueIsNotLookedAt(t *testing.T) {
	t.Parallel()
	v, offset := newView(), int64(0)
	apply := func(key string, value any) {
		t.Helper()
		offset++
		if err := v.apply(stamped(t, offset, key, value)); err != nil {
			t.Fatal(err)
		}
	}
	const many, gone = 1000, 3
	for i := range many {
		q, r := request("a"), result("x")
		q.Version, r.Version = Version, Version
		r.Expires = r.At.Add(time.Duration(1+(i*7919)%many) * time.Hour)
		apply(KeyRequest+q.ID, q)
		apply(KeyResult+q.ID+"/1", &r)
		if i%(many/gone) == 1 {
			apply(KeyCancel+q.ID+"/1", &Cancel{Version: Version})
		}
	}
	now, away := time.UnixMilli(0), 0
	isDue := func(e *entry) bool { return e.report != nil && !now.Before(e.due()) }
	for i := len(v.files) - 1; i > 0; i-- {
		if !isDue(v.files[i]) && !isDue(v.files[(i-1)/2]) {
			v.files[i].report = nil
			away++
		}
	}
	due, next := (&Table{view: v}).HavingFiles(now)
	if len(due) != gone || next.IsZero() || next.Sub(now) > 3*time.Hour {
		t.Errorf("%d are due, and then at %v", len(due), next)
	}
	if away < many-2*gone-2 {
		t.Errorf("only %d of %d need not be looked at", away, many)
	}
}
