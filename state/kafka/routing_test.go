package kafka

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

func TestCheckRoutingFindsKeysAfterPartitionsWereAdded(t *testing.T) {
	cl, ctx := fakeClient(t)
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 2, 1, nil, "profiles"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * routingSample {
		cl.Produce(ctx, &kgo.Record{Topic: "profiles", Key: []byte(strconv.Itoa(i)), Value: []byte("{}")}, nil)
	}
	if err := cl.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(cl.OptValue(kgo.SeedBrokers).([]string)...)}
	found, err := CheckRouting(ctx, opts, "profiles")
	if err != nil || len(found) != 0 {
		t.Fatalf("before: %v, %v", found, err)
	}
	if _, err := adm.CreatePartitions(ctx, 1, "profiles"); err != nil {
		t.Fatal(err)
	}
	found, err = CheckRouting(ctx, opts, "profiles")
	if err != nil || len(found) != 2 {
		t.Fatalf("after a third partition: %v, %v; want findings for the two old ones", found, err)
	}
	if found, err := CheckRouting(ctx, opts, "missing"); err != nil || found != nil {
		t.Fatalf("of a missing topic: %v, %v", found, err)
	}
}

// TestCheckRoutingReadsACompactedLog: the log begins at offset 0 still when none of its
// first records is left, and those that are left at its beginning are strangers.
func TestCheckRoutingReadsACompactedLog(t *testing.T) {
	cl, cluster, ctx := fakeCluster(t)
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 1, 1, map[string]*string{"cleanup.policy": kmsg.StringPtr("compact")}, "profiles"); err != nil {
		t.Fatal(err)
	}
	produce := func(cl *kgo.Client, n int, key func(int) string) {
		t.Helper()
		for i := range n {
			cl.Produce(ctx, &kgo.Record{Topic: "profiles", Key: []byte(key(i)), Value: []byte("{}")}, nil)
		}
		if err := cl.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	produce(cl, 2*routingSample, func(int) string { return "often" })
	produce(cl, routingSample, strconv.Itoa)
	if _, err := adm.CreatePartitions(ctx, 1, "profiles"); err != nil {
		t.Fatal(err)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...)}
	anew, err := kgo.NewClient(opts...) // it knows of both partitions
	if err != nil {
		t.Fatal(err)
	}
	defer anew.Close()
	produce(anew, 3*routingSample, func(i int) string { return "new" + strconv.Itoa(i) })
	cluster.Compact()
	found, err := CheckRouting(ctx, opts, "profiles")
	if err != nil || len(found) != 1 {
		t.Errorf("%v, %v; want one finding, for the first partition", found, err)
	}
}

// TestCheckRoutingTellsSilenceFromNothing: a fetch that is refused, slow or never
// answered is none that brings nothing.
func TestCheckRoutingTellsSilenceFromNothing(t *testing.T) {
	for name, c := range map[string]struct {
		takes    time.Duration
		answer   func(p *kmsg.FetchResponseTopicPartition) // nil: what is there
		findings int
		err      error
	}{
		"slow": {30 * probeAfter, nil, 1, nil}, // longer than a poll waits
		"compacted away": {probeAfter, func(p *kmsg.FetchResponseTopicPartition) {
			p.HighWatermark, p.LastStableOffset = routingSample, routingSample
		}, 0, nil},
		"refused": {0, func(p *kmsg.FetchResponseTopicPartition) {
			p.ErrorCode = kerr.TopicAuthorizationFailed.Code
		}, 0, kerr.TopicAuthorizationFailed},
		"never answered": {time.Hour, nil, 0, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				n := &kfake.VirtualNetwork{}
				cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "profiles"), kfake.Ports(9092), kfake.ListenFn(n.Listen))
				if err != nil {
					t.Fatal(err)
				}
				defer cluster.Close()
				opts := []kgo.Opt{kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.Dialer(n.DialContext)}
				cl, err := kgo.NewClient(opts...)
				if err != nil {
					t.Fatal(err)
				}
				defer cl.Close()
				for i := range routingSample {
					cl.Produce(t.Context(), &kgo.Record{Topic: "profiles", Key: []byte(strconv.Itoa(i)), Value: []byte("{}")}, nil)
				}
				if err := cl.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := kadm.NewClient(cl).CreatePartitions(t.Context(), 1, "profiles"); err != nil {
					t.Fatal(err)
				}
				over, end := context.WithCancel(t.Context())
				defer end()
				cluster.ControlKey(int16(kmsg.Fetch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
					cluster.KeepControl()
					pause(over, c.takes)
					asked := kreq.(*kmsg.FetchRequest).Topics
					if c.answer == nil || len(asked) == 0 {
						return nil, nil, false
					}
					resp := kreq.ResponseKind().(*kmsg.FetchResponse)
					st, sp := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
					st.Topic, st.TopicID = asked[0].Topic, asked[0].TopicID
					c.answer(&sp)
					st.Partitions = append(st.Partitions, sp)
					resp.Topics = append(resp.Topics, st)
					return resp, nil, true
				})
				found, err := CheckRouting(t.Context(), opts, "profiles")
				if len(found) != c.findings || !errors.Is(err, c.err) {
					t.Errorf("%v, %v; want %d findings and %v", found, err, c.findings, c.err)
				}
			})
		})
	}
}
