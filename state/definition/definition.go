// Package definition knows what exists on the accounts: their sections,
// attributes, tags and audiences (contract 1.3), as the definitions topic says.
//
// A record's value is a JSON object and says itself what it defines; its key is
// opaque and only says which earlier record it replaces:
//
//	{"kind":"section",   "account_id":…, "discriminator":…, "name":…}
//	{"kind":"attribute", "account_id":…, "version_id":…, "discriminator":…, "section":…, "name":…, "type":…}
//	{"kind":"tag",       "account_id":…, "version_id":…, "discriminator":…, "section":…, "name":…}
//	{"kind":"segment",   "account_id":…, "discriminator":…, "name":…}
//
// All members shown are required but type; an absent or unknown type is text.
// version_id is a string or an integer of 1 to 19 digits, everything else a
// string. Other members are ignored. The rules for JSON are those of package
// jsonvalue.
//
// Invariants:
//   - What a key says is what its newest record says: a null value or a
//     malformed one says nothing.
//   - Where the keys say different things of one definition (kind, account and
//     version id, or discriminator where there is no version id), the record
//     with the highest offset counts; when its key says nothing more, the next
//     lower one does.
//   - An Account is a snapshot and never changes.
package definition

// Type is the type of an attribute; it decides how its values are written.
type Type string

// The attribute types of the contract.
const (
	Text      Type = "text"
	Boolean   Type = "boolean"
	Date      Type = "date"
	Timestamp Type = "timestamp"
	Number    Type = "number"
	Decimal   Type = "decimal"
	Location  Type = "location"
)

// ParseType is the type with the given name; Text where there is none.
func ParseType(name string) Type {
	switch t := Type(name); t {
	case Boolean, Date, Timestamp, Number, Decimal, Location:
		return t
	}
	return Text
}

// EmailDiscriminator is the discriminator of the attribute that holds a
// profile's primary e-mail address in a section.
const EmailDiscriminator = "com.apsis1.attributes.email"

// Section is a part of an account that events and profile data belong to.
type Section struct {
	Discriminator string
	Name          string
}

// Attribute is one version of an attribute of the profiles in a section.
type Attribute struct {
	VersionID     string // canonical (profile.VersionID)
	Discriminator string
	Section       string // discriminator
	Name          string
	Type          Type
}

// Tag is one version of a tag of the profiles in a section.
type Tag struct {
	VersionID     string // canonical (profile.VersionID)
	Discriminator string
	Section       string // discriminator
	Name          string
}

// Segment is an audience that profiles can be members of.
type Segment struct {
	Discriminator string
	Name          string
}
