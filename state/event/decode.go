package event

import (
	"lockstitch/state/jsonvalue"
	"lockstitch/state/poison"
)

// MaxServerTime is the greatest server_time, 9999-12-31T23:59:59.999Z, in ms.
const MaxServerTime = 253402300799999

// MaxCorrelationID is the greatest length of a correlation id in bytes.
const MaxCorrelationID = 256

// MaxAccountID is the greatest length of an account id in bytes: it stands in the
// catalog's record of every segment with rows of the account, JSON-escaped, and a
// record that is too large could never be committed, nor any cut.
const MaxAccountID = 1024

// Decoder turns record values into events. It is for one goroutine; its zero
// value is ready.
type Decoder struct {
	// DefaultAccount is the account of events that name none. Empty: every
	// event must name its account. At most MaxAccountID bytes.
	DefaultAccount string
	// Accounts are those whose events are kept; the events of others are poison. nil:
	// all are kept.
	Accounts map[string]bool

	account []byte // DefaultAccount
	scratch []byte // text that had escapes
	fields  fields
	order   [numFields]field // the known members of events before, in their order
}

// maxScratch bounds the memory that an idle Decoder keeps.
const maxScratch = 64 << 10

// Decode decodes the value of a record into ev, which is overwritten whole. key
// is the record's key (the default of profile_id), kafkaTime its timestamp in
// ms (the default of server_time).
//
// The error is a *poison.Error: the record can never be used. ev is then
// undefined. Where several things are wrong the reason is that of the text as a
// whole (null_value, too_large, too_deep, not_json, not_object, in this order),
// else that of the first wrong field in the order of contract 1.1.
func (d *Decoder) Decode(key, value []byte, kafkaTime int64, ev *Event) error {
	d.begin()
	if len(value) <= jsonvalue.MaxSize && len(key) <= jsonvalue.MaxSize && d.scan(value) && d.build(key, kafkaTime, ev) == nil {
		return nil
	}
	return d.decodeSlow(key, value, kafkaTime, ev)
}

// decodeSlow is the reference for the fast path: it alone says why a record is
// poison.
func (d *Decoder) decodeSlow(key, value []byte, kafkaTime int64, ev *Event) error {
	d.begin()
	if len(value) == 0 {
		return poison.New(poison.NullValue, "the record has no value")
	}
	if err := jsonvalue.CheckKey(key); err != nil {
		return err
	}
	obj, err := jsonvalue.ParseObject(value)
	if err != nil {
		return err
	}
	for name, v := range obj.Members() {
		mark := len(d.scratch)
		f, known := fieldOf(name.Text(&d.scratch))
		d.scratch = d.scratch[:mark]
		if known {
			d.fields[f] = v // the last value of a repeated name counts
		}
	}
	for f := range d.fields {
		if v := &d.fields[f]; v.Kind == jsonvalue.String {
			v.Raw = v.Text(&d.scratch)
		}
	}
	if perr := d.build(key, kafkaTime, ev); perr != nil {
		return perr
	}
	return nil
}

func (d *Decoder) begin() {
	d.fields = fields{}
	if cap(d.scratch) > maxScratch {
		d.scratch = nil
	}
	d.scratch = d.scratch[:0]
	if string(d.account) != d.DefaultAccount {
		d.account = []byte(d.DefaultAccount)
	}
}
