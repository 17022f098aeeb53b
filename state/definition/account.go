package definition

import (
	"cmp"
	"slices"

	"lockstitch/state/profile"
)

// Account is what exists on one account at one moment. It never changes; what
// its methods return is the caller's.
type Account struct {
	sections   map[string]Section   // by discriminator
	segments   map[string]Segment   // by discriminator
	attributes map[string]Attribute // by version id
	tags       map[string]Tag       // by version id

	// By section and discriminator, the numerically greatest version id first.
	attributeVersions map[place][]Attribute
	tagVersions       map[place][]Tag
}

type place struct{ section, discriminator string }

// Section is the section with a discriminator.
func (a *Account) Section(discriminator string) (Section, bool) {
	s, ok := a.sections[discriminator]
	return s, ok
}

// Sections are all sections, sorted by discriminator.
func (a *Account) Sections() []Section {
	out := make([]Section, 0, len(a.sections))
	for _, s := range a.sections {
		out = append(out, s)
	}
	slices.SortFunc(out, func(x, y Section) int { return cmp.Compare(x.Discriminator, y.Discriminator) })
	return out
}

// AttributeByVersion is the attribute with a version id; leading zeros do not
// matter.
func (a *Account) AttributeByVersion(id string) (Attribute, bool) {
	at, ok := a.attributes[canonical(id)]
	return at, ok
}

// AttributeByName is the version of an attribute with the numerically greatest
// version id.
func (a *Account) AttributeByName(section, discriminator string) (Attribute, bool) {
	if vs := a.attributeVersions[place{section, discriminator}]; len(vs) > 0 {
		return vs[0], true
	}
	return Attribute{}, false
}

// EmailVersions are the versions of the e-mail attribute of a section, the
// numerically greatest version id first.
func (a *Account) EmailVersions(section string) []Attribute {
	return slices.Clone(a.attributeVersions[place{section, EmailDiscriminator}])
}

// EmailSections are the sections that have an e-mail attribute, sorted.
func (a *Account) EmailSections() []string {
	var out []string
	for p := range a.attributeVersions {
		if p.discriminator == EmailDiscriminator {
			out = append(out, p.section)
		}
	}
	slices.Sort(out)
	return out
}

// TagByVersion is the tag with a version id; leading zeros do not matter.
func (a *Account) TagByVersion(id string) (Tag, bool) {
	t, ok := a.tags[canonical(id)]
	return t, ok
}

// TagByName is the version of a tag with the numerically greatest version id.
func (a *Account) TagByName(section, discriminator string) (Tag, bool) {
	if vs := a.tagVersions[place{section, discriminator}]; len(vs) > 0 {
		return vs[0], true
	}
	return Tag{}, false
}

// Segment is the audience with a discriminator.
func (a *Account) Segment(discriminator string) (Segment, bool) {
	s, ok := a.segments[discriminator]
	return s, ok
}

func canonical(id string) string {
	c, _ := profile.VersionID([]byte(id))
	return string(c)
}

// newAccount makes the snapshot of an account out of its definitions.
func newAccount(defs []definition) *Account {
	a := &Account{
		sections: map[string]Section{}, segments: map[string]Segment{},
		attributes: map[string]Attribute{}, tags: map[string]Tag{},
		attributeVersions: map[place][]Attribute{}, tagVersions: map[place][]Tag{},
	}
	for _, d := range defs {
		at := place{d.section, d.discriminator}
		switch d.kind {
		case kindSection:
			a.sections[d.id] = Section{d.discriminator, d.name}
		case kindSegment:
			a.segments[d.id] = Segment{d.discriminator, d.name}
		case kindAttribute:
			v := Attribute{d.id, d.discriminator, d.section, d.name, d.typ}
			a.attributes[d.id] = v
			a.attributeVersions[at] = append(a.attributeVersions[at], v)
		case kindTag:
			v := Tag{d.id, d.discriminator, d.section, d.name}
			a.tags[d.id] = v
			a.tagVersions[at] = append(a.tagVersions[at], v)
		}
	}
	for _, vs := range a.attributeVersions {
		slices.SortFunc(vs, func(x, y Attribute) int { return greatestFirst(x.VersionID, y.VersionID) })
	}
	for _, vs := range a.tagVersions {
		slices.SortFunc(vs, func(x, y Tag) int { return greatestFirst(x.VersionID, y.VersionID) })
	}
	return a
}

func greatestFirst(x, y string) int {
	return profile.CompareVersionIDs([]byte(y), []byte(x))
}
