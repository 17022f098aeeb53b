package event

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf8"

	"lockstitch/state/jsonvalue"
)

// scan is the fast path: it fills d.fields from a flat object and reports false
// for anything that it is not sure of, which decodeSlow then decides: nested
// values, repeated or escaped names, invalid UTF-8, every syntax error. It never
// accepts what the slow path refuses.
func (d *Decoder) scan(b []byte) bool {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return false
	}
	i = space(b, i+1)
	for k := 0; ; k++ {
		if i >= len(b) || b[i] != '"' {
			return false // the empty object, too: it lacks everything
		}
		f, known, end := d.name(b, i+1, k)
		if end < 0 {
			return false
		}
		if i = end + 1; i >= len(b) || b[i] != ':' {
			if i = space(b, i); i >= len(b) || b[i] != ':' {
				return false
			}
		}
		if i++; i < len(b) && b[i] == ' ' {
			i = space(b, i)
		}
		v, next := d.value(b, i)
		if next < 0 {
			return false
		}
		if known {
			if d.fields[f].Kind != jsonvalue.Absent {
				return false
			}
			d.fields[f] = v
		}
		i = next
		if i >= len(b) {
			return false
		}
		if b[i] != ',' && b[i] != '}' {
			if i = space(b, i); i >= len(b) {
				return false
			}
		}
		switch b[i] {
		case ',':
			if i++; i < len(b) && b[i] != '"' {
				i = space(b, i)
			}
		case '}':
			return space(b, i+1) == len(b)
		default:
			return false
		}
	}
}

// name reads the name of member k, whose first byte is at i, and where its quote
// is; -1 where the slow path must look. Producers write their members in one
// order, so the name that member k had before is tried first.
func (d *Decoder) name(b []byte, i, k int) (f field, known bool, end int) {
	if k < len(d.order) {
		f = d.order[k]
		name := fieldNames[f]
		end = i + len(name)
		if end < len(b) && b[end] == '"' && string(b[i:end]) == name {
			return f, true, end
		}
	}
	end, odd := quoted(b, i)
	if end < 0 || odd != 0 {
		return 0, false, -1
	}
	f, known = fieldOf(b[i:end])
	if known && k < len(d.order) {
		d.order[k] = f
	}
	return f, known, end
}

// value reads the scalar at i, strings decoded, and where it ends; -1 where the
// slow path must look.
func (d *Decoder) value(b []byte, i int) (jsonvalue.Value, int) {
	if i >= len(b) {
		return jsonvalue.Value{}, -1
	}
	switch c := b[i]; c {
	case '"':
		end, odd := quoted(b, i+1)
		if end < 0 {
			return jsonvalue.Value{}, -1
		}
		raw := b[i+1 : end]
		if odd&oddHigh != 0 && !utf8.Valid(raw) {
			return jsonvalue.Value{}, -1
		}
		if odd&oddEscape != 0 {
			start := len(d.scratch)
			var ok bool
			if d.scratch, ok = jsonvalue.Unescape(d.scratch, raw); !ok {
				return jsonvalue.Value{}, -1
			}
			raw = d.scratch[start:len(d.scratch):len(d.scratch)]
		}
		return jsonvalue.Value{Kind: jsonvalue.String, Raw: raw}, end + 1
	case 'n':
		return literal(b, i, "null", jsonvalue.Null)
	case 't':
		return literal(b, i, "true", jsonvalue.True)
	case 'f':
		return literal(b, i, "false", jsonvalue.False)
	default:
		start := i
		if c == '-' {
			i++
		}
		digits := i
		for i < len(b) && b[i]-'0' <= 9 {
			i++
		}
		// A fraction or an exponent is the slow path's, as the caller finds
		// neither a comma nor a brace behind the digits.
		if i == digits || b[digits] == '0' && i-digits > 1 {
			return jsonvalue.Value{}, -1
		}
		return jsonvalue.Value{Kind: jsonvalue.Integer, Raw: b[start:i]}, i
	}
}

func literal(b []byte, i int, word string, k jsonvalue.Kind) (jsonvalue.Value, int) {
	if !bytes.HasPrefix(b[i:], []byte(word)) {
		return jsonvalue.Value{}, -1
	}
	return jsonvalue.Value{Kind: k, Raw: b[i : i+len(word)]}, i + len(word)
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// What a string holds besides plain ASCII.
const (
	oddEscape = 1
	oddHigh   = 2
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// quoted is the place of the quote that ends the string whose first byte is at
// i, and what was met on the way; -1 where a control character or the end of
// the text comes first.
func quoted(b []byte, i int) (end, odd int) {
	for {
		// Eight bytes at a time while they are plain: no quote, backslash,
		// control character or byte from 0x80 on.
		for i+8 <= len(b) {
			w := binary.LittleEndian.Uint64(b[i:])
			q := w ^ ones*'"'
			e := w ^ ones*'\\'
			// The lowest set bit marks the first byte of interest; marks above
			// it may be wrong, as subtraction borrows upwards.
			m := ((q-ones)&^q | (e-ones)&^e | (w-ones*0x20)&^w | w) & highs
			if m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				break
			}
			i += 8
		}
		if i >= len(b) {
			return -1, 0
		}
		switch c := b[i]; {
		case c == '"':
			return i, odd
		case c == '\\':
			odd |= oddEscape
			i += 2
		case c < 0x20:
			return -1, 0
		case c >= 0x80:
			odd |= oddHigh
			i++
		default:
			i++
		}
	}
}
