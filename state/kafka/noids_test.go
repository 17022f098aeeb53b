package kafka

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// TestBrokersWithoutTopicIDsAreRefused: with those before 2.8 all topics would have one
// id, and with those before 3.1 every batch would seem to be of a topic made anew. One
// that has the protocol of an old version only shows by a topic that it gives no id.
func TestBrokersWithoutTopicIDsAreRefused(t *testing.T) {
	oldProtocol := kversion.V3_1_0()
	oldProtocol.SetMaxKeyVersion(kmsg.Metadata.Int16(), 9)
	for _, test := range []struct {
		name      string
		versions  *kversion.Versions
		described bool // topics have ids
		created   int  // topics, before it is found out
	}{
		{name: "2.7", versions: kversion.V2_7_0()},
		{name: "3.0", versions: kversion.V3_0_0(), described: true},
		{name: "3.1 with an old protocol", versions: oldProtocol, created: 6},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.MaxVersions(test.versions), kfake.SeedTopics(1, "there"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			refused := func(what string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), "Kafka 3.1 or later is needed") {
					t.Errorf("%s: %v", what, err)
				}
			}
			if _, err := Describe(t.Context(), cl, "there"); !test.described {
				refused("describing", err)
			} else if err != nil {
				t.Error(err)
			}
			topics := DefaultTopics()
			created, err := Create(t.Context(), cl, topics, CreateOptions{Partitions: 2, ReplicationFactor: 1})
			refused("creating", err)
			if len(created) != test.created {
				t.Errorf("created %v", created)
			}
			topics.Events = []string{"there"}
			_, err = Create(t.Context(), cl, topics, CreateOptions{Partitions: 1, ReplicationFactor: 1})
			refused("creating beside a topic that is there", err)
			_, err = Check(t.Context(), cl, topics)
			refused("checking", err)
		})
	}
}
