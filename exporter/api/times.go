package api

import (
	"encoding/json"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Time is a moment in ms since the Unix epoch. In JSON it is RFC 3339 in UTC:
// written with three fraction digits and "Z", read as ParseTime says.
type Time int64

// timePattern is what ParseTime takes, short of the calendar.
const timePattern = `^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?([Zz]|[+]00:00)$`

// ParseTime reads an RFC 3339 time in UTC: "Z" or "+00:00" at the end, "T" and
// "Z" in either case, 0 to 9 fraction digits, floored to ms. Leap seconds are
// not taken.
func ParseTime(s string) (Time, bool) {
	const seconds = len("2006-01-02T15:04:05")
	if len(s) <= seconds || s[4] != '-' || s[7] != '-' || (s[10] != 'T' && s[10] != 't') || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	year, ok1 := digits(s[0:4])
	month, ok2 := digits(s[5:7])
	day, ok3 := digits(s[8:10])
	hour, ok4 := digits(s[11:13])
	minute, ok5 := digits(s[14:16])
	second, ok6 := digits(s[17:19])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) || hour > 23 || minute > 59 || second > 59 || month < 1 || month > 12 || day < 1 {
		return 0, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	if t.Day() != day {
		return 0, false // a day that the month does not have
	}
	rest, ms := s[seconds:], 0
	if rest[0] == '.' {
		n := 1
		for n < len(rest) && rest[n] >= '0' && rest[n] <= '9' {
			n++
		}
		if n < 2 || n > 10 {
			return 0, false
		}
		ms, _ = digits((rest[1:n] + "00")[:3])
		rest = rest[n:]
	}
	if rest != "Z" && rest != "z" && rest != "+00:00" {
		return 0, false
	}
	return Time(t.UnixMilli() + int64(ms)), true
}

func digits(s string) (int, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// timeOf floors a time to ms.
func timeOf(t time.Time) Time { return Time(t.UnixMilli()) }

func (t Time) String() string {
	return time.UnixMilli(int64(t)).UTC().Format("2006-01-02T15:04:05.000Z")
}

// MarshalJSON writes the time with three fraction digits and "Z".
func (t Time) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// UnmarshalJSON reads a time as ParseTime does.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, ok := ParseTime(s)
	if !ok {
		return &json.UnsupportedValueError{Str: "not an RFC 3339 time in UTC: " + s}
	}
	*t = v
	return nil
}

// Schema describes a time for the OpenAPI document.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Format: "date-time", Pattern: timePattern,
		Description: "RFC 3339 in UTC. Accepted with `Z` or `+00:00` and 0 to 9 fraction digits, floored to milliseconds; written with three digits and `Z`.",
		Examples:    []any{"2026-05-01T00:00:00.000Z"},
	}
}
