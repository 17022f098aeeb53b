package report

import "testing"

// TestDeliveredKnowsWhatWasPassedOver, and forgets it in favour of too few files that are
// said to be delivered.
func TestDeliveredKnowsWhatWasPassedOver(t *testing.T) {
	var d Delivered
	for _, n := range []int64{1, 2, 5, 6, 8} {
		d = d.upTo(n)
	}
	for n := int64(1); n <= 9; n++ {
		if want := n != 3 && n != 4 && n != 7 && n != 9; d.Has(n) != want {
			t.Errorf("file %d: %v", n, d.Has(n))
		}
	}
	for n := int64(10); n <= 1000; n += 2 {
		d = d.upTo(n)
	}
	if len(d.Passed) != maxPassed || !d.Has(1) || d.Has(3) || d.Has(5) || d.Has(9) || d.Has(999) || !d.Has(1000) || !d.Has(998) {
		t.Errorf("%d stretches, from %v", len(d.Passed), d.Passed[0])
	}
}

// TestDeliveredDoesNotFall: a replica that has lost the order says late what it has
// delivered, and no file is delivered again for that.
func TestDeliveredDoesNotFall(t *testing.T) {
	v, offset := newView(), int64(0)
	apply := func(key string, value any) {
		t.Helper()
		offset++
		if err := v.apply(stamped(t, offset, key, value)); err != nil {
			t.Fatal(err)
		}
	}
	o := newOrder("a", "x")
	o.Version = Version
	apply(KeyOrder+o.ID, o)
	for _, n := range []int64{3, 2} {
		apply(KeyDelivered+o.ID, &Delivered{Version: Version, Number: n})
		if d := v.orders[o.ID].snapshot().Delivered; d.Number != 3 {
			t.Errorf("after %d: %d", n, d.Number)
		}
	}
}
