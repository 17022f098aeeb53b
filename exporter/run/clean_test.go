package run

import (
	"bytes"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/report"
)

// TestRemovalKeepsUp: a replica removes all of its reports that are long over in
// one hour, also those that are more than one sweep takes. Thirty orders with a
// period of a minute make 1,800 steps an hour.
func TestRemovalKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
