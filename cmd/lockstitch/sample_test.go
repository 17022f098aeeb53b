package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/kafka"
)

// Records that were sent and are never answered do not keep sample from ending: the
// client library would wait for them until the brokers are back.
func TestSampleEndsWhenItIsCalledOff(t *testing.T) {
	topics := kafka.DefaultTopics()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics.Definitions, topics.Profiles, topics.Events[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make(chan struct{})
	once := sync.OnceFunc(func() { close(sent) })
	c.ControlKey(kmsg.Produce.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		once()
		return nil, nil, true // no answer
	})
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	ended := make(chan int, 1)
	go func() {
		status, _, _ := command(ctx, nil, "sample", "--brokers", c.ListenAddrs()[0])
		ended <- status
	}()
	<-sent
	cancel()
	select {
	case status := <-ended:
		if status == 0 {
			t.Error("sample was called off and says that all is well")
		}
	case <-time.After(30 * time.Second):
		t.Error("sample does not end")
	}
}

// TestSampleAsksForItsBrokers, as those of the environment or a file may be production's.
func TestSampleAsksForItsBrokers(t *testing.T) {
	topics := kafka.DefaultTopics()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics.Definitions, topics.Profiles, topics.Events[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	addr := c.ListenAddrs()[0]
	file := writeFile(t, "lockstitch.yaml", "brokers: ["+addr+"]\n")
	ctx, env := testContext(t), []string{"LOCKSTITCH_BROKERS=" + addr}
	for _, line := range []string{"sample --events 1", "sample --events 1 --config " + file} {
		status, out, errs := command(ctx, env, strings.Fields(line)...)
		if status != 2 || out != "" || !strings.Contains(errs, "name the brokers with --brokers") {
			t.Errorf("%s: exit %d: %s%s", line, status, out, errs)
		}
	}
	if status, out, errs := command(ctx, env, "sample", "--events", "1", "--brokers", addr); status != 0 {
		t.Errorf("exit %d: %s%s", status, out, errs)
	}
}

// As many records as --sample-rate says, whether a tick's share is whole or not.
func TestTrafficKeepsItsRate(t *testing.T) {
	for _, rate := range []int{1, 19, 100} {
		bubble.Test(t, func(t *testing.T) {
			topics := kafka.DefaultTopics()
			n := &kfake.VirtualNetwork{}
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(9092), kfake.ListenFn(n.Listen), kfake.SeedTopics(1, topics.Profiles, topics.Events[0]))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			cl, err := sampleClient([]kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(n.DialContext)})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+50*time.Millisecond)
			defer cancel()
			tr := newTraffic(trafficConfig{Topics: topics, Account: "a", Profiles: 10, Seed: 1})
			if err := tr.stream(ctx, cl, rate); err != nil {
				t.Fatal(err)
			}
			if got := tr.counts.Records; got != 10*rate {
				t.Errorf("%d records in 10 s at %d a second", got, rate)
			}
		})
	}
}
