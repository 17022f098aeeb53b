package api

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// A body is refused with a problem that says where, or accepted, and then what
// is echoed is accepted as the same.
func FuzzDecodeExport(f *testing.F) {
	f.Add([]byte(`{"start_at":"2026-05-01T00:00:00Z","end_at":"2026-06-01T00:00:00z","spreadsheet_safe":true}`))
	f.Add([]byte(`{"start_at":"2026-05-01T00:00:00Z","segment_filter":{"segment_discriminators":{"w":"x"},"filter":"!w"},"additional_tag_mappings":[{"version_id":"1"}]}`))
	f.Add([]byte(`{"start_at":"2026-05-01T00:00:00Z","segment_filter":{"segment_discriminator":"x"},"additional_attribute_mappings":[{"section_discriminator":"a","discriminator":"b"}]}`))
	f.Add([]byte(`{"after":"beginning","spreadsheet_safe":false}`))
	f.Add([]byte(`{"a":{"a":{"a":[[[{}]]]}}}`))
	lim := Config{}.withDefaults().Limits
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeExport(body, lim)
		if err != nil {
			var p *Problem
			if !errors.As(err, &p) || p.Status != 400 || len(p.Errors) == 0 || len(p.Errors) > maxFieldErrors {
				t.Fatalf("%v", err)
			}
			return
		}
		echo, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeExport(echo, lim)
		if err != nil {
			t.Fatalf("%s was accepted, its echo %s not: %v", body, echo, err)
		}
		second, err := json.Marshal(again)
		if err != nil || string(second) != string(echo) {
			t.Fatalf("%s became %s (%v)", echo, second, err)
		}
	})
}

func FuzzParseForm(f *testing.F) {
	f.Add("grant_type=client_credentials&client_id=a&client_secret=b")
	f.Add("a=%zz&a=1;b=2")
	f.Fuzz(func(t *testing.T, body string) {
		m, err := parseForm(body)
		var p *Problem
		if err != nil && !errors.As(err, &p) {
			t.Fatal(err)
		}
		for name, v := range m {
			if _, ok := v.(string); !ok {
				t.Fatalf("%q is %T", name, v)
			}
		}
	})
}

func TestPointersAreEscapedAndBounded(t *testing.T) {
	if got := escapePointer("a/b~c"); got != "a~1b~0c" {
		t.Error(got)
	}
	if got := escapePointer(strings.Repeat("é", 1000)); len(got) > 140 {
		t.Errorf("%d bytes", len(got))
	}
}
