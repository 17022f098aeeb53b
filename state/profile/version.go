package profile

import "bytes"

// MaxVersionDigits is the greatest length of a version id as written.
const MaxVersionDigits = 19

// VersionID is the canonical text of a version id of an attribute or a tag: a
// number of 1 to 19 decimal digits as written, its leading zeros removed ("007"
// and 7 are one id, as the contract orders ids as numbers). False for any other
// text. The result aliases text.
func VersionID(text []byte) ([]byte, bool) {
	if len(text) == 0 || len(text) > MaxVersionDigits {
		return nil, false
	}
	for _, c := range text {
		if c < '0' || c > '9' {
			return nil, false
		}
	}
	for len(text) > 1 && text[0] == '0' {
		text = text[1:]
	}
	return text, true
}

// CompareVersionIDs orders canonical version ids as numbers.
func CompareVersionIDs(a, b []byte) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return bytes.Compare(a, b)
}
