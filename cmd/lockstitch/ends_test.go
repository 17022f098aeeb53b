package main

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// What was kept of a topic before it was made anew stays in every export.
func TestBarrierNamesEarlierIncarnations(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "email-events", "catalog"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	r := &replica{s: &Settings{Topics: TopicSettings{Events: []string{"email-events"}}}}
	if r.asker, err = kgo.NewClient(opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.asker.Close)
	if r.catalog, err = catalog.Open(t.Context(), catalog.Config{Opts: opts, Topic: "catalog", Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.catalog.Close)
	infos, err := kafka.Describe(t.Context(), r.asker, "email-events")
	if err != nil {
		t.Fatal(err)
	}
	old, now := segment.TopicID{1}, segment.TopicID(infos["email-events"].ID)
	put := func(rec *kgo.Record, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.asker.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	put(&kgo.Record{Topic: "email-events", Value: []byte("x")}, nil)
	put((&catalog.Adopted{Topic: "email-events", IDs: []segment.TopicID{old, now}}).Record("catalog"))
	put((&catalog.Position{Topic: "email-events", TopicID: old, Next: 7}).Record("catalog"))
	got, err := r.eventEnds(t.Context())
	want := []report.End{{Topic: "email-events", TopicID: old, Offset: 7}, {Topic: "email-events", TopicID: now, Offset: 1}}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}
