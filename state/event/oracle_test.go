package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"strings"

	"lockstitch/state/jsonvalue"
	"lockstitch/state/poison"
)

// plain is an Event with its own memory, comparable.
type plain struct {
	typ                              Type
	correlation, account, section, p string
	cells                            [NumCells]string
	eventTime, serverTime            int64
}

func plainOf(ev *Event) plain {
	p := plain{ev.Type, string(ev.CorrelationID), string(ev.AccountID), string(ev.Section), string(ev.ProfileID), [NumCells]string{}, ev.EventTime, ev.ServerTime}
	for c := range ev.Cells {
		p.cells[c] = string(ev.Cells[c])
	}
	return p
}

var integerLiteral = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// oracle reads the contract a second time, on maps made by encoding/json. It
// shares with the decoder only the replacement of invalid UTF-8, which has
// tests of its own.
func oracle(key, value []byte, kafkaTime int64, defaultAccount string) (plain, poison.Reason) {
	var none plain
	switch {
	case len(value) == 0:
		return none, poison.NullValue
	case len(value) > 1<<20:
		return none, poison.TooLarge
	case bracketDepth(value) > 64:
		return none, poison.TooDeep
	}
	text := jsonvalue.Sanitize(value)
	if !json.Valid(text) {
		return none, poison.NotJSON
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var root any
	if err := dec.Decode(&root); err != nil {
		return none, poison.NotJSON
	}
	obj, ok := root.(map[string]any)
	if !ok {
		return none, poison.NotObject
	}
	var reason poison.Reason
	str := func(name string, orInteger bool) (string, bool) {
		switch v := obj[name].(type) {
		case nil:
			return "", false
		case string:
			return v, true
		case json.Number:
			if orInteger && integerLiteral.MatchString(v.String()) {
				return v.String(), true
			}
		}
		if reason == "" {
			reason = poison.WrongType
		}
		return "", false
	}
	fail := func(r poison.Reason) {
		if reason == "" {
			reason = r
		}
	}
	required := func(name string) string {
		s, ok := str(name, false)
		if !ok {
			fail(poison.MissingField)
		}
		return s
	}
	integer := func(name string, absent int64, lo, hi string) int64 {
		switch v := obj[name].(type) {
		case nil:
			return absent
		case json.Number:
			if !integerLiteral.MatchString(v.String()) {
				fail(poison.WrongType)
				return 0
			}
			n, _ := new(big.Int).SetString(v.String(), 10)
			low, _ := new(big.Int).SetString(lo, 10)
			high, _ := new(big.Int).SetString(hi, 10)
			if n.Cmp(low) < 0 || n.Cmp(high) > 0 {
				fail(poison.OutOfRange)
				return 0
			}
			return n.Int64()
		default:
			fail(poison.WrongType)
			return 0
		}
	}

	var p plain
	p.correlation = required("correlation_id")
	if len(p.correlation) < 1 || len(p.correlation) > 256 {
		fail(poison.OutOfRange)
	}
	name := required("type")
	p.typ = NumTypes
	for t, n := range []string{"SENT", "DELIVERED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE"} {
		if n == name {
			p.typ = Type(t)
		}
	}
	if p.typ == NumTypes {
		fail(poison.UnknownType)
	}
	if account, ok := str("account_id", false); ok {
		if p.account = account; len(account) > 1024 {
			fail(poison.OutOfRange)
		}
	} else if p.account = defaultAccount; defaultAccount == "" {
		fail(poison.MissingField)
	}
	p.section = required("section")
	if id, ok := str("profile_id", false); ok {
		p.p = id
	} else {
		p.p = string(jsonvalue.Sanitize(key))
	}
	cell := func(c Cell, name string, orInteger bool, types ...string) {
		s, _ := str(name, orInteger)
		if len(types) > 0 && !strings.Contains(" "+strings.Join(types, " ")+" ", " "+p.typ.String()+" ") {
			s = ""
		}
		p.cells[c] = s
	}
	cell(ActivityID, "activity_id", true)
	cell(SplitID, "split_id", true)
	if obj["split_id"] == nil {
		p.cells[SplitID] = p.cells[ActivityID]
	}
	cell(ActivityName, "activity_name", false)
	cell(SplitActivityName, "split_activity_name", false)
	cell(Sender, "sender", false)
	cell(Subject, "subject", false)
	cell(Variation, "variation", false)
	p.eventTime = integer("event_time", 0, "-9223372036854775808", "9223372036854775807")
	p.serverTime = integer("server_time", kafkaTime, "0", "253402300799999")
	if p.serverTime < 0 || p.serverTime > 253402300799999 {
		fail(poison.OutOfRange)
	}
	cell(Device, "device", false, "OPENED", "CLICKED")
	cell(Location, "location", false, "OPENED", "CLICKED")
	cell(LinkID, "link_id", true, "CLICKED")
	cell(LinkURL, "link_url", false, "CLICKED")
	cell(LinkTitle, "link_title", false, "CLICKED")
	cell(BounceCode, "bounce_code", true, "BOUNCED")
	cell(UnsubscribeTopic, "unsubscribe_topic", false, "UNSUBSCRIBED")
	cell(AbuseSection, "abuse_section", false, "ABUSE")
	if reason != "" {
		return none, reason
	}
	return p, ""
}

// bracketDepth is the greatest depth of brackets outside of strings.
func bracketDepth(b []byte) int {
	depth, deepest := 0, 0
	for i, quoted := 0, false; i < len(b); i++ {
		switch {
		case b[i] == '"':
			quoted = !quoted
		case quoted && b[i] == '\\':
			i++
		case quoted:
		case b[i] == '{' || b[i] == '[':
			depth++
			deepest = max(deepest, depth)
		case b[i] == '}' || b[i] == ']':
			depth--
		}
	}
	return deepest
}

func (p plain) String() string {
	return fmt.Sprintf("%s %q %q %q %q %q %d %d", p.typ, p.correlation, p.account, p.section, p.p, p.cells, p.eventTime, p.serverTime)
}
