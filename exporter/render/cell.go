package render

import (
	"bytes"
	"strconv"

	"lockstitch/state/profile"
)

// appendCell appends a field as the file shows it (contract section 4): quoted
// exactly when it holds a comma, a double quote, CR or LF, otherwise unchanged.
// guard puts ' before what a spreadsheet would take for a formula; quoting is
// decided afterwards.
func appendCell(dst, text []byte, guard bool) []byte {
	start := len(dst)
	if guard && startsFormula(text) {
		dst = append(dst, '\'')
	}
	if !needsQuotes(text) {
		return append(dst, text...)
	}
	prefix := len(dst) - start
	dst = append(dst[:start], '"')
	if prefix > 0 {
		dst = append(dst, '\'')
	}
	for {
		i := bytes.IndexByte(text, '"')
		if i < 0 {
			break
		}
		dst = append(dst, text[:i+1]...)
		dst = append(dst, '"')
		text = text[i+1:]
	}
	dst = append(dst, text...)
	return append(dst, '"')
}

func needsQuotes(text []byte) bool {
	for _, c := range text {
		if c == ',' || c == '"' || c == '\n' || c == '\r' {
			return true
		}
	}
	return false
}

func startsFormula(text []byte) bool {
	if len(text) == 0 {
		return false
	}
	switch text[0] {
	case '=', '+', '-', '@', '\t', '\r':
		return true
	}
	return false
}

// valueType is the type of an attribute as far as rendering cares: text,
// location and whatever is not known are all written as they stand.
type valueType uint8

const (
	asText valueType = iota
	asBoolean
	asDate
	asTimestamp
	asNumber // number and decimal
)

func typeOf(name string) valueType {
	switch name {
	case "boolean":
		return asBoolean
	case "date":
		return asDate
	case "timestamp":
		return asTimestamp
	case "number", "decimal":
		return asNumber
	}
	return asText
}

// appendValue appends the text of a value by the rule of its type, before any
// quoting, and tells whether the rule applied: a value that does not fit its
// type is written as it stands, and then may need a guard like any text.
func appendValue(dst []byte, t valueType, v profile.Value) (_ []byte, byRule bool) {
	switch v.Kind {
	case profile.True:
		return append(dst, "true"...), t == asBoolean
	case profile.False:
		return append(dst, "false"...), t == asBoolean
	case profile.Number:
		switch t {
		case asNumber:
			return appendPlainNumber(dst, v.Raw), true
		case asTimestamp:
			return append(dst, v.Raw...), isInteger(v.Raw)
		}
	case profile.Text:
		switch t {
		case asDate:
			if datePrefix(v.Raw) {
				return append(dst, v.Raw[:len("YYYY-MM-DD")]...), true
			}
		case asTimestamp:
			if ms, ok := parseTimestamp(v.Raw); ok {
				return strconv.AppendInt(dst, ms, 10), true
			}
		}
	}
	return append(dst, v.Raw...), false
}

// isInteger tells whether a JSON number literal has neither fraction nor
// exponent.
func isInteger(literal []byte) bool {
	for i, c := range literal {
		if (c < '0' || c > '9') && (i != 0 || c != '-') {
			return false
		}
	}
	return len(literal) > 0
}
