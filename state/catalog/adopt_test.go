package catalog

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// TestRegisterIsCalledOff ends the caller's context when the brokers have gone away
// with the record: whether they wrote it nobody can tell, and a replica that is to
// stop does not wait until they are back.
func TestRegisterIsCalledOff(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "cat", "events"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.AlwaysRetryEOF()}
	v := (&topic{t: t, opts: opts}).open()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		cancel()
		return nil, errors.New("the connection ends"), true
	})
	done := make(chan error, 1)
	go func() { done <- Register(ctx, opts, "cat", v, "events") }()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Register: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Register waits for brokers that do not answer")
	}
}

// TestRegisterDoesNotOvertakeAdopt holds what a replica writes down at its first start
// until the topic has been made anew and adopted: what it knew then counts no more.
func TestRegisterDoesNotOvertakeAdopt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "cat", "events", "profiles"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	v := (&topic{t: t, opts: opts}).open()
	old, err := kafka.Describe(ctx, v.Client(), "events")
	if err != nil {
		t.Fatal(err)
	}
	if err := Register(ctx, opts, "cat", v, "profiles"); err != nil {
		t.Fatal(err)
	}
	var first atomic.Bool
	onItsWay, adopted := make(chan struct{}), make(chan struct{})
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if first.CompareAndSwap(false, true) {
			close(onItsWay)
			c.SleepControl(func() {
				select {
				case <-adopted:
				case <-ctx.Done():
				}
			})
		}
		return nil, nil, false
	})
	done := make(chan error, 1)
	go func() { done <- Register(ctx, opts, "cat", v, "events") }()
	<-onItsWay
	adm := kadm.NewClient(v.Client())
	if _, err := adm.DeleteTopic(ctx, "events"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "events"); err != nil {
		t.Fatal(err)
	}
	topics := kafka.DefaultTopics()
	topics.Catalog, topics.Events, topics.Profiles = "cat", []string{"events"}, "profiles"
	changed, err := Adopt(ctx, opts, topics, slog.New(slog.DiscardHandler))
	if err != nil || len(changed) != 1 {
		t.Fatalf("adopted %v, %v", changed, err)
	}
	close(adopted)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	now, err := kafka.Describe(ctx, v.Client(), "events")
	if err != nil || now["events"] == old["events"] {
		t.Fatalf("%v, was %v: %v", now, old, err)
	}
	if ids := v.Adopted("events"); len(ids) != 1 || ids[0] != segment.TopicID(now["events"].ID) {
		t.Errorf("the ids are %v, want only %v", ids, segment.TopicID(now["events"].ID))
	}
}

// TestAdoptRefusesACatalogThatHasKnownNoTopic: it is not that of the replicas that are to
// take notice.
func TestAdoptRefusesACatalogThatHasKnownNoTopic(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "cat", "other", "events", "profiles"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	v := (&topic{t: t, opts: opts}).open()
	if err := Register(ctx, opts, "cat", v, "events", "profiles"); err != nil {
		t.Fatal(err)
	}
	topics := kafka.DefaultTopics()
	topics.Catalog, topics.Events, topics.Profiles = "other", []string{"events"}, "profiles"
	changed, err := Adopt(ctx, opts, topics, slog.New(slog.DiscardHandler))
	if !errors.Is(err, ErrNeverKnown) || len(changed) > 0 || !strings.Contains(err.Error(), "the catalog other has never known events, profiles; is --catalog-topic right?") {
		t.Errorf("adopted %v, %v", changed, err)
	}
	if ends, err := kafka.Ends(ctx, v.Client(), "other"); err != nil || ends["other"][0].End != 0 {
		t.Errorf("it was written to: %v %v", ends, err)
	}
	topics.Catalog = "cat"
	if changed, err := Adopt(ctx, opts, topics, slog.New(slog.DiscardHandler)); err != nil || len(changed) > 0 {
		t.Errorf("that of the replicas: %v, %v", changed, err)
	}
}
