package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/seed"
	"lockstitch/state/kafka"
)

// stamped is the record of a value under a key, as it comes from Kafka; nil removes
// what is there.
func stamped(t testing.TB, offset int64, key string, value any) *kgo.Record {
	t.Helper()
	rec := &kgo.Record{Key: []byte(key), Offset: offset, Timestamp: time.UnixMilli(offset)}
	if value != nil {
		var err error
		if rec.Value, err = json.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	return kafka.Stamp(rec)
}

// A request that did not count, since it repeated another or there were too many,
// is removed after all that counted, and with these the account has gone.
func TestWhatDidNotCountIsRemovedLast(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]func(first, q *Request){
		"a repeat": func(first, q *Request) { q.IdempotencyKey = first.IdempotencyKey },
		"too many": func(_, q *Request) { q.MaxPending = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newView()
			first, q := request("a"), request("a")
			first.IdempotencyKey = "k"
			second(first, q)
			for i, r := range []*Request{first, q} {
				r.Version = Version
				if err := v.apply(stamped(t, int64(i), KeyRequest+r.ID, r)); err != nil {
					t.Fatal(err)
				}
			}
			if len(v.pending) != 1 || len(v.byID) != 2 {
				t.Fatalf("%d of %d requests count", len(v.pending), len(v.byID))
			}
			for i, r := range []*Request{first, q} {
				if err := v.apply(stamped(t, int64(2+i), KeyRequest+r.ID, nil)); err != nil {
					t.Fatal(err)
				}
			}
			if len(v.byID)+len(v.accounts)+len(v.pending) != 0 {
				t.Errorf("%d reports, %d accounts, %d pending are left", len(v.byID), len(v.accounts), len(v.pending))
			}
		})
	}
}

// A report is over at the time of Kafka's at which it was cancelled, and a step at
// that at which its order was deleted, whatever the clock of who wrote it showed.
func TestCancelledInKafkasTime(t *testing.T) {
	t.Parallel()
	v, offset := newView(), int64(0)
	apply := func(key string, value any) (at time.Time) {
		t.Helper()
		offset++
		rec := stamped(t, offset, key, value)
		if err := v.apply(rec); err != nil {
			t.Fatal(err)
		}
		return rec.Timestamp
	}
	ahead := time.Now().Add(30 * 24 * time.Hour)
	q, o := request("a"), newOrder("a", "x")
	step := stepOf(&Standing{Order: o, Settings: o.Settings}, 1, 0)
	q.Version, o.Version, step.Version = Version, Version, Version
	apply(KeyRequest+q.ID, q)
	apply(KeyOrder+o.ID, o)
	apply(KeyRequest+step.ID, step)
	for id, want := range map[string]time.Time{
		q.ID:    apply(KeyCancel+q.ID+"/1", &Cancel{Version: Version, At: ahead}),
		step.ID: apply(KeyDeletion+o.ID+"/1", &Deletion{Version: Version, At: ahead}),
	} {
		if r := v.byID[id].report; !r.Cancelled || !r.over().Equal(want) {
			t.Errorf("cancelled %v, over at %v, want %v", r.Cancelled, r.over(), want)
		}
	}
}

// TestADeletedFileEndsItsReport: who deletes what was downloaded has its room 2 days later,
// and not only when the file would have expired.
func TestADeletedFileEndsItsReport(t *testing.T) {
	t.Parallel()
	made := time.Now()
	expires := made.Add(7 * 24 * time.Hour)
	for name, x := range map[string]struct {
		problem *Problem
		deleted time.Time
		over    time.Time
	}{
		"not deleted":                         {nil, time.Time{}, expires},
		"deleted":                             {nil, made.Add(time.Hour), made.Add(time.Hour)},
		"deleted while it was made":           {nil, made.Add(-time.Minute), made},
		"deleted when it had expired":         {nil, expires.Add(time.Hour), expires},
		"one that had failed":                 {&Problem{}, made.Add(time.Hour), made},
		"one that failed and was not deleted": {&Problem{}, time.Time{}, made},
	} {
		r := &Report{Request: request("a"), Result: &Result{At: made, Problem: x.problem}, Cancelled: !x.deleted.IsZero(), CancelledAt: x.deleted}
		if x.problem == nil {
			r.Result.Expires = expires
		}
		if !r.over().Equal(x.over) {
			t.Errorf("%s: over %v after it was made, want %v", name, r.over().Sub(made), x.over.Sub(made))
		}
	}
}

// The size of an account is that of all that is kept of its reports and orders, each once
// and until it is removed; what does not count or was deleted holds nothing of what it
// asked for.
func TestWhatAnAccountHolds(t *testing.T) {
	t.Parallel()
	v, offset := newView(), int64(0)
	tb := &Table{view: v}
	// more is by how much a record makes the account larger.
	more := func(key string, value any) int64 {
		t.Helper()
		offset++
		before := tb.Sizes("a", Plan{})
		if err := v.apply(stamped(t, offset, key, value)); err != nil {
			t.Fatal(err)
		}
		after := tb.Sizes("a", Plan{})
		if after.All != after.Account {
			t.Errorf("the only account has %d of %d bytes", after.Account, after.All)
		}
		return after.Account - before.Account
	}
	ask := func(tweak func(*Request)) (*Request, int64) {
		q := request("a")
		q.Version, q.Body = Version, []byte(strings.Repeat("b", 10_000))
		tweak(q)
		return q, more(KeyRequest+q.ID, q)
	}
	first, size := ask(func(q *Request) { q.IdempotencyKey = "k" })
	second, size2 := ask(func(*Request) {})
	if size < 10_000 || size2 < 10_000 {
		t.Errorf("%d and %d bytes", size, size2)
	}
	repeat, small := ask(func(q *Request) { q.IdempotencyKey = "k" })
	excess, small2 := ask(func(q *Request) { q.MaxPending = 2 })
	for _, q := range []*Request{repeat, excess} {
		if e := v.byID[q.ID]; !e.void || e.report.Request.Body != nil || e.report.Request.Question.Barrier != nil {
			t.Errorf("void %v, holds %+v", e.void, e.report.Request)
		}
	}
	for what, got := range map[string]int64{
		"the repeat":       small,
		"the one too many": small2,
	} {
		if got <= 0 || got > 5_000 {
			t.Errorf("%s takes %d bytes", what, got)
		}
	}
	for what, got := range map[string]int64{
		"cancelled":  more(KeyCancel+first.ID+"/1", &Cancel{Version: Version}),
		"withdrawn":  more(KeyCancel+second.ID+"/1", &Cancel{Version: Version, Withdrawn: true}),
		"said again": more(KeyCancel+first.ID+"/1", &Cancel{Version: Version}),
	} {
		if got != 0 {
			t.Errorf("one that is %s takes %d bytes more", what, got)
		}
	}
	for q, want := range map[*Request]int64{first: size, second: size2, repeat: small, excess: small2} {
		if got := more(KeyRequest+q.ID, nil); got != -want {
			t.Errorf("removed, one of %d bytes gives back %d", want, -got)
		}
	}
	if got := tb.Sizes("a", Plan{}); got != (Sizes{}) || len(v.sizes) != 0 {
		t.Errorf("without any %+v in %d accounts", got, len(v.sizes))
	}
	apply := func(key string, value any) { more(key, value) }

	o, late := newOrder("a", "x"), settings(time.Minute)
	o.Version, o.From, o.Settings.Body, late.Body = Version, []End{{Offset: 1}}, []byte("{}"), []byte("{}")
	apply(KeyOrder+o.ID, o)
	if s, _ := tb.Order(o.ID); len(s.Order.From) == 0 || len(s.Settings.Body) == 0 {
		t.Fatalf("%+v", s)
	}
	apply(KeyDeletion+o.ID+"/1", &Deletion{Version: Version})
	apply(KeyChange+o.ID, &Change{Version: Version, Settings: late})
	if s, _ := tb.Order(o.ID); !s.Deleted || s.Order.From != nil || s.Order.Settings.Body != nil || s.Settings.Body != nil || s.Settings.Revision != late.Revision {
		t.Errorf("a deleted order holds %+v and %+v", s.Order, s.Settings)
	}
	if got := tb.Sizes("a", Plan{}).Account; got <= 0 {
		t.Errorf("a deleted order takes %d bytes", got)
	}
	apply(KeyOrder+o.ID, nil)
	if got := tb.Sizes("a", Plan{}); got != (Sizes{}) {
		t.Errorf("a removed order takes %+v", got)
	}
}

// What the steps of an order ask for is held once.
func TestStepsShareWhatTheyAskFor(t *testing.T) {
	t.Parallel()
	v, o := newView(), newOrder("a", "x")
	o.Version = Version
	if err := v.apply(stamped(t, 1, KeyOrder+o.ID, o)); err != nil {
		t.Fatal(err)
	}
	for seq := range int64(3) {
		step := stepOf(&Standing{Order: o, Settings: o.Settings}, seq+1, 0)
		step.Version, step.Body = Version, nil
		q := &step.Question
		q.Attributes = []AttributeColumn{{Section: "s", VersionID: "1", Name: "n", Type: "text"}}
		q.Tags = []TagColumn{{Section: "s", VersionID: "2", Name: "n"}}
		q.Email = map[string][]EmailVersion{"s": {{VersionID: "3", Type: "text"}}}
		q.Filter, q.Audiences = "w", map[string]string{"w": "women"}
		if seq == 2 { // a change
			q.Tags, q.Audiences = []TagColumn{{Section: "s", VersionID: "4", Name: "n"}}, map[string]string{"w": "men"}
		}
		if err := v.apply(stamped(t, 2+seq, KeyRequest+step.ID, step)); err != nil {
			t.Fatal(err)
		}
	}
	same := func(i, j int) (out []bool) {
		a, b := v.orders[o.ID].steps[i].report.Request.Question, v.orders[o.ID].steps[j].report.Request.Question
		b.Email["mark"], b.Audiences["mark"] = nil, ""
		_, email := a.Email["mark"]
		_, audiences := a.Audiences["mark"]
		delete(b.Email, "mark")
		delete(b.Audiences, "mark")
		return []bool{&a.After[0] == &b.Barrier[0], &a.Attributes[0] == &b.Attributes[0], &a.Tags[0] == &b.Tags[0], email, audiences}
	}
	if got := same(1, 0); !slices.Equal(got, []bool{true, true, true, true, true}) {
		t.Errorf("positions, attributes, tags, e-mail, audiences are shared: %v", got)
	}
	if got := same(2, 1); !slices.Equal(got, []bool{true, true, false, true, false}) {
		t.Errorf("behind a change positions, attributes, tags, e-mail, audiences are shared: %v", got)
	}
	last := v.orders[o.ID].steps[2].report.Request.Question
	if last.Tags[0].VersionID != "4" || last.Audiences["w"] != "men" {
		t.Errorf("the change is lost: %+v", last)
	}
}

// A replica's own reports are found among however many there are of others.
func TestRemovableAreOnesOwn(t *testing.T) {
	t.Parallel()
	v, own := newView(), make(map[string]bool)
	for i := range int64(4 * SweepAtOnce) {
		q := request("a")
		q.Version, own[q.ID] = Version, i%4 == 0
		if err := v.apply(stamped(t, 2*i, KeyRequest+q.ID, q)); err != nil {
			t.Fatal(err)
		}
		if err := v.apply(stamped(t, 2*i+1, KeyCancel+q.ID+"/"+q.ID, &Cancel{Version: Version, At: time.UnixMilli(1)})); err != nil {
			t.Fatal(err)
		}
	}
	got := (&Table{view: v}).Removable(time.Now(), time.Hour, func(id string) bool { return own[id] })
	for _, r := range got {
		if !own[r.Request.ID] {
			t.Fatal("another's report is among them")
		}
	}
	if len(got) != SweepAtOnce {
		t.Errorf("%d reports, want %d", len(got), SweepAtOnce)
	}
}

// Two views that read the same records agree on everything, wherever one of
// them began: the indexes of one that saw every change equal those of one that
// was opened later.
func TestViewsAgree(t *testing.T) {
	rnd := seed.Rand(t)
	opts := cluster(t)
	tb := open(t, opts)
	accounts := []string{"a", "b", "c"}
	var known []*Request
	for range 200 {
		q := request(accounts[rnd.IntN(3)])
		if rnd.IntN(2) == 0 {
			q.IdempotencyKey = fmt.Sprint(rnd.IntN(6))
		}
		if len(known) == 0 || rnd.IntN(3) == 0 {
			q.Version, q.MaxPending = Version, rnd.IntN(5)
			raw(t, tb, q.Account, KeyRequest+q.ID, q)
			known = append(known, q)
			continue
		}
		k := known[rnd.IntN(len(known))]
		write := ulid.Make().String()
		switch rnd.IntN(6) {
		case 0:
			raw(t, tb, k.Account, KeyCancel+k.ID+"/"+write, &Cancel{Version: Version, Withdrawn: rnd.IntN(3) == 0})
		case 1:
			raw(t, tb, k.Account, KeyProgress+k.ID, &Progress{Version: Version})
		case 2:
			r := result("x")
			r.Version = Version
			raw(t, tb, k.Account, KeyResult+k.ID+"/"+write, &r)
		case 3:
			raw(t, tb, k.Account, KeyExpired+k.ID, &Expired{Version: Version})
		case 4:
			raw(t, tb, k.Account, KeyRequest+k.ID, nil)
		case 5:
			raw(t, tb, k.Account, KeyProgress+k.ID, nil)
		}
	}
	fresh := open(t, opts)
	if err := fresh.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := describe(fresh), describe(tb); got != want {
		t.Errorf("a fresh view says\n%s\nthe old one\n%s", got, want)
	}
	for name, a := range tb.view.accounts {
		n := 0
		for _, e := range a.entries {
			if e.pending() {
				n++
			}
		}
		if n != a.pending {
			t.Errorf("account %s counts %d pending, has %d", name, a.pending, n)
		}
	}
}

// TestRecordsInAnyOrder keeps the indexes of a view right whatever is written, and
// removed, of few reports of one account.
func TestRecordsInAnyOrder(t *testing.T) {
	t.Parallel()
	seed.Each(t, 300, func(t *testing.T, n uint64) {
		rnd := rand.New(rand.NewPCG(n, 0))
		v := newView()
		var known []*Request
		for offset := range int64(100) {
			var rec *kgo.Record
			write := func(key string, value any) { rec = stamped(t, offset, key, value) }
			if len(known) == 0 || rnd.IntN(4) == 0 {
				q := request("a")
				q.Version, q.MaxPending = Version, rnd.IntN(3)
				if rnd.IntN(2) == 0 {
					q.IdempotencyKey = fmt.Sprint(rnd.IntN(2))
				}
				known = append(known, q)
				write(KeyRequest+q.ID, q)
			} else {
				k := known[max(0, len(known)-1-rnd.IntN(6))]
				switch rnd.IntN(6) {
				case 0:
					write(KeyCancel+k.ID+"/1", &Cancel{Version: Version, Withdrawn: rnd.IntN(3) == 0})
				case 1:
					write(KeyProgress+k.ID, &Progress{Version: Version})
				case 2:
					r := result("x")
					r.Version = Version
					write(KeyResult+k.ID+"/1", &r)
				case 3:
					write(KeyExpired+k.ID, &Expired{Version: Version})
				case 4:
					write(KeyRequest+k.ID, nil)
				case 5:
					write(KeyProgress+k.ID, nil)
				}
			}
			if err := v.apply(rec); err != nil {
				t.Fatalf("%s: %v", rec.Key, err)
			}
			pending, visible := 0, 0
			for _, e := range v.byID {
				if e.pending() {
					pending++
				}
				if e.visible() {
					visible++
				}
			}
			a := v.accounts["a"]
			if a == nil {
				a = &account{}
			}
			if len(v.pending) != pending || a.pending != pending || len(a.entries) != visible {
				t.Fatalf("after %s: %d pending of which %d are known and %d counted; %d visible, %d listed", rec.Key, pending, len(v.pending), a.pending, visible, len(a.entries))
			}
			v.wantDue(t, string(rec.Key), time.UnixMilli(offset/2).Add(time.Hour)) // some have expired, some have not
		}
	})
}

// The same of standing orders with few names, and their steps.
func TestOrderRecordsInAnyOrder(t *testing.T) {
	t.Parallel()
	seed.Each(t, 300, func(t *testing.T, n uint64) {
		rnd := rand.New(rand.NewPCG(n, 0))
		v := newView()
		var orders []*Order
		var steps []*Request
		for offset := range int64(150) {
			var rec *kgo.Record
			write := func(key string, value any) { rec = stamped(t, offset, key, value) }
			if len(orders) == 0 || rnd.IntN(6) == 0 {
				o := newOrder("a", []string{"x", "y"}[rnd.IntN(2)])
				o.Version, o.MaxOrders = Version, rnd.IntN(3)
				orders = append(orders, o)
				write(KeyOrder+o.ID, o)
			} else {
				o := orders[max(0, len(orders)-1-rnd.IntN(4))]
				q := request("a")
				q.Version = Version
				q.Step = &Step{Order: o.ID, Name: o.Name, Seq: 1 + rnd.Int64N(6), Revision: o.Settings.Revision}
				if len(steps) > 0 && rnd.IntN(2) == 0 {
					q = steps[max(0, len(steps)-1-rnd.IntN(6))]
				}
				r := result("x")
				r.Version = Version
				tomb := func(key string) { write(key, nil) }
				switch rnd.IntN(12) {
				case 0:
					write(KeyChange+o.ID, &Change{Version: Version, Settings: settings(time.Minute)})
				case 1:
					write(KeyPause+o.ID, &Pause{Version: Version, Paused: rnd.IntN(2) == 0})
				case 2:
					write(KeyTrouble+o.ID, &Trouble{Version: Version, Revision: o.Settings.Revision})
				case 3:
					write(KeyDelivered+o.ID, &Delivered{Version: Version, Number: rnd.Int64N(5)})
				case 4:
					write(KeyDeletion+o.ID+"/1", &Deletion{Version: Version})
				case 5:
					tomb(KeyOrder + o.ID)
				case 6:
					tomb(KeyPause + o.ID)
				case 7:
					write(KeyResult+q.ID+"/1", &r)
				case 8:
					tomb(KeyRequest + q.ID)
				case 9:
					write(KeyExpired+q.ID, &Expired{Version: Version})
				default:
					steps = append(steps, q)
					write(KeyRequest+q.ID, q)
				}
			}
			if err := v.apply(rec); err != nil && !errors.Is(err, errThereAlready) {
				t.Fatalf("%s: %v", rec.Key, err)
			}
			pending, named := 0, 0
			for _, e := range v.byID {
				if e.pending() {
					pending++
				}
			}
			for _, o := range v.orders {
				o.snapshot()
				if o.live() {
					named++
					if v.names["a"][o.standing.Order.Name] != o {
						t.Fatalf("after %s: order %s is live and not found by its name", rec.Key, o.standing.Order.ID)
					}
				}
			}
			if len(v.pending) != pending || len(v.names["a"]) != named || len(v.accounts) != 0 {
				t.Fatalf("after %s: %d pending of which %d are known; %d live, %d named; %d accounts", rec.Key, pending, len(v.pending), named, len(v.names["a"]), len(v.accounts))
			}
			v.wantDue(t, string(rec.Key), time.UnixMilli(offset/2).Add(time.Hour)) // some have expired, some have not
		}
	})
}

func describe(tb *Table) string {
	var b strings.Builder
	for _, account := range []string{"a", "b", "c"} {
		items, _, _ := tb.List(account, 1000, "")
		for _, r := range items {
			fmt.Fprintln(&b, account, r.Request.ID, r.Status(time.Now()), r.Pending())
		}
	}
	for _, r := range tb.Pending() {
		fmt.Fprintln(&b, "pending", r.Request.ID)
	}
	return b.String()
}

func FuzzApply(f *testing.F) {
	id := ulid.Make().String()
	f.Add("q/"+id, []byte(`{"v":2,"id":"`+id+`","account":"a"}`))
	f.Add("r/"+id+"/1", []byte(`{"v":2,"object":"x"}`))
	f.Add("c/"+id+"/1", []byte(`{"v":2,"withdrawn":true}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		v := newView()
		base := kafka.Stamp(&kgo.Record{Key: []byte("q/" + id), Value: []byte(`{"v":2,"id":"` + id + `","account":"a"}`)})
		if err := v.apply(base); err != nil {
			t.Fatal(err)
		}
		for off := range int64(2) {
			err := v.apply(kafka.Stamp(&kgo.Record{Key: []byte(key), Value: value, Offset: off + 1}))
			var version *kafka.VersionError
			var damaged *kafka.DamagedError
			if err != nil && !errors.As(err, &version) && !errors.As(err, &damaged) && !errors.Is(err, errThereAlready) {
				t.Errorf("untyped error %v", err)
			}
		}
	})
}

// TestRecordsAreDecodedBeforeTheLock: that takes milliseconds of the request of a step of
// thousands of partitions, and every call reads the table.
func TestRecordsAreDecodedBeforeTheLock(t *testing.T) {
	v := newView()
	q := request("a")
	q.Version = Version
	for n := range int32(5000) {
		q.Question.Barrier = append(q.Question.Barrier, End{Topic: "events", Partition: n, Offset: 1})
	}
	rec := stamped(t, 0, KeyRequest+q.ID, q)
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	applied := make(chan error, 1)
	v.mu.RLock()
	before := allocated()
	go func() { applied <- v.apply(rec) }()
	deadline := time.Now().Add(5 * time.Second)
	for allocated()-before < uint64(len(rec.Value)) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if got := allocated() - before; got < uint64(len(rec.Value)) {
		t.Errorf("only %d bytes were allocated for a record of %d while the table was read", got, len(rec.Value))
	}
	v.mu.RUnlock()
	if err := <-applied; err != nil || v.byID[q.ID] == nil {
		t.Errorf("applied: %v", err)
	}
}
