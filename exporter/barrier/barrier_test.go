package barrier

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// TestABrokerThatKnowsLessThanTheCatalog has not heard of the others for long: there
// is no barrier by what it says, which would be short.
func TestABrokerThatKnowsLessThanTheCatalog(t *testing.T) {
	t.Parallel()
	b, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "catalog"), kfake.SeedTopics(2, "events"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(b.ListenAddrs()...)}
	cl, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	cat, err := catalog.Open(t.Context(), catalog.Config{Opts: opts, Topic: "catalog", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cat.Close)
	infos, err := kafka.Describe(t.Context(), cl, "events")
	if err != nil {
		t.Fatal(err)
	}
	id, old, anew := segment.TopicID(infos["events"].ID), segment.TopicID{1}, segment.TopicID{2}
	put := func(r *kgo.Record, err error) {
		t.Helper()
		if err == nil {
			err = cl.ProduceSync(t.Context(), r).FirstErr()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func() (string, error) {
		ends, err := Read(t.Context(), cl, cat, []string{"events"})
		out := ""
		for _, e := range ends {
			out += fmt.Sprintf("%x/%d:%d ", e.TopicID[0], e.Partition, e.Offset)
		}
		return out, err
	}
	put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{old, id}}).Record("catalog"))
	put((&catalog.Position{Topic: "events", TopicID: old, Partition: 5, Next: 7}).Record("catalog"))
	put((&catalog.Position{Topic: "events", TopicID: id, Partition: 1, Next: 0}).Record("catalog"))
	want := fmt.Sprintf("1/5:7 %x/0:0 %x/1:0 ", id[0], id[0])
	if got, err := read(); err != nil || got != want {
		t.Fatalf("%s, %v; want %s", got, err, want)
	}
	put((&catalog.Position{Topic: "events", TopicID: id, Partition: 2, Next: 3}).Record("catalog"))
	if got, err := read(); err == nil || !strings.Contains(err.Error(), "knows 2 partitions of topic events; events of partition 2") {
		t.Errorf("%s, %v", got, err)
	}
	put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{old, id, anew}}).Record("catalog"))
	if got, err := read(); err == nil || !strings.Contains(err.Error(), "topic events as it was before it was made anew") {
		t.Errorf("%s, %v", got, err)
	}
}
