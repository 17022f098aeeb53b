package render

import (
	"testing"

	"lockstitch/state/profile"
)

func TestCell(t *testing.T) {
	for _, c := range []struct{ text, plain, guarded string }{
		{"", "", ""},
		{"a b;'", "a b;'", "a b;'"},
		{"a,b", `"a,b"`, `"a,b"`},
		{`"`, `""""`, `""""`},
		{`say "hi"`, `"say ""hi"""`, `"say ""hi"""`},
		{"a\nb", "\"a\nb\"", "\"a\nb\""},
		{"\r", "\"\r\"", "\"'\r\""},
		{"=1", "=1", "'=1"},
		{"+1", "+1", "'+1"},
		{"-1", "-1", "'-1"},
		{"@x", "@x", "'@x"},
		{"\tx", "\tx", "'\tx"},
		{" =1", " =1", " =1"},
		{`=HYPERLINK("a","b")`, `"=HYPERLINK(""a"",""b"")"`, `"'=HYPERLINK(""a"",""b"")"`},
		{"\x00\ufeff\u202e", "\x00\ufeff\u202e", "\x00\ufeff\u202e"},
	} {
		if got := string(appendCell([]byte("x,"), []byte(c.text), false)); got != "x,"+c.plain {
			t.Errorf("%q is written %q, want %q", c.text, got[2:], c.plain)
		}
		if got := string(appendCell([]byte("x,"), []byte(c.text), true)); got != "x,"+c.guarded {
			t.Errorf("%q guarded is written %q, want %q", c.text, got[2:], c.guarded)
		}
	}
}

func TestValue(t *testing.T) {
	text := func(s string) profile.Value { return profile.Value{Kind: profile.Text, Raw: []byte(s)} }
	number := func(s string) profile.Value { return profile.Value{Kind: profile.Number, Raw: []byte(s)} }
	yes, no := profile.Value{Kind: profile.True}, profile.Value{Kind: profile.False}
	for _, c := range []struct {
		as     string
		v      profile.Value
		want   string
		byRule bool
	}{
		{"text", text("-x"), "-x", false}, {"text", number("-1.50e1"), "-1.50e1", false}, {"text", yes, "true", false}, {"text", no, "false", false},
		{"location", text("Åre"), "Åre", false}, {"colour", number("1.0"), "1.0", false}, {"", text("x"), "x", false},
		{"boolean", yes, "true", true}, {"boolean", no, "false", true}, {"boolean", text("=true"), "=true", false}, {"boolean", number("-1"), "-1", false},
		{"date", text("2024-02-29T10:00:00Z"), "2024-02-29", true}, {"date", text("2024-02-30"), "2024-02-30", false}, {"date", number("-20240229"), "-20240229", false}, {"date", yes, "true", false},
		{"timestamp", number("-1700000000000"), "-1700000000000", true}, {"timestamp", number("-1.5"), "-1.5", false}, {"timestamp", number("1e3"), "1e3", false},
		{"timestamp", text("1969-12-31T23:59:59Z"), "-1000", true}, {"timestamp", text("-1000"), "-1000", false}, {"timestamp", no, "false", false},
		{"number", number("-1.50e1"), "-15", true}, {"decimal", number("-0"), "0", true}, {"number", text("-1.50"), "-1.50", false}, {"number", number("-1e999"), "-1e999", true}, {"decimal", yes, "true", false},
	} {
		got, byRule := appendValue(nil, typeOf(c.as), c.v)
		if string(got) != c.want || byRule != c.byRule {
			t.Errorf("%s of %v %q is written %q (by rule: %v), want %q (%v)", c.as, c.v.Kind, c.v.Raw, got, byRule, c.want, c.byRule)
		}
	}
}
