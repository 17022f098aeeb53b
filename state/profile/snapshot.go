// Package profile is the model of one version of a profile (contract 1.2): its
// decoding from the JSON value of a Kafka record into a Snapshot.
package profile

// Snapshot is one version of a profile in a canonical binary form that starts
// with a format version byte; equal profiles have equal bytes. A nil Snapshot
// stands for a deleted or absent profile. The bytes are immutable.
//
// Layout, in encode.go; accessors, in read.go. They allocate nothing, and what
// they return aliases the Snapshot. Bytes that come from outside (a disk) must
// have passed Check; on bytes that have, or that Decode made, no accessor
// fails.
type Snapshot []byte

// ValueKind tells how an attribute's value was written in JSON.
type ValueKind uint8

// The kinds of attribute values; stored in snapshots and segments, never
// renumbered.
const (
	Text   ValueKind = iota // a JSON string; Raw is its decoded text
	Number                  // a JSON number; Raw is its literal, unchanged
	True                    // JSON true; Raw is empty
	False                   // JSON false; Raw is empty
	numKinds
)

// Value is an attribute's value. Raw aliases the Snapshot or Slice it was read
// from.
type Value struct {
	Kind ValueKind
	Raw  []byte
}
