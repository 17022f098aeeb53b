// Package jsonvalue reads the JSON values of input records by the rules of
// contract 1.1, the same for events, profiles and definitions. Printable is for JSON that
// is written.
//
// Invariants:
//   - What is JSON and what is not is encoding/json's decision (Valid), after
//     invalid UTF-8 has been replaced. A byte order mark is not JSON.
//   - Each maximal invalid subsequence of UTF-8 (Unicode, section 3.9, "U+FFFD
//     Substitution of Maximal Subparts") and each lone surrogate escape is one
//     U+FFFD.
//   - Values are at most MaxSize bytes and nest at most MaxDepth deep, the outer
//     object counted; the depth is that of the brackets outside of strings and
//     is looked at first: endless brackets are too_deep, not not_json.
//   - Numbers are never converted: their literals are kept.
//   - Of a repeated name the last value counts, and only it is looked at: an
//     earlier one may be anything that is JSON.
package jsonvalue

import (
	"encoding/json"
	"iter"

	"lockstitch/state/poison"
)

// Bounds of an input value.
const (
	MaxSize  = 1 << 20 // bytes
	MaxDepth = 64      // nested objects and arrays, the outermost counted
)

// Kind is the kind of a JSON value. Integer is a number without fraction and
// exponent; Decimal is every other number.
type Kind uint8

// The kinds of values. Absent is the zero Value: no value at all.
const (
	Absent Kind = iota
	Null
	String
	Integer
	Decimal
	True
	False
	Array
	Object
)

var kindNames = [...]string{"nothing", "null", "a string", "an integer", "a number with fraction or exponent", "true", "false", "an array", "an object"}

// String names the kind for error details: "a string", "null" …
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "nothing"
}

// Value is one value in a text that Parse has accepted. Raw aliases that text.
type Value struct {
	Kind Kind
	Raw  []byte // the bytes of the value; of a String without its quotes, still escaped
}

// CheckKey is a *poison.Error with the reason too_large if a record's key is.
func CheckKey(key []byte) error {
	if len(key) > MaxSize {
		return poison.New(poison.TooLarge, "the key has %d bytes, %d are allowed", len(key), MaxSize)
	}
	return nil
}

// Parse checks a record's value and returns it as one JSON value. The result
// aliases value, or a copy where invalid UTF-8 had to be replaced. The error is
// a *poison.Error with the reason too_large, too_deep or not_json.
func Parse(value []byte) (Value, error) {
	if len(value) > MaxSize {
		return Value{}, poison.New(poison.TooLarge, "the value has %d bytes, %d are allowed", len(value), MaxSize)
	}
	if tooDeep(value) {
		return Value{}, poison.New(poison.TooDeep, "the value is nested deeper than %d", MaxDepth)
	}
	text := Sanitize(value)
	if !json.Valid(text) {
		return Value{}, poison.New(poison.NotJSON, "%s", syntaxError(text))
	}
	v, _ := next(text, skipSpace(text, 0))
	return v, nil
}

// ParseObject is Parse for a text that must be an object; anything else has the
// reason not_object.
func ParseObject(value []byte) (Value, error) {
	v, err := Parse(value)
	if err == nil && v.Kind != Object {
		return Value{}, poison.New(poison.NotObject, "the value is %s, an object is needed", v.Kind)
	}
	return v, err
}

func syntaxError(text []byte) string {
	var raw json.RawMessage
	if err := json.Unmarshal(text, &raw); err != nil {
		return err.Error()
	}
	return "not JSON"
}

func tooDeep(b []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			quoted = !quoted
		case '\\':
			if quoted {
				i++
			}
		case '{', '[':
			if !quoted {
				if depth++; depth > MaxDepth {
					return true
				}
			}
		case '}', ']':
			if !quoted {
				depth--
			}
		}
	}
	return false
}

// Text is the decoded text of a String, or the literal of any other value. It
// aliases the parsed text or, where escapes had to be decoded, *scratch, which
// it appends to; what earlier calls returned stays valid.
func (v Value) Text(scratch *[]byte) []byte {
	if v.Kind != String || !hasEscape(v.Raw) {
		return v.Raw
	}
	start := len(*scratch)
	*scratch, _ = Unescape(*scratch, v.Raw)
	return (*scratch)[start:len(*scratch):len(*scratch)]
}

func hasEscape(s []byte) bool {
	for _, c := range s {
		if c == '\\' {
			return true
		}
	}
	return false
}

// Members are the names (Strings) and values of an Object in their order,
// repeated names included; nothing for other kinds.
func (v Value) Members() iter.Seq2[Value, Value] {
	return func(yield func(Value, Value) bool) {
		if v.Kind != Object {
			return
		}
		b := v.Raw
		for i := skipSpace(b, 1); i < len(b) && b[i] == '"'; {
			var name, member Value
			name, i = next(b, i)
			i = skipSpace(b, skipSpace(b, i)+1) // past the colon
			member, i = next(b, i)
			if !yield(name, member) {
				return
			}
			i = skipSpace(b, skipSpace(b, i)+1) // past the comma or the brace
		}
	}
}

// Items are the elements of an Array in their order; nothing for other kinds.
func (v Value) Items() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.Kind != Array {
			return
		}
		b := v.Raw
		for i := skipSpace(b, 1); i < len(b) && b[i] != ']'; {
			var item Value
			item, i = next(b, i)
			if !yield(item) {
				return
			}
			i = skipSpace(b, skipSpace(b, i)+1) // past the comma or the bracket
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// next is the value that begins at i and where it ends. The text is valid JSON.
func next(b []byte, i int) (Value, int) {
	start := i
	switch b[i] {
	case '"':
		i = stringEnd(b, i)
		return Value{String, b[start+1 : i-1]}, i
	case 't':
		return Value{True, b[i : i+4]}, i + 4
	case 'f':
		return Value{False, b[i : i+5]}, i + 5
	case 'n':
		return Value{Null, b[i : i+4]}, i + 4
	case '{', '[':
		kind := Object
		if b[i] == '[' {
			kind = Array
		}
		for depth := 0; ; i++ {
			switch b[i] {
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return Value{kind, b[start : i+1]}, i + 1
				}
			case '"':
				i = stringEnd(b, i) - 1
			}
		}
	default:
		kind := Integer
		for ; i < len(b); i++ {
			switch c := b[i]; {
			case c == '.' || c == 'e' || c == 'E':
				kind = Decimal
			case c == '-' || c == '+' || '0' <= c && c <= '9':
			default:
				return Value{kind, b[start:i]}, i
			}
		}
		return Value{kind, b[start:i]}, i
	}
}

// stringEnd is the place after the closing quote of the string that begins at i.
func stringEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}
