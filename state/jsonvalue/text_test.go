package jsonvalue

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

const bad = "\uFFFD"

func TestSanitize(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"plain åäö 😀", "plain åäö 😀"},
		// Tables 3-8 to 3-11 of the Unicode Standard, section 3.9.
		{"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", strings.Repeat(bad, 8) + "A"},
		{"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", strings.Repeat(bad, 8) + "A"},
		{"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", strings.Repeat(bad, 5) + "A" + bad + bad + "B"},
		{"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", strings.Repeat(bad, 4) + "A"},
		// A truncated emoji is one replacement, whole runs are several.
		{"Sale \xF0\x9F\x98", "Sale " + bad},
		{"\xF0\x9F\x98\xF0\x9F\x98x", bad + bad + "x"},
		{"\xE2\x82\xE2\x82\xAC", bad + "€"},
		{"\xF0\x90", bad},
		{"\xF4\x8F\xBF", bad},
		{"\xF4\x90", bad + bad},
		{"\xF5\x80", bad + bad},
		{"\xC2", bad},
		{"\xC1\x80", bad + bad},
		{"\xEF\xBF\xBD", bad},
	} {
		got := Sanitize([]byte(c.in))
		if string(got) != c.want {
			t.Errorf("Sanitize(% x) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestSanitizeLeavesValidTextAlone(t *testing.T) {
	in := []byte("åäö")
	if got := Sanitize(in); &got[0] != &in[0] {
		t.Error("valid text was copied")
	}
}

// subparts is a second way to the same text, straight from the definition D93b:
// at each place the longest code unit subsequence that is well-formed, else the
// longest that could still become so.
func subparts(in []byte) []byte {
	canBegin := func(p []byte) bool {
		// A proper prefix of a well-formed sequence can be completed by some
		// continuation; the extremes of each range suffice to find out.
		var try func(p []byte) bool
		try = func(p []byte) bool {
			if utf8.Valid(p) && utf8.RuneCount(p) == 1 {
				return true
			}
			if len(p) >= 4 {
				return false
			}
			for _, c := range []byte{0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF} {
				if try(append(bytes.Clone(p), c)) {
					return true
				}
			}
			return false
		}
		return try(p)
	}
	var out []byte
	for len(in) > 0 {
		n := 0
		for k := 1; k <= 4 && k <= len(in) && canBegin(in[:k]); k++ {
			n = k
			if utf8.Valid(in[:k]) {
				break
			}
		}
		if n > 0 && utf8.Valid(in[:n]) {
			out = append(out, in[:n]...)
		} else {
			n = max(n, 1)
			out = append(out, bad...)
		}
		in = in[n:]
	}
	return out
}

func TestSanitizeAllShortSequences(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	edges := []byte{0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5}
	var seq [4]byte
	for n := 1; n <= 4; n++ {
		total := 1
		for range n {
			total *= len(edges)
		}
		for i := range total {
			for k, x := 0, i; k < n; k, x = k+1, x/len(edges) {
				seq[k] = edges[x%len(edges)]
			}
			if got, want := Sanitize(seq[:n]), subparts(seq[:n]); !bytes.Equal(got, want) {
				t.Fatalf("Sanitize(% x) = %q, want %q", seq[:n], got, want)
			}
		}
	}
}

func TestUnescape(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`plain`, "plain"},
		{`\"\\\/\b\f\n\r\t`, "\"\\/\b\f\n\r\t"},
		{`\u00e5\u00E5`, "åå"},
		{`\ud83d\ude00`, "😀"},
		{`\ud83d`, bad},
		{`\ude00`, bad},
		{`\ud83dx`, bad + "x"},
		{`\ud83d\n`, bad + "\n"},
		{`\ud83d\u0041`, bad + "A"},
		{`\ud83d\ud83d\ude00`, bad + "😀"},
		{`\ude00\ud83d`, bad + bad},
		{`\u0000`, "\x00"},
		{`\uFEFF`, "\uFEFF"},
		{`\ufffd`, bad},
	} {
		got, ok := Unescape(nil, []byte(c.in))
		if !ok || string(got) != c.want {
			t.Errorf("Unescape(%s) = %q, %v, want %q", c.in, got, ok, c.want)
		}
	}
	for _, in := range []string{`\`, `\x`, `\u`, `\u12`, `\u12g4`, `\U0041`, `\'`, `ok\u+123`} {
		if got, ok := Unescape(nil, []byte(in)); ok {
			t.Errorf("Unescape(%s) = %q, want a refusal", in, got)
		}
	}
}
