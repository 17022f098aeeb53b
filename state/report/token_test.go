package report

import (
	"errors"
	"testing"
)

// FuzzPageToken: tokens come from clients.
func FuzzPageToken(f *testing.F) {
	t := &Table{view: newView()}
	t.view.accounts["acme"] = &account{entries: []*entry{{report: &Report{Request: &Request{}, Offset: 3}}, {report: &Report{Request: &Request{}, Offset: 8}}}}
	_, next, err := t.List("acme", 1, "")
	if err != nil || next == "" {
		f.Fatal(next, err)
	}
	f.Add(next)
	f.Add("cjk5OTk5OTk5OTk5OTk5OTk5OTk5")
	f.Add("b2E")
	f.Fuzz(func(tt *testing.T, token string) {
		if items, _, err := t.List("acme", 10, token); err != nil && (!errors.Is(err, ErrBadPageToken) || items != nil) || len(items) > 2 {
			tt.Errorf("%d reports, %v", len(items), err)
		}
		if items, _, err := t.ListOrders("acme", 10, token); err != nil && !errors.Is(err, ErrBadPageToken) || len(items) > 0 {
			tt.Errorf("%d orders, %v", len(items), err)
		}
	})
}
