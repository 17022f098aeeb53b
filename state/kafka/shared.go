package kafka

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Shared lets callers share the answers to a question that all of them have. Who comes
// while it is under way does not get that answer, which may be of before his call, but
// that of the next round, which begins once the one under way has ended, for all who have
// come until then. (singleflight would give him the one under way.) So an answer is never
// older than the call, and however many calls there are, at most one question follows
// another.
type Shared[K comparable, V any] struct {
	ctx context.Context // of all rounds
	end context.CancelCauseFunc
	bg  sync.WaitGroup // the rounds under way

	mu    sync.Mutex
	lines map[K]*line[V]
}

// line are the rounds of one question. There is one while anybody asks it.
type line[V any] struct {
	asked *round[V] // under way, and the next one waits for it; nil: none
	next  *round[V] // nil: nobody has come yet
}

// round is a question asked once.
type round[V any] struct {
	ask     func(context.Context) (V, error)
	waiting int                // callers
	until   time.Time          // their latest deadline
	endless bool               // somebody has none
	cancel  context.CancelFunc // nil: it has not begun
	done    chan struct{}      // closed once there is an answer:
	answer  V
	err     error
}

// holdUp is how long a round is waited for before the next one begins all the same: it
// may have come to a broker that stands still, and who asks anew finds another.
const holdUp = time.Second

// lastWord is how long a caller whose time is up waits for what the question, which has the
// deadline of the last of its callers, has met with: that says more than that time is up.
const lastWord = 50 * time.Millisecond

// NewShared makes one; Close ends it.
func NewShared[K comparable, V any]() *Shared[K, V] {
	s := &Shared[K, V]{lines: make(map[K]*line[V])}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	return s
}

// Do answers the question of a key by an ask, his own or another's, that begins after the
// call. ctx ends only the waiting. The context of ask ends when nobody waits any more, and has
// the latest deadline of those it is asked for, if all have one.
func (s *Shared[K, V]) Do(ctx context.Context, key K, ask func(context.Context) (V, error)) (V, error) {
	r := s.join(ctx, key, ask)
	defer s.leave(r)
	select {
	case <-r.done:
		return r.answer, r.err
	case <-ctx.Done():
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		grace := time.NewTimer(lastWord)
		defer grace.Stop()
		select {
		case <-r.done:
			return r.answer, r.err
		case <-grace.C:
		}
	}
	var none V
	return none, ctx.Err()
}

// Close ends the rounds under way and waits for them. Whoever waits, and whoever comes
// later, gets why.
func (s *Shared[K, V]) Close(why error) {
	s.mu.Lock()
	s.end(why)
	s.mu.Unlock()
	s.bg.Wait()
}

func (s *Shared[K, V]) join(ctx context.Context, key K, ask func(context.Context) (V, error)) *round[V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[key]
	if l == nil {
		l = new(line[V])
		s.lines[key] = l
	}
	if l.next == nil {
		l.next = &round[V]{ask: ask, done: make(chan struct{})}
	}
	r := l.next
	r.waiting++
	if until, is := ctx.Deadline(); !is {
		r.endless = true
	} else if until.After(r.until) {
		r.until = until
	}
	if l.asked == nil {
		s.begin(key, l)
	}
	return r
}

func (s *Shared[K, V]) leave(r *round[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.waiting--; r.waiting == 0 && r.cancel != nil {
		r.cancel()
	}
}

// begin begins the next round if anybody waits for it; mu is held.
func (s *Shared[K, V]) begin(key K, l *line[V]) {
	r := l.next
	l.asked, l.next = nil, nil
	if r == nil || r.waiting == 0 || s.ctx.Err() != nil {
		delete(s.lines, key)
		if r != nil {
			r.err = context.Cause(s.ctx)
			close(r.done)
		}
		return
	}
	l.asked = r
	var ctx context.Context
	if r.endless {
		ctx, r.cancel = context.WithCancel(s.ctx)
	} else {
		ctx, r.cancel = context.WithDeadline(s.ctx, r.until)
	}
	s.bg.Go(func() {
		late := time.AfterFunc(holdUp, func() { s.goOn(key, l, r) })
		defer late.Stop()
		if r.answer, r.err = r.ask(ctx); r.err != nil && s.ctx.Err() != nil {
			r.err = context.Cause(s.ctx)
		}
		close(r.done)
		s.goOn(key, l, r)
	})
}

// goOn lets the round begin that waits for r.
func (s *Shared[K, V]) goOn(key K, l *line[V], r *round[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.asked == r {
		s.begin(key, l)
	}
}
