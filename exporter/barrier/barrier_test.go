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
	// A topic that was taken off the list, and what was kept of it before it was made
	// anew; the position in the profiles is none of events.
	before, last := segment.TopicID{9}, segment.TopicID{8}
	put((&catalog.Adopted{Topic: "an earlier one", IDs: []segment.TopicID{before, last}}).Record("catalog"))
	for n, of := range []segment.TopicID{last, before} {
		put((&catalog.FirstEnds{Topic: "an earlier one", TopicID: of, Partition: 0}).Record("catalog"))
		put((&catalog.Position{Topic: "an earlier one", TopicID: of, Partition: 0, Next: 40 + int64(n)}).Record("catalog"))
	}
	put((&catalog.Position{Topic: "profiles", TopicID: segment.TopicID{3}, Partition: 0, Next: 50}).Record("catalog"))
	if got, err := read(); err != nil || got != want+"9/0:41 8/0:40 " {
		t.Fatalf("%s, %v; want %s and the topic that was taken off the list", got, err, want)
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
