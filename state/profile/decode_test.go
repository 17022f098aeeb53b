package profile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"lockstitch/state/poison"
)

// show writes a Snapshot out in full.
func show(s Snapshot) string {
	if s == nil {
		return "deleted"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s", s.Account())
	s.Attributes(func(section, id []byte, v Value) {
		fmt.Fprintf(&b, " %s/%s=%s", section, id, [...]string{Text: fmt.Sprintf("%q", v.Raw), Number: string(v.Raw), True: "true", False: "false"}[v.Kind])
	})
	s.Tags(func(section, id []byte) { fmt.Fprintf(&b, " %s#%s", section, id) })
	s.Segments(func(d []byte) { fmt.Fprintf(&b, " @%s", d) })
	return b.String()
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        string
		dropped     int
	}{
		{"the contract's example", `{"account_id":"acme","profile_id":"p1","sections":{"s":{"attributes":{"491874":"female","9820534":"a@a.com"},"tags":["52001"]}},"segments":["usercreated.segments.women-rjz6b8td2n"]}`,
			`acme s/491874="female" s/9820534="a@a.com" s#52001 @usercreated.segments.women-rjz6b8td2n`, 0},
		{"only the account", `{"account_id":"acme"}`, "acme", 0},
		{"nulls are absent", `{"account_id":"acme","profile_id":null,"sections":null,"segments":null}`, "acme", 0},
		{"nulls inside", `{"account_id":"acme","sections":{"a":null,"b":{"attributes":null,"tags":null},"c":{"attributes":{"1":null}}}}`, "acme", 0},
		{"kinds", `{"account_id":"a","sections":{"s":{"attributes":{"1":"","2":-0.50e+3,"3":true,"4":false,"5":12345678901234567890123}}}}`,
			`a s/1="" s/2=-0.50e+3 s/3=true s/4=false s/5=12345678901234567890123`, 0},
		{"arrays and objects are left out", `{"account_id":"a","sections":{"s":{"attributes":{"1":[1],"2":{},"3":"x","4":[]}},"t":{"attributes":{"1":{}}}}}`, `a s/3="x"`, 4},
		{"order and repeats", `{"account_id":"a","sections":{"t":{"tags":[10,"9","9",9,"1000"]},"s":{"attributes":{"10":"x","9":"y"}}},"segments":["b","a","b","ccc","dd"]}`,
			`a s/9="y" s/10="x" t#9 t#10 t#1000 @a @b @dd @ccc`, 0},
		{"leading zeros", `{"account_id":"a","sections":{"s":{"attributes":{"007":"x","0":"z"},"tags":["000","7","0000000000000000007"]}}}`, `a s/0="z" s/7="x" s#0 s#7`, 0},
		{"the last of one id counts", `{"account_id":"a","sections":{"s":{"attributes":{"7":"x","007":"y"}}}}`, `a s/7="y"`, 0},
		{"the last value of a repeated name counts", `{"account_id":1,"account_id":"a","sections":[],"segments":{},"sections":{"s":5,"s":{"tags":"x","attributes":{"1":[],"1":"v"},"tags":["1"]}},"segments":["x"]}`,
			`a s/1="v" s#1 @x`, 0},
		{"a repeated section is not merged", `{"account_id":"a","sections":{"s":{"tags":[1]},"s":{"tags":[2]}}}`, `a s#2`, 0},
		{"the last value null", `{"account_id":"a","sections":{"s":{"attributes":{"1":"v","1":null}}}}`, `a`, 0},
		{"the last value is left out", `{"account_id":"a","sections":{"s":{"attributes":{"1":"v","1":[]}}}}`, `a`, 1},
		{"19 digits", `{"account_id":"a","sections":{"s":{"attributes":{"9999999999999999999":"x"},"tags":[9999999999999999999]}}}`, `a s/9999999999999999999="x" s#9999999999999999999`, 0},
		{"escapes", `{"account_id":"\u00e5","\u0073ections":{"s\n":{"attributes":{"\u0031":"\ud83d\ude00\ud83d"}}},"segments":["\u00e4"]}`, "å s\n/1=\"😀\uFFFD\" @ä", 0},
		{"invalid UTF-8", "{\"account_id\":\"a\",\"profile_id\":\"p1\",\"segments\":[\"x\xF0\x9F\x98\"]}", "a @x\uFFFD", 0},
		{"unknown members", `{"account_id":"a","x":[{"account_id":1}],"sections":{"s":{"x":1,"tags":["1"]}}}`, "a s#1", 0},
		{"empty names", `{"account_id":"","sections":{"":{"tags":["1"]}},"segments":[""]}`, " #1 @", 0},
		{"64 deep", `{"account_id":"a","x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, "a", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			snap, dropped, err := Decode([]byte("p1"), []byte(c.value))
			if err != nil {
				t.Fatal(err)
			}
			if got := show(snap); got != c.want || dropped != c.dropped {
				t.Errorf("got %s, %d left out\nwant %s, %d", got, dropped, c.want, c.dropped)
			}
			if err := Check(snap); err != nil {
				t.Errorf("Check: %v", err)
			}
		})
	}
}

func TestDecodeDeletion(t *testing.T) {
	snap, dropped, err := Decode([]byte("p1"), nil)
	if snap != nil || dropped != 0 || err != nil {
		t.Errorf("%v, %d, %v", snap, dropped, err)
	}
	if got := show(snap); got != "deleted" || snap.Account() != nil {
		t.Error(got)
	}
	snap.Attributes(func(_, _ []byte, _ Value) { t.Error("a deleted profile has attributes") })
	snap.Tags(func(_, _ []byte) { t.Error("a deleted profile has tags") })
	snap.Segments(func([]byte) { t.Error("a deleted profile has segments") })
}

func TestDecodeKey(t *testing.T) {
	for _, c := range []struct {
		key, id string
		ok      bool
	}{
		{"p1", "p1", true}, {"p1", "P1", false}, {"p1", "", false}, {"", "", true},
		{"å", `\u00e5`, true}, {"p\xF0\x9F", "p\uFFFD", true}, {"p\xF0\x9F", "p\xE2\x82", true},
	} {
		_, _, err := Decode([]byte(c.key), []byte(`{"account_id":"a","profile_id":"`+c.id+`"}`))
		var perr *poison.Error
		if c.ok != (err == nil) || err != nil && (!errors.As(err, &perr) || perr.Reason != poison.ProfileMismatch) {
			t.Errorf("key %q, profile_id %q: %v", c.key, c.id, err)
		}
	}
}

func TestDecodePoison(t *testing.T) {
	in := func(sections string) string { return `{"account_id":"a","sections":` + sections + `}` }
	for _, c := range []struct {
		name, value string
		want        poison.Reason
	}{
		{"empty", ``, poison.NotJSON},
		{"truncated", `{"account_id":"a"`, poison.NotJSON},
		{"trailing bytes", `{"account_id":"a"}}`, poison.NotJSON},
		{"byte order mark", "\uFEFF" + `{"account_id":"a"}`, poison.NotJSON},
		{"null text", `null`, poison.NotObject},
		{"array", `[]`, poison.NotObject},
		{"no account", `{}`, poison.MissingField},
		{"null account", `{"account_id":null}`, poison.MissingField},
		{"account is a number", `{"account_id":1}`, poison.WrongType},
		{"profile_id is a number", `{"account_id":"a","profile_id":1}`, poison.WrongType},
		{"sections is an array", in(`[]`), poison.WrongType},
		{"a section is text", in(`{"s":"x"}`), poison.WrongType},
		{"attributes is an array", in(`{"s":{"attributes":[]}}`), poison.WrongType},
		{"tags is an object", in(`{"s":{"tags":{}}}`), poison.WrongType},
		{"attribute without digits", in(`{"s":{"attributes":{"":"x"}}}`), poison.OutOfRange},
		{"attribute of 20 digits", in(`{"s":{"attributes":{"00000000000000000001":"x"}}}`), poison.OutOfRange},
		{"attribute named", in(`{"s":{"attributes":{"gender":"x"}}}`), poison.OutOfRange},
		{"attribute negative", in(`{"s":{"attributes":{"-1":"x"}}}`), poison.OutOfRange},
		{"attribute in other digits", in(`{"s":{"attributes":{"١":"x"}}}`), poison.OutOfRange},
		{"tag negative", in(`{"s":{"tags":[-1]}}`), poison.OutOfRange},
		{"tag of 20 digits", in(`{"s":{"tags":[10000000000000000000]}}`), poison.OutOfRange},
		{"tag named", in(`{"s":{"tags":["vip"]}}`), poison.OutOfRange},
		{"tag with a fraction", in(`{"s":{"tags":[1.0]}}`), poison.WrongType},
		{"tag with an exponent", in(`{"s":{"tags":[1e2]}}`), poison.WrongType},
		{"tag null", in(`{"s":{"tags":[null]}}`), poison.WrongType},
		{"segments is text", `{"account_id":"a","segments":"x"}`, poison.WrongType},
		{"a segment is a number", `{"account_id":"a","segments":[1]}`, poison.WrongType},
		{"nested without end", strings.Repeat(`{"a":`, 100_000), poison.TooDeep},
		{"10 MB", `{"account_id":"` + strings.Repeat("x", 10_000_000) + `"}`, poison.TooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			snap, _, err := Decode([]byte("p1"), []byte(c.value))
			var perr *poison.Error
			if !errors.As(err, &perr) || perr.Reason != c.want || snap != nil {
				t.Fatalf("%v, want %s", err, c.want)
			}
			if perr.Detail == "" || len(perr.Detail) > 400 {
				t.Errorf("detail of %d bytes", len(perr.Detail))
			}
		})
	}
}

func TestEqualProfilesHaveEqualBytes(t *testing.T) {
	a, _, err := Decode(nil, []byte(`{"account_id":"a","sections":{"x":{"attributes":{"1":"v","20":2.50},"tags":[3,"1"]},"y":{}},"segments":["k","j"]}`))
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := Decode(nil, []byte(` {"segments":["j","k","k"],"z":0,"sections":{"x":{"tags":["01","3",3],"attributes":{"020":2.50,"7":null,"\u0031":"\u0076"}}},"account_id":"\u0061"}`))
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Errorf("% x\n% x", a, b)
	}
}
