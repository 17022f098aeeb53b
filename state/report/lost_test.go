package report

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestAWriteEndsWithItsContextAlthoughItsReplyWasLost: the brokers have taken a
// write, the reply is lost, and they stay away.
func TestAWriteEndsWithItsContextAlthoughItsReplyWasLost(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "lockstitch.reports"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	table, err := Open(t.Context(), Config{Opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, Topic: "lockstitch.reports", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		go c.Close()
		return nil, errors.New("the connection breaks"), true
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- table.WriteProgress(ctx, "acme", "00000000000000000000000000", Progress{}) }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("written without a reply")
		}
	case <-time.After(25 * time.Second):
		t.Error("the write does not end")
	}
	table.Close()
}

// TestAWriteThatIsGivenUpTakesNoOtherWithIt: records that wait for a reply of
// the broker's are sent together; who no longer waits for his must not fail those
// of others.
func TestAWriteThatIsGivenUpTakesNoOtherWithIt(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "lockstitch.reports"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	table, err := Open(t.Context(), Config{Opts: []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, Topic: "lockstitch.reports", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		once.Do(func() {
			c.SleepControl(func() {
				close(held)
				<-release
			})
		})
		return nil, nil, false
	})
	write := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() { done <- table.WriteProgress(ctx, "acme", "00000000000000000000000000", Progress{}) }()
		return done
	}
	first := write(t.Context())
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	given := write(ctx)
	other := write(t.Context())
	for table.producer.BufferedProduceRecords() < 3 {
		runtime.Gosched()
	}
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	close(release)
	if err := errors.Join(<-first, <-other); err != nil {
		t.Error(err)
	}
}
