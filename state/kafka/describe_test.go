package kafka_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
)

// TestDescribeWaitsForNoBrokerThatStandsStill: every call of the API asks for the ids
// of topics, and the library would wait 10 s for the broker that it has chosen.
func TestDescribeWaitsForNoBrokerThatStandsStill(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(1, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var unanswered atomic.Int32
	c.ControlKey(kmsg.Metadata.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		topics := req.(*kmsg.MetadataRequest).Topics
		asked := len(topics) == 1 && topics[0].Topic != nil && *topics[0].Topic == "x"
		return nil, nil, asked && unanswered.Add(1) == 1
	})
	cl := client(t, []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)})
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	infos, err := kafka.Describe(ctx, cl, "x")
	if err != nil || infos["x"].Partitions != 1 {
		t.Errorf("%+v, %v", infos, err)
	}
	if unanswered.Load() < 2 {
		t.Error("no request was left unanswered")
	}
}
