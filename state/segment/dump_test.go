package segment

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"lockstitch/state/profile"
)

// What events hold comes from outside; who looks at it does so in a terminal.
func TestADumpHoldsNothingThatATerminalObeys(t *testing.T) {
	const text = "a\x00\x07\x1b[31m\x7f\u0080\u009b31m\u009f\u00a0é🎉\\u009b"
	value, err := json.Marshal(map[string]any{"account_id": "acme", "sections": map[string]any{text: map[string]any{"attributes": map[string]any{"7": text}}}})
	if err != nil {
		t.Fatal(err)
	}
	row := simpleRow(1, "acme", 1_700_000_000_000)
	if row.snap, _, err = profile.Decode([]byte("p"), value); err != nil {
		t.Fatal(err)
	}
	row.ev.Section = []byte(text)
	buf := NewBuffer()
	row.add(buf)
	var out strings.Builder
	if err := Dump(&out, "test", seal(t, buf)[0].Data); err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && unicode.IsControl(r) }); i >= 0 {
		t.Errorf("%q", out.String()[i:])
	}
	same := 0
	for line := range strings.Lines(out.String()) {
		var v struct {
			Section string `json:"section"`
			Values  []struct {
				Text string `json:"text"`
			} `json:"values"`
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v.Section == text {
			same++
		}
		if len(v.Values) > 0 && v.Values[0].Text == text {
			same++
		}
	}
	if same != 3 {
		t.Errorf("the text is there %d times: %s", same, out.String())
	}
}
