package objects

import "cmp"

// tooMany failures in a row are not those of single objects: the store is away.
const tooMany = 30

// Failures are those of work on many objects: one that cannot be deleted, say, holds up
// no other. Work in another order each time does not fail at the same ones for ever.
type Failures struct {
	First error // nil: nothing has failed
	row   int
}

// Add notes how the work on one has ended, and tells whether to leave the rest for later.
func (f *Failures) Add(err error) (enough bool) {
	if err == nil {
		f.row = 0
		return false
	}
	f.First = cmp.Or(f.First, err)
	f.row++
	return f.row == tooMany
}
