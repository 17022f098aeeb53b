package run

import (
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
