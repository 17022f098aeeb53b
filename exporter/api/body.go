package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxBodyDepth bounds how deep the JSON of a body may be nested: the name of a segment
// lies in an object in an object in the body, the id of a column in an object in a list.
const maxBodyDepth = 3

// maxFieldErrors bounds how many places a problem lists.
const maxFieldErrors = 20

// readBody reads a request's body of one of the given media types; the first
// stands for a request that names none.
func (c *call) readBody(limit int64, mediaTypes ...string) (body []byte, mediaType string, err error) {
	mediaType = mediaTypes[0]
	if h := c.r.Header.Get("Content-Type"); h != "" {
		t, _, err := mime.ParseMediaType(h)
		if err != nil || !slices.Contains(mediaTypes, t) {
			return nil, "", kindMediaType.problem(fmt.Sprintf("The body must be %s.", strings.Join(mediaTypes, " or ")))
		}
		mediaType = t
	}
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, "", kindMediaType.problem("The body must not be compressed (no Content-Encoding).")
	}
	if c.r.ContentLength > limit {
		return nil, "", largerThan(limit)
	}
	body, err = io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, limit))
	if err != nil {
		return nil, "", unread(err, limit)
	}
	return body, mediaType, nil
}

// unread is the problem of a body that could not be read.
func unread(err error, limit int64) *Problem {
	var over *http.MaxBytesError
	var noRoom *Problem
	switch {
	case errors.As(err, &over):
		return largerThan(limit)
	case errors.As(err, &noRoom):
		return noRoom
	}
	return invalid(FieldError{Detail: "the body cannot be read to its end"})
}

func largerThan(limit int64) *Problem {
	return kindTooLarge.problem(fmt.Sprintf("The body may have at most %d bytes.", limit))
}

// endBody lets a call take longer than the connection may be read from: of a body that
// it does not need the rest must not be waited for without end. What is sent is read,
// within the connection's limit, and left out.
func (c *call) endBody(limit int64) error {
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(c.w, c.r.Body, limit)); err != nil {
		return unread(err, limit)
	}
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	return nil
}

// members is a JSON object.
type members map[string]any

// parseObject reads a body that is one JSON object, without repeated names.
// Values are members, []any, string, json.Number, bool and nil.
func parseObject(body []byte) (members, error) {
	if !utf8.Valid(body) {
		return nil, invalid(FieldError{Detail: "the body is not UTF-8"})
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	v, err := parseValue(d, nil, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, invalid(FieldError{Detail: "something follows the JSON object"})
	}
	m, ok := v.(members)
	if !ok {
		return nil, invalid(FieldError{Detail: "the body must be a JSON object"})
	}
	return m, nil
}

// spot is where a value of a body stands: a name or an index in what encloses it. Only
// errors need its JSON Pointer, which is as long as all that it passes through.
type spot struct {
	in    *spot // nil: the body itself
	list  bool  // which of the two counts
	index int
	name  string
}

func (s *spot) pointer() string {
	if s == nil {
		return ""
	}
	if s.list {
		return place(s.in.pointer(), s.index)
	}
	return s.in.pointer() + "/" + escapePointer(s.name)
}

func parseValue(d *json.Decoder, at *spot, depth int) (any, error) {
	if depth > maxBodyDepth {
		return nil, invalid(FieldError{at.pointer(), fmt.Sprintf("nested deeper than %d", maxBodyDepth)})
	}
	tok, err := d.Token()
	if err != nil {
		return nil, notJSON(d)
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	here := spot{in: at, list: delim == '['}
	if here.list {
		list := []any{}
		for d.More() {
			here.index = len(list)
			v, err := parseValue(d, &here, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		if _, err := d.Token(); err != nil {
			return nil, notJSON(d)
		}
		return list, nil
	}
	m := members{}
	for d.More() {
		tok, err := d.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return nil, notJSON(d)
		}
		here.name = name
		if _, ok := m[name]; ok {
			return nil, invalid(FieldError{here.pointer(), "is given twice"})
		}
		if m[name], err = parseValue(d, &here, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, notJSON(d)
	}
	return m, nil
}

func notJSON(d *json.Decoder) error {
	return invalid(FieldError{Detail: fmt.Sprintf("the body is not JSON (at or after byte %d)", d.InputOffset())})
}

// escapePointer escapes a name for a JSON Pointer (RFC 6901, 3), cut to a
// length that can be shown.
func escapePointer(name string) string {
	if len(name) > 128 {
		name = strings.ToValidUTF8(name[:128], "") + "…"
	}
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// fieldErrors collects the places of a body that are not valid.
type fieldErrors []FieldError

func (e *fieldErrors) add(pointer, format string, args ...any) {
	if len(*e) < maxFieldErrors {
		*e = append(*e, FieldError{pointer, fmt.Sprintf(format, args...)})
	}
}

// err is the problem, or nil if there is none.
func (e fieldErrors) err() error {
	if len(e) == 0 {
		return nil
	}
	return invalid(e...)
}

// only refuses names that are not among the known ones.
func (e *fieldErrors) only(m members, at string, known ...string) {
	var unknown []string
	for name := range m {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		e.add(at+"/"+escapePointer(name), "there is no such member; known are %s", strings.Join(known, ", "))
	}
}

// text is a required string of min to max characters.
func (e *fieldErrors) text(m members, at, name string, min, max int) string {
	v, ok := m[name]
	if !ok {
		e.add(at+"/"+name, "is missing")
		return ""
	}
	s, ok := v.(string)
	if !ok {
		e.add(at+"/"+name, "must be a string")
		return ""
	}
	if n := utf8.RuneCountInString(s); n < min || n > max {
		e.add(at+"/"+name, "must have %d to %d characters", min, max)
		return ""
	}
	return s
}

// flag is a member that is true or false; false if it is missing.
func (e *fieldErrors) flag(m members, name string) bool {
	v, ok := m[name]
	if !ok {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		e.add("/"+name, "must be true or false")
	}
	return b
}
