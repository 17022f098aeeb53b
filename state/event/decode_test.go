package event

import (
	"errors"
	"strings"
	"testing"

	"lockstitch/state/poison"
)

const kafkaTime = 1700000000000

// decodeBoth decodes on both paths and compares them with the oracle.
func decodeBoth(t *testing.T, account, key, value string) (plain, *poison.Error) {
	t.Helper()
	var k, v []byte
	if key != "" {
		k = []byte(key)
	}
	if value != "" {
		v = []byte(value)
	}
	return decodeAll(t, account, k, v, kafkaTime)
}

func decodeAll(t *testing.T, account string, key, value []byte, at int64) (plain, *poison.Error) {
	t.Helper()
	var out [2]plain
	var errs [2]*poison.Error
	for i := range out {
		d := Decoder{DefaultAccount: account}
		// What an event before left behind must not shine through.
		ev := Event{Type: Abuse, CorrelationID: []byte("old"), AccountID: []byte("old"), Section: []byte("old"), ProfileID: []byte("old"), EventTime: 7, ServerTime: 7}
		for c := range ev.Cells {
			ev.Cells[c] = []byte("old")
		}
		decode := d.Decode
		if i == 1 {
			decode = d.decodeSlow
		}
		if err := decode(key, value, at, &ev); err != nil {
			if !errors.As(err, &errs[i]) {
				t.Fatalf("not a poison error: %v", err)
			}
			continue
		}
		out[i] = plainOf(&ev)
	}
	if (errs[0] == nil) != (errs[1] == nil) || errs[0] != nil && *errs[0] != *errs[1] {
		t.Fatalf("fast path: %v, slow path: %v", errs[0], errs[1])
	}
	if out[0] != out[1] {
		t.Fatalf("fast path: %v\nslow path: %v", out[0], out[1])
	}
	want, reason := oracle(key, value, at, account)
	switch {
	case errs[0] == nil && reason != "":
		t.Fatalf("accepted %v, the oracle says %s", out[0], reason)
	case errs[0] != nil && errs[0].Reason != reason:
		t.Fatalf("refused with %v, the oracle says %q", errs[0], reason)
	case errs[0] == nil && out[0] != want:
		t.Fatalf("got  %v\nwant %v", out[0], want)
	}
	if errs[0] != nil && (errs[0].Detail == "" || len(errs[0].Detail) > 400) {
		t.Fatalf("detail of %d bytes: %q", len(errs[0].Detail), errs[0].Detail)
	}
	return out[0], errs[0]
}

const base = `"correlation_id":"c1","type":"SENT","account_id":"acme","section":"s1"`

func TestDecodeAllFields(t *testing.T) {
	cells := `"activity_id":1,"split_id":"two","activity_name":"an","split_activity_name":"sn","sender":"se","subject":"su","variation":"v",` +
		`"device":"d","location":"l","link_id":3,"link_url":"u","link_title":"t","bounce_code":550,"unsubscribe_topic":"ut","abuse_section":"as"`
	everywhere := []Cell{ActivityID, SplitID, ActivityName, SplitActivityName, Sender, Subject, Variation}
	want := [NumCells]string{"1", "two", "an", "sn", "se", "su", "v", "d", "l", "3", "u", "t", "550", "ut", "as"}
	for typ, own := range map[Type][]Cell{
		Sent: nil, Delivered: nil, Opened: {Device, Location},
		Clicked: {Device, Location, LinkID, LinkURL, LinkTitle},
		Bounced: {BounceCode}, Unsubscribed: {UnsubscribeTopic}, Abuse: {AbuseSection},
	} {
		got, perr := decodeBoth(t, "", "k", `{"correlation_id":"c","type":"`+typ.String()+`","account_id":"a","section":"s","profile_id":"p","event_time":-5,"server_time":6,`+cells+`}`)
		if perr != nil {
			t.Fatal(perr)
		}
		exp := plain{typ: typ, correlation: "c", account: "a", section: "s", p: "p", eventTime: -5, serverTime: 6}
		for _, c := range append(everywhere, own...) {
			exp.cells[c] = want[c]
		}
		if got != exp {
			t.Errorf("%s:\ngot  %v\nwant %v", typ, got, exp)
		}
	}
}

func TestDecodeAccepts(t *testing.T) {
	digits40 := "1234567890123456789012345678901234567890"
	for _, c := range []struct {
		name, account, key, value string
		want                      func(*plain)
	}{
		{"defaults", "", "k", `{` + base + `}`, func(p *plain) { p.p = "k" }},
		{"no key", "", "", `{` + base + `}`, func(p *plain) {}},
		{"key with invalid UTF-8", "", "k\xF0\x9F", `{` + base + `}`, func(p *plain) { p.p = "k\uFFFD" }},
		{"null is absent", "", "k", `{` + base + `,"profile_id":null,"event_time":null,"server_time":null,"split_id":null,"activity_id":"x","device":null}`,
			func(p *plain) { p.p, p.cells[ActivityID], p.cells[SplitID] = "k", "x", "x" }},
		{"empty split_id is not absent", "", "", `{` + base + `,"split_id":"","activity_id":"x"}`, func(p *plain) { p.cells[ActivityID] = "x" }},
		{"empty profile_id is not absent", "", "k", `{` + base + `,"profile_id":""}`, func(p *plain) {}},
		{"default account", "dflt", "", `{"correlation_id":"c1","type":"SENT","section":"s1"}`, func(p *plain) { p.account = "dflt" }},
		{"account over the default", "dflt", "", `{` + base + `}`, func(p *plain) {}},
		{"null account", "dflt", "", `{"account_id":null,"correlation_id":"c1","type":"SENT","section":"s1"}`, func(p *plain) { p.account = "dflt" }},
		{"40 digits", "", "", `{` + base + `,"activity_id":` + digits40 + `}`, func(p *plain) { p.cells[ActivityID], p.cells[SplitID] = digits40, digits40 }},
		{"negative ids", "", "", `{` + base + `,"activity_id":-` + digits40 + `,"split_id":-0}`, func(p *plain) { p.cells[ActivityID], p.cells[SplitID] = "-"+digits40, "-0" }},
		{"minus zero is the time 0", "", "", `{` + base + `,"event_time":-0,"server_time":-0}`, func(p *plain) { p.serverTime = 0 }},
		{"event_time least", "", "", `{` + base + `,"event_time":-9223372036854775808}`, func(p *plain) { p.eventTime = -1 << 63 }},
		{"event_time greatest", "", "", `{` + base + `,"event_time":9223372036854775807}`, func(p *plain) { p.eventTime = 1<<63 - 1 }},
		{"server_time greatest", "", "", `{` + base + `,"server_time":253402300799999}`, func(p *plain) { p.serverTime = MaxServerTime }},
		{"server_time least", "", "", `{` + base + `,"server_time":0}`, func(p *plain) { p.serverTime = 0 }},
		{"unknown members", "", "", `{"x":{"type":[1,{"a":"}"}]},` + base + `,"y":1.5e-3,"z":true,"":null,"Type":"x","\u0000":false}`, func(p *plain) {}},
		{"blanks", "", "", " \t\r\n{ \"correlation_id\" : \"c1\" ,\n\"type\"\t:\"SENT\" , \"account_id\":\"acme\",\"section\" : \"s1\" } \n", func(p *plain) {}},
		{"repeated name, last counts", "", "", `{"section":"old",` + base + `}`, func(p *plain) {}},
		{"repeated name, the earlier of a wrong type", "", "", `{"section":[1],"server_time":"x","server_time":5,` + base + `}`, func(p *plain) { p.serverTime = 5 }},
		{"repeated name, the last null", "", "k", `{` + base + `,"profile_id":"p","profile_id":null}`, func(p *plain) { p.p = "k" }},
		{"escaped name", "", "", `{` + base + `,"\u0073ubject":"x"}`, func(p *plain) { p.cells[Subject] = "x" }},
		{"escapes", "", "", `{` + base + `,"subject":"a\"\\\/\b\f\n\r\t\u00e5\ud83d\ude00b"}`, func(p *plain) { p.cells[Subject] = "a\"\\/\b\f\n\r\tå😀b" }},
		{"lone surrogates", "", "", `{` + base + `,"subject":"\ud83d \ude00 \ud83d\u0041","sender":"\ud83d\ud83d\ude00"}`,
			func(p *plain) { p.cells[Subject], p.cells[Sender] = "\uFFFD \uFFFD \uFFFDA", "\uFFFD😀" }},
		{"truncated emoji", "", "", "{" + base + ",\"subject\":\"Sale \xF0\x9F\x98\",\"sender\":\"\xED\xA0\x80\xC0\xAF\"}",
			func(p *plain) {
				p.cells[Subject], p.cells[Sender] = "Sale \uFFFD", strings.Repeat("\uFFFD", 5)
			}},
		{"NUL and other text", "", "", `{` + base + `,"subject":"a\u0000b","sender":"` + "\u202Eשלום\uFEFF" + `"}`,
			func(p *plain) { p.cells[Subject], p.cells[Sender] = "a\x00b", "\u202Eשלום\uFEFF" }},
		{"correlation_id of 256 bytes", "", "", `{"correlation_id":"` + strings.Repeat("å", 128) + `","type":"SENT","account_id":"acme","section":"s1"}`,
			func(p *plain) { p.correlation = strings.Repeat("å", 128) }},
		{"correlation_id of 256 bytes, escaped", "", "", `{"correlation_id":"` + strings.Repeat(`\u0061`, 256) + `","type":"SENT","account_id":"acme","section":"s1"}`,
			func(p *plain) { p.correlation = strings.Repeat("a", 256) }},
		{"account_id of 1024 bytes", "", "", `{` + base + `,"account_id":"` + strings.Repeat("å", 512) + `"}`, func(p *plain) { p.account = strings.Repeat("å", 512) }},
		{"nested 64 deep", "", "", `{` + base + `,"x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, func(p *plain) {}},
		{"long cell", "", "", `{` + base + `,"subject":"` + strings.Repeat("é", 50_000) + `"}`, func(p *plain) { p.cells[Subject] = strings.Repeat("é", 50_000) }},
		{"just 1 MiB", "", "", pad(1 << 20), func(p *plain) {}},
		{"empty account and section", "", "", `{"correlation_id":"c1","type":"SENT","account_id":"","section":""}`, func(p *plain) { p.account, p.section = "", "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, perr := decodeBoth(t, c.account, c.key, c.value)
			if perr != nil {
				t.Fatal(perr)
			}
			want := plain{typ: Sent, correlation: "c1", account: "acme", section: "s1", serverTime: kafkaTime}
			c.want(&want)
			if got != want {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

// pad is an event of exactly n bytes.
func pad(n int) string {
	s := `{` + base + `,"x":"`
	return s + strings.Repeat("x", n-len(s)-2) + `"}`
}

func TestDecodePoison(t *testing.T) {
	without := func(name string) string {
		return `{` + strings.Replace(base, `"`+name+`"`, `"x"`, 1) + `}`
	}
	for _, c := range []struct {
		name, value string
		want        poison.Reason
		detail      string // is in the detail
	}{
		{"null value", "", poison.NullValue, "no value"},
		{"truncated", `{` + base, poison.NotJSON, ""},
		{"truncated string", `{` + base + `,"subject":"x`, poison.NotJSON, ""},
		{"truncated escape", `{` + base + `,"subject":"x\`, poison.NotJSON, ""},
		{"trailing bytes", `{` + base + `} x`, poison.NotJSON, ""},
		{"two objects", `{` + base + `}{}`, poison.NotJSON, ""},
		{"trailing comma", `{` + base + `,}`, poison.NotJSON, ""},
		{"byte order mark", "\uFEFF{" + base + "}", poison.NotJSON, ""},
		{"leading zero", `{` + base + `,"link_id":007}`, poison.NotJSON, ""},
		{"lone minus", `{` + base + `,"link_id":-}`, poison.NotJSON, ""},
		{"raw tab in a string", "{" + base + ",\"subject\":\"\t\"}", poison.NotJSON, ""},
		{"bad escape", `{` + base + `,"subject":"\q"}`, poison.NotJSON, ""},
		{"bad unicode escape", `{` + base + `,"subject":"\u12g4"}`, poison.NotJSON, ""},
		{"bad syntax in an unknown member", `{` + base + `,"x":[1,]}`, poison.NotJSON, ""},
		{"bad literal", `{` + base + `,"x":nul}`, poison.NotJSON, ""},
		{"literal runs on", `{` + base + `,"x":nulll}`, poison.NotJSON, ""},
		{"invalid UTF-8 outside of strings", "{" + base + "\xff}", poison.NotJSON, ""},
		{"array", `[1]`, poison.NotObject, "an array"},
		{"null text", `null`, poison.NotObject, "null"},
		{"number", `7`, poison.NotObject, "an integer"},
		{"string", `"{}"`, poison.NotObject, "a string"},
		{"nested 65 deep", `{` + base + `,"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, poison.TooDeep, "64"},
		{"nested without end", `{"x":` + strings.Repeat("[", 500_000), poison.TooDeep, ""},
		{"over 1 MiB", pad(1<<20 + 1), poison.TooLarge, "1048577"},
		{"10 MB", pad(10_000_000), poison.TooLarge, ""},
		{"empty object", `{}`, poison.MissingField, "correlation_id"},
		{"no correlation_id", without("correlation_id"), poison.MissingField, "correlation_id"},
		{"no type", without("type"), poison.MissingField, "type"},
		{"no account_id", without("account_id"), poison.MissingField, "account_id"},
		{"no section", without("section"), poison.MissingField, "section"},
		{"null section", `{` + base + `,"section":null}`, poison.MissingField, "section"},
		{"name in another case", without("section")[:len(without("section"))-1] + `,"Section":"s"}`, poison.MissingField, "section"},
		{"empty correlation_id", `{` + base + `,"correlation_id":""}`, poison.OutOfRange, "correlation_id"},
		{"correlation_id of 257 bytes", `{` + base + `,"correlation_id":"x` + strings.Repeat("å", 128) + `"}`, poison.OutOfRange, "257"},
		{"replacement characters count", "{" + base + ",\"correlation_id\":\"" + strings.Repeat("\xff", 86) + "\"}", poison.OutOfRange, "258"},
		{"account_id of 1025 bytes", `{` + base + `,"account_id":"x` + strings.Repeat("å", 512) + `"}`, poison.OutOfRange, "account_id has 1025 bytes"},
		{"unknown type", `{` + base + `,"type":"FORWARDED"}`, poison.UnknownType, "FORWARDED"},
		{"type in lower case", `{` + base + `,"type":"sent"}`, poison.UnknownType, "sent"},
		{"type with a blank", `{` + base + `,"type":"SENT "}`, poison.UnknownType, ""},
		{"long type", `{` + base + `,"type":"` + strings.Repeat("Y", 10_000) + `"}`, poison.UnknownType, ""},
		{"type is a number", `{` + base + `,"type":1}`, poison.WrongType, "type"},
		{"server_time below", `{` + base + `,"server_time":-1}`, poison.OutOfRange, "server_time"},
		{"server_time above", `{` + base + `,"server_time":253402300800000}`, poison.OutOfRange, "server_time"},
		{"server_time of 40 digits", `{` + base + `,"server_time":` + strings.Repeat("9", 40) + `}`, poison.OutOfRange, "server_time"},
		{"event_time above", `{` + base + `,"event_time":9223372036854775808}`, poison.OutOfRange, "event_time"},
		{"event_time below", `{` + base + `,"event_time":-9223372036854775809}`, poison.OutOfRange, "event_time"},
		{"event_time of 2^64", `{` + base + `,"event_time":18446744073709551616}`, poison.OutOfRange, "event_time"},
		{"event_time with an exponent", `{` + base + `,"event_time":1e3}`, poison.WrongType, "event_time"},
		{"event_time as a string", `{` + base + `,"event_time":"1"}`, poison.WrongType, "event_time"},
		{"server_time with a fraction", `{` + base + `,"server_time":1.0}`, poison.WrongType, "server_time"},
		{"number bomb", `{` + base + `,"activity_id":1e999999999}`, poison.WrongType, "activity_id"},
		{"the first wrong field of the table", `{"correlation_id":1,"type":"X"}`, poison.WrongType, "correlation_id"},
		{"the last value counts", `{` + base + `,"subject":"x","subject":1}`, poison.WrongType, "subject"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, perr := decodeBoth(t, "", "k", c.value)
			if perr == nil {
				t.Fatal("accepted")
			}
			if perr.Reason != c.want || !strings.Contains(perr.Detail, c.detail) {
				t.Errorf("%v, want %s with %q", perr, c.want, c.detail)
			}
		})
	}
}

// Types are checked on every event type, also where the value is not kept.
// TestEventsOfOtherAccounts: with a list of accounts an event of any other is poison, one
// that names none and has no default as without.
func TestEventsOfOtherAccounts(t *testing.T) {
	d := Decoder{DefaultAccount: "other", Accounts: map[string]bool{"acme": true}}
	of := func(account string) string {
		return `{` + strings.Replace(base, `"account_id":"acme"`, account, 1) + `}`
	}
	for account, kept := range map[string]bool{`"account_id":"acme"`: true, `"account_id":"acm\u0065"`: true, `"account_id":"Acme"`: false, `"x":1`: false} {
		var ev Event
		err := d.Decode([]byte("k"), []byte(of(account)), 1, &ev)
		var perr *poison.Error
		if kept && err != nil || !kept && (!errors.As(err, &perr) || perr.Reason != poison.UnknownAccount) {
			t.Errorf("%s: %v", account, err)
		}
	}
}

func TestDecodeWrongTypes(t *testing.T) {
	values := map[string]string{"string": `"x"`, "integer": `1`, "fraction": `1.5`, "exponent": `1E2`, "true": `true`, "false": `false`, "array": `[]`, "object": `{}`}
	orInteger := map[string]bool{"activity_id": true, "split_id": true, "link_id": true, "bounce_code": true}
	for f, name := range fieldNames {
		if field(f) == fType {
			continue
		}
		for kind, v := range values {
			ok := kind == "string" && integerOnly>>f&1 == 0 ||
				kind == "integer" && (orInteger[name] || name == "event_time" || name == "server_time")
			_, perr := decodeBoth(t, "", "k", `{`+base+`,"`+name+`":`+v+`}`)
			if ok != (perr == nil) || perr != nil && (perr.Reason != poison.WrongType || !strings.Contains(perr.Detail, name)) {
				t.Errorf("%s as %s: %v", name, kind, perr)
			}
		}
	}
}

func TestDecodeKafkaTimeOutOfRange(t *testing.T) {
	for _, at := range []int64{-1, MaxServerTime + 1} {
		if _, perr := decodeAll(t, "", nil, []byte(`{`+base+`}`), at); perr == nil || perr.Reason != poison.OutOfRange {
			t.Errorf("Kafka time %d: %v", at, perr)
		}
		if _, perr := decodeAll(t, "", nil, []byte(`{`+base+`,"server_time":1}`), at); perr != nil {
			t.Errorf("Kafka time %d, not needed: %v", at, perr)
		}
	}
}

func TestDecoderIsReused(t *testing.T) {
	var d Decoder
	var ev Event
	big := `{` + base + `,"subject":"` + strings.Repeat(`\n`, 100_000) + `"}`
	for _, v := range []string{`{` + base + `,"subject":"a\nb","sender":"\u00e5"}`, `{}`, big, `{` + base + `}`, `{` + base + `,"sender":"\t"}`} {
		err := d.Decode(nil, []byte(v), 1, &ev)
		want, reason := oracle(nil, []byte(v), 1, "")
		if (err == nil) != (reason == "") || err == nil && plainOf(&ev) != want {
			t.Fatalf("%.80s: %v, %v", v, err, plainOf(&ev))
		}
	}
	if cap(d.scratch) > maxScratch {
		t.Errorf("the decoder keeps %d bytes", cap(d.scratch))
	}
	d.DefaultAccount = "later"
	if err := d.Decode(nil, []byte(`{"correlation_id":"c","type":"SENT","section":"s"}`), 1, &ev); err != nil || string(ev.AccountID) != "later" {
		t.Errorf("default account set later: %v, %s", err, ev.AccountID)
	}
}

// What a Decoder has learned of the order of members never changes a result.
func TestDecoderLearnsTheOrder(t *testing.T) {
	var d Decoder
	var ev Event
	values := []string{
		`{` + base + `,"link_id":1,"activity_name":"a"}`,
		`{"section":"s","link_id":2,"account_id":"b",` + `"type":"CLICKED","correlation_id":"c","link_url":"u"}`,
		`{` + base + `,"link_id":1,"activity_nam":"b","activity_id":3}`,
		`{` + base + `,"link_id`,
		`{` + base + `,"link_id"`,
		`{` + base + `,"link_id":1,"activity_name`,
		`{` + base + `,"x":1,"activity_name":"d","activity_name":"e"}`,
	}
	for _, first := range values {
		for _, v := range values {
			for _, v := range []string{first, v} {
				err := d.Decode(nil, []byte(v), 1, &ev)
				want, reason := oracle(nil, []byte(v), 1, "")
				if (err == nil) != (reason == "") || err == nil && plainOf(&ev) != want {
					t.Fatalf("%s after %s: %v, %v", v, first, err, plainOf(&ev))
				}
			}
		}
	}
}
