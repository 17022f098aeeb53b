package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

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
