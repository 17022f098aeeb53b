package event

import (
	"math"

	"lockstitch/state/jsonvalue"
	"lockstitch/state/poison"
)

// field numbers the members of an event that are not ignored. The cells come
// first, with their own numbers.
type field uint8

const (
	fCorrelationID field = field(NumCells) + iota
	fType
	fAccountID
	fSection
	fProfileID
	fEventTime
	fServerTime
	numFields
)

// fields holds the last value of each member, strings decoded.
type fields [numFields]jsonvalue.Value

// tableOrder is the order of contract 1.1, in which fields are checked.
var tableOrder = [numFields]field{
	fCorrelationID, fType, fAccountID, fSection, fProfileID,
	field(ActivityID), field(SplitID),
	field(ActivityName), field(SplitActivityName), field(Sender), field(Subject), field(Variation),
	fEventTime, fServerTime,
	field(Device), field(Location),
	field(LinkID), field(LinkURL), field(LinkTitle),
	field(BounceCode), field(UnsubscribeTopic), field(AbuseSection),
}

var fieldNames = [numFields]string{
	ActivityID: "activity_id", SplitID: "split_id", ActivityName: "activity_name",
	SplitActivityName: "split_activity_name", Sender: "sender", Subject: "subject",
	Variation: "variation", Device: "device", Location: "location", LinkID: "link_id",
	LinkURL: "link_url", LinkTitle: "link_title", BounceCode: "bounce_code",
	UnsubscribeTopic: "unsubscribe_topic", AbuseSection: "abuse_section",
	fCorrelationID: "correlation_id", fType: "type", fAccountID: "account_id",
	fSection: "section", fProfileID: "profile_id", fEventTime: "event_time",
	fServerTime: "server_time",
}

func fieldOf(name []byte) (field, bool) {
	switch string(name) {
	case "correlation_id":
		return fCorrelationID, true
	case "type":
		return fType, true
	case "account_id":
		return fAccountID, true
	case "section":
		return fSection, true
	case "profile_id":
		return fProfileID, true
	case "activity_id":
		return field(ActivityID), true
	case "split_id":
		return field(SplitID), true
	case "activity_name":
		return field(ActivityName), true
	case "split_activity_name":
		return field(SplitActivityName), true
	case "sender":
		return field(Sender), true
	case "subject":
		return field(Subject), true
	case "variation":
		return field(Variation), true
	case "event_time":
		return fEventTime, true
	case "server_time":
		return fServerTime, true
	case "device":
		return field(Device), true
	case "location":
		return field(Location), true
	case "link_id":
		return field(LinkID), true
	case "link_url":
		return field(LinkURL), true
	case "link_title":
		return field(LinkTitle), true
	case "bounce_code":
		return field(BounceCode), true
	case "unsubscribe_topic":
		return field(UnsubscribeTopic), true
	case "abuse_section":
		return field(AbuseSection), true
	}
	return 0, false
}

// Bits of fields that may be integers, and of those that must be.
const (
	integerToo  = 1<<ActivityID | 1<<SplitID | 1<<LinkID | 1<<BounceCode
	integerOnly = 1<<fEventTime | 1<<fServerTime
)

// kept has a bit for each cell that events of a type carry.
var kept = [NumTypes]uint32{
	Sent:         always,
	Delivered:    always,
	Opened:       always | 1<<Device | 1<<Location,
	Clicked:      always | 1<<Device | 1<<Location | 1<<LinkID | 1<<LinkURL | 1<<LinkTitle,
	Bounced:      always | 1<<BounceCode,
	Unsubscribed: always | 1<<UnsubscribeTopic,
	Abuse:        always | 1<<AbuseSection,
}

const always = 1<<ActivityID | 1<<SplitID | 1<<ActivityName | 1<<SplitActivityName | 1<<Sender | 1<<Subject | 1<<Variation

// Keeps tells whether events of type t carry cell c; else it is always empty.
func (t Type) Keeps(c Cell) bool {
	return t < NumTypes && kept[t]>>c&1 != 0
}

// ParseType is the Type with the given name, case-sensitive.
func ParseType(name []byte) (Type, bool) {
	switch string(name) {
	case "SENT":
		return Sent, true
	case "DELIVERED":
		return Delivered, true
	case "OPENED":
		return Opened, true
	case "CLICKED":
		return Clicked, true
	case "BOUNCED":
		return Bounced, true
	case "UNSUBSCRIBED":
		return Unsubscribed, true
	case "ABUSE":
		return Abuse, true
	}
	return 0, false
}

// build makes the event out of the fields.
func (d *Decoder) build(key []byte, kafkaTime int64, ev *Event) *poison.Error {
	ev.EventTime, ev.ServerTime = 0, kafkaTime
	ev.AccountID, ev.ProfileID = d.account, nil
	for _, f := range tableOrder {
		v := &d.fields[f]
		if v.Kind <= jsonvalue.Null {
			if f < field(NumCells) {
				ev.Cells[f] = nil
				continue
			}
			if perr := d.absent(f, key, kafkaTime, ev); perr != nil {
				return perr
			}
			continue
		}
		switch v.Kind {
		case jsonvalue.String:
			if integerOnly>>f&1 != 0 {
				return wrongType(f, v)
			}
		case jsonvalue.Integer:
			if (integerToo|integerOnly)>>f&1 == 0 {
				return wrongType(f, v)
			}
		default:
			return wrongType(f, v)
		}
		if f < field(NumCells) {
			ev.Cells[f] = v.Raw
			continue
		}
		if perr := set(f, v.Raw, ev); perr != nil {
			return perr
		}
	}
	if d.Accounts != nil && !d.Accounts[string(ev.AccountID)] {
		return poison.New(poison.UnknownAccount, "account_id is %.100q, which is not among the accounts of the configuration", ev.AccountID)
	}
	if v := d.fields[SplitID]; v.Kind <= jsonvalue.Null {
		ev.Cells[SplitID] = ev.Cells[ActivityID]
	}
	keep := kept[ev.Type]
	for c := Device; c < NumCells; c++ {
		if keep>>c&1 == 0 {
			ev.Cells[c] = nil
		}
	}
	return nil
}

// absent applies the default of a field that is not a cell.
func (d *Decoder) absent(f field, key []byte, kafkaTime int64, ev *Event) *poison.Error {
	switch f {
	case fProfileID:
		ev.ProfileID = jsonvalue.Sanitize(key)
	case fEventTime:
	case fServerTime:
		if kafkaTime < 0 || kafkaTime > MaxServerTime {
			return poison.New(poison.OutOfRange, "server_time is absent and the record's Kafka time %d is not in 0..%d", kafkaTime, int64(MaxServerTime))
		}
	case fAccountID:
		if len(d.account) == 0 {
			return poison.New(poison.MissingField, "account_id is absent and there is no default account")
		}
	default:
		return poison.New(poison.MissingField, "%s is absent", fieldNames[f])
	}
	return nil
}

// set takes over a field that is not a cell and has a right type.
func set(f field, raw []byte, ev *Event) *poison.Error {
	switch f {
	case fCorrelationID:
		if len(raw) == 0 || len(raw) > MaxCorrelationID {
			return poison.New(poison.OutOfRange, "correlation_id has %d bytes, 1 to %d are allowed", len(raw), MaxCorrelationID)
		}
		ev.CorrelationID = raw
	case fType:
		t, ok := ParseType(raw)
		if !ok {
			return poison.New(poison.UnknownType, "type is %q", excerpt(raw))
		}
		ev.Type = t
	case fAccountID:
		if len(raw) > MaxAccountID {
			return poison.New(poison.OutOfRange, "account_id has %d bytes, at most %d are allowed", len(raw), MaxAccountID)
		}
		ev.AccountID = raw
	case fSection:
		ev.Section = raw
	case fProfileID:
		ev.ProfileID = raw
	case fEventTime:
		n, ok := parseInt(raw)
		if !ok {
			return poison.New(poison.OutOfRange, "event_time is %s, which is not a 64-bit integer", excerpt(raw))
		}
		ev.EventTime = n
	case fServerTime:
		n, ok := parseInt(raw)
		if !ok || n < 0 || n > MaxServerTime {
			return poison.New(poison.OutOfRange, "server_time is %s, 0..%d are allowed", excerpt(raw), int64(MaxServerTime))
		}
		ev.ServerTime = n
	}
	return nil
}

func wrongType(f field, v *jsonvalue.Value) *poison.Error {
	want := "a string"
	if integerOnly>>f&1 != 0 {
		want = "an integer"
	} else if integerToo>>f&1 != 0 {
		want = "a string or an integer"
	}
	return poison.New(poison.WrongType, "%s is %s, %s is needed", fieldNames[f], v.Kind, want)
}

func excerpt(b []byte) []byte {
	if len(b) > 64 {
		return b[:64]
	}
	return b
}

// parseInt is the value of an integer literal of JSON, false where it does not
// fit into 64 bits. "-0" is 0.
func parseInt(b []byte) (int64, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n uint64 // 19 digits fit
	for _, c := range b {
		n = n*10 + uint64(c-'0')
	}
	if neg {
		if n > 1<<63 {
			return 0, false
		}
		return -int64(n), true
	}
	if n > math.MaxInt64 {
		return 0, false
	}
	return int64(n), true
}
