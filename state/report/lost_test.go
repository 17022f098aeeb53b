package report

import (
	"context"
	"errors"
	"log/slog"
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
