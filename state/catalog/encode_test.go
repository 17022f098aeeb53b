package catalog

import (
	"fmt"
	"strings"
	"testing"

	"lockstitch/state/event"
	"lockstitch/state/segment"
)

// TestRecordOfTheLongestAccounts: what an event may name can be committed, however
// much its bytes grow in JSON.
func TestRecordOfTheLongestAccounts(t *testing.T) {
	const accounts = 200
	b := segment.NewBuffer()
	s := &segment.Stream{Topic: "email-events"}
	for n := range accounts {
		account := fmt.Sprintf("%d", n)
		account += strings.Repeat("<", event.MaxAccountID-len(account))
		var d event.Decoder
		var ev event.Event
		if err := d.Decode(nil, []byte(`{"correlation_id":"c","type":"SENT","section":"s","account_id":"`+account+`"}`), 1, &ev); err != nil {
			t.Fatal(err)
		}
		b.Add(s, 0, int64(n), 1, &ev, nil)
	}
	slices := 0
	if err := segment.Seal([]*segment.Buffer{b}, func(o segment.Object) error {
		slices += len(o.Slices)
		seg := Segment{ID: "x", Slices: o.Slices}
		_, err := seg.Record("cat")
		return err
	}); err != nil || slices != accounts {
		t.Errorf("%d slices of %d accounts: %v", slices, accounts, err)
	}
}
