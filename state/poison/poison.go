// Package poison names the ways in which an input record can be unusable
// (contract 1.1). A poisoned record is set aside in the dead-letter topic and
// its lane moves on; nothing in this package is ever a storage failure.
package poison

import "fmt"

// Reason is a stable word: it is the value of the header lockstitch.reason and
// of the metric label reason, and is never renamed.
type Reason string

// The reasons a record can be set aside for.
const (
	NullValue       Reason = "null_value"       // an event without a value
	TooLarge        Reason = "too_large"        // the value is over 1 MiB
	NotJSON         Reason = "not_json"         // not one JSON text: truncated, trailing bytes, bad syntax
	NotObject       Reason = "not_object"       // JSON, but not an object
	TooDeep         Reason = "too_deep"         // nested deeper than 64
	MissingField    Reason = "missing_field"    // a required field is absent or null
	WrongType       Reason = "wrong_type"       // a field has a type that the contract does not allow
	OutOfRange      Reason = "out_of_range"     // a value or a length is outside of its bounds
	UnknownType     Reason = "unknown_type"     // "type" is not one of the seven
	ProfileMismatch Reason = "profile_mismatch" // a profile names another profile_id than its key
	UnknownAccount  Reason = "unknown_account"  // the account is not one of those whose events are kept, see event.Decoder
)

// Reasons are all of them, in that order.
var Reasons = []Reason{NullValue, TooLarge, NotJSON, NotObject, TooDeep, MissingField, WrongType, OutOfRange, UnknownType, ProfileMismatch, UnknownAccount}

// Error says why a record is poison. Detail names the field and what was found
// there, in at most a few hundred bytes; it never repeats the whole value.
type Error struct {
	Reason Reason
	Detail string
}

func (e *Error) Error() string { return string(e.Reason) + ": " + e.Detail }

// New makes an *Error with a formatted detail.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Detail: fmt.Sprintf(format, args...)}
}
