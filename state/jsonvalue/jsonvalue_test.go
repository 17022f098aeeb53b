package jsonvalue

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"lockstitch/state/poison"
)

func TestParseRefusals(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     poison.Reason
	}{
		{"empty", "", poison.NotJSON},
		{"blank", " \n", poison.NotJSON},
		{"truncated", `{"a":1`, poison.NotJSON},
		{"trailing", `{} {}`, poison.NotJSON},
		{"trailing NUL", "{}\x00", poison.NotJSON},
		{"byte order mark", "\uFEFF{}", poison.NotJSON},
		{"leading zero", `{"a":007}`, poison.NotJSON},
		{"plus", `{"a":+1}`, poison.NotJSON},
		{"bare point", `{"a":1.}`, poison.NotJSON},
		{"NaN", `{"a":NaN}`, poison.NotJSON},
		{"single quotes", `{'a':1}`, poison.NotJSON},
		{"trailing comma", `{"a":1,}`, poison.NotJSON},
		{"comment", `{/**/}`, poison.NotJSON},
		{"raw newline in a string", "{\"a\":\"x\ny\"}", poison.NotJSON},
		{"bad escape", `{"a":"\x"}`, poison.NotJSON},
		{"invalid UTF-8 outside of strings", "{\xff}", poison.NotJSON},
		{"array", `[]`, poison.NotObject},
		{"null", `null`, poison.NotObject},
		{"string", `"{}"`, poison.NotObject},
		{"65 deep", strings.Repeat(`{"a":`, 64) + `{}` + strings.Repeat(`}`, 64), poison.TooDeep},
		{"without end", strings.Repeat(`[`, 100_000), poison.TooDeep},
		{"too large", `{"a":"` + strings.Repeat("x", MaxSize-7) + `"}`, poison.TooLarge},
	} {
		_, err := ParseObject([]byte(c.in))
		var perr *poison.Error
		if !errors.As(err, &perr) || perr.Reason != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		} else if len(perr.Detail) > 300 {
			t.Errorf("%s: the detail has %d bytes", c.name, len(perr.Detail))
		}
	}
}

func TestParseAccepts(t *testing.T) {
	for name, in := range map[string]string{
		"blanks":              " \r\n\t{ \"a\" : [ 1 , 2 ] } \n",
		"64 deep":             strings.Repeat(`{"a":`, 63) + `{}` + strings.Repeat(`}`, 63),
		"brackets in strings": `{"a":"` + strings.Repeat(`[{\"`, 100) + `"}`,
		"just 1 MiB":          `{"a":"` + strings.Repeat("x", MaxSize-8) + `"}`,
		"invalid UTF-8":       "{\"\xff\":\"\xf0\x9f\"}",
	} {
		if _, err := ParseObject([]byte(in)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// tree walks the whole value, the last of repeated names counting.
func tree(v Value) any {
	var scratch []byte
	switch v.Kind {
	case Null:
		return nil
	case True:
		return true
	case False:
		return false
	case String:
		return string(v.Text(&scratch))
	case Integer, Decimal:
		return json.Number(v.Raw)
	case Array:
		out := []any{}
		for item := range v.Items() {
			out = append(out, tree(item))
		}
		return out
	default:
		out := map[string]any{}
		for name, member := range v.Members() {
			out[string(name.Text(&scratch))] = tree(member)
		}
		return out
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"a":[1,-2.5e+3,true,false,null,"x\u00e5\ud800"],"a":{"b":{}},"":[[],[ ]]}`,
		` { "k" : 1e999999999 , "l":-0 } `, "{\"\xf0\x9f\":\"\xed\xa0\x80\"}", `[[[]]]`, `"x"`, `12`, `{"a":1}{`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := Parse(in)
		if err != nil {
			var perr *poison.Error
			if !errors.As(err, &perr) {
				t.Fatalf("not a poison error: %v", err)
			}
			if perr.Reason == poison.NotJSON && json.Valid(in) && bytes.Equal(Sanitize(in), in) {
				t.Fatal("JSON was refused")
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(Sanitize(in)))
		dec.UseNumber()
		var want any
		if err := dec.Decode(&want); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if got := tree(v); !reflect.DeepEqual(got, want) {
			t.Fatalf("read %#v, encoding/json reads %#v", got, want)
		}
	})
}
