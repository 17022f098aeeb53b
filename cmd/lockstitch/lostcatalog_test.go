package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
)

// TestACatalogThatHasLostRecordsIsRefused, also when its settings have been put right.
func TestACatalogThatHasLostRecordsIsRefused(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 11, 100)
	y.export(ctx, y.r.localURL(), anything...)
	if err := errors.Join(y.r.topics.look(ctx)); err != nil {
		t.Fatal(err)
	}
	var first kadm.Offsets
	first.AddOffset(y.s.Topics.Catalog, 0, 1, -1)
	if done, err := kadm.NewClient(y.r.asker).DeleteRecords(ctx, first); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	if wrong, err := y.r.topics.look(ctx); err != nil || wrong == nil || !strings.Contains(wrong.Error(), "below offset 1 are gone") {
		t.Errorf("a catalog that has lost records: %v, %v", wrong, err)
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
			wrong, err := y.r.topics.look(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if told := testutil.ToFloat64(y.r.topics.wrong.WithLabelValues(topic, "cleanup.policy")); told == 0 != (policy == "compact") {
				t.Errorf("%s with cleanup.policy=%s: %v is told", topic, policy, told)
			}
			if expires := policy != "compact"; expires != (wrong != nil) || expires && !strings.Contains(wrong.Error(), topic) {
				t.Errorf("%s with cleanup.policy=%s: %v", topic, policy, wrong)
			}
		}
	}
}
