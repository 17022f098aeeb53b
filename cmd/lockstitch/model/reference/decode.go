// Package reference says what Lockstitch must keep and export, computed from
// dumps of the Kafka topics alone. It is written from the contract and shares no
// code with the product (a test keeps that): slow, all in memory, plain JSON.
//
// It covers what the model test's traffic contains. Texts that are no valid
// UTF-8, numbers of unusual form and the other rules of single cells are left to
// the suites that compare with real clients.
package reference

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Record is one committed data record as it lies in a topic.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Time      int64 // Kafka time, ms
	Key       []byte
	Value     []byte // nil: a tombstone
	Headers   map[string]string
}

var types = []string{"SENT", "DELIVERED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE"}

// lastTime is 9999-12-31T23:59:59.999Z.
const lastTime = 253402300799999

// event is what contract 1.1 reads from a record.
type event struct {
	account, kind, correlation, section, profile string
	serverTime                                   int64
	cells                                        map[string]string
}

// object parses one JSON object; null members are absent ones.
func object(value []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows the object")
	}
	o, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("no object")
	}
	for k, v := range o {
		if v == nil {
			delete(o, k)
		}
	}
	return o, nil
}

// fields reads members by their kinds and keeps the first complaint.
type fields struct {
	o   map[string]any
	err error
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

func (f *fields) text(name string) string {
	switch v := f.o[name].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		f.fail("%s is no string", name)
		return ""
	}
}

// id is a string or an integer.
func (f *fields) id(name string) string {
	if n, ok := f.o[name].(json.Number); ok {
		if !integer(n) {
			f.fail("%s is no integer", name)
		}
		return n.String()
	}
	return f.text(name)
}

func (f *fields) time(name string, least, most, absent int64) int64 {
	v, ok := f.o[name]
	if !ok {
		return absent
	}
	n, ok := v.(json.Number)
	if !ok || !integer(n) {
		f.fail("%s is no integer", name)
		return 0
	}
	t, err := n.Int64()
	if err != nil || t < least || t > most {
		f.fail("%s is out of range", name)
	}
	return t
}

func integer(n json.Number) bool { return !strings.ContainsAny(n.String(), ".eE") }

// decodeEvent reads an event; an error means that the record is poison.
func decodeEvent(r Record) (*event, error) {
	o, err := object(r.Value)
	if err != nil {
		return nil, err
	}
	f := &fields{o: o}
	e := &event{
		account: f.text("account_id"), kind: f.text("type"), correlation: f.text("correlation_id"),
		section: f.text("section"), profile: f.text("profile_id"), cells: make(map[string]string),
	}
	for _, name := range columns {
		switch name {
		case "address", "event_time", "server_time":
		case "activity_id", "split_id", "link_id", "bounce_code":
			e.cells[name] = f.id(name)
		default:
			e.cells[name] = f.text(name)
		}
	}
	if _, ok := o["split_id"]; !ok {
		e.cells["split_id"] = e.cells["activity_id"]
	}
	if _, ok := o["profile_id"]; !ok {
		e.profile = string(r.Key)
	}
	e.cells["event_time"] = fmt.Sprint(f.time("event_time", -1<<63, 1<<63-1, 0))
	e.serverTime = f.time("server_time", 0, lastTime, r.Time)
	e.cells["server_time"] = fmt.Sprint(e.serverTime)
	for _, name := range []string{"correlation_id", "type", "account_id", "section"} {
		if _, ok := o[name]; !ok {
			f.fail("%s is missing", name)
		}
	}
	if n := len(e.correlation); n < 1 || n > 256 {
		f.fail("correlation_id has %d bytes", n)
	}
	if n := len(e.account); n > 1024 {
		f.fail("account_id has %d bytes", n)
	}
	if !slices.Contains(types, e.kind) {
		f.fail("unknown type %q", e.kind)
	}
	for name, kinds := range only {
		if !slices.Contains(kinds, e.kind) {
			e.cells[name] = ""
		}
	}
	return e, f.err
}

// snapshot is what contract 1.2 reads from a profile record.
type snapshot struct {
	account    string
	attributes map[string]map[string]string // section → version id → text
	tags       map[string][]string          // section → version ids
	audiences  []string
}

// decodeProfile reads a version of a profile; nil is a deletion, an error means
// that the record is poison (and a deletion as well).
func decodeProfile(r Record) (*snapshot, error) {
	if r.Value == nil {
		return nil, nil
	}
	if _, err := object(r.Value); err != nil {
		return nil, err
	}
	var p struct {
		Account  *string `json:"account_id"`
		ID       *string `json:"profile_id"`
		Sections map[string]struct {
			Attributes map[string]any `json:"attributes"`
			Tags       []string       `json:"tags"`
		} `json:"sections"`
		Segments []string `json:"segments"`
	}
	if err := json.Unmarshal(r.Value, &p); err != nil {
		return nil, err
	}
	if p.Account == nil || p.ID != nil && *p.ID != string(r.Key) {
		return nil, fmt.Errorf("no account, or another profile")
	}
	s := &snapshot{account: *p.Account, attributes: make(map[string]map[string]string), tags: make(map[string][]string), audiences: p.Segments}
	for name, sec := range p.Sections {
		s.attributes[name] = make(map[string]string)
		for version, v := range sec.Attributes {
			if text, ok := v.(string); ok { // the traffic has texts, and values that are left out
				s.attributes[name][version] = text
			}
		}
		s.tags[name] = sec.Tags
	}
	return s, nil
}
