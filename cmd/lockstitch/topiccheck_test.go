package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
)

// checkedTopics are those of a cluster, as they should be, and who looks at them.
func checkedTopics(t *testing.T, log io.Writer) (*topicCheck, *kfake.Cluster) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RequestRetries(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	topics := kafka.DefaultTopics()
	if _, err := kafka.Create(testContext(t), cl, topics, kafka.CreateOptions{Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	return newTopicCheck(cl, topics, slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry()), cluster
}

// TestTopicsAreLookedAtAgain and again, and what is wrong with them and that they
// cannot be looked at are told apart.
func TestTopicsAreLookedAtAgain(t *testing.T) {
	said, log := io.Pipe()
	c, cluster := checkedTopics(t, log)
	c.every = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	defer func() {
		cancel()
		said.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	context.AfterFunc(testContext(t), func() { said.Close() })
	lines := bufio.NewScanner(said)
	await := func(words string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), words) {
				return
			}
		}
		t.Fatalf("nothing more is said: %v", lines.Err())
	}
	policy := "delete"
	altered, err := kadm.NewClient(c.asker).AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "cleanup.policy", Value: &policy}}, c.names.Catalog)
	if err != nil || altered[0].Err != nil {
		t.Fatal(err, altered)
	}
	await(`level=ERROR msg="no replica would start with the topics as they are" err="` + c.names.Catalog + ": cleanup.policy is delete")
	cluster.Close()
	await(`level=WARN msg="the topics cannot be looked at"`)
}

// TestTopicsCheckFindsWhatKeepsReplicasFromStarting, as they do themselves.
func TestTopicsCheckFindsWhatKeepsReplicasFromStarting(t *testing.T) {
	ctx := testContext(t)
	c, cluster := checkedTopics(t, io.Discard)
	check := func(when string, want int, says ...string) {
		t.Helper()
		status, out, errs := command(ctx, nil, "topics", "check", "--brokers", strings.Join(cluster.ListenAddrs(), ","))
		if status != want {
			t.Errorf("%s: exit %d: %s%s", when, status, out, errs)
		}
		for _, text := range says {
			if !strings.Contains(out, text) {
				t.Errorf("%s it does not say %q: %s", when, text, out)
			}
		}
	}
	check("as they should be", 0, "all topics are as they should be")
	adm := kadm.NewClient(c.asker)
	for _, topic := range []string{c.names.Catalog, c.names.Reports} {
		for _, policy := range []string{"compact,delete", "compact"} {
			altered, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "cleanup.policy", Value: &policy}}, topic)
			if err != nil || altered[0].Err != nil {
				t.Fatal(err, altered)
			}
			if policy != "compact" {
				check(topic+" expires", 1, "error: "+topic+": cleanup.policy")
			}
		}
	}
	for range 3 {
		if err := c.asker.ProduceSync(ctx, &kgo.Record{Topic: c.names.Catalog, Key: []byte("k"), Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var first kadm.Offsets
	first.AddOffset(c.names.Catalog, 0, 3, -1)
	if done, err := adm.DeleteRecords(ctx, first); err != nil || done.Error() != nil {
		t.Fatal(err, done.Error())
	}
	check("records lost", 1, "error: "+c.names.Catalog+": first offset\n  have: 3\n  want: 0\n")
	if _, err := adm.DeleteTopic(ctx, c.names.Catalog); err != nil {
		t.Fatal(err)
	}
	check("missing", 1, "error: "+c.names.Catalog+": exists")
}

// TestSettingsThatMayNotBeReadAreNotTold: 0 says that they are as they should be.
func TestSettingsThatMayNotBeReadAreNotTold(t *testing.T) {
	c, cluster := checkedTopics(t, io.Discard)
	series := func() int { return testutil.CollectAndCount(c.wrong) }
	if wrong, err := c.look(t.Context()); err != nil || wrong != nil || series() != 2 {
		t.Fatalf("%v, %v, %d series, want the policies of the catalog and the reports", wrong, err, series())
	}
	cluster.ControlKey(int16(kmsg.DescribeConfigs), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.DescribeConfigsRequest)
		resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
		for _, r := range req.Resources {
			res := kmsg.NewDescribeConfigsResponseResource()
			res.ResourceType, res.ResourceName, res.ErrorCode = r.ResourceType, r.ResourceName, kerr.TopicAuthorizationFailed.Code
			resp.Resources = append(resp.Resources, res)
		}
		return resp, nil, true
	})
	if wrong, err := c.look(t.Context()); err != nil || wrong != nil {
		t.Fatal(wrong, err)
	}
	for _, topic := range []string{c.names.Catalog, c.names.Reports} {
		if c.wrong.DeleteLabelValues(topic, "cleanup.policy") {
			t.Errorf("the policy of %s is told, which could not be read", topic)
		}
		if testutil.ToFloat64(c.wrong.WithLabelValues(topic, "permission")) != 1 {
			t.Errorf("that the settings of %s may not be read is not told", topic)
		}
	}
}
