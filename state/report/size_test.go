package report

import (
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/state/segment"
)

// BenchmarkMemory says how many bytes the table holds for each report that is kept,
// and for each partition of the event topics that its barrier names; then the same of
// the files of a standing order, and of orders. The formulas in deploy/README.md and the
// constants in size.go are from it.
func BenchmarkMemory(b *testing.B) {
	for _, kind := range []string{kindReport, kindStep, kindOrder} {
		b.Run(kind, func(b *testing.B) {
			var few, many float64
			for b.Loop() {
				few, _ = holding(b, kind, 12, 1)
				many, _ = holding(b, kind, 112, 1)
			}
			b.ReportMetric((many-few)/100, "B/partition")
			b.ReportMetric(few-12*(many-few)/100, "B/"+kind)
		})
	}
}

// What is counted is what the table takes, whatever is asked for.
func TestSizes(t *testing.T) {
	for _, kind := range []string{kindReport, kindStep, kindOrder} {
		for _, shape := range []struct {
			partitions int32
			columns    int
		}{{1, 0}, {50, 1}, {12, 75}} {
			// What other tests have left may be freed between two looks at the heap: what
			// is wrong is wrong three times.
			var wrong []string
			for len(wrong) < 3 {
				took, counted := holding(t, kind, shape.partitions, shape.columns)
				if counted >= took*0.9 && counted <= took*1.35 {
					break
				}
				wrong = append(wrong, fmt.Sprintf("takes %.0f bytes, counted %.0f", took, counted))
			}
			if len(wrong) == 3 {
				t.Errorf("%s of %+v: %s", kind, shape, strings.Join(wrong, "; "))
			}
		}
	}
}

// An order counts with the steps that it will have, until it has more, and what a step
// takes counts until it is removed, also once the order is deleted.
func TestSizesOfOrders(t *testing.T) {
	t.Parallel()
	v, offset := newView(), int64(0)
	tb := &Table{view: v}
	apply := func(key string, value any) {
		t.Helper()
		offset++
		if err := v.apply(stamped(t, offset, key, value)); err != nil {
			t.Fatal(err)
		}
	}
	p := Plan{Lifetime: 24 * time.Hour, Positions: []End{{Topic: "email-events"}, {Topic: "email-events", Partition: 1}}}
	o := newOrder("a", "x")
	o.Version, o.Settings.Every = Version, 6*time.Hour
	apply(KeyOrder+o.ID, o)
	planned := p.Steps("a", o.Settings.Every)
	if planned < 4*reportSize || planned > 10*reportSize || p.Steps("a", time.Hour) < 4*planned {
		t.Errorf("%d bytes in four steps", planned)
	}
	bare, empty := tb.Sizes("a", p), tb.Sizes("a", Plan{Lifetime: -stepsLast}).Account-2*(reportSize+2)
	if want := (Sizes{empty + planned, empty + planned}); bare != want || empty <= 0 {
		t.Errorf("%+v, want %+v", bare, want)
	}
	if got, want := tb.Sizes("b", p), (Sizes{0, bare.All}); got != want {
		t.Errorf("another account: %+v, want %+v", got, want)
	}
	var steps []*Request
	for tb.StepsSize(o.ID) <= planned {
		if len(steps) > 20 {
			t.Fatalf("%d steps have %d bytes", len(steps), tb.StepsSize(o.ID))
		}
		q := stepOf(&Standing{Order: o, Settings: o.Settings}, int64(len(steps)+1), 0)
		q.Version = Version
		before := tb.Sizes("a", p)
		apply(KeyRequest+q.ID, q)
		steps = append(steps, q)
		if after, held := tb.Sizes("a", p), tb.StepsSize(o.ID); held <= planned && after != before || held > planned && after.All != empty+held {
			t.Errorf("step %d: %+v, then %+v, the steps have %d", len(steps), before, after, held)
		}
	}
	apply(KeyDeletion+o.ID+"/1", &Deletion{Version: Version})
	if got, held := tb.Sizes("a", p), tb.StepsSize(o.ID); got.Account < 0 || got.Account > 2*empty || held <= planned {
		t.Errorf("of the deleted order %d bytes are counted, its steps, which make room for another one, have %d", got.Account, held)
	}
	for _, q := range steps {
		apply(KeyRequest+q.ID, nil)
	}
	apply(KeyOrder+o.ID, nil)
	if got := tb.Sizes("a", p); got != (Sizes{}) {
		t.Errorf("removed it takes %+v", got)
	}
}

const (
	kindReport = "report"
	kindStep   = "step"
	kindOrder  = "order"
)

// holding is what a finished report, a step or a standing order takes in a table of many,
// and what is counted for it.
func holding(t testing.TB, kind string, partitions int32, columns int) (took, counted float64) {
	t.Helper()
	const n = 1000
	v, offset := newView(), int64(0)
	apply := func(key string, value any) {
		offset++
		if err := v.apply(stamped(t, offset, key, value)); err != nil {
			t.Fatal(err)
		}
	}
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what the first one finalized, too
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
	uncounted := v.size
	for i := range n {
		if kind == kindOrder {
			o := newOrder("acme", fmt.Sprint("x", i))
			o.Version, o.From, o.Settings.Body = Version, ends(i), fmt.Appendf(nil, "%*d", 100+columns*30, i)
			apply(KeyOrder+o.ID, o)
			changed := o.Settings
			changed.Revision = ulid.Make().String()
			apply(KeyChange+o.ID, &Change{Version: Version, Settings: changed})
			continue
		}
		q := request("acme")
		q.Version, q.Question = Version, Question{Barrier: ends(i + 1), CompleteThrough: time.Now(),
			Email: map[string][]EmailVersion{"usercreated.sections.europe-r6tz73a27t": {{VersionID: "9820534", Type: "text"}}}}
		if columns > 0 {
			q.Question.Filter, q.Question.Audiences = "!women", map[string]string{"women": "usercreated.segments.women-rjz6b8td2n"}
		}
		for c := range columns {
			q.Question.Attributes = append(q.Question.Attributes, AttributeColumn{Section: "usercreated.sections.europe-r6tz73a27t", VersionID: fmt.Sprint(491874 + c), Name: "gender", Type: "text"})
			q.Question.Tags = append(q.Question.Tags, TagColumn{Section: "usercreated.sections.europe-r6tz73a27t", VersionID: fmt.Sprint(52001 + c), Name: "vip"})
		}
		if kind == kindStep {
			q.Body = nil
			q.Question.Rolling, q.Question.After = true, ends(i)
			q.Step = &Step{Order: o.ID, Name: "quarterly", Seq: int64(i + 1), Files: int64(i), Revision: o.Settings.Revision}
		} else {
			q.IdempotencyKey, q.BodyHash = ulid.Make().String(), strings.Repeat("0", 64)
			q.Body = fmt.Appendf(nil, "%*d", 100+columns*60, i)
		}
		apply(KeyRequest+q.ID, q)
		apply(KeyProgress+q.ID, &Progress{Version: Version, SegmentsDone: 3, SegmentsTotal: 4})
		r := result("exports/acme/" + q.ID + "/" + ulid.Make().String() + ".csv.gz")
		r.Version, r.SHA256 = Version, fmt.Sprintf("%064d", i)
		apply(KeyResult+q.ID+"/"+r.Attempt, &r)
	}
	counted = float64(v.size-uncounted) / n
	with := heap() // other tests leave what is freed much later
	runtime.KeepAlive(v)
	v = nil
	return float64(with-heap()) / n, counted
}
