package run

import (
	"context"
	"slices"
	"sync"
)

// turns say which file is rendered next. Reports of any account may take long, and steps of
// standing orders are due every period: so one file more may be rendered than reports. The
// reports of an account wait in a queue of their own, and so do its steps; what is free
// goes to the queue of which the fewest are being rendered, of several to the one that has
// waited for longest. However many files an account has, another one's are not behind them.
type turns struct {
	mu      sync.Mutex
	files   int      // how many more may be rendered now,
	reports int      // and how many reports of them
	queues  []*queue // with files, the one first that has waited for longest
}

// queue are the reports, or the steps, of an account that wait or are rendered.
type queue struct {
	account   string
	steps     bool
	waiting   []chan struct{} // each is closed when its turn comes
	rendering int
}

func newTurns(reports int) *turns { return &turns{files: reports + 1, reports: reports} }

// wait returns when it is the turn of a file, which ends with end. An error only when ctx
// has ended.
func (t *turns) wait(ctx context.Context, account string, step bool) (end func(), err error) {
	q, turn := t.join(account, step)
	select {
	case <-turn:
	case <-ctx.Done():
		if t.leave(q, turn) {
			return nil, ctx.Err()
		} // else it has come all the same
	}
	return func() { t.end(q) }, nil
}

func (t *turns) join(account string, step bool) (*queue, chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.queues, func(q *queue) bool { return q.account == account && q.steps == step })
	if i < 0 {
		i = len(t.queues)
		t.queues = append(t.queues, &queue{account: account, steps: step})
	}
	q, turn := t.queues[i], make(chan struct{})
	q.waiting = append(q.waiting, turn)
	t.next()
	return q, turn
}

// leave tells whether the turn had not come, and does not any more.
func (t *turns) leave(q *queue, turn chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(q.waiting, turn)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	t.forget(q)
	return true
}

func (t *turns) end(q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	q.rendering--
	t.count(q, 1)
	// From now on it waits.
	t.queues = append(slices.DeleteFunc(t.queues, func(o *queue) bool { return o == q }), q)
	t.forget(q)
	t.next()
}

// next lets files be rendered while more may be.
func (t *turns) next() {
	for t.files > 0 {
		var least *queue
		for _, q := range t.queues {
			if len(q.waiting) > 0 && (q.steps || t.reports > 0) && (least == nil || q.rendering < least.rendering) {
				least = q
			}
		}
		if least == nil {
			return
		}
		close(least.waiting[0])
		least.waiting = least.waiting[1:]
		least.rendering++
		t.count(least, -1)
	}
}

// count changes how many more may be rendered.
func (t *turns) count(q *queue, more int) {
	t.files += more
	if !q.steps {
		t.reports += more
	}
}

// forget removes a queue that has no files any more.
func (t *turns) forget(q *queue) {
	if len(q.waiting) == 0 && q.rendering == 0 {
		t.queues = slices.DeleteFunc(t.queues, func(o *queue) bool { return o == q })
	}
}
