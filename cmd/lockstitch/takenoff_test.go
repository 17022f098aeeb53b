package main

import (
	"encoding/csv"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
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
	window := []string{"--start-at", "2026-09-01T00:00:00Z"}
	y := startSystem(t, dir, topics("email-events-v1", "email-events"))
	counts := y.produce(ctx, 11, 500)
	before, _ := y.export(ctx, y.r.localURL(), window...)
	if n := rows(before); n != counts.Events {
		t.Fatalf("%d rows of %d events", n, counts.Events)
	}
	y.stop()

	y = startSystem(t, dir, topics("email-events"))
	if after, _ := y.export(ctx, y.r.localURL(), window...); after != before {
		t.Errorf("%d of %d rows are left", rows(after), counts.Events)
	}
	all, _ := y.export(ctx, y.r.localURL(), "--cursor-file", filepath.Join(t.TempDir(), "cursor"))
	if n := rows(all); n != counts.Events {
		t.Errorf("from the beginning: %d rows of %d events", n, counts.Events)
	}
}

// TestACatalogThatHasLostRecordsIsRefused, also when its settings have been put right.
func TestACatalogThatHasLostRecordsIsRefused(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 11, 100)
	y.export(ctx, y.r.localURL(), "--start-at", "2026-09-01T00:00:00Z")
	if err := y.r.checkTopics(ctx); err != nil {
		t.Fatal(err)
	}
	var first kadm.Offsets
	first.AddOffset(y.s.Topics.Catalog, 0, 1, -1)
	if done, err := kadm.NewClient(y.r.asker).DeleteRecords(ctx, first); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	if err := y.r.checkTopics(ctx); err == nil || !strings.Contains(err.Error(), "below offset 1 are gone") {
		t.Errorf("a catalog that has lost records: %v", err)
	}
}

// TestACatalogThatExpiresIsRefused: after retention.ms a start would know the newest
// segments alone, and sweep all others.
func TestACatalogThatExpiresIsRefused(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	for _, topic := range []string{y.s.Topics.Catalog, y.s.Topics.Reports} {
		for _, policy := range []string{"compact,delete", "compact"} {
			done, err := kadm.NewClient(y.r.asker).AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "cleanup.policy", Value: &policy}}, topic)
			if err != nil || done[0].Err != nil {
				t.Fatal(err, done)
			}
			err = y.r.checkTopics(ctx)
			if expires := policy != "compact"; expires != (err != nil) || expires && !strings.Contains(err.Error(), topic) {
				t.Errorf("%s with cleanup.policy=%s: %v", topic, policy, err)
			}
		}
	}
}
