package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// slots are the work slots that the group has given to this replica. The group
// client only does membership: it fetches and commits nothing.
type slots struct {
	cl    *kgo.Client
	count int32
	done  chan struct{}

	mu    sync.Mutex
	owned map[int32]bool
	bell  chan struct{} // closed when owned changes
}

func joinSlots(cfg Config, count int32, log *slog.Logger) (*slots, error) {
	s := &slots{count: count, owned: make(map[int32]bool), bell: make(chan struct{}), done: make(chan struct{})}
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, cfg.Kafka...),
		kgo.ConsumerGroup(cfg.Group),
		kgo.ConsumeTopics(cfg.Topic),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.HeartbeatInterval(cfg.SessionTimeout/4),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { s.set(m[cfg.Topic], true) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { s.set(m[cfg.Topic], false) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { s.set(m[cfg.Topic], false) }),
	)...)
	if err != nil {
		return nil, fmt.Errorf("report runner: %w", err)
	}
	cl.PauseFetchTopics(cfg.Topic)
	s.cl = cl
	go func() {
		defer close(s.done)
		for {
			fetches := cl.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			fetches.EachError(func(topic string, p int32, err error) {
				if !errors.Is(err, context.Canceled) {
					log.Warn("group of the report runners", "topic", topic, "partition", p, "err", err)
				}
			})
		}
	}()
	return s, nil
}

func (s *slots) close() {
	s.cl.Close()
	<-s.done
}

func (s *slots) set(partitions []int32, owned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		if owned {
			s.owned[p] = true
		} else {
			delete(s.owned, p)
		}
	}
	close(s.bell)
	s.bell = make(chan struct{})
}

// mine tells whether a report's slot is this replica's.
func (s *slots) mine(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned[int32(xxhash.Sum64String(id)%uint64(s.count))]
}

// changed returns a channel that is closed when the slots change.
func (s *slots) changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bell
}
