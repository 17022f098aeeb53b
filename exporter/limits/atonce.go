package limits

import "sync"

// AtOnce allows every caller a number of calls at the same time.
type AtOnce struct {
	max int

	mu    sync.Mutex
	calls map[string]int // under way; callers that have none are not in it
}

// NewAtOnce makes a limit of n calls at the same time, n >= 1.
func NewAtOnce(n int) *AtOnce { return &AtOnce{max: n, calls: make(map[string]int)} }

// Begin counts a call until end is called, once. If the caller has too many under
// way it says so, and end is nil.
func (a *AtOnce) Begin(name string) (end func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.calls[name] >= a.max {
		return nil, false
	}
	a.calls[name]++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.calls[name]--; a.calls[name] == 0 {
			delete(a.calls, name)
		}
	}, true
}
