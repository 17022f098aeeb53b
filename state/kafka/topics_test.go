package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func fakeClient(t *testing.T) (*kgo.Client, context.Context) {
	t.Helper()
	cl, _, ctx := fakeCluster(t)
	return cl, ctx
}

func fakeCluster(t *testing.T) (*kgo.Client, *kfake.Cluster, context.Context) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return cl, c, ctx
}

// Who may not read the settings of a topic may work with it all the same.
func TestRefusedSettingsAreAFinding(t *testing.T) {
	cl, cluster, ctx := fakeCluster(t)
	topics := DefaultTopics()
	if _, err := Create(ctx, cl, topics, CreateOptions{Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
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
	found, err := Check(ctx, cl, topics)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(topics.layouts()) {
		t.Errorf("%d findings, want one for each of %d topics: %v", len(found), len(topics.layouts()), found)
	}
	for _, f := range found {
		if f.Fatal || f.Setting != "permission" || !strings.Contains(f.String(), "DescribeConfigs") {
			t.Errorf("finding %+v, want one that names the missing permission and stops nothing", f)
		}
	}
}

// A broker learns of a topic some time after the controller has made it; whoever
// starts behind Create must not be told that the topic is missing.
func TestCreateWaitsUntilBrokersKnowTheTopics(t *testing.T) {
	cl, cluster, ctx := fakeCluster(t)
	topics := DefaultTopics()
	behind := 3
	cluster.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		req := kreq.(*kmsg.MetadataRequest)
		if len(req.Topics) != 6 || behind == 0 {
			cluster.KeepControl()
			return nil, nil, false
		}
		if behind--; behind > 0 {
			cluster.KeepControl()
		}
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewMetadataResponseTopic()
			st.Topic, st.ErrorCode = rt.Topic, kerr.UnknownTopicOrPartition.Code
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	if _, err := Create(ctx, cl, topics, CreateOptions{Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	if behind != 0 {
		t.Fatalf("Create returned while a broker had still to learn of the topics")
	}
}

func TestCreateMakesWhatCheckAccepts(t *testing.T) {
	cl, ctx := fakeClient(t)
	topics := DefaultTopics()
	topics.Events = append(topics.Events, "more-events")

	missing, err := Check(ctx, cl, topics)
	if err != nil {
		t.Fatal(err)
	}
	if len(missing) != 7 || !missing[0].Fatal || missing[0].Have != "missing" {
		t.Fatalf("on an empty cluster: %v", missing)
	}
	created, err := Create(ctx, cl, topics, CreateOptions{Partitions: 3, ReplicationFactor: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"email-events", "more-events", "profiles", "definitions", "lockstitch.catalog", "lockstitch.reports", "lockstitch.dead-letters"}
	if !slices.Equal(created, want) {
		t.Fatalf("created %v, want %v", created, want)
	}
	found, err := Check(ctx, cl, topics)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 0 {
		t.Fatalf("after Create: %v", found)
	}
	again, err := Create(ctx, cl, topics, CreateOptions{Partitions: 3, ReplicationFactor: 1})
	if err != nil || len(again) != 0 {
		t.Fatalf("a second Create made %v, err %v", again, err)
	}
	infos, err := Describe(ctx, cl, created...)
	if err != nil {
		t.Fatal(err)
	}
	for topic, n := range map[string]int32{"email-events": 3, "profiles": 3, "definitions": 1, "lockstitch.catalog": 1, "lockstitch.reports": DefaultReportPartitions} {
		if infos[topic].Partitions != n {
			t.Errorf("%s has %d partitions, want %d", topic, infos[topic].Partitions, n)
		}
	}
}

// What cuts and reports replace is compacted before it is much to read at a start.
// Topics of before that work, and Check says what they cost.
func TestObsoleteRecordsAreCompactedSoon(t *testing.T) {
	cl, ctx := fakeClient(t)
	topics := DefaultTopics()
	adm := kadm.NewClient(cl)
	if _, err := Create(ctx, cl, topics, CreateOptions{Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	described, err := adm.DescribeTopicConfigs(ctx, topics.Catalog, topics.Reports)
	if err != nil || len(described) != 2 {
		t.Fatal(described, err)
	}
	for _, rc := range described {
		have := make(map[string]string)
		for _, c := range rc.Configs {
			have[c.Key] = c.MaybeValue()
		}
		if have["max.compaction.lag.ms"] != "86400000" || have["segment.bytes"] != "67108864" || have["delete.retention.ms"] != "604800000" {
			t.Errorf("%s: %v", rc.Name, have)
		}
	}
	// Kafka's defaults.
	if _, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{
		{Op: kadm.SetConfig, Name: "max.compaction.lag.ms", Value: kadm.StringPtr("9223372036854775807")},
		{Op: kadm.SetConfig, Name: "segment.bytes", Value: kadm.StringPtr("1073741824")},
	}, topics.Catalog, topics.Reports); err != nil {
		t.Fatal(err)
	}
	found, err := Check(ctx, cl, topics)
	if err != nil || len(found) != 4 {
		t.Fatalf("%v %v", found, err)
	}
	for i, f := range found {
		if f.Topic != []string{topics.Catalog, topics.Reports}[i/2] || f.Setting != []string{"max.compaction.lag.ms", "segment.bytes"}[i%2] || f.Fatal || f.Cost != costObsolete {
			t.Errorf("%v, fatal %v", f, f.Fatal)
		}
	}
}

// TestReportsTopicOfEarlierDeployments has 4 partitions, which must never change.
func TestReportsTopicOfEarlierDeployments(t *testing.T) {
	cl, ctx := fakeClient(t)
	topics := DefaultTopics()
	if _, err := Create(ctx, cl, topics, CreateOptions{Partitions: 2, ReplicationFactor: 1, ReportPartitions: 4}); err != nil {
		t.Fatal(err)
	}
	created, err := Create(ctx, cl, topics, CreateOptions{Partitions: 2, ReplicationFactor: 1})
	if err != nil || len(created) != 0 {
		t.Errorf("a second Create made %v, err %v", created, err)
	}
	infos, err := Describe(ctx, cl, topics.Reports)
	if err != nil || infos[topics.Reports].Partitions != 4 {
		t.Errorf("%d partitions, err %v", infos[topics.Reports].Partitions, err)
	}
	if found, err := Check(ctx, cl, topics); err != nil || len(found) != 0 {
		t.Errorf("found %v, err %v", found, err)
	}
}

func TestCheckSaysWhatDiffersAndWhatItCosts(t *testing.T) {
	cl, ctx := fakeClient(t)
	topics := DefaultTopics()
	adm := kadm.NewClient(cl)
	for topic, n := range map[string]int32{"email-events": 3, "profiles": 2, "definitions": 2, "lockstitch.catalog": 2, "lockstitch.reports": 1, "lockstitch.dead-letters": 1} {
		configs := map[string]*string{}
		switch topic {
		case "profiles":
			configs["cleanup.policy"] = kadm.StringPtr("compact,delete")
			configs["min.compaction.lag.ms"] = kadm.StringPtr("86399999")
			configs["delete.retention.ms"] = kadm.StringPtr("86400000")
		case "email-events":
			configs["cleanup.policy"] = kadm.StringPtr("compact")
			configs["retention.ms"] = kadm.StringPtr("1000")
		case "lockstitch.reports", "lockstitch.dead-letters":
			configs["max.message.bytes"] = kadm.StringPtr("1000")
		case "definitions", "lockstitch.catalog":
			configs["delete.retention.ms"] = kadm.StringPtr("86400000")
		}
		if _, err := adm.CreateTopic(ctx, n, 1, configs, topic); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Check(ctx, cl, topics)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]Finding)
	for _, f := range found {
		got[f.Topic+" "+f.Setting] = f
		if f.Cost == "" || !strings.Contains(f.String(), f.Cost) {
			t.Errorf("%v does not say what it costs", f)
		}
	}
	for _, k := range []string{
		"email-events message.timestamp.type", "email-events cleanup.policy", "email-events retention.ms",
		"profiles partitions", "profiles message.timestamp.type", "profiles cleanup.policy", "profiles min.compaction.lag.ms", "profiles delete.retention.ms",
		"definitions partitions", "definitions cleanup.policy", "definitions min.compaction.lag.ms",
		"lockstitch.catalog partitions", "lockstitch.catalog message.timestamp.type", "lockstitch.catalog cleanup.policy",
		"lockstitch.reports message.timestamp.type", "lockstitch.reports cleanup.policy",
		"lockstitch.dead-letters message.timestamp.type", "lockstitch.dead-letters max.message.bytes", "lockstitch.dead-letters retention.ms",
	} {
		if _, ok := got[k]; !ok {
			t.Errorf("not found: %s", k)
		}
	}
	for _, k := range []string{"profiles partitions", "definitions partitions", "lockstitch.catalog partitions"} {
		if !got[k].Fatal {
			t.Errorf("%s should be fatal", k)
		}
	}
	if !found[0].Fatal {
		t.Error("fatal findings should come first")
	}
	// One setting does not cost the same with every topic.
	for k, want := range map[string]string{
		"profiles min.compaction.lag.ms":            costLag,
		"definitions min.compaction.lag.ms":         costLookup,
		"profiles delete.retention.ms":              costTombstone,
		"definitions delete.retention.ms":           costDeleted,
		"lockstitch.catalog delete.retention.ms":    costDeleted,
		"lockstitch.reports max.message.bytes":      costReport,
		"lockstitch.dead-letters max.message.bytes": costMessage,
	} {
		if got[k].Cost != want {
			t.Errorf("%s costs %q, want %q", k, got[k].Cost, want)
		}
	}
	// Partitions can be added and not be taken away.
	if want := "3, as email-events has"; got["profiles partitions"].Want != want {
		t.Errorf("profiles should have %q partitions, want %q", got["profiles partitions"].Want, want)
	}
	if f, ok := got["email-events partitions"]; ok {
		t.Errorf("%v", f)
	}
}

// What a broker says beside the code of a refusal is the only hint at which setting, or
// whose rule, it was.
func TestCreateSaysWhyATopicIsRefused(t *testing.T) {
	cl, cluster, ctx := fakeCluster(t)
	const why = "segment.bytes must be at least 1 GiB here"
	cluster.ControlKey(int16(kmsg.CreateTopics), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		req := kreq.(*kmsg.CreateTopicsRequest)
		if req.Topics[0].Topic != "lockstitch.catalog" {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
		refused := kmsg.NewCreateTopicsResponseTopic()
		refused.Topic, refused.ErrorCode, refused.ErrorMessage = req.Topics[0].Topic, kerr.PolicyViolation.Code, kmsg.StringPtr(why)
		resp.Topics = append(resp.Topics, refused)
		return resp, nil, true
	})
	_, err := Create(ctx, cl, DefaultTopics(), CreateOptions{Partitions: 2, ReplicationFactor: 1})
	if !errors.Is(err, kerr.PolicyViolation) || !strings.Contains(err.Error(), "lockstitch.catalog") || !strings.HasSuffix(err.Error(), why) {
		t.Errorf("%v, want it to name the topic and to end in what the broker says", err)
	}
}

func TestCreateRefusesNoPartitions(t *testing.T) {
	cl, ctx := fakeClient(t)
	if _, err := Create(ctx, cl, DefaultTopics(), CreateOptions{}); err == nil {
		t.Fatal("0 partitions were accepted")
	}
}

// The default number of partitions beside topics that have another one would
// make topics that do not fit together.
func TestCreateMakesNothingThatDoesNotFit(t *testing.T) {
	cl, ctx := fakeClient(t)
	topics := DefaultTopics()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 6, 1, nil, "email-events"); err != nil {
		t.Fatal(err)
	}
	made, err := Create(ctx, cl, topics, CreateOptions{Partitions: 12, ReplicationFactor: 1})
	if err == nil || len(made) > 0 || !strings.Contains(err.Error(), "email-events has 6 partitions") || !strings.Contains(err.Error(), "profiles would get 12") {
		t.Fatalf("made %v, %v", made, err)
	}
	if made, err := Create(ctx, cl, topics, CreateOptions{Partitions: 6, ReplicationFactor: 1}); err != nil || len(made) != 5 {
		t.Fatalf("made %v, %v", made, err)
	}
	// Nothing is missing that the number is about.
	if made, err := Create(ctx, cl, topics, CreateOptions{Partitions: 12, ReplicationFactor: 1}); err != nil || len(made) != 0 {
		t.Fatalf("made %v, %v", made, err)
	}
}

// Most of the replicas know each acknowledged record, or those that are asked may all be
// ones that do not.
func TestCheckFindsAcknowledgementByTooFewCopies(t *testing.T) {
	for copies, least := range map[int]int{3: 2, 4: 2, 5: 3} {
		c, err := kfake.NewCluster(kfake.NumBrokers(copies))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		topics := DefaultTopics()
		if _, err := Create(ctx, cl, topics, CreateOptions{Partitions: 1, ReplicationFactor: int16(copies)}); err != nil {
			t.Fatal(err)
		}
		if found, err := Check(ctx, cl, topics); err != nil || len(found) > 0 {
			t.Fatalf("after Create with %d copies: %v %v", copies, found, err)
		}
		fewer := kadm.AlterConfig{Op: kadm.SetConfig, Name: "min.insync.replicas", Value: kadm.StringPtr(strconv.Itoa(least - 1))}
		if _, err := kadm.NewClient(cl).AlterTopicConfigs(ctx, []kadm.AlterConfig{fewer}, "profiles"); err != nil {
			t.Fatal(err)
		}
		found, err := Check(ctx, cl, topics)
		if err != nil || len(found) != 1 || found[0].Topic != "profiles" || found[0].Setting != "min.insync.replicas" || found[0].Fatal ||
			found[0].Want != fmt.Sprintf("at least %d", least) {
			t.Errorf("%d copies: %v %v", copies, found, err)
		}
	}
}
