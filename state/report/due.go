package report

import (
	"container/heap"
	"time"
)

// dueQueue holds the entries whose files are to be removed, at once or some day: a
// binary heap by that time. Most reports of a table are in it or were, so that nobody
// may look at all of them to find those that are due.
type dueQueue []*entry

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due().Before(q[j].due()) }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

// Push and Pop are heap's.
func (q *dueQueue) Push(e any) {
	*q = append(*q, e.(*entry))
	e.(*entry).place = len(*q)
}

func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	e.place = 0
	return e
}

// update puts an entry where it belongs since it has changed, or nowhere.
func (q *dueQueue) update(e *entry) {
	switch {
	case e.leavesFiles() && e.place == 0:
		heap.Push(q, e)
	case e.leavesFiles():
		heap.Fix(q, e.place-1)
	default:
		q.remove(e)
	}
}

func (q *dueQueue) remove(e *entry) {
	if e.place > 0 {
		heap.Remove(q, e.place-1)
	}
}

// until calls f for the entries that are due at a time, in no order, and says when the
// next one is; the zero time if none is left.
func (q dueQueue) until(now time.Time, f func(*entry)) (next time.Time) {
	var walk func(i int)
	walk = func(i int) {
		if i >= len(q) {
			return
		}
		if at := q[i].due(); now.Before(at) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			return // those below it are later
		}
		f(q[i])
		walk(2*i + 1)
		walk(2*i + 2)
	}
	walk(0)
	return next
}

// leavesFiles tells whether there may be files of the entry that are to be removed
// once. One that was withdrawn may have been run before and counts as cancelled.
func (e *entry) leavesFiles() bool {
	if e.withdrawn {
		return !e.report.Expired
	}
	_, ever := e.report.filesDue()
	return ever && !e.void
}

// due is when they are, for an entry that leaves files.
func (e *entry) due() time.Time {
	if e.withdrawn {
		return time.Time{}
	}
	at, _ := e.report.filesDue()
	return at
}
