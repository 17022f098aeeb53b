package report

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/state/segment"
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

// BenchmarkMemory says how many bytes the table holds for each report that is kept,
// and for each partition of the event topics that its barrier names; then the same of
// the files of a standing order. The formula in the README is from it.
func BenchmarkMemory(b *testing.B) {
	for _, kind := range []string{"report", "step"} {
		b.Run(kind, func(b *testing.B) {
			var few, many float64
			for b.Loop() {
				few, many = held(b, kind, 12), held(b, kind, 112)
			}
			b.ReportMetric((many-few)/100, "B/partition")
			b.ReportMetric(few-12*(many-few)/100, "B/"+kind)
		})
	}
}

// held is what a finished report takes in a table of many.
func held(b *testing.B, kind string, partitions int32) float64 {
	const n = 4000
	v, offset := newView(), int64(0)
	apply := func(key string, value any) {
		offset++
		if err := v.apply(stamped(b, offset, key, value)); err != nil {
			b.Fatal(err)
		}
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	ends := func(i int) (at []End) {
		for p := range partitions {
			at = append(at, End{Topic: "email-events", TopicID: segment.TopicID{1, 2, 3}, Partition: p, Offset: math.MaxInt32 + int64(i)})
		}
		return at
	}
	o := newOrder("acme", "quarterly")
	o.Version = Version
	apply(KeyOrder+o.ID, o)
	before := heap()
	for i := range n {
		q := request("acme")
		q.Version, q.BodyHash, q.Question = Version, fmt.Sprintf("%064d", i), Question{Barrier: ends(i + 1), CompleteThrough: time.Now(),
			Attributes: []AttributeColumn{{Section: "usercreated.sections.europe-r6tz73a27t", VersionID: "491874", Name: "gender", Type: "text"}},
			Tags:       []TagColumn{{Section: "usercreated.sections.europe-r6tz73a27t", VersionID: "52001", Name: "vip"}},
			Email:      map[string][]EmailVersion{"usercreated.sections.europe-r6tz73a27t": {{VersionID: "9820534", Type: "text"}}},
			Filter:     "!women", Audiences: map[string]string{"women": "usercreated.segments.women-rjz6b8td2n"}}
		q.Body = fmt.Appendf(nil, "%300d", i)
		if kind == "step" {
			q.Question.Rolling, q.Question.After = true, ends(i)
			q.Step = &Step{Order: o.ID, Name: "quarterly", Seq: int64(i + 1), Files: int64(i), Revision: o.Settings.Revision}
		} else {
			q.IdempotencyKey = ulid.Make().String()
		}
		apply(KeyRequest+q.ID, q)
		apply(KeyProgress+q.ID, &Progress{Version: Version, SegmentsDone: 3, SegmentsTotal: 4})
		r := result("exports/acme/" + q.ID + "/" + ulid.Make().String() + ".csv.gz")
		r.Version, r.SHA256 = Version, fmt.Sprintf("%064d", i)
		apply(KeyResult+q.ID+"/"+r.Attempt, &r)
	}
	size := float64(heap()-before) / n
	runtime.KeepAlive(v)
	return size
}
