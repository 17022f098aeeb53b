package segment

import (
	"fmt"
	"strings"
	"testing"

	"lockstitch/state/event"
)

// A slice has at most so much of long texts that an export has room for several. Texts
// that are short, or long and the same in many rows, do not end it.
func TestLongTextsEndASlice(t *testing.T) {
	const rows, length = 2000, 2000
	long := func(i int) string { return fmt.Sprintf("%0*d", length, i) }
	for name, c := range map[string]struct {
		fill   func(i int, row *testRow)
		slices int // about
	}{
		"cells": {func(i int, row *testRow) { row.ev.Cells[event.LinkURL] = []byte(long(i)) }, rows * length >> 20},
		"two cells": {func(i int, row *testRow) {
			row.ev.Cells[event.Subject], row.ev.Cells[event.LinkURL] = []byte(long(i)), []byte(long(-i))
		}, 2 * rows * length >> 20},
		"correlation ids": {func(i int, row *testRow) { row.ev.CorrelationID = []byte(long(i)) }, rows * length >> 20},
		"attributes": {func(i int, row *testRow) {
			p := testProfile{Account: "acme", Sections: map[string]testSection{"s": {Attributes: map[string]any{"1": long(i), "2": "short"}}}}
			row.snap = p.snapshot(t)
		}, rows * length >> 20},
		"the same": {func(i int, row *testRow) { row.ev.Cells[event.LinkURL] = []byte(long(i % 40)) }, 1},
		"short": {func(i int, row *testRow) {
			row.ev.Cells[event.LinkURL] = []byte(strings.Repeat(fmt.Sprintf("%08d", i), 8))
		}, 1},
		"in one alone": {func(i int, row *testRow) {
			row.ev.Cells[event.LinkURL] = make([]byte, map[bool]int{true: 3 << 20}[i == 1000])
		}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBuffer()
			for i := range rows {
				row := testRow{source: Source{Stream: Stream{Topic: "t", ID: TopicID{1}}}, offset: int64(i)}
				row.ev = event.Event{AccountID: []byte("acme"), Section: []byte("s"), ProfileID: []byte("p"), CorrelationID: fmt.Append(nil, i), ServerTime: int64(i)}
				c.fill(i, &row)
				row.add(b)
			}
			got := len(openAll(t, seal(t, b)))
			if got < c.slices || got > c.slices+1 {
				t.Errorf("%d slices, not %d", got, c.slices)
			}
		})
	}
}
