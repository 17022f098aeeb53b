package report

import (
	"slices"
	"time"
)

// A standing order makes reports, its steps, one after the other: each exports
// what was kept between the end of the step before and the boundary of the next
// period. The records of an order lie in its account's partition like those of
// the reports; <id> is the order's id, new at each creation.
//
//	o/<id>          Order, written once (of two with one name the lowest offset counts)
//	u/<id>          Change of its settings (the newest counts)
//	p/<id>          Pause (the newest counts)
//	e/<id>          Trouble (the newest counts; only for the settings it names)
//	v/<id>          Delivered (the newest counts)
//	d/<id>/<write>  Deletion (the lowest offset counts)
//
// The steps are requests, q/<report id>, with Request.Step. Of two requests for
// the same step the lowest offset counts and the other is void, so that the
// request itself fixes the boundary, and two replicas that both think the order
// is theirs make each file once.
const (
	KeyOrder     = "o/"
	KeyChange    = "u/"
	KeyPause     = "p/"
	KeyTrouble   = "e/"
	KeyDelivered = "v/"
	KeyDeletion  = "d/"
)

// Order is the creation of a standing order.
type Order struct {
	Version   int       `json:"v"`
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"` // in a view: not later than by Kafka's clock
	// From is where the first file begins: the ends that were read at the
	// creation. Empty: at the oldest data kept.
	From     []End    `json:"from,omitempty"`
	Settings Settings `json:"settings"`
	// MaxOrders is how many orders the account, this one included, may have; the
	// order is void if there were as many before it. 0: no limit. CreateOrder
	// sets it.
	MaxOrders int `json:"max_orders,omitempty"`
}

// Settings are what a change of an order replaces.
type Settings struct {
	Revision    string        `json:"revision"` // a ULID, new at each change
	Every       time.Duration `json:"every"`    // between two boundaries
	EmptyFiles  bool          `json:"empty_files,omitempty"`
	Destination string        `json:"destination,omitempty"`
	Body        []byte        `json:"body"` // the request's JSON as accepted: filter, mappings, resolved anew for each step
}

// Change replaces the settings of an order.
type Change struct {
	Version  int      `json:"v"`
	Settings Settings `json:"settings"`
}

// Pause stops an order before its next step, or lets it go on.
type Pause struct {
	Version int  `json:"v"`
	Paused  bool `json:"paused"`
}

// Trouble is why an order makes no further step until it is changed. An order
// whose newest step ended in an error needs no record of that.
type Trouble struct {
	Version  int       `json:"v"`
	Revision string    `json:"revision"` // of the settings that it comes from
	At       time.Time `json:"at"`
	Problem  Problem   `json:"problem"`
}

// Delivered says up to which file an order's destination has everything, but for those
// that were passed over: made when the order had no destination, or not delivered yet
// when it lost that.
type Delivered struct {
	Version int     `json:"v"`
	Number  int64   `json:"number"`
	Passed  []Files `json:"passed,omitempty"` // in order, at most maxPassed
}

// Files are the files of an order from one number to another.
type Files struct {
	First int64 `json:"first"`
	Last  int64 `json:"last"`
}

// maxPassed bounds what is known of files that were passed over. Beyond it the oldest
// two stretches become one, with what lies between: better too few are said to be
// delivered.
const maxPassed = 100

// upTo is what is delivered once the file number is, the first after those of d.
func (d Delivered) upTo(number int64) Delivered {
	out := Delivered{Version: Version, Number: number, Passed: slices.Clone(d.Passed)}
	if d.Number+1 < number {
		out.Passed = append(out.Passed, Files{d.Number + 1, number - 1})
	}
	if len(out.Passed) > maxPassed {
		out.Passed[1].First = out.Passed[0].First
		out.Passed = out.Passed[1:]
	}
	return out
}

// Has tells whether the file was written to the destination.
func (d *Delivered) Has(number int64) bool {
	return number <= d.Number && !slices.ContainsFunc(d.Passed, func(p Files) bool {
		return p.First <= number && number <= p.Last
	})
}

// Deletion ends an order.
type Deletion struct {
	Version int       `json:"v"`
	At      time.Time `json:"at"` // in a view: by Kafka's clock
}

// Step makes a request a step of a standing order.
type Step struct {
	Order string `json:"order"` // id
	Name  string `json:"name"`
	// Seq counts the attempts at files of the order, from 1. Files counts the
	// files that were finished before: if this step makes one, its number is
	// Files + 1.
	Seq         int64     `json:"seq"`
	Files       int64     `json:"files"`
	PeriodStart time.Time `json:"period_start,omitzero"` // zero: the oldest data kept
	PeriodEnd   time.Time `json:"period_end"`            // a boundary
	Revision    string    `json:"revision"`              // of the settings that it was made by
	EmptyFiles  bool      `json:"empty_files,omitempty"`
	Deliver     bool      `json:"deliver,omitempty"` // its file goes to the order's destination
}

// Standing is what is known of a standing order at one moment. What it points
// to is never changed.
type Standing struct {
	Order     *Order
	Settings  Settings // those that count
	Paused    bool
	Trouble   *Trouble  // why it is stopped until it is changed; nil: it is not
	Delivered Delivered // zero: nothing yet
	Deleted   bool
	// Last is the newest step that succeeded, Newest the newest of all; nil:
	// none yet.
	Last, Newest *Report
}

// Files is the number of the last finished file.
func (s *Standing) Files() int64 {
	if s.Last == nil {
		return 0
	}
	return s.Last.Files()
}

// Seq is the number of the newest step.
func (s *Standing) Seq() int64 {
	if s.Newest == nil {
		return 0
	}
	return s.Newest.Request.Step.Seq
}

// Undelivered tells whether the last file is still to go to the order's
// destination. No step is made before it is there, so there is never more than
// one. A file that was made before the order had a destination stays where it
// is, and one that expired while it had none is gone.
func (s *Standing) Undelivered() bool {
	return s.Last != nil && s.Last.MadeFile() && !s.Last.Expired && s.Last.Request.Step.Deliver &&
		s.Settings.Destination != "" && s.Delivered.Number < s.Last.Files()
}

// Files counts a step's order's files up to the step: its file's number, if it
// made one.
func (r *Report) Files() int64 {
	if r.MadeFile() {
		return r.Request.Step.Files + 1
	}
	return r.Request.Step.Files
}

// MadeFile tells whether there was a file when the report was finished. Steps
// without rows make none unless the order asks for it.
func (r *Report) MadeFile() bool { return r.Result != nil && r.Result.Object != "" }

// Succeeded tells whether the report has a result that is no error.
func (r *Report) Succeeded() bool { return r.Result != nil && r.Result.Problem == nil }
