package api

import "golang.org/x/sync/semaphore"

// memory is what calls that add up activities may take together, in bytes.
type memory struct {
	size int64
	free *semaphore.Weighted
}

func newMemory(size int64) *memory { return &memory{size, semaphore.NewWeighted(size)} }

// share is what one call has taken of it. It is not for concurrent use.
type share struct {
	of   *memory
	used int64
}

func (m *memory) share() *share { return &share{of: m} }

// take takes n bytes, or gives them back where n is negative. What would not fit if the
// call were alone is too much for good, and what others have taken for a while.
func (s *share) take(n int64) error {
	switch {
	case n < 0:
		s.of.free.Release(-n)
	case s.used+n > s.of.size:
		return kindActivities.problem("The activities do not fit into the memory for them. An activity_id is meant to name a mailing, and a split_id a part of it, not a message: " +
			"are there more of them than there should be? One activity that is asked for by its id may still fit; the operator can raise memory_limit.")
	case !s.of.free.TryAcquire(n):
		return unavailable("Other calls have taken the memory for activities. Try again.")
	}
	s.used += n
	return nil
}

// end gives everything back.
func (s *share) end() {
	s.of.free.Release(s.used)
	s.used = 0
}
