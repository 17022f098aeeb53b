// Package event is the model of one email event and its decoding from the JSON
// value of a Kafka record (contract 1.1).
package event

// Type is the kind of an event. Its numbers are stored in segments: never
// renumber, only append.
type Type uint8

// The event types of the contract.
const (
	Sent Type = iota
	Delivered
	Opened
	Clicked
	Bounced
	Unsubscribed
	Abuse
	NumTypes
)

var typeNames = [NumTypes]string{"SENT", "DELIVERED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE"}

// String gives the name that input and export use, "SENT" … "ABUSE".
func (t Type) String() string {
	if t < NumTypes {
		return typeNames[t]
	}
	return "INVALID"
}

// Cell is one of the textual columns that every event may carry. The numbers
// are stored in segments: never renumber, only append.
type Cell uint8

// The cells, in the order in which an export shows them.
const (
	ActivityID Cell = iota
	SplitID
	ActivityName
	SplitActivityName
	Sender
	Subject
	Variation
	Device
	Location
	LinkID
	LinkURL
	LinkTitle
	BounceCode
	UnsubscribeTopic
	AbuseSection
	NumCells
)

// Event is a decoded event. All byte slices alias the record's value or the
// decoder's scratch memory: they are valid until the next Decode with the same
// Decoder and must be copied to be kept.
type Event struct {
	Type          Type
	CorrelationID []byte // 1..256 bytes of UTF-8
	AccountID     []byte // 0..1024 bytes of UTF-8
	Section       []byte
	ProfileID     []byte           // the record key where the value names none
	Cells         [NumCells][]byte // empty where absent or not applicable to Type
	EventTime     int64            // ms since the Unix epoch, any value
	ServerTime    int64            // ms since the Unix epoch, 1970-01-01 … 9999-12-31
}
