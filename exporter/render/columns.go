package render

import (
	"fmt"
	"slices"

	"lockstitch/exporter/audience"
	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// defaultColumns is the header of the columns that every export has, in order
// (contract section 4).
var defaultColumns = []string{
	"activity_id", "split_id", "activity_name", "split_activity_name", "sender", "subject", "address",
	"variation", "type", "correlation_id", "event_time", "server_time", "device", "location",
	"link_id", "link_url", "link_title", "bounce_code", "unsubscribe_topic", "abuse_section",
}

// cellsBefore, cellsBetween and cellsAfter are the event's own cells before the
// address, between it and the type, and behind server_time.
var (
	cellsBefore  = []event.Cell{event.ActivityID, event.SplitID, event.ActivityName, event.SplitActivityName, event.Sender, event.Subject}
	cellsBetween = []event.Cell{event.Variation}
	cellsAfter   = []event.Cell{event.Device, event.Location, event.LinkID, event.LinkURL, event.LinkTitle, event.BounceCode, event.UnsubscribeTopic, event.AbuseSection}
)

// columns is a question prepared for rendering. It does not change.
type columns struct {
	guard      bool // spreadsheet_safe
	attributes []attribute
	tags       []report.TagColumn
	email      map[string][]attribute // by section, the version that goes first first
	filter     *audience.Expr         // nil: all rows
	audiences  []string               // the discriminator of each of the filter's names
	limits     map[segment.Partition]limit
	ranks      map[segment.Source]int32 // order of the sources that slices can have
}

type attribute struct {
	section, version string
	as               valueType
}

// limit is the range of offsets, after <= offset < barrier, of a partition's
// rows that the export holds. The zero limit holds none.
type limit struct{ after, barrier int64 }

func newColumns(q *report.Question, refs []catalog.SliceRef) (*columns, error) {
	c := &columns{guard: q.SpreadsheetSafe, tags: q.Tags, email: make(map[string][]attribute, len(q.Email)),
		limits: make(map[segment.Partition]limit, len(q.Barrier)), ranks: make(map[segment.Source]int32)}
	for _, a := range q.Attributes {
		c.attributes = append(c.attributes, attribute{a.Section, a.VersionID, typeOf(a.Type)})
	}
	for section, versions := range q.Email {
		for _, v := range versions {
			c.email[section] = append(c.email[section], attribute{section, v.VersionID, typeOf(v.Type)})
		}
	}
	for _, e := range q.Barrier {
		c.limits[e.At()] = limit{barrier: e.Offset}
	}
	for _, e := range q.After {
		k := e.At()
		if l, known := c.limits[k]; known {
			l.after = e.Offset
			c.limits[k] = l
		}
	}
	if q.Filter != "" {
		var err error
		if c.filter, err = audience.Parse(q.Filter); err != nil {
			return nil, fmt.Errorf("render: %w", err)
		}
		for _, name := range c.filter.Names() {
			d, known := q.Audiences[name]
			if !known {
				return nil, fmt.Errorf("render: the filter names %q, which stands for no audience", name)
			}
			c.audiences = append(c.audiences, d)
		}
	}
	c.rank(refs)
	return c, nil
}

// rank numbers the sources of all slices in the order in which rows of equal
// server_time are shown.
func (c *columns) rank(refs []catalog.SliceRef) {
	var sources []segment.Source
	for _, ref := range refs {
		for i := range ref.Info.Sources {
			s := ref.Info.Sources[i].Source()
			if _, seen := c.ranks[s]; !seen {
				c.ranks[s] = 0
				sources = append(sources, s)
			}
		}
	}
	slices.SortFunc(sources, func(a, b segment.Source) int {
		if d := a.Compare(b); d != 0 {
			return d
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	for i, s := range sources {
		c.ranks[s] = int32(i)
	}
}

// header is the file's first line.
func (c *columns) header(q *report.Question) []byte {
	var line, name []byte
	cell := func(text []byte) {
		if len(line) > 0 {
			line = append(line, ',')
		}
		line = appendCell(line, text, c.guard)
	}
	for _, text := range defaultColumns {
		cell([]byte(text))
	}
	for _, a := range q.Attributes {
		name = fmt.Appendf(name[:0], "%s (version_id: %s)", a.Name, a.VersionID)
		cell(name)
	}
	for _, t := range q.Tags {
		name = fmt.Appendf(name[:0], "%s (version_id: %s)", t.Name, t.VersionID)
		cell(name)
	}
	return append(line, '\n')
}

// rowEstimate guesses the length of a row in bytes.
func (c *columns) rowEstimate() int64 {
	return int64(220 + 15*len(c.attributes) + 3*len(c.tags))
}
