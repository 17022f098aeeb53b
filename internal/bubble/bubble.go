// Package bubble runs tests in virtual time.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// Test is [synctest.Test]. Under the race detector it holds the process to one processor
// while f runs: timers of a bubble that are due run at once on whichever thread asks, all
// with one context of the detector, which two threads at a time ruin. It then reports
// races that are none, of memory that has changed hands, or crashes
// (https://go.dev/issue/78156). It finds by what is ordered and what is not, so that one
// processor hides no race from it.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if raceDetector {
		oneProcessor.enter()
		defer oneProcessor.leave()
	}
	synctest.Test(t, f)
}

// oneProcessor is shared by the bubbles of parallel tests: the last gives back what the
// first found.
var oneProcessor single

type single struct {
	mu     sync.Mutex
	in     int
	before int // GOMAXPROCS
}

func (s *single) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in++; s.in == 1 {
		s.before = runtime.GOMAXPROCS(1)
	}
}

func (s *single) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in--; s.in == 0 {
		runtime.GOMAXPROCS(s.before)
	}
}
