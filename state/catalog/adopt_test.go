package catalog

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
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
	case <-time.After(20 * time.Second):
		t.Fatal("Register waits for brokers that do not answer")
	}
}
