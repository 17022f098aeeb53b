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

// Slots are the work slots that the group has given to this replica: none but
// while the Runner works. The group client only does membership: it fetches and
// commits nothing.
type Slots struct {
	cl   *kgo.Client
	done chan struct{}

	mu    sync.Mutex
	count int32 // of all slots; 0 until the group was joined
	owned map[int32]bool
	bell  chan struct{} // closed when owned changes
}

func newSlots() *Slots {
	return &Slots{owned: make(map[int32]bool), bell: make(chan struct{}), done: make(chan struct{})}
}

// join joins the group, once. count is the number of slots there are.
func (s *Slots) join(cfg Config, count int32, log *slog.Logger) error {
	s.mu.Lock()
	s.count = count
	s.mu.Unlock()
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
		return fmt.Errorf("report runner: %w", err)
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
	return nil
}

// leave leaves the group and gives everything up.
func (s *Slots) leave() {
	s.cl.Close()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.owned)
}

func (s *Slots) set(partitions []int32, owned bool) {
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

// Mine tells whether the slot of a report or of a standing order is this
// replica's.
func (s *Slots) Mine(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		return false // not joined yet
	}
	return s.owned[int32(xxhash.Sum64String(id)%uint64(s.count))]
}

// Changed returns a channel that is closed when the slots change. Take it before
// asking.
func (s *Slots) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bell
}
