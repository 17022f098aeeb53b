package report

import "time"

// Status is what the API calls the state of a report (contract section 3).
type Status string

// The statuses of a report.
const (
	StatusRequested  Status = "requested"
	StatusProcessing Status = "processing"
	StatusCompleted  Status = "completed"
	StatusError      Status = "error"
	StatusCancelled  Status = "cancelled"
	StatusExpired    Status = "expired"
)

// Statuses are all of them.
var Statuses = []Status{StatusRequested, StatusProcessing, StatusCompleted, StatusError, StatusCancelled, StatusExpired}

// Report is what is known of an accepted export at one moment. It and all it
// points to are never changed.
type Report struct {
	Request  *Request
	Progress *Progress // nil: nobody has said anything yet
	// Result is the outcome that counts: the first one, unless a cancel came
	// before it. nil: none.
	Result *Result
	// Cancelled: somebody wished to cancel the report or to remove its file;
	// which of the two it was, Status says.
	Cancelled   bool
	CancelledAt time.Time
	// Expired: the files are gone from the store.
	Expired bool
	// Offset is the offset of the request in its partition: of two reports of
	// an account the later one has the greater offset.
	Offset int64
}

// Pending tells whether the report still waits for its result.
func (r *Report) Pending() bool { return r.Result == nil && !r.Cancelled }

// Status is the report's state at a time.
func (r *Report) Status(now time.Time) Status {
	switch {
	case r.Result == nil && r.Cancelled:
		return StatusCancelled
	case r.Result == nil && r.Progress != nil:
		return StatusProcessing
	case r.Result == nil:
		return StatusRequested
	case r.Result.Problem != nil:
		return StatusError
	case r.Cancelled || r.Expired || !now.Before(r.Result.Expires):
		return StatusExpired
	}
	return StatusCompleted
}

// HasFiles tells whether there may be files of the report that nobody may
// download any more: it was cancelled or has expired, and they have not been
// removed yet.
func (r *Report) HasFiles(now time.Time) bool {
	at, ever := r.filesDue()
	return ever && !now.Before(at)
}

// filesDue is from when on HasFiles is true: the zero time if it is already. False if
// it never is, as far as is known.
func (r *Report) filesDue() (at time.Time, ever bool) {
	switch {
	case r.Expired, r.Result == nil && !r.Cancelled:
		return time.Time{}, false
	case r.Result != nil && (r.Result.Problem != nil || r.Request.Step != nil && !r.MadeFile()):
		return time.Time{}, false
	case r.Cancelled:
		return time.Time{}, true
	}
	return r.Result.Expires, true
}

// over is when nothing about the report could change any more: the zero time
// while it is pending.
func (r *Report) over() time.Time {
	switch {
	case r.Result == nil && r.Cancelled:
		return r.CancelledAt
	case r.Result == nil:
		return time.Time{}
	}
	end := later(r.Result.At, r.Result.Expires)
	if r.Cancelled && r.CancelledAt.Before(end) { // its file was deleted
		return later(r.Result.At, r.CancelledAt)
	}
	return end
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
