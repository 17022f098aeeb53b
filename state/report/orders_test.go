package report

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

func settings(every time.Duration) Settings {
	return Settings{Revision: ulid.Make().String(), Every: every, Body: []byte(`{}`)}
}

func newOrder(account, name string) *Order {
	return &Order{ID: ulid.Make().String(), Account: account, Name: name, CreatedAt: time.Now().UTC(), Settings: settings(time.Minute)}
}

func create(t *testing.T, tb *Table, o *Order) *Standing {
	t.Helper()
	s, err := tb.CreateOrder(t.Context(), o, 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func stepOf(s *Standing, seq, files int64) *Request {
	end := s.Order.CreatedAt.Truncate(time.Minute).Add(time.Duration(seq) * time.Minute)
	q := request(s.Order.Account)
	q.Step = &Step{Order: s.Order.ID, Name: s.Order.Name, Revision: s.Settings.Revision, Seq: seq, Files: files, PeriodEnd: end}
	q.Question.Barrier[0].Offset = 10 * seq
	if seq > 1 {
		q.Question.After = []End{{Topic: "email-events", Offset: 10 * (seq - 1)}}
	}
	return q
}

// makeStep submits a step and its result; without an object it made no file.
func makeStep(t *testing.T, tb *Table, s *Standing, seq, files int64, object string) *Report {
	t.Helper()
	r, err := tb.SubmitStep(t.Context(), stepOf(s, seq, files))
	if err != nil {
		t.Fatal(err)
	}
	if won, err := tb.WriteResult(t.Context(), s.Order.Account, r.Request.ID, result(object)); err != nil || !won {
		t.Fatal(won, err)
	}
	return r
}

// everything is what the topic holds, partition by partition.
func everything(t *testing.T, opts []kgo.Opt) (log []*kgo.Record) {
	t.Helper()
	tail, err := kafka.StartTail(t.Context(), kafka.TailConfig{Opts: opts, Topic: topic, Log: slog.New(slog.DiscardHandler), Apply: func(r *kgo.Record) error { log = append(log, r); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	err = tail.CatchUp(t.Context())
	tail.Close()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(log, func(a, b *kgo.Record) int { return int(a.Partition - b.Partition) })
	return log
}

// compactions are what a reader from the start gets to know, however far the
// topic was compacted before, with the tombstones of that part gone or not.
func compactions(t *testing.T, opts []kgo.Opt) (out []*Table) {
	t.Helper()
	log := everything(t, opts)
	for upTo := range len(log) + 1 {
		newest := make(map[string]int)
		for i, r := range log[:upTo] {
			newest[string(r.Key)] = i
		}
		for _, tombstones := range []bool{true, false} {
			v := newView()
			for i, r := range log {
				if i < upTo && (newest[string(r.Key)] != i || r.Value == nil && !tombstones) {
					continue
				}
				if err := v.apply(r); err != nil {
					t.Fatal(err)
				}
			}
			out = append(out, &Table{view: v, tail: new(kafka.Tail)})
		}
	}
	return out
}

func TestLifeOfAStandingOrder(t *testing.T) {
	opts := cluster(t)
	a, b := open(t, opts), open(t, opts)
	o := create(t, a, newOrder("acme", "x"))
	if err := b.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, ok := b.OrderNamed("acme", "x"); !ok || s.Order.ID != o.Order.ID || s.Last != nil || s.Newest != nil {
		t.Fatalf("%+v", s)
	}
	if _, ok := b.OrderNamed("other", "x"); ok {
		t.Error("another account has the order")
	}
	makeStep(t, a, o, 1, 0, "exports/1")
	makeStep(t, a, o, 2, 1, "") // no rows
	makeStep(t, a, o, 3, 1, "exports/3")
	s, _ := a.Order(o.Order.ID)
	if s.Files() != 2 || s.Seq() != 3 || s.Last != s.Newest {
		t.Errorf("%d files after step %d", s.Files(), s.Seq())
	}
	var numbers []int64
	for _, r := range a.Files(o.Order.ID, 0, 10, time.Now()) {
		numbers = append(numbers, r.Files())
	}
	if !slices.Equal(numbers, []int64{1, 2}) {
		t.Errorf("files %v", numbers)
	}
	for after, want := range map[int64]int{0: 2, 1: 1, 2: 0, 3: 0} {
		if got := len(a.Files(o.Order.ID, after, 10, time.Now())); got != want {
			t.Errorf("%d files after %d, want %d", got, after, want)
		}
	}
	// The vector between two steps is there once.
	if q, r := s.Last.Request.Question.After, a.view.orders[o.Order.ID].steps[1].report.Request.Question.Barrier; &q[0] != &r[0] {
		t.Error("a step does not share the position that the one before ended at")
	}
	// Steps are not listed, not counted, and limit nobody.
	if items, _, err := a.List("acme", 10, ""); err != nil || len(items) != 0 {
		t.Errorf("%d reports are listed, %v", len(items), err)
	}
	if _, err := a.SubmitStep(t.Context(), stepOf(o, 4, 2)); err != nil {
		t.Fatal(err)
	}
	submit(t, a, request("acme"), 1)
	if n := len(a.Pending()); n != 2 {
		t.Errorf("%d pending, want the step and the report", n)
	}
	if err := a.PauseOrder(t.Context(), "acme", o.Order.ID, true); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{2, 1} { // what comes late does not go back
		if err := a.WriteDelivered(t.Context(), "acme", o.Order.ID, n); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ = a.Order(o.Order.ID); !s.Paused || s.Delivered.Number != 2 {
		t.Errorf("%+v", s)
	}
	if err := a.ChangeOrder(t.Context(), "other", o.Order.ID, settings(time.Hour)); !errors.Is(err, ErrNotFound) {
		t.Errorf("another account changes the order: %v", err)
	}
	if err := b.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, _ = b.Order(o.Order.ID); !s.Paused || s.Delivered.Number != 2 || s.Files() != 2 || s.Seq() != 4 || s.Last == s.Newest {
		t.Errorf("the other table has %+v", s)
	}
}

func TestTwoTablesRaceForAName(t *testing.T) {
	opts := cluster(t)
	tables := []*Table{open(t, opts), open(t, opts)}
	const tries = 10
	won := make([]string, tries)
	var wg sync.WaitGroup
	for i := range tries {
		wg.Go(func() {
			s, err := tables[i%2].CreateOrder(t.Context(), newOrder("acme", "x"), 0)
			switch {
			case err == nil:
				won[i] = s.Order.ID
			case !errors.Is(err, ErrNameTaken):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(won)
	won = slices.DeleteFunc(won, func(s string) bool { return s == "" })
	if len(won) != 1 {
		t.Fatalf("%d orders of one name", len(won))
	}
	// The winner is changed: its newest record now lies behind those of the
	// losers, and it still is the winner.
	if err := tables[0].ChangeOrder(t.Context(), "acme", won[0], settings(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for _, tb := range compactions(t, opts) {
		if s, ok := tb.OrderNamed("acme", "x"); !ok || s.Order.ID != won[0] || s.Settings.Every != time.Hour {
			t.Errorf("after compaction: %+v", s)
		}
	}
}

func TestTwoTablesRaceForTheLimitOfOrders(t *testing.T) {
	opts := cluster(t)
	tables := []*Table{open(t, opts), open(t, opts)}
	const limit, tries = 3, 12
	var wg sync.WaitGroup
	var mu sync.Mutex
	accepted := 0
	for i := range tries {
		wg.Go(func() {
			_, err := tables[i%2].CreateOrder(t.Context(), newOrder("acme", fmt.Sprint("x", i)), limit)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				accepted++
			} else if !errors.Is(err, ErrTooManyOrders) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if accepted != limit {
		t.Errorf("%d accepted, the limit is %d", accepted, limit)
	}
	for _, tb := range compactions(t, opts) {
		if n := len(tb.Orders(func(string) bool { return true })); n != limit {
			t.Errorf("%d orders after compaction", n)
		}
	}
}

// Of several requests for one step the first counts, also when those that lost
// come after its result or after later steps.
func TestOneStepForEachNumber(t *testing.T) {
	opts := cluster(t)
	a, b := open(t, opts), open(t, opts)
	o := create(t, a, newOrder("acme", "x"))
	first, err := a.SubmitStep(t.Context(), stepOf(o, 1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := b.SubmitStep(t.Context(), stepOf(o, 1, 0)); err != nil || r.Request.ID != first.Request.ID {
		t.Errorf("the second got %v, %v", r, err)
	}
	if _, err := a.WriteResult(t.Context(), "acme", first.Request.ID, result("exports/1")); err != nil {
		t.Fatal(err)
	}
	makeStep(t, a, o, 2, 1, "exports/2")
	if r, err := b.SubmitStep(t.Context(), stepOf(o, 1, 0)); err != nil || r.Request.ID != first.Request.ID {
		t.Errorf("a late one got %v, %v", r, err)
	}
	if err := a.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tb := range append(compactions(t, opts), a, b) {
		s, _ := tb.Order(o.Order.ID)
		if s.Seq() != 2 || s.Files() != 2 || len(tb.Pending()) != 0 {
			t.Errorf("step %d, %d files, %d pending", s.Seq(), s.Files(), len(tb.Pending()))
		}
	}
}

func TestTroubleBelongsToASetting(t *testing.T) {
	tb := open(t, cluster(t))
	o := create(t, tb, newOrder("acme", "x"))
	trouble := func() string {
		s, _ := tb.Order(o.Order.ID)
		if s.Trouble == nil {
			return ""
		}
		return s.Trouble.Problem.Detail
	}
	change := func() {
		t.Helper()
		if err := tb.ChangeOrder(t.Context(), "acme", o.Order.ID, settings(time.Minute)); err != nil {
			t.Fatal(err)
		}
		o, _ = tb.Order(o.Order.ID)
	}
	old := o.Settings.Revision
	if err := tb.WriteTrouble(t.Context(), "acme", o.Order.ID, old, Problem{Detail: "gone"}); err != nil {
		t.Fatal(err)
	}
	if got := trouble(); got != "gone" {
		t.Errorf("trouble %q", got)
	}
	change()
	if got := trouble(); got != "" {
		t.Errorf("trouble %q after a change", got)
	}
	// Of the old settings, by a replica that has not seen the change.
	if err := tb.WriteTrouble(t.Context(), "acme", o.Order.ID, old, Problem{Detail: "late"}); err != nil {
		t.Fatal(err)
	}
	if got := trouble(); got != "" {
		t.Errorf("trouble %q of settings that count no more", got)
	}
	makeStep(t, tb, o, 1, 0, "exports/1")
	r, err := tb.SubmitStep(t.Context(), stepOf(o, 2, 1))
	if err != nil {
		t.Fatal(err)
	}
	failed := result("")
	failed.Problem = &Problem{Detail: "damaged"}
	if _, err := tb.WriteResult(t.Context(), "acme", r.Request.ID, failed); err != nil {
		t.Fatal(err)
	}
	if got := trouble(); got != "damaged" {
		t.Errorf("trouble %q after a step that failed", got)
	}
	change()
	s, _ := tb.Order(o.Order.ID)
	if got := trouble(); got != "" || s.Seq() != 2 || s.Last.Request.Step.Seq != 1 {
		t.Errorf("trouble %q after a change, step %d", got, s.Seq())
	}
}

func TestADeletedOrderTakesItsStepsAlong(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	o := create(t, tb, newOrder("acme", "x"))
	makeStep(t, tb, o, 1, 0, "exports/1")
	if _, err := tb.SubmitStep(t.Context(), stepOf(o, 2, 1)); err != nil {
		t.Fatal(err)
	}
	if err := tb.DeleteOrder(t.Context(), "acme", o.Order.ID); err != nil {
		t.Fatal(err)
	}
	if err := tb.DeleteOrder(t.Context(), "acme", o.Order.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	again := create(t, tb, newOrder("acme", "x"))
	if _, err := tb.SubmitStep(t.Context(), stepOf(o, 3, 1)); !errors.Is(err, ErrVoid) {
		t.Errorf("a step of a deleted order: %v", err)
	}
	for _, tb := range append(compactions(t, opts), tb) {
		if s, ok := tb.OrderNamed("acme", "x"); !ok || s.Order.ID != again.Order.ID || s.Seq() != 0 {
			t.Errorf("the name is %+v", s)
		}
		if n := len(tb.Files(o.Order.ID, 0, 10, time.Now())); n != 0 {
			t.Errorf("%d files of a deleted order", n)
		}
		if due, _ := tb.HavingFiles(time.Now()); len(tb.Pending()) != 0 || len(due) != 2 {
			t.Errorf("%d pending, %d with files", len(tb.Pending()), len(due))
		}
	}
}

// An order whose creator's clock is weeks ahead was created when Kafka says so, for all
// replicas, or its first boundary would be weeks away. One that is behind only has
// periods without rows to make up for.
func TestAnOrderIsNotCreatedInTheFuture(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	begin := time.Now().Truncate(time.Millisecond)
	ahead, behind := newOrder("acme", "ahead"), newOrder("acme", "behind")
	ahead.CreatedAt, behind.CreatedAt = begin.Add(500*time.Hour), begin.Add(-500*time.Hour)
	create(t, tb, ahead)
	create(t, tb, behind)
	end := time.Now()
	for _, tb := range append(compactions(t, opts), tb) {
		if s, ok := tb.OrderNamed("acme", "ahead"); !ok || s.Order.CreatedAt.Before(begin) || s.Order.CreatedAt.After(end) {
			t.Errorf("by a clock that is ahead: %+v, want it created between %v and %v", s.Order, begin, end)
		}
		if s, ok := tb.OrderNamed("acme", "behind"); !ok || !s.Order.CreatedAt.Equal(behind.CreatedAt) {
			t.Errorf("by a clock that is behind: %+v", s.Order)
		}
	}
}

// What is swept is gone for a reader from the start; what says where an order
// stands is not swept.
func TestSweepOfOrdersAndSteps(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	all := func(string) bool { return true }
	o, gone := create(t, tb, newOrder("acme", "x")), create(t, tb, newOrder("acme", "gone"))
	loser := newOrder("acme", "gone")
	loser.Version = Version
	if _, err := tb.write(t.Context(), tb.partition("acme"), KeyOrder+loser.ID, loser); err != nil {
		t.Fatal(err)
	}
	makeStep(t, tb, gone, 1, 0, "exports/g")
	expired := makeStep(t, tb, o, 1, 0, "exports/1")
	if err := tb.WriteExpired(t.Context(), "acme", expired.Request.ID); err != nil {
		t.Fatal(err)
	}
	makeStep(t, tb, o, 2, 1, "")
	kept := makeStep(t, tb, o, 3, 1, "exports/3")
	makeStep(t, tb, o, 4, 2, "") // the newest says where the order stands
	if _, err := tb.SubmitStep(t.Context(), stepOf(o, 1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := tb.PauseOrder(t.Context(), "acme", gone.Order.ID, true); err != nil {
		t.Fatal(err)
	}
	if err := tb.DeleteOrder(t.Context(), "acme", gone.Order.ID); err != nil {
		t.Fatal(err)
	}
	due, _ := tb.HavingFiles(time.Now())
	if len(due) != 1 {
		t.Fatalf("%d with files to remove", len(due))
	}
	if err := tb.WriteExpired(t.Context(), "acme", due[0].Request.ID); err != nil {
		t.Fatal(err)
	}
	sweep := func(now time.Time) {
		t.Helper()
		if _, err := tb.Sweep(t.Context(), now, tb.Removable(now, 24*time.Hour, all), all); err != nil {
			t.Fatal(err)
		}
	}
	sweep(time.Now())
	if _, ok := tb.Order(gone.Order.ID); !ok {
		t.Error("a deleted order went at once")
	}
	later := time.Now().Add(72 * time.Hour)
	sweep(later)
	if tb.view.orders[loser.ID] != nil || tb.view.orders[gone.Order.ID] == nil {
		t.Error("an order went together with one that is void because of it, not after")
	}
	sweep(later)
	for _, tb := range append(compactions(t, opts), tb) {
		s, ok := tb.Order(o.Order.ID)
		if !ok || s.Files() != 2 || s.Seq() != 4 || s.Last == nil {
			t.Fatalf("%+v", s)
		}
		if f := tb.Files(o.Order.ID, 0, 10, time.Now()); len(f) != 1 || f[0].Request.ID != kept.Request.ID {
			t.Errorf("%d files", len(f))
		}
		if n := len(tb.view.byID); n != 2 {
			t.Errorf("%d requests are known, want steps 3 and 4", n)
		}
		if s, _ := tb.OrderNamed("acme", "gone"); s != nil {
			t.Errorf("a void order came to life: %+v", s)
		}
		if n := len(tb.view.orders); n != 1 || len(tb.view.orphans) != 0 {
			t.Errorf("%d orders and %d orphans are known", n, len(tb.view.orphans))
		}
	}
}

// A replica that was thought dead comes back with a step that is swept already.
func TestAStepThatWasSweptIsNotMadeAgain(t *testing.T) {
	tb := open(t, cluster(t))
	o := create(t, tb, newOrder("acme", "x"))
	makeStep(t, tb, o, 1, 0, "")
	makeStep(t, tb, o, 2, 0, "exports/2")
	now, all := time.Now(), func(string) bool { return true }
	if _, err := tb.Sweep(t.Context(), now, tb.Removable(now, time.Hour, all), all); err != nil {
		t.Fatal(err)
	}
	if _, err := tb.SubmitStep(t.Context(), stepOf(o, 1, 0)); !errors.Is(err, ErrVoid) {
		t.Errorf("the step was taken: %v", err)
	}
	if s, _ := tb.Order(o.Order.ID); s.Seq() != 2 || s.Files() != 1 || len(tb.Pending()) != 0 {
		t.Errorf("step %d, %d files", s.Seq(), s.Files())
	}
}

// undelivered makes an order whose first file is still to go to its destination.
func undelivered(t *testing.T, tb *Table) (*Standing, *Report) {
	t.Helper()
	c := newOrder("acme", "x")
	c.Settings.Destination = "lake"
	o := create(t, tb, c)
	q := stepOf(o, 1, 0)
	q.Step.Deliver = true
	r, err := tb.SubmitStep(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tb.WriteResult(t.Context(), "acme", r.Request.ID, result("exports/1")); err != nil {
		t.Fatal(err)
	}
	return o, r
}

// A destination may be away for longer than files live.
func TestAFileIsKeptUntilItIsDelivered(t *testing.T) {
	tb := open(t, cluster(t))
	o, _ := undelivered(t, tb)
	expired := time.Now().Add(48 * time.Hour)
	if due, _ := tb.HavingFiles(expired); len(due) != 0 {
		t.Error("the file would be removed before it is delivered")
	}
	if err := tb.WriteDelivered(t.Context(), "acme", o.Order.ID, 1); err != nil {
		t.Fatal(err)
	}
	if due, _ := tb.HavingFiles(expired); len(due) != 1 {
		t.Error("the file would stay after it was delivered")
	}
}

// An order without its destination holds no file for it; one that has gone so is not
// waited for when the order has a destination again.
func TestAFileThatIsGoneIsNotToBeDelivered(t *testing.T) {
	tb := open(t, cluster(t))
	o, r := undelivered(t, tb)
	to := func(destination string) *Standing {
		t.Helper()
		s := settings(time.Minute)
		s.Destination = destination
		if err := tb.ChangeOrder(t.Context(), "acme", o.Order.ID, s); err != nil {
			t.Fatal(err)
		}
		now, _ := tb.Order(o.Order.ID)
		return now
	}
	to("")
	if due, _ := tb.HavingFiles(time.Now().Add(48 * time.Hour)); len(due) != 1 {
		t.Fatalf("%d files of an order without a destination would be removed, want 1", len(due))
	}
	if !to("lake").Undelivered() {
		t.Error("a file that is there is not to be delivered")
	}
	to("")
	if err := tb.WriteExpired(t.Context(), "acme", r.Request.ID); err != nil {
		t.Fatal(err)
	}
	if to("lake").Undelivered() {
		t.Error("a file that is gone is to be delivered")
	}
}

func TestListOrders(t *testing.T) {
	tb := open(t, cluster(t))
	for _, n := range []string{"c", "a", "b"} {
		create(t, tb, newOrder("acme", n))
	}
	create(t, tb, newOrder("other", "z"))
	first, next, err := tb.ListOrders("acme", 2, "")
	if err != nil || len(first) != 2 || first[0].Order.Name != "a" || next == "" {
		t.Fatal(first, next, err)
	}
	rest, next, err := tb.ListOrders("acme", 2, next)
	if err != nil || len(rest) != 1 || rest[0].Order.Name != "c" || next != "" {
		t.Fatal(rest, next, err)
	}
	for _, token := range []string{"x", "bw", "b0E", "cjE"} {
		if _, _, err := tb.ListOrders("acme", 2, token); !errors.Is(err, ErrBadPageToken) {
			t.Errorf("token %q: %v", token, err)
		}
	}
}
