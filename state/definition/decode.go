package definition

import (
	"lockstitch/state/jsonvalue"
	"lockstitch/state/poison"
	"lockstitch/state/profile"
)

// kind is what a record defines.
type kind uint8

const (
	kindSection kind = iota
	kindAttribute
	kindTag
	kindSegment
)

// identity is what two records have in common that define the same.
type identity struct {
	kind    kind
	account string
	id      string // canonical version id, or discriminator
}

// definition is what one record says. Members that its kind has not are empty.
type definition struct {
	identity
	discriminator string
	section       string
	name          string
	typ           Type
}

// decode reads the value of a record. The error is a *poison.Error.
func decode(value []byte) (definition, error) {
	root, err := jsonvalue.ParseObject(value)
	if err != nil {
		return definition{}, err
	}
	r := members{fields: make(map[string]jsonvalue.Value, 8)}
	for name, v := range root.Members() {
		switch name := string(name.Text(&r.scratch)); name {
		case "kind", "account_id", "version_id", "discriminator", "section", "name", "type":
			r.fields[name] = v // the last value of a repeated name counts
		}
	}
	var def definition
	what := r.text("kind")
	def.account = r.text("account_id")
	def.discriminator = r.text("discriminator")
	def.name = r.text("name")
	def.id = def.discriminator
	switch {
	case r.err != nil:
	case what == "section":
		def.kind = kindSection
	case what == "attribute":
		def.kind = kindAttribute
		def.id = r.version()
		def.section = r.text("section")
		def.typ = Text
		if r.fields["type"].Kind > jsonvalue.Null {
			def.typ = ParseType(r.text("type"))
		}
	case what == "tag":
		def.kind = kindTag
		def.id = r.version()
		def.section = r.text("section")
	case what == "segment":
		def.kind = kindSegment
	default:
		return definition{}, poison.New(poison.UnknownType, "kind is %q", excerpt(what))
	}
	if r.err != nil {
		return definition{}, r.err
	}
	return def, nil
}

// members reads fields and keeps the first error.
type members struct {
	fields  map[string]jsonvalue.Value
	scratch []byte
	err     error
}

// text is a required string.
func (r *members) text(name string) string {
	v := r.fields[name]
	switch v.Kind {
	case jsonvalue.String:
		return string(v.Text(&r.scratch))
	case jsonvalue.Absent, jsonvalue.Null:
		r.fail(poison.New(poison.MissingField, "%s is absent", name))
	default:
		r.fail(poison.New(poison.WrongType, "%s is %s, a string is needed", name, v.Kind))
	}
	return ""
}

// version is the required version_id, canonical.
func (r *members) version() string {
	v := r.fields["version_id"]
	switch v.Kind {
	case jsonvalue.String, jsonvalue.Integer:
		text := v.Text(&r.scratch)
		id, ok := profile.VersionID(text)
		if !ok {
			r.fail(poison.New(poison.OutOfRange, "version_id is %q, a number of 1 to %d digits is needed", excerpt(string(text)), profile.MaxVersionDigits))
		}
		return string(id)
	case jsonvalue.Absent, jsonvalue.Null:
		r.fail(poison.New(poison.MissingField, "version_id is absent"))
	default:
		r.fail(poison.New(poison.WrongType, "version_id is %s, a string or an integer is needed", v.Kind))
	}
	return ""
}

func (r *members) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func excerpt(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
