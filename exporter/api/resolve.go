package api

import (
	"errors"
	"fmt"
	"strconv"

	"lockstitch/exporter/audience"
	"lockstitch/state/definition"
	"lockstitch/state/report"
)

// singleAudience is the name that a filter of one segment gets.
const singleAudience = "segment"

// definitionsOf are the definitions of an account, as current as Kafka has them. One with
// too many sections for exports is refused.
func (s *server) definitionsOf(c *call) (*definition.Account, error) {
	if err := s.within(c, "The definitions", s.deps.Definitions.CatchUp); err != nil {
		return nil, err
	}
	acc := s.deps.Definitions.Account(c.account)
	if n := len(acc.Sections()); n > s.cfg.Limits.Sections {
		return nil, kindSections.problem(fmt.Sprintf("The account has %d sections; exports are possible up to %d.", n, s.cfg.Limits.Sections))
	}
	return acc, nil
}

// resolve looks up everything a request names in the account's definitions, so
// that no later definition changes what the export holds. What is unknown or
// named twice is a problem that says where.
func resolve(req *ExportRequest, acc *definition.Account) (report.Question, error) {
	q := report.Question{Rolling: req.After != "", SpreadsheetSafe: req.SpreadsheetSafe}
	if req.StartAt != nil {
		q.StartAt = int64(*req.StartAt)
	}
	if req.EndAt != nil {
		q.EndAt = ptr(int64(*req.EndAt))
	}
	var e fieldErrors
	seen := make(map[string]int)
	for i, m := range req.Attributes {
		at := place("/additional_attribute_mappings", i)
		d, ok := acc.AttributeByName(m.Section, m.Discriminator)
		if m.VersionID != "" {
			d, ok = acc.AttributeByVersion(m.VersionID)
		}
		if !e.known(at, "attribute", m, ok) || !e.once(at, "attribute", d.VersionID, i, seen) {
			continue
		}
		q.Attributes = append(q.Attributes, report.AttributeColumn{
			Section: d.Section, VersionID: d.VersionID, Name: d.Name, Type: string(d.Type),
		})
	}
	clear(seen)
	for i, m := range req.Tags {
		at := place("/additional_tag_mappings", i)
		d, ok := acc.TagByName(m.Section, m.Discriminator)
		if m.VersionID != "" {
			d, ok = acc.TagByVersion(m.VersionID)
		}
		if !e.known(at, "tag", m, ok) || !e.once(at, "tag", d.VersionID, i, seen) {
			continue
		}
		q.Tags = append(q.Tags, report.TagColumn{Section: d.Section, VersionID: d.VersionID, Name: d.Name})
	}
	if req.SegmentFilter != nil {
		e.filter(&q, req.SegmentFilter, acc)
	}
	for _, section := range acc.EmailSections() {
		if q.Email == nil {
			q.Email = make(map[string][]report.EmailVersion)
		}
		for _, v := range acc.EmailVersions(section) {
			q.Email[section] = append(q.Email[section], report.EmailVersion{VersionID: v.VersionID, Type: string(v.Type)})
		}
	}
	return q, e.err()
}

func place(at string, i int) string { return at + "/" + strconv.Itoa(i) }

func (e *fieldErrors) known(at, what string, m Mapping, ok bool) bool {
	switch {
	case ok:
	case m.VersionID != "":
		e.add(at+"/version_id", "there is no %s with version id %s", what, m.VersionID)
	default:
		e.add(at+"/discriminator", "there is no %s %q in section %q", what, m.Discriminator, m.Section)
	}
	return ok
}

func (e *fieldErrors) once(at, what, versionID string, i int, seen map[string]int) bool {
	first, twice := seen[versionID]
	if twice {
		e.add(at, "%s %s is named twice, first at index %d", what, versionID, first)
		return false
	}
	seen[versionID] = i
	return true
}

func (e *fieldErrors) filter(q *report.Question, f *SegmentFilter, acc *definition.Account) {
	const at = "/segment_filter"
	if f.Discriminator != "" {
		if _, ok := acc.Segment(f.Discriminator); !ok {
			e.add(at+"/segment_discriminator", "there is no segment %q", f.Discriminator)
		}
		q.Filter, q.Audiences = singleAudience, map[string]string{singleAudience: f.Discriminator}
		return
	}
	for _, name := range sortedNames(f.Discriminators) {
		if _, ok := acc.Segment(f.Discriminators[name]); !ok {
			e.add(at+"/segment_discriminators/"+escapePointer(name), "there is no segment %q", f.Discriminators[name])
		}
	}
	expr, err := audience.Parse(f.Filter)
	if err != nil {
		detail := err.Error()
		if pe := (*audience.Error)(nil); errors.As(err, &pe) {
			detail = "at character " + strconv.Itoa(pe.Position) + ": " + pe.Detail
		}
		e.add(at+"/filter", "%s", detail)
		return
	}
	q.Filter, q.Audiences = f.Filter, make(map[string]string)
	for _, name := range expr.Names() {
		d, ok := f.Discriminators[name]
		if !ok {
			e.add(at+"/filter", "the name %q is not in segment_discriminators", name)
			continue
		}
		q.Audiences[name] = d
	}
}
