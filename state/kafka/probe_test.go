package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
)

// TestEmptyAnswer: no error, no batch, and a last stable offset beyond is what a
// broker answers of a stretch that was compacted away, and of records in a remote
// tier that it may not or could not read in time.
func TestEmptyAnswer(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	transact(t, opts, "commits", "x", 3, kgo.TryCommit)
	cl := client(t, opts, kgo.ConsumeTopics("x"))
	cl.PollRecords(t.Context(), 1) // it knows the leader
	infos, err := kafka.Describe(t.Context(), cl, "x")
	if err != nil {
		t.Fatal(err)
	}
	c.ControlKey(kmsg.Fetch.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		resp := r.ResponseKind().(*kmsg.FetchResponse)
		st, sp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		st.Topic, st.TopicID = "x", infos["x"].ID
		sp.HighWatermark, sp.LastStableOffset, sp.LogStartOffset = 4, 4, 0
		st.Partitions = append(st.Partitions, sp)
		resp.Topics = append(resp.Topics, st)
		return resp, nil, true
	})
	for compacted, want := range map[bool]int64{true: 4, false: 0} {
		if past, err := kafka.Probe(t.Context(), cl, cl, kafka.Question{Topic: "x", TopicID: infos["x"].ID, Compacted: compacted}); err != nil || past != want {
			t.Errorf("compacted %v: nothing is to be read up to %d, want %d: %v", compacted, past, want, err)
		}
	}
}
