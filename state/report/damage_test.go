package report

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// TestTableEndsAtWhatItCannotRead: without the record a report that was
// acknowledged could be missing, or a step be made twice. Nothing is done any more.
func TestTableEndsAtWhatItCannotRead(t *testing.T) {
	const id = "01J00000000000000000000000"
	for _, c := range []struct {
		name, key, value string
		version          int
	}{
		{"a newer version", KeyPause + id, `{"v":99}`, 99},
		{"no version", KeyPause + id, `{}`, -1},
		{"not JSON", KeyPause + id, `{`, 0},
		{"another type", KeyDeletion + id + "/1", `[]`, 0},
		{"a wrong type", KeyDelivered + id, `{"v":2,"number":"x"}`, 0},
		{"no id", KeyPause, `{"v":2}`, 0},
		{"another order's key", KeyOrder + "y", `{"v":2,"id":"z"}`, 0},
		{"an order without a name", KeyOrder + "y", `{"v":2,"id":"y","account":"acme"}`, 0},
		{"an order without a period", KeyOrder + "y", `{"v":2,"id":"y","account":"acme","name":"y"}`, 0},
		{"settings without a period", KeyChange + id, `{"v":2,"settings":{}}`, 0},
		{"another request's key", KeyRequest + "y", `{"v":2,"id":"z","account":"acme"}`, 0},
		{"a request without an account", KeyRequest + "y", `{"v":2,"id":"y"}`, 0},
		{"no key", "", `{"v":2}`, 0},
		{"no id that can be", "q/../x", `{"v":2}`, 0},
		{"a value of nothing", KeyCancel + id + "/1", `null`, -1},
		{"a result of nothing", "result", `{"v":2}`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := open(t, cluster(t))
			q := request("acme")
			submit(t, tb, q, 0)
			o := newOrder("acme", "x")
			o.ID = id
			create(t, tb, o)
			if c.key == "result" {
				c.key = KeyResult + q.ID + "/1"
			}
			p := tb.partition("acme")
			next, err := tb.produce(t.Context(), p, &kgo.Record{Key: []byte(c.key), Value: []byte(c.value)})
			if err != nil {
				t.Fatal(err)
			}
			err = tb.CatchUp(t.Context(), "acme")
			var version *kafka.VersionError
			var damaged *kafka.DamagedError
			switch {
			case c.version != 0:
				if !errors.As(err, &version) || version.Version != max(c.version, 0) || version.Known != Version || version.Topic != topic || version.Partition != p || version.Offset != next-1 {
					t.Errorf("caught up: %v", err)
				}
			case !errors.As(err, &damaged) || damaged.Topic != topic || damaged.Partition != p || damaged.Offset != next-1 || damaged.Key != c.key:
				t.Errorf("caught up: %v", err)
			}
			mine := func(string) bool { return true }
			due, _ := tb.HavingFiles(time.Now().Add(1000 * time.Hour))
			if len(tb.Pending()) != 0 || len(tb.Orders(mine)) != 0 || len(due) != 0 || len(tb.Removable(time.Now().Add(1e6*time.Hour), 0, mine)) != 0 {
				t.Error("there still is something to be done")
			}
			if _, err := tb.WriteResult(t.Context(), "acme", q.ID, result("x")); err == nil {
				t.Error("a result was written")
			}
			if _, err := tb.Submit(t.Context(), request("other"), 0); err == nil {
				t.Error("a request was taken")
			}
			if _, err := tb.produce(t.Context(), p, &kgo.Record{Key: []byte("x")}); !errors.Is(err, tb.Err()) || err == nil {
				t.Errorf("written: %v", err)
			}
		})
	}
}

// TestKindsOfALaterVersion: those with a capital letter are passed over, their
// tombstones too, and what stands behind them is read; all others end the table.
func TestKindsOfALaterVersion(t *testing.T) {
	for name, value := range map[string][]byte{"a value": []byte(`{"v":2}`), "a tombstone": nil} {
		t.Run(name, func(t *testing.T) {
			tb := open(t, cluster(t))
			p, id := tb.partition("acme"), request("acme").ID
			if _, err := tb.produce(t.Context(), p, &kgo.Record{Key: []byte("Q/" + id), Value: value}); err != nil {
				t.Fatal(err)
			}
			r := submit(t, tb, request("acme"), 0)
			if got := tb.Pending(); len(got) != 1 || got[0] != r || tb.Err() != nil {
				t.Fatalf("pending %v, %v", got, tb.Err())
			}
			next, err := tb.produce(t.Context(), p, &kgo.Record{Key: []byte("z/" + id), Value: value})
			if err != nil {
				t.Fatal(err)
			}
			var version *kafka.VersionError
			if err := tb.CatchUp(t.Context(), "acme"); !errors.As(err, &version) || version.Known != 0 || version.Offset != next-1 || version.Key != "z/"+id || !errors.Is(err, tb.Err()) {
				t.Errorf("caught up: %v, the table says %v", err, tb.Err())
			}
		})
	}
}

// TestEveryRecordIsStamped: a bit that is flipped in any of them ends the table
// and does not change what it says.
func TestEveryRecordIsStamped(t *testing.T) {
	opts := cluster(t)
	tb := open(t, opts)
	q := request("acme")
	r := submit(t, tb, q, 0)
	if err := tb.WriteProgress(t.Context(), "acme", q.ID, Progress{Rows: 7}); err != nil {
		t.Fatal(err)
	}
	if won, err := tb.WriteResult(t.Context(), "acme", q.ID, result("x")); err != nil || !won {
		t.Fatal(won, err)
	}
	if err := tb.Cancel(t.Context(), "acme", q.ID); err != nil {
		t.Fatal(err)
	}
	if err := tb.WriteExpired(t.Context(), "acme", q.ID); err != nil {
		t.Fatal(err)
	}
	o := create(t, tb, newOrder("acme", "x"))
	makeStep(t, tb, o, 1, 0, "x")
	id := o.Order.ID
	for what, err := range map[string]error{
		"change":    tb.ChangeOrder(t.Context(), "acme", id, o.Settings),
		"pause":     tb.PauseOrder(t.Context(), "acme", id, true),
		"trouble":   tb.WriteTrouble(t.Context(), "acme", id, o.Settings.Revision, Problem{Type: "x"}),
		"delivered": tb.WriteDelivered(t.Context(), "acme", id, 1),
		"deletion":  tb.DeleteOrder(t.Context(), "acme", id),
	} {
		if err != nil {
			t.Fatal(what, err)
		}
	}
	if _, err := tb.Sweep(t.Context(), time.Now(), []*Report{r}, func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]bool)
	for _, rec := range everything(t, opts) {
		kind := fmt.Sprintf("%.2s, %v", rec.Key, rec.Value == nil)
		if kinds[kind] {
			continue
		}
		kinds[kind] = true
		v := newView()
		if err := v.apply(rec); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for _, part := range [][]byte{rec.Key, rec.Value, rec.Headers[0].Value} {
			for i := range 8 * len(part) {
				part[i/8] ^= 1 << (i % 8)
				err := v.apply(rec)
				var damaged *kafka.DamagedError
				if !errors.As(err, &damaged) || damaged.Offset != rec.Offset || damaged.Partition != rec.Partition || damaged.Topic != topic {
					t.Fatalf("%s, bit %d of %q: %v", kind, i%8, part, err)
				}
				part[i/8] ^= 1 << (i % 8)
			}
		}
	}
	if len(kinds) < 12 {
		t.Errorf("only %d kinds of records were seen: %v", len(kinds), kinds)
	}
}
