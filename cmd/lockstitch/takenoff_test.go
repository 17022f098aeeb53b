package main

import (
	"encoding/csv"
	"path/filepath"
	"strings"
	"testing"
)

// TestATopicTakenOffTheList was read and has nothing more to come: what was kept of it
// stays in exports, of a window and of what follows a cursor.
func TestATopicTakenOffTheList(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	topics := func(names ...string) func(*Settings) {
		return func(s *Settings) { s.Topics.Events = names }
	}
	rows := func(text string) int {
		t.Helper()
		all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return len(all) - 1
	}
	y := startSystem(t, dir, topics("email-events-v1", "email-events"))
	counts := y.produce(ctx, 11, 500)
	before, _ := y.export(ctx, y.r.localURL(), anything...)
	if n := rows(before); n != counts.Events {
		t.Fatalf("%d rows of %d events", n, counts.Events)
	}
	y.stop()

	y = startSystem(t, dir, topics("email-events"))
	if after, _ := y.export(ctx, y.r.localURL(), anything...); after != before {
		t.Errorf("%d of %d rows are left", rows(after), counts.Events)
	}
	all, _ := y.export(ctx, y.r.localURL(), "--cursor-file", filepath.Join(t.TempDir(), "cursor"))
	if n := rows(all); n != counts.Events {
		t.Errorf("from the beginning: %d rows of %d events", n, counts.Events)
	}
}
