package report

import (
	"maps"
	"slices"
	"time"
)

// What the table takes of every replica's memory, in bytes, beside texts, which are
// counted as they are. BenchmarkMemory measures it, TestSizes holds the sum against it.
const (
	reportSize   = 1450 // a report or a step, with its progress, its result and its places in the maps
	orderSize    = 1000 // a standing order
	positionSize = 76   // a position in one partition
	columnSize   = 80   // an attribute, a tag, a version of an e-mail address, a name in a filter
	mapSize      = 300  // a map that is not empty
)

func sizeOfPositions(at []End) (n int64) {
	for _, e := range at {
		n += positionSize + int64(len(e.Topic))
	}
	return n
}

func sizeOfMap[V any](m map[string]V, size func(V) int64) (n int64) {
	for k, v := range m {
		n += columnSize + int64(len(k)) + size(v)
	}
	if n > 0 {
		n += mapSize
	}
	return n
}

// share makes a question hold with the same memory what it has in common with the one
// before, and returns the size of the rest: the steps of an order are many, and each
// begins with the very position that the one before ended at, and mostly asks for the
// same.
func (q *Question) share(before *Question) (own int64) {
	own = sizeOfPositions(q.Barrier)
	if slices.Equal(q.After, before.Barrier) {
		q.After = before.Barrier
	} else {
		own += sizeOfPositions(q.After)
	}
	if slices.Equal(q.Attributes, before.Attributes) {
		q.Attributes = before.Attributes
	} else {
		for _, a := range q.Attributes {
			own += columnSize + int64(len(a.Section)+len(a.VersionID)+len(a.Name)+len(a.Type))
		}
	}
	if slices.Equal(q.Tags, before.Tags) {
		q.Tags = before.Tags
	} else {
		for _, t := range q.Tags {
			own += columnSize + int64(len(t.Section)+len(t.VersionID)+len(t.Name))
		}
	}
	if maps.EqualFunc(q.Email, before.Email, slices.Equal) {
		q.Email = before.Email
	} else {
		own += sizeOfMap(q.Email, func(versions []EmailVersion) (n int64) {
			for _, v := range versions {
				n += columnSize + int64(len(v.VersionID)+len(v.Type))
			}
			return n
		})
	}
	if q.Filter == before.Filter && maps.Equal(q.Audiences, before.Audiences) {
		q.Filter, q.Audiences = before.Filter, before.Audiences
	} else {
		own += int64(len(q.Filter)) + sizeOfMap(q.Audiences, func(s string) int64 { return int64(len(s)) })
	}
	return own
}

// Size is what a question takes that shares nothing.
func (q Question) Size() int64 { return q.share(&Question{}) }

// Size is what the request takes as a report that shares nothing.
func (q *Request) Size() int64 { return reportSize + q.Question.Size() + q.texts() }

func (q *Request) texts() int64 {
	return int64(2*len(q.Account) + 2*len(q.IdempotencyKey) + len(q.Body) + len(q.BodyHash))
}

// measure brings the sizes up to date with what an entry has become. One that has been
// removed takes nothing.
func (v *view) measure(e *entry) {
	var size int64
	r, q := e.report, e.report.Request
	if v.byID[q.ID] == e {
		size = reportSize + e.own + q.texts()
		if r.Result != nil {
			size += sizeOfPositions(r.Result.Through)
		}
		if r.Progress != nil {
			for _, w := range r.Progress.Waiting {
				size += columnSize + int64(len(w.Topic)+len(w.Reason))
			}
		}
	}
	if q.Step != nil && v.orders[q.Step.Order] != nil {
		v.orders[q.Step.Order].stepsSize += size - e.size
	}
	v.count(q.Account, size-e.size)
	e.size = size
}

// Size is what a standing order takes without its steps.
func (o *Order) Size() int64 {
	return orderSize + sizeOfPositions(o.From) + int64(len(o.Account)+2*len(o.Settings.Body))
}

// measureOrder is measure for a standing order without its steps.
func (v *view) measureOrder(o *order) {
	var size int64
	s := &o.standing
	if v.orders[s.Order.ID] == o {
		size = s.Order.Size() + int64(len(s.Settings.Body)-len(s.Order.Settings.Body))
	}
	v.count(s.Order.Account, size-o.size)
	o.size = size
}

// count adds to what an account takes.
func (v *view) count(account string, more int64) {
	v.size += more
	if v.sizes[account] += more; v.sizes[account] == 0 {
		delete(v.sizes, account)
	}
}

// Plan is what the size of all steps that a standing order will have follows from.
type Plan struct {
	Lifetime  time.Duration // of files
	Positions []End         // one in each partition of the event topics
}

// stepsLast is how much longer than its file a step may be kept: those that are over are
// looked for once an hour.
const stepsLast = time.Hour

// Steps is what an account's standing order with a file for each period holds at the
// most.
func (p Plan) Steps(account string, every time.Duration) int64 {
	kept := int64((p.Lifetime+stepsLast)/every) + 2
	return kept * (reportSize + sizeOfPositions(p.Positions) + int64(2*len(account)))
}

// Sizes are what the reports and standing orders of one account, and of all together,
// take of every replica's memory, in bytes.
type Sizes struct{ Account, All int64 }

// Sizes returns them as the view has them, every standing order with the steps that it
// will hold at the most, or holds if those are more. Those of one that was deleted do not
// count: they go within hours, and one of its kind takes their place.
func (t *Table) Sizes(account string, p Plan) Sizes {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	s := Sizes{t.view.sizes[account], t.view.size}
	for _, o := range t.view.orders {
		owner, more := o.standing.Order.Account, -o.stepsSize
		if o.live() {
			more = max(0, p.Steps(owner, o.standing.Settings.Every)-o.stepsSize)
		}
		if s.All += more; owner == account {
			s.Account += more
		}
	}
	return s
}

// StepsSize is what the steps of a standing order take now.
func (t *Table) StepsSize(id string) int64 {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	if o := t.view.orders[id]; o != nil {
		return o.stepsSize
	}
	return 0
}
