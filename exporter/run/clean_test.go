package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/bubble"
	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// TestRemovalKeepsUp: a replica removes all of its reports that are long over in
// one hour, also those that are more than one sweep takes. Thirty orders with a
// period of a minute make 1,800 steps an hour.
func TestRemovalKeepsUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		var log []*kgo.Record
		write := func(key string, value any) {
			data, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			log = append(log, kafka.Stamp(&kgo.Record{Topic: "reports", Key: []byte(key), Value: data}))
		}
		now, order := time.Now(), ulid.Make().String()
		write(report.KeyOrder+order, &report.Order{
			Version: report.Version, ID: order, Account: "acme", Name: "o", CreatedAt: now,
			Settings: report.Settings{Revision: "r", Every: time.Minute, Body: []byte("{}")},
		})
		for i := range int64(report.SweepAtOnce + 2) { // the last says where the order stands
			id := ulid.Make().String()
			write(report.KeyRequest+id, &report.Request{
				Version: report.Version, ID: id, Account: "acme", CreatedAt: now, Body: []byte("{}"),
				Step: &report.Step{Order: order, Name: "o", Seq: i + 1},
			})
			write(report.KeyResult+id+"/"+id, &report.Result{Version: report.Version, At: now})
		}
		if err := w.prod.ProduceSync(t.Context(), log...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		tab := w.table()
		if err := tab.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.runner(tab, w.store, nil)
		time.Sleep(removeEvery + cleanEvery)
		if s, ok := tab.Order(order); !ok || s.Seq() != report.SweepAtOnce+2 {
			t.Fatalf("the order is %+v", s)
		}
		if left := tab.Removable(time.Now(), 0, func(string) bool { return true }); len(left) > 0 {
			t.Errorf("%d steps stay for another hour", len(left))
		}
	})
}

// before does something once, right before a runner asks Kafka for the time.
type before struct{ first func() }

func (a *before) OnProduceRecordBuffered(r *kgo.Record) {
	if first := a.first; first != nil && bytes.HasPrefix(r.Key, []byte(report.KeyProgress)) {
		a.first = nil
		first()
	}
}

// TestAFileThatIsToBeDeliveredIsNotRemoved: an order had no destination any more when
// its file expired, by a table that has not read that it has one again.
func TestAFileThatIsToBeDeliveredIsNotRemoved(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		elsewhere := w.table()
		step := w.submitStep(elsewhere, 5, func(s *report.Step) { s.Deliver = true })
		order, object := step.Request.Step.Order, filesOf(step)+"file.csv.gz"
		if err := w.store.Put(t.Context(), object, []byte("file")); err != nil {
			t.Fatal(err)
		}
		at := time.Now().UTC()
		if _, err := elsewhere.WriteResult(t.Context(), "acme", step.Request.ID, report.Result{At: at, Expires: at.Add(time.Minute), Object: object}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)

		hook := &before{first: func() {
			if err := elsewhere.ChangeOrder(t.Context(), "acme", order, report.Settings{Revision: "r2", Every: time.Minute, Destination: "lake", Body: []byte("{}")}); err != nil {
				t.Error(err)
			}
		}}
		w.opts = append(w.opts, kgo.WithHooks(hook))
		tab := w.table()
		if err := tab.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := New(Config{Topic: "reports"}, Deps{Reports: tab, Catalog: w.catalog, Store: w.store, Log: quiet})
		if err != nil {
			t.Fatal(err)
		}
		r.slots.count = tab.Partitions()
		r.slots.set([]int32{0, 1}, true)
		clean := func() {
			t.Helper()
			if _, err := r.clean(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		clean()
		if hook.first != nil {
			t.Fatal("Kafka was not asked for the time")
		}
		if n := w.files(); n != 1 {
			t.Errorf("%d files are left of one that is to be delivered", n)
		}
		if err := elsewhere.WriteDelivered(t.Context(), "acme", order, 1); err != nil {
			t.Fatal(err)
		}
		if err := tab.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		clean()
		if n := w.files(); n != 0 {
			t.Errorf("%d files are left of one that was delivered", n)
		}
	})
}

// lockedStore lets nobody delete some objects.
type lockedStore struct {
	objects.Store
	locked func(name string) bool
	asked  int // how often somebody wanted to
}

var errLocked = errors.New("the object is locked")

func (s *lockedStore) Delete(ctx context.Context, name string) error {
	if s.locked(name) {
		s.asked++
		return errLocked
	}
	return s.Store.Delete(ctx, name)
}

// TestAFileThatCannotBeRemovedHoldsUpNoOther, neither when files expire nor when their
// reports are removed, and however many there are. While nothing can be deleted, which is
// the store's failure, few are tried.
func TestAFileThatCannotBeRemovedHoldsUpNoOther(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		tab := w.table()
		locked := make(map[string]bool) // the first that are due
		var free []string               // ids
		for i := range 100 {
			id := w.submit(tab, 5, time.Hour).Request.ID
			object, at := fmt.Sprintf("exports/acme/%s/file.csv.gz", id), time.Now().UTC()
			if err := w.store.Put(t.Context(), object, []byte("file")); err != nil {
				t.Fatal(err)
			}
			if _, err := tab.WriteResult(t.Context(), "acme", id, report.Result{At: at, Expires: at.Add(time.Minute), Object: object}); err != nil {
				t.Fatal(err)
			}
			if i < 95 {
				locked[object] = true
			} else {
				free = append(free, id)
			}
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Minute)
		away := false
		store := &lockedStore{Store: w.store, locked: func(name string) bool { return away || locked[name] }}
		r := w.idle(tab, store)
		r.slots.count = tab.Partitions()
		r.slots.set([]int32{0, 1}, true)
		isFree := func(rep *report.Report) bool { return slices.Contains(free, rep.Request.ID) }
		left := func() (n int) {
			due, _ := tab.HavingFiles(time.Now())
			for _, rep := range due {
				if isFree(rep) {
					n++
				}
			}
			return n
		}

		away = true
		if _, err := r.clean(t.Context()); !errors.Is(err, errLocked) || store.asked == 0 || store.asked > 40 || left() != len(free) {
			t.Errorf("while nothing can be deleted %d of 100 objects are tried, %d reports are left: %v", store.asked, left(), err)
		}
		away = false
		for try := 0; left() > 0; try++ {
			if _, err := r.clean(t.Context()); !errors.Is(err, errLocked) || try > 200 {
				t.Fatalf("%d reports are left, %v", left(), err)
			}
		}
		if n := w.files(); n != len(locked) {
			t.Errorf("%d files are left, %d cannot be removed", n, len(locked))
		}

		r.cfg.Retention = time.Hour // of reports that are over
		time.Sleep(2 * time.Hour)
		left = func() (n int) {
			for _, rep := range r.removable(time.Now()) {
				if isFree(rep) {
					n++
				}
			}
			return n
		}
		if n := left(); n != len(free) {
			t.Fatalf("%d of %d reports can be removed", n, len(free))
		}
		for try := 0; left() > 0; try++ {
			if _, err := r.remove(t.Context()); !errors.Is(err, errLocked) || try > 200 {
				t.Fatalf("%d reports are left, %v", left(), err)
			}
		}
		if n := w.files(); n != len(locked) {
			t.Errorf("%d files are left, %d cannot be removed", n, len(locked))
		}
	})
}

// TestTheFileOfAWithdrawnRequestIsRemoved: it was run before it was taken back, and
// nobody is left who could download its file or ask for its end. That of another report
// stays.
func TestTheFileOfAWithdrawnRequestIsRemoved(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		tab := w.table()
		run := func() (id string) {
			t.Helper()
			id = w.submit(tab, 5, time.Hour).Request.ID
			object, at := fmt.Sprintf("exports/acme/%s/file.csv.gz", id), time.Now().UTC()
			if err := w.store.Put(t.Context(), object, []byte("file")); err != nil {
				t.Fatal(err)
			}
			if won, err := tab.WriteResult(t.Context(), "acme", id, report.Result{Attempt: id, At: at, Expires: at.Add(day), Object: object}); err != nil || !won {
				t.Fatal(won, err)
			}
			return id
		}
		run()
		id := run()
		data, err := json.Marshal(&report.Cancel{Version: report.Version, At: time.Now().UTC(), Withdrawn: true})
		if err != nil {
			t.Fatal(err)
		}
		ends, err := kafka.Ends(t.Context(), w.prod, "reports")
		if err != nil {
			t.Fatal(err)
		}
		partition := int32(0) // of the account: all that was written went there
		for _, e := range ends["reports"] {
			if e.End > 0 {
				partition = e.Partition
			}
		}
		w.put(kafka.Stamp(&kgo.Record{Topic: "reports", Partition: partition, Key: []byte(report.KeyCancel + id + "/" + ulid.Make().String()), Value: data}), nil)
		if err := tab.CatchUpAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r, ok := tab.Get("acme", id); ok {
			t.Fatalf("a request that was withdrawn is shown: %+v", r)
		}
		r := w.idle(tab, w.store)
		r.slots.count = tab.Partitions()
		r.slots.set([]int32{0, 1}, true)
		if _, err := r.clean(t.Context()); err != nil {
			t.Error(err)
		}
		var left []string
		if err := w.store.List(t.Context(), "exports/", func(i objects.Info) error { left = append(left, i.Name); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(left) != 1 || strings.Contains(left[0], id) {
			t.Errorf("%q are left, want the file of the other report alone", left)
		}
		if due, _ := tab.HavingFiles(time.Now()); len(due) > 0 {
			t.Errorf("%d reports are said to have files that are due", len(due))
		}
	})
}
