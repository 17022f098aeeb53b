package api

import (
	"maps"
	"sort"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"lockstitch/exporter/audience"
)

// Bounds on what a request may name.
const (
	maxDiscriminator = 256 // characters
	maxAudiences     = 100
	maxAudienceName  = 64 // characters
)

// ExportRequest is the body of POST /emails/reports, echoed in the status.
type ExportRequest struct {
	StartAt         *Time          `json:"start_at,omitempty" doc:"The first server_time of the window."`
	EndAt           *Time          `json:"end_at,omitempty" doc:"The server_time that the window ends before; absent: it has no upper end."`
	After           string         `json:"after,omitempty" pattern:"^(beginning|[A-Za-z0-9_-]{40,})$" example:"beginning" doc:"Instead of a window: \"beginning\", or the cursor of the report before, for everything that was kept since."`
	SegmentFilter   *SegmentFilter `json:"segment_filter,omitempty"`
	Attributes      []Mapping      `json:"additional_attribute_mappings,omitempty" nullable:"false"`
	Tags            []Mapping      `json:"additional_tag_mappings,omitempty" nullable:"false"`
	SpreadsheetSafe bool           `json:"spreadsheet_safe,omitempty" doc:"Puts an apostrophe before cells that begin with =, +, -, @, tab or CR, so that a spreadsheet does not take them for formulas. See /docs."`
}

// SegmentFilter names one audience, or several and an expression over them.
type SegmentFilter struct {
	Discriminator  string            `json:"segment_discriminator,omitempty"`
	Discriminators map[string]string `json:"segment_discriminators,omitempty"`
	Filter         string            `json:"filter,omitempty"`
}

// Mapping names an attribute or a tag: by its version id, or by section and
// discriminator, which mean the numerically greatest version id.
type Mapping struct {
	VersionID     string `json:"version_id,omitempty"`
	Section       string `json:"section_discriminator,omitempty"`
	Discriminator string `json:"discriminator,omitempty"`
}

// TransformSchema says that an export has a window or begins after a position.
func (ExportRequest) TransformSchema(_ huma.Registry, s *huma.Schema) *huma.Schema {
	shape := func(required string, without ...string) *huma.Schema {
		props := maps.Clone(s.Properties)
		for _, name := range without {
			delete(props, name)
		}
		return &huma.Schema{Type: huma.TypeObject, Properties: props, Required: []string{required}, AdditionalProperties: false}
	}
	s.OneOf = []*huma.Schema{shape("start_at", "after"), shape("after", "start_at", "end_at")}
	s.Properties, s.Required, s.AdditionalProperties = nil, nil, nil
	return s
}

// Schema describes the two shapes of a segment_filter.
func (SegmentFilter) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Description: "Exports only events of profiles that, as of the event, belonged to a segment, or to a combination of segments.",
		OneOf: []*huma.Schema{
			closed(map[string]*huma.Schema{"segment_discriminator": textSchema(maxDiscriminator, "usercreated.segments.women-rjz6b8td2n")}),
			closed(map[string]*huma.Schema{
				"segment_discriminators": {
					Type: huma.TypeObject, AdditionalProperties: textSchema(maxDiscriminator, "usercreated.segments.women-rjz6b8td2n"),
					MinProperties: ptr(1), MaxProperties: ptr(maxAudiences),
					Description: "The segments, by the names that `filter` uses: letters, digits, `_`, `-`, `.` and `:`.",
					Extensions:  map[string]any{"propertyNames": &huma.Schema{Type: huma.TypeString, Pattern: `^[^\x00-,/;-@\[-^\x60{-\x7f]+$`, MaxLength: ptr(maxAudienceName)}},
				},
				"filter": {
					Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(audience.MaxLength), Examples: []any{"!(europe) & women"},
					Description: "`!` (not) binds before `&` (and), `&` before `|` (or); parentheses group.",
				},
			}),
		},
	}
}

// Schema describes the two shapes of a mapping.
func (Mapping) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		closed(map[string]*huma.Schema{"version_id": {Type: huma.TypeString, Pattern: `^[0-9]{1,19}$`, Examples: []any{"491874"}}}),
		closed(map[string]*huma.Schema{
			"section_discriminator": textSchema(maxDiscriminator, "usercreated.sections.europe-r6tz73a27t"),
			"discriminator":         textSchema(maxDiscriminator, "com.apsis1.attributes.email"),
		}),
	}}
}

// closed is an object of exactly these members.
func closed(props map[string]*huma.Schema) *huma.Schema {
	names := make([]string, 0, len(props))
	for name := range props {
		names = append(names, name)
	}
	sort.Strings(names)
	return &huma.Schema{Type: huma.TypeObject, Properties: props, Required: names, AdditionalProperties: false}
}

func textSchema(max int, example string) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: &max, Examples: []any{example}}
}

func ptr[T any](v T) *T { return &v }

// decodeExport reads the body of an export request: everything about it that
// can be said without definitions and clock. Errors name their places.
func decodeExport(body []byte, lim Limits) (*ExportRequest, error) {
	m, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	var e fieldErrors
	e.only(m, "", "start_at", "end_at", "after", "segment_filter", "additional_attribute_mappings", "additional_tag_mappings", "spreadsheet_safe")
	req := &ExportRequest{}
	if v, ok := m["after"]; ok {
		req.After = e.after(m, v)
	} else {
		req.StartAt = ptr(e.time(m, "start_at"))
		if _, ok := m["end_at"]; ok {
			req.EndAt = ptr(e.time(m, "end_at"))
		}
	}
	if v, ok := m["segment_filter"]; ok {
		req.SegmentFilter = e.segmentFilter(v)
	}
	req.Attributes = e.mappings(m, "additional_attribute_mappings", lim.Attributes)
	req.Tags = e.mappings(m, "additional_tag_mappings", lim.Tags)
	req.SpreadsheetSafe = e.flag(m, "spreadsheet_safe")
	return req, e.err()
}

func (e *fieldErrors) time(m members, name string) Time {
	v, ok := m[name]
	if !ok {
		e.add("/"+name, "is missing (or, for everything since a cursor, after)")
		return 0
	}
	s, _ := v.(string)
	t, ok := ParseTime(s)
	if !ok {
		e.add("/"+name, "must be an RFC 3339 time in UTC, such as 2026-05-01T00:00:00Z")
	}
	return t
}

func (e *fieldErrors) segmentFilter(v any) *SegmentFilter {
	const at = "/segment_filter"
	m, ok := v.(members)
	if !ok {
		e.add(at, "must be an object")
		return nil
	}
	f := &SegmentFilter{}
	if _, single := m["segment_discriminator"]; single {
		e.only(m, at, "segment_discriminator")
		f.Discriminator = e.text(m, at, "segment_discriminator", 1, maxDiscriminator)
		return f
	}
	e.only(m, at, "segment_discriminator", "segment_discriminators", "filter")
	f.Filter = e.text(m, at, "filter", 1, audience.MaxLength)
	names, ok := m["segment_discriminators"].(members)
	switch {
	case !ok:
		e.add(at+"/segment_discriminators", "must be an object of names and segment discriminators (or give segment_discriminator alone)")
		return f
	case len(names) == 0 || len(names) > maxAudiences:
		e.add(at+"/segment_discriminators", "must name 1 to %d segments", maxAudiences)
		return f
	}
	f.Discriminators = make(map[string]string, len(names))
	for _, name := range sortedNames(names) {
		// A name goes into every request and into each report that is kept.
		if !audience.ValidName(name) || utf8.RuneCountInString(name) > maxAudienceName {
			e.add(at+"/segment_discriminators/"+escapePointer(name), "must be named by 1 to %d letters, digits, _, -, . and :", maxAudienceName)
			continue
		}
		s, ok := names[name].(string)
		if n := len([]rune(s)); !ok || n == 0 || n > maxDiscriminator {
			e.add(at+"/segment_discriminators/"+escapePointer(name), "must be a segment's discriminator, 1 to %d characters", maxDiscriminator)
			continue
		}
		f.Discriminators[name] = s
	}
	return f
}

func (e *fieldErrors) mappings(m members, name string, max int) []Mapping {
	v, ok := m[name]
	if !ok {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		e.add("/"+name, "must be a list")
		return nil
	}
	if len(list) > max {
		e.add("/"+name, "names %d; at most %d are possible", len(list), max)
		return nil
	}
	out := make([]Mapping, len(list))
	for i, v := range list {
		at := place("/"+name, i)
		o, ok := v.(members)
		if !ok {
			e.add(at, "must be an object")
			continue
		}
		if _, ok := o["version_id"]; ok {
			e.only(o, at, "version_id")
			id, _ := o["version_id"].(string)
			if _, ok := digits(id); !ok || id == "" || len(id) > 19 {
				e.add(at+"/version_id", "must be a string of 1 to 19 decimal digits")
			}
			out[i].VersionID = id
			continue
		}
		e.only(o, at, "version_id", "section_discriminator", "discriminator")
		out[i].Section = e.text(o, at, "section_discriminator", 1, maxDiscriminator)
		out[i].Discriminator = e.text(o, at, "discriminator", 1, maxDiscriminator)
	}
	return out
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
