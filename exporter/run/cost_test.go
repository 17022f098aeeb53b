package run

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/exporter/plan"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// asked counts what is asked of a store.
type asked struct {
	objects.Store
	opened, created atomic.Int64
}

func (a *asked) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	a.opened.Add(1)
	return a.Store.Open(ctx, name, off, n)
}

func (a *asked) Create(ctx context.Context, name string) (objects.Writer, error) {
	a.created.Add(1)
	return a.Store.Create(ctx, name)
}

// past is a store and a catalog with whole hours of cuts, each like the other.
type past struct {
	*world
	ends  []report.End
	hours int
}

const (
	pastPartitions = 4
	cutsInAnHour   = 2
	rowsInACut     = 1000 // of acme, and a tenth of it of each other account
)

var pastAccounts = map[string]int{"acme": rowsInACut, "other": rowsInACut / 10, "third": rowsInACut / 10}

func newPast(t testing.TB) *past {
	p := &past{world: newWorld(t)}
	for n := range int32(pastPartitions) {
		p.ends = append(p.ends, report.End{Topic: "events", TopicID: topicID, Partition: n})
	}
	return p
}

// hour stores an hour more. One row in a hundred is of the hour before.
func (p *past) hour() {
	p.t.Helper()
	stream := &segment.Stream{Topic: "events", ID: topicID}
	begin := int64(1_790_000_000_000) / 3_600_000 * 3_600_000
	for cut := range cutsInAnHour {
		var bufs []*segment.Buffer
		for i := range p.ends {
			e, buf := &p.ends[i], segment.NewBuffer()
			for account, rows := range pastAccounts {
				for n := range rows / pastPartitions {
					at := begin + int64(p.hours*cutsInAnHour+cut)*3_600_000/cutsInAnHour + int64(n)*1000
					if n%100 == 99 {
						at -= 3_600_000
					}
					ev := &event.Event{AccountID: []byte(account), Section: []byte("s"), ServerTime: at, EventTime: at,
						CorrelationID: fmt.Appendf(nil, "%016x-%d", e.Offset*7919, i)}
					ev.Cells[event.ActivityID] = fmt.Append(nil, 4000+n%7)
					ev.Cells[event.Subject] = fmt.Append(nil, "News of week ", n%7)
					buf.Add(stream, e.Partition, e.Offset, at, ev, nil)
					e.Offset++
				}
			}
			bufs = append(bufs, buf)
		}
		p.seal(bufs, nil)
	}
	p.hours++
}

// newest asks for the rows of the newest hour.
func (p *past) newest() *report.Report {
	after := slices.Clone(p.ends)
	for i := range after {
		after[i].Offset = after[i].Offset / int64(p.hours) * int64(p.hours-1)
	}
	return p.step(after, p.ends)
}

func (w *world) step(after, barrier []report.End) *report.Report {
	return &report.Report{Request: &report.Request{ID: ulid.Make().String(), Account: "acme", Step: &report.Step{},
		Question: report.Question{Rolling: true, After: after, Barrier: slices.Clone(barrier)}}}
}

// attempt runs one attempt at a report, as its runner does.
func (w *world) attempt(r *Runner, rep *report.Report) report.Result {
	w.t.Helper()
	show := r.newProgress(w.t.Context(), rep)
	defer show.stop()
	res, err := r.attempt(w.t.Context(), rep, show)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

func (w *world) idle(tab *report.Table, store objects.Store) *Runner {
	w.t.Helper()
	r, err := New(Config{Kafka: w.opts, Topic: "reports"}, Deps{Reports: tab, Catalog: w.catalog, Store: store, Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// However much is stored, a file of a walk is planned from the slices of its own
// rows, and no others are read.
func TestAFileCostsItsOwnRows(t *testing.T) {
	p := newPast(t)
	store := &asked{Store: p.store}
	r := p.idle(p.table(), store)
	var first [3]int64
	for p.hours < 40 {
		p.hour()
		if p.hours != 2 && p.hours != 40 { // the first hour has no hour before it
			continue
		}
		rep := p.newest()
		store.opened.Store(0)
		res := p.attempt(r, rep)
		cost := [3]int64{int64(len(r.slices("acme", &rep.Request.Question))), int64(res.Slices), store.opened.Load()}
		if res.Rows != cutsInAnHour*rowsInACut || cost[2] == 0 {
			t.Errorf("%d hours stored: %d rows of %d reads, want %d", p.hours, res.Rows, cost[2], cutsInAnHour*rowsInACut)
		}
		if p.hours == 2 {
			first = cost
		} else if cost != first {
			t.Errorf("slices planned from, slices read, reads: %v with 2 hours stored, %v with %d", first, cost, p.hours)
		}
	}
}

// A period without new rows leaves the store alone: also if other accounts have
// some. One whose rows are all filtered out leaves no object.
func TestAPeriodWithoutRowsCostsNoObject(t *testing.T) {
	p := newPast(t)
	p.hour()
	store := &asked{Store: p.store}
	r := p.idle(p.table(), store)
	for name, rep := range map[string]*report.Report{
		"nothing new":           p.step(p.ends, p.ends),
		"of an account without": p.step(nil, p.ends),
		"filtered out":          p.step(nil, p.ends),
	} {
		filtered := int64(0)
		switch q := &rep.Request.Question; name {
		case "of an account without":
			rep.Request.Account = "nobody"
		case "filtered out":
			q.Filter, q.Audiences, filtered = "w", map[string]string{"w": "women"}, 1
		}
		store.opened.Store(0)
		store.created.Store(0)
		if res := p.attempt(r, rep); res.Object != "" || res.Rows != 0 || res.At.IsZero() || p.files() != 0 {
			t.Errorf("%s: %+v, %d objects", name, res, p.files())
		}
		if opened, created := store.opened.Load(), store.created.Load(); created != filtered || (opened > 0) != (filtered > 0) {
			t.Errorf("%s: %d reads, %d objects begun", name, opened, created)
		}
		// An order that wants empty files has one.
		rep.Request.Step.EmptyFiles = true
		res := p.attempt(r, rep)
		if res.Object == "" || res.Bytes == 0 || p.files() != 1 {
			t.Errorf("%s, as a file: %+v, %d objects", name, res, p.files())
		}
		if err := p.store.Delete(t.Context(), res.Object); err != nil {
			t.Fatal(err)
		}
	}
}

// kept is a past whose newest hour is asked for again and again.
type kept struct {
	*past
	runner *Runner
	newest *report.Report
}

func newKept(t testing.TB, hours int) *kept {
	p := newPast(t)
	for range hours {
		p.hour()
	}
	return &kept{p, p.idle(p.table(), p.store), p.newest()}
}

// file makes the file, says how long it took, and takes it away.
func (k *kept) file() time.Duration {
	began := time.Now()
	res := k.attempt(k.runner, k.newest)
	took := time.Since(began)
	if res.Rows != cutsInAnHour*rowsInACut {
		k.t.Fatalf("%d rows", res.Rows)
	}
	if err := k.store.Delete(k.t.Context(), res.Object); err != nil {
		k.t.Fatal(err)
	}
	return took
}

// quick is the time that a tenth stays below: other load on the machine only adds.
func quick(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/10])
}

// BenchmarkFileByHoursStored makes the file of the newest hour, from the look at
// the catalog to the object, with so many hours stored, in turn with one of the
// same rows where nothing else is. It gives the time of a file and its ratio to
// that of the other; the same of the planning alone; and the slices that a file is
// planned from. .ci/cost/run makes a table of it.
func BenchmarkFileByHoursStored(b *testing.B) {
	alone := newKept(b, 1)
	for _, hours := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(hours), func(b *testing.B) {
			both := [2]*kept{alone, newKept(b, hours)}
			var files, plans [2][]time.Duration
			for turn := 0; b.Loop(); turn++ {
				for _, i := range [2]int{turn % 2, 1 - turn%2} {
					files[i] = append(files[i], both[i].file())
				}
			}
			planned := 0
			for range 2000 {
				for i, k := range both {
					began := time.Now()
					found := k.runner.slices("acme", &k.newest.Request.Question)
					plan.Make(found, &k.newest.Request.Question, 0)
					plans[i] = append(plans[i], time.Since(began))
					planned = len(found)
				}
			}
			b.ReportMetric(quick(files[1]), "ns/op")
			b.ReportMetric(quick(files[1])/quick(files[0]), "file-ratio")
			b.ReportMetric(quick(plans[1]), "plan-ns")
			b.ReportMetric(quick(plans[1])/quick(plans[0]), "plan-ratio")
			b.ReportMetric(float64(planned), "slices")
		})
	}
}
