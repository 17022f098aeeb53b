package render

import (
	"encoding/json"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPlainNumber(t *testing.T) {
	ones, zeros := strings.Repeat("1", 128), strings.Repeat("0", 500)
	for _, c := range []struct{ literal, want string }{
		{"0", "0"}, {"-0", "0"}, {"0.0", "0"}, {"-0.00e5", "0"}, {"0e999999999999999999999", "0"},
		{"1", "1"}, {"-1", "-1"}, {"10", "10"}, {"1.0", "1"}, {"1.50", "1.5"}, {"-12.340", "-12.34"},
		{"1e2", "100"}, {"1E+2", "100"}, {"1.5e1", "15"}, {"1.25e1", "12.5"}, {"100e-2", "1"}, {"120e-1", "12"}, {"125e-1", "12.5"},
		{"1e-2", "0.01"}, {"-1.5e-3", "-0.0015"}, {"0.001e2", "0.1"}, {"0.001e3", "1"}, {"0.010e1", "0.1"}, {"10.01", "10.01"}, {"1001e-1", "100.1"},
		{"12345678901234567890123456789012345678901", "12345678901234567890123456789012345678901"},
		{"0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"},
		{"1e127", "1" + zeros[:127]}, {"1e128", "1e128"}, {"-1e126", "-1" + zeros[:126]}, {"-1e127", "-1e127"},
		{"1e-126", "0." + zeros[:125] + "1"}, {"1e-127", "1e-127"},
		{"1e999999999", "1e999999999"}, {"-1e-999999999", "-1e-999999999"}, {"1e99999999999999999999999999", "1e99999999999999999999999999"},
		{ones, ones}, {ones + "1", ones + "1"}, {ones + ".0", ones}, {"1." + zeros, "1"}, {"0." + zeros + "1e501", "1"}, {"1" + zeros + "e-500", "1"},
		{ones[:64] + "." + ones[:63], ones[:64] + "." + ones[:63]}, {ones[:64] + "." + ones[:64] + "e0", ones[:64] + "." + ones[:64] + "e0"},
		{"", ""}, {"-", "-"}, {"01", "01"}, {"1.", "1."}, {".5", ".5"}, {"+1", "+1"}, {"1e", "1e"}, {"1e+", "1e+"}, {"1x", "1x"}, {"NaN", "NaN"},
	} {
		if got := string(appendPlainNumber([]byte("x"), []byte(c.literal))); got != "x"+c.want {
			t.Errorf("%.60q is written %.80q, want %.80q", c.literal, got[1:], c.want)
		}
	}
	literal := []byte("-12.5e3")
	room := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { room = appendPlainNumber(room[:0], literal) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// plainByRational is the rule by way of exact rational numbers; only for
// exponents that can be written out.
func plainByRational(t *testing.T, literal string) string {
	r, ok := new(big.Rat).SetString(literal)
	if !ok {
		t.Fatalf("big.Rat refuses %q", literal)
	}
	text := r.FloatString(3000)
	text = strings.TrimRight(text, "0")
	text = strings.TrimSuffix(text, ".")
	if text == "-0" || text == "" || text == "-" {
		text = "0"
	}
	if len(text) > 128 {
		return literal
	}
	return text
}

var numberGrammar = regexp.MustCompile(`\A-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\z`)

func FuzzPlainNumber(f *testing.F) {
	for _, s := range []string{"0", "-0.0", "1e2", "12.50e-1", "1e999999999", "9007199254740993", "0.000120e4", "1e-130", "-1E+127"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if json.Valid([]byte(s)) != numberGrammar.MatchString(s) && numberGrammar.MatchString(s) {
			t.Fatalf("%q is not JSON, the grammar of this test is wrong", s)
		}
		got := string(appendPlainNumber(nil, []byte(s)))
		if !numberGrammar.MatchString(s) {
			if got != s {
				t.Fatalf("%q is no number but is written %q", s, got)
			}
			return
		}
		if len(s) > 1000 {
			return
		}
		_, exponent, _ := strings.Cut(strings.ToLower(s), "e")
		if e, err := strconv.Atoi(exponent); exponent != "" && (err != nil || e > 1500 || e < -1500) {
			// Longer than 128 characters, or zero, whatever the digits are.
			if got != s && got != "0" {
				t.Fatalf("%q is written %q", s, got)
			}
			return
		}
		if want := plainByRational(t, s); got != want {
			t.Fatalf("%q is written %q, want %q", s, got, want)
		}
	})
}

func TestTimestamp(t *testing.T) {
	for text, want := range map[string]string{
		"1970-01-01T00:00:00Z":                 "0",
		"1970-01-01T00:00:00.0019999z":         "1",
		"1969-12-31T23:59:59.9991Z":            "-1",
		"1969-12-31t23:59:59.9985Z":            "-2",
		"2024-02-29T12:00:00+05:30":            "1709188200000",
		"2024-02-29T12:00:00.5-00:00":          "1709208000500",
		"0000-01-01T00:00:00Z":                 "-62167219200000",
		"9999-12-31T23:59:59.999-23:59":        "253402387139999",
		"1990-12-31T23:59:60Z":                 "662688000000",
		"1990-12-31T15:59:60-08:00":            "662688000000",
		"1991-01-01T08:59:60.25+09:00":         "662688000250",
		"1990-12-31T23:58:60Z":                 "",
		"1990-12-30T23:59:60Z":                 "",
		"1990-12-31T23:59:61Z":                 "",
		"2023-02-29T12:00:00Z":                 "",
		"2024-02-29 12:00:00Z":                 "",
		"2024-02-29T12:00:00":                  "",
		"2024-02-29T12:00Z":                    "",
		"2024-02-29T24:00:00Z":                 "",
		"2024-02-29T12:60:00Z":                 "",
		"2024-02-29T12:00:00.Z":                "",
		"2024-02-29T12:00:00,5Z":               "",
		"2024-02-29T12:00:00+0530":             "",
		"2024-02-29T12:00:00+24:00":            "",
		"2024-02-29T12:00:00+05:60":            "",
		"2024-02-29T12:00:00Z ":                "",
		"-024-02-29T12:00:00Z":                 "",
		"2024-02-29":                           "",
		"":                                     "",
		"2024-02-29T12:00:00.000000000000001Z": "1709208000000",
	} {
		ms, ok := parseTimestamp([]byte(text))
		if got := strconv.FormatInt(ms, 10); (ok && got != want) || ok != (want != "") {
			t.Errorf("%q is %s (%v), want %q", text, got, ok, want)
		}
	}
}

var timeGrammar = regexp.MustCompile(`\A[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})\z`)

func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{"2024-02-29T12:00:00.123456+05:30", "0000-03-01T00:00:00Z", "1969-12-31T23:59:59.9z", "2024-13-01", "1900-02-29x", "9999-12-31T23:59:60Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		date := false
		if len(s) >= 10 {
			_, err := time.Parse("2006-01-02", s[:10])
			date = err == nil
		}
		if got := datePrefix([]byte(s)); got != date {
			t.Errorf("%q begins with a date: %v, want %v", s, got, date)
		}
		ms, ok := parseTimestamp([]byte(s))
		if len(s) > 18 && s[17:19] == "60" {
			if ok && ms%60_000 >= 1000 {
				t.Errorf("%q is a leap second at %d", s, ms)
			}
			return // the standard library knows no leap seconds
		}
		want, err := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
		legal := err == nil && timeGrammar.MatchString(s)
		if legal && !strings.ContainsAny(s[19:], "Zz") { // offsets up to 24:60 pass in the standard library
			h, _ := strconv.Atoi(s[len(s)-5 : len(s)-3])
			m, _ := strconv.Atoi(s[len(s)-2:])
			legal = h <= 23 && m <= 59
		}
		if ok != legal || (ok && ms != want.UnixMilli()) {
			t.Errorf("%q is %d (%v), want %d (%v, %v)", s, ms, ok, want.UnixMilli(), legal, err)
		}
	})
}

func TestEveryDay(t *testing.T) {
	day := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC)
	for ; day.Year() < 10000; day = day.AddDate(0, 0, 1) {
		if got, want := daysSinceEpoch(day.Year(), int(day.Month()), day.Day())*86400, day.Unix(); got != want {
			t.Fatalf("%v is at %d, want %d", day, got, want)
		}
	}
}
