package profile

import (
	"bytes"
	"slices"
)

// Builder puts Snapshots together from what Attributes, Tags and Segments tell of
// one: each part once, in any order. It keeps the parts until Snapshot, and the names
// of the sections that it has met. The zero Builder is ready for use.
type Builder struct {
	sections []section // with those that have no part yet
	parts    model
}

// Attribute adds an attribute; versionID is canonical (VersionID).
func (b *Builder) Attribute(section, versionID []byte, v Value) {
	s := b.section(section)
	s.attributes = append(s.attributes, attribute{versionID, v})
}

// Tag adds a tag that is set; versionID is canonical (VersionID).
func (b *Builder) Tag(section, versionID []byte) {
	s := b.section(section)
	s.tags = append(s.tags, versionID)
}

// Segment adds the discriminator of an audience.
func (b *Builder) Segment(discriminator []byte) {
	b.parts.segments = append(b.parts.segments, discriminator)
}

func (b *Builder) section(name []byte) *section {
	at, ok := slices.BinarySearchFunc(b.sections, name, func(s section, name []byte) int { return compareText(s.name, name) })
	if !ok {
		b.sections = slices.Insert(b.sections, at, section{name: bytes.Clone(name)})
	}
	return &b.sections[at]
}

// Snapshot is made of the parts added since the last call.
func (b *Builder) Snapshot(account []byte) Snapshot {
	m := &b.parts
	m.account = account
	for i := range b.sections {
		s := &b.sections[i]
		if len(s.attributes) == 0 && len(s.tags) == 0 {
			continue
		}
		slices.SortFunc(s.attributes, func(a, b attribute) int { return compareText(a.id, b.id) })
		slices.SortFunc(s.tags, compareText)
		m.sections = append(m.sections, *s)
		s.attributes, s.tags = s.attributes[:0], s.tags[:0]
	}
	slices.SortFunc(m.segments, compareText)
	out := encode(m)
	m.sections, m.segments = m.sections[:0], m.segments[:0]
	return out
}
