package consumer

import (
	"context"
	"sync"
)

// mailbox holds what other goroutines ask of the turn loop.
type mailbox struct {
	mu    sync.Mutex
	queue []func(ctx context.Context) error
	bell  chan struct{} // rings when something was posted
}

func newMailbox() *mailbox { return &mailbox{bell: make(chan struct{}, 1)} }

// post leaves a message; the loop runs it between two turns.
func (m *mailbox) post(f func(ctx context.Context) error) {
	m.mu.Lock()
	m.queue = append(m.queue, f)
	m.mu.Unlock()
	select {
	case m.bell <- struct{}{}:
	default:
	}
}

func (m *mailbox) take() []func(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	q := m.queue
	m.queue = nil
	return q
}
