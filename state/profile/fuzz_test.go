package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lockstitch/state/jsonvalue"
	"lockstitch/state/poison"
)

// oracle reads the contract a second time, on maps made by encoding/json, for
// values that it reads as an object. It gives the lines of show, in any order,
// and false for a poisoned value.
func oracle(key string, obj map[string]any) (lines []string, dropped int, ok bool) {
	ids := regexp.MustCompile(`^[0-9]{1,19}$`)
	canonical := func(s string) string { return strings.TrimLeft(s[:len(s)-1], "0") + s[len(s)-1:] }
	account, isText := obj["account_id"].(string)
	if !isText {
		return nil, 0, false
	}
	lines = append(lines, account)
	if id := obj["profile_id"]; id != nil && id != key {
		return nil, 0, false
	}
	sections, isObject := obj["sections"].(map[string]any)
	if !isObject && obj["sections"] != nil {
		return nil, 0, false
	}
	for name, v := range sections {
		if v == nil {
			continue
		}
		section, isObject := v.(map[string]any)
		if !isObject {
			return nil, 0, false
		}
		attributes, isObject := section["attributes"].(map[string]any)
		if !isObject && section["attributes"] != nil {
			return nil, 0, false
		}
		for id, v := range attributes {
			if !ids.MatchString(id) {
				return nil, 0, false
			}
			line := fmt.Sprintf("%s/%s=", name, canonical(id))
			switch v := v.(type) {
			case nil:
			case string:
				lines = append(lines, line+fmt.Sprintf("%q", v))
			case json.Number:
				lines = append(lines, line+v.String())
			case bool:
				lines = append(lines, line+fmt.Sprint(v))
			default:
				dropped++
			}
		}
		tags, isArray := section["tags"].([]any)
		if !isArray && section["tags"] != nil {
			return nil, 0, false
		}
		for _, v := range tags {
			text, isText := v.(string)
			if n, isNumber := v.(json.Number); isNumber {
				text, isText = n.String(), true
			}
			if !isText || !ids.MatchString(text) {
				return nil, 0, false
			}
			lines = append(lines, fmt.Sprintf("%s#%s", name, canonical(text)))
		}
	}
	segments, isArray := obj["segments"].([]any)
	if !isArray && obj["segments"] != nil {
		return nil, 0, false
	}
	for _, v := range segments {
		text, isText := v.(string)
		if !isText {
			return nil, 0, false
		}
		lines = append(lines, "@"+text)
	}
	slices.Sort(lines)
	return slices.Compact(lines), dropped, true
}

// lines is show, line by line.
func lines(s Snapshot) []string {
	out := []string{string(s.Account())}
	s.Attributes(func(section, id []byte, v Value) {
		out = append(out, fmt.Sprintf("%s/%s=%s", section, id, [...]string{Text: fmt.Sprintf("%q", v.Raw), Number: string(v.Raw), True: "true", False: "false"}[v.Kind]))
	})
	s.Tags(func(section, id []byte) { out = append(out, fmt.Sprintf("%s#%s", section, id)) })
	s.Segments(func(d []byte) { out = append(out, "@"+string(d)) })
	slices.Sort(out)
	return slices.Compact(out)
}

// twice tells whether an object has two attributes of one id ("7" and "07"), of
// which a map cannot say which came last.
func twice(obj map[string]any) bool {
	sections, _ := obj["sections"].(map[string]any)
	for _, v := range sections {
		section, _ := v.(map[string]any)
		attributes, _ := section["attributes"].(map[string]any)
		seen := map[string]bool{}
		for id := range attributes {
			c, ok := VersionID([]byte(id))
			if ok && seen[string(c)] {
				return true
			}
			seen[string(c)] = true
		}
	}
	return false
}

func FuzzDecode(f *testing.F) {
	for _, c := range checked {
		f.Add([]byte("p1"), []byte(c.value))
	}
	f.Add([]byte("p1"), []byte(`{"account_id":"a","profile_id":"p1","sections":{"s":{"attributes":{"1":[],"2":-1.5e3,"007":null},"tags":["1",2]},"s":{"attributes":{"1":false}}},"segments":["\ud83d\ude00"]}`))
	f.Add([]byte("\xf0\x9f"), []byte("{\"account_id\":\"a\",\"profile_id\":\"\xf0\x9f\"}"))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if value == nil {
			value = []byte{}
		}
		snap, dropped, err := Decode(key, value)
		var perr *poison.Error
		if err != nil && !errors.As(err, &perr) {
			t.Fatalf("not a poison error: %v", err)
		}
		if err == nil {
			if err := Check(snap); err != nil || snap == nil {
				t.Fatalf("Check of what Decode made: %v", err)
			}
			numbers := map[string]int{"of another one": 0}
			names := [][]byte{[]byte("of another one")}
			number := func(section []byte) int {
				n, ok := numbers[string(section)]
				if !ok {
					n = len(names)
					numbers[string(section)], names = n, append(names, section)
				}
				return n
			}
			snap.Tags(func(section, _ []byte) { number(section) })
			snap.Attributes(func(section, _ []byte, _ Value) { number(section) })
			b := NewBuilder(names)
			b.Tag(0, []byte("1"))
			b.Segment([]byte("of another one"))
			b.Snapshot(nil)
			snap.Segments(b.Segment)
			snap.Tags(func(section, id []byte) { b.Tag(number(section), id) })
			snap.Attributes(func(section, id []byte, v Value) { b.Attribute(number(section), id, v) })
			if again := b.Snapshot(snap.Account()); !bytes.Equal(again, snap) {
				t.Fatalf("put together again: %q, was %q", again, snap)
			}
		}
		if perr != nil && (perr.Reason == poison.TooDeep || perr.Reason == poison.TooLarge) {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(jsonvalue.Sanitize(value)))
		dec.UseNumber()
		var root any
		text := jsonvalue.Sanitize(value)
		if !json.Valid(text) || dec.Decode(&root) != nil {
			if err == nil {
				t.Fatal("accepted what is not JSON")
			}
			return
		}
		obj, isObject := root.(map[string]any)
		if !isObject {
			if perr == nil || perr.Reason != poison.NotObject {
				t.Fatalf("not an object: %v", err)
			}
			return
		}
		if twice(obj) {
			return
		}
		want, wantDropped, ok := oracle(string(jsonvalue.Sanitize(key)), obj)
		if ok != (err == nil) {
			t.Fatalf("%v, the oracle says %v", err, ok)
		}
		if ok && (!slices.Equal(lines(snap), want) || dropped != wantDropped) {
			t.Fatalf("got  %q, %d left out\nwant %q, %d", lines(snap), dropped, want, wantDropped)
		}
	})
}

func FuzzCheck(f *testing.F) {
	for _, c := range checked {
		snap, _, err := Decode(nil, []byte(c.value))
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(snap))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		// No accessor panics on bytes that were never checked either.
		s := Snapshot(b)
		s.Attributes(func(_, _ []byte, _ Value) {})
		s.Tags(func(_, _ []byte) {})
		s.Segments(func([]byte) {})
		if len(b) == 0 || Check(b) != nil {
			return
		}
		// What passes is canonical: written again it is the same bytes.
		m := &model{account: s.Account()}
		at := func(name []byte) *section {
			for i := range m.sections {
				if bytes.Equal(m.sections[i].name, name) {
					return &m.sections[i]
				}
			}
			m.sections = append(m.sections, section{name: name})
			return &m.sections[len(m.sections)-1]
		}
		s.Attributes(func(name, id []byte, v Value) {
			sec := at(name)
			sec.attributes = append(sec.attributes, attribute{id, v})
		})
		s.Tags(func(name, id []byte) { sec := at(name); sec.tags = append(sec.tags, id) })
		s.Segments(func(d []byte) { m.segments = append(m.segments, d) })
		slices.SortFunc(m.sections, func(a, b section) int { return compareText(a.name, b.name) })
		if again := encode(m); !bytes.Equal(again, b) {
			t.Fatalf("% x\nwritten again: % x", b, []byte(again))
		}
	})
}
