package kafka

import (
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
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
