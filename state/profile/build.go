package profile

import "slices"

// Builder puts Snapshots together from what Attributes, Tags and Segments tell of
// one: each part once, in any order. It keeps the parts until Snapshot. Sections go by
// their numbers: a name may be long, and that of thousands of parts.
type Builder struct {
	sections []section // by number, with those that have no part yet
	begun    []int     // the numbers of those that have
	parts    model
}

// NewBuilder returns a Builder for profiles whose sections are among these, which are
// distinct.
func NewBuilder(sections [][]byte) *Builder {
	b := &Builder{sections: make([]section, len(sections))}
	for i, name := range sections {
		b.sections[i].name = name
	}
	return b
}

// Attribute adds an attribute of a section; versionID is canonical (VersionID).
func (b *Builder) Attribute(section int, versionID []byte, v Value) {
	s := b.section(section)
	s.attributes = append(s.attributes, attribute{versionID, v})
}

// Tag adds a tag that is set; versionID is canonical (VersionID).
func (b *Builder) Tag(section int, versionID []byte) {
	s := b.section(section)
	s.tags = append(s.tags, versionID)
}

// Segment adds the discriminator of an audience.
func (b *Builder) Segment(discriminator []byte) {
	b.parts.segments = append(b.parts.segments, discriminator)
}

// section is the section to which a part is added.
func (b *Builder) section(number int) *section {
	s := &b.sections[number]
	if len(s.attributes)+len(s.tags) == 0 {
		b.begun = append(b.begun, number)
	}
	return s
}

// Snapshot is made of the parts added since the last call.
func (b *Builder) Snapshot(account []byte) Snapshot {
	m := &b.parts
	m.account = account
	slices.SortFunc(b.begun, func(x, y int) int { return compareText(b.sections[x].name, b.sections[y].name) })
	for _, number := range b.begun {
		s := &b.sections[number]
		slices.SortFunc(s.attributes, func(a, b attribute) int { return compareText(a.id, b.id) })
		slices.SortFunc(s.tags, compareText)
		m.sections = append(m.sections, *s)
		s.attributes, s.tags = s.attributes[:0], s.tags[:0]
	}
	slices.SortFunc(m.segments, compareText)
	out := encode(m)
	b.begun, m.sections, m.segments = b.begun[:0], m.sections[:0], m.segments[:0]
	return out
}
