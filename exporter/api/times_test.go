package api

import (
	"regexp"
	"testing"
	"time"
)

func TestParseTime(t *testing.T) {
	for in, want := range map[string]string{
		"2026-05-01T00:00:00Z":                "2026-05-01T00:00:00.000Z",
		"2026-05-01t23:59:59z":                "2026-05-01T23:59:59.000Z",
		"2026-05-01T00:00:00+00:00":           "2026-05-01T00:00:00.000Z",
		"2026-05-01T00:00:00.1Z":              "2026-05-01T00:00:00.100Z",
		"2026-05-01T00:00:00.9999Z":           "2026-05-01T00:00:00.999Z",
		"2026-05-01T00:00:00.123456789+00:00": "2026-05-01T00:00:00.123Z",
		"1969-12-31T23:59:59.9999Z":           "1969-12-31T23:59:59.999Z",
		"2024-02-29T00:00:00Z":                "2024-02-29T00:00:00.000Z",
		"0000-01-01T00:00:00Z":                "0000-01-01T00:00:00.000Z",
		"9999-12-31T23:59:59.999Z":            "9999-12-31T23:59:59.999Z",
	} {
		if got, ok := ParseTime(in); !ok || got.String() != want {
			t.Errorf("%s: %s %v, want %s", in, got, ok, want)
		}
	}
	for _, in := range []string{
		"", "2026-05-01", "2026-05-01T00:00Z", "2026-05-01T00:00:00", "2026-05-01 00:00:00Z", "2026-05-01T00:00:00.Z",
		"2026-05-01T00:00:00.1234567890Z", "2026-05-01T00:00:00-00:00", "2026-05-01T00:00:00+01:00", "2026-05-01T00:00:00+0000",
		"2025-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-05-00T00:00:00Z", "2026-05-01T24:00:00Z",
		"2026-05-01T23:59:60Z", "2026-05-01T00:60:00Z", "2026-05-01T00:00:00Z ", " 2026-05-01T00:00:00Z", "2026-05-01T00:00:00ZZ",
		"+026-05-01T00:00:00Z", "2026-05-01T00:00:00,5Z", "２026-05-01T00:00:00Z", "1714521600000",
	} {
		if got, ok := ParseTime(in); ok {
			t.Errorf("%q was taken for %s", in, got)
		}
	}
	// A time of day that is not taken is not documented either.
	for _, in := range []string{"2026-05-01T24:00:00Z", "2026-05-01T23:59:60Z", "2026-05-01T00:60:00Z"} {
		if regexp.MustCompile(timePattern).MatchString(in) {
			t.Errorf("the document allows %s", in)
		}
	}
}

func TestAddMonths(t *testing.T) {
	for in, want := range map[string]string{
		"2025-11-30T10:00:00.5Z": "2026-02-28T10:00:00.500Z",
		"2023-11-30T00:00:00Z":   "2024-02-29T00:00:00.000Z",
		"2026-01-31T00:00:00Z":   "2026-04-30T00:00:00.000Z",
		"2026-10-15T23:59:59Z":   "2027-01-15T23:59:59.000Z",
		"2026-12-01T00:00:00Z":   "2027-03-01T00:00:00.000Z",
		"1969-12-31T00:00:00Z":   "1970-03-31T00:00:00.000Z",
	} {
		at, _ := ParseTime(in)
		if got := addMonths(at, 3); got.String() != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestWindow(t *testing.T) {
	at := func(s string) Time {
		v, ok := ParseTime(s)
		if !ok {
			t.Fatal(s)
		}
		return v
	}
	now := at("2026-05-31T12:00:00Z")
	for _, c := range []struct {
		start, end string
		ok         bool
	}{
		{"2026-02-28T12:00:00Z", "2026-05-28T12:00:00Z", true},
		{"2026-02-28T12:00:00Z", "2026-05-28T12:00:00.001Z", false},
		{"2026-02-28T12:00:00Z", "", false}, // to 31 May
		{"2026-03-01T00:00:00Z", "", true},
		{"2027-01-01T00:00:00Z", "", true}, // in the future
		{"2027-01-01T00:00:00Z", "2027-04-01T00:00:00Z", true},
		{"2026-05-01T00:00:00Z", "2026-05-01T00:00:00Z", false},
	} {
		var end *Time
		if c.end != "" {
			end = ptr(at(c.end))
		}
		if err := checkWindow(at(c.start), end, now, 3); (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.start, c.end, err)
		}
	}
}

// What is accepted is what the standard library takes too, is written in one
// form, and is read back as the same.
func FuzzParseTime(f *testing.F) {
	f.Add("2026-05-01T00:00:00.123456789Z")
	f.Add("2024-02-29t23:59:59+00:00")
	f.Add("9999-12-31T23:59:60Z")
	pattern := regexp.MustCompile(timePattern)
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := ParseTime(s)
		if !ok {
			return
		}
		if !pattern.MatchString(s) {
			t.Fatalf("%q does not have the documented form", s)
		}
		upper := []byte(s)
		upper[10] = 'T'
		if upper[len(upper)-1] == 'z' {
			upper[len(upper)-1] = 'Z'
		}
		want, err := time.Parse(time.RFC3339Nano, string(upper))
		if err != nil || want.Truncate(time.Millisecond).UnixMilli() != int64(v) {
			t.Fatalf("%q: %d, the standard library says %v %v", s, v, want, err)
		}
		if again, ok := ParseTime(v.String()); !ok || again != v {
			t.Fatalf("%q is written as %s, which is read as %s", s, v, again)
		}
	})
}
