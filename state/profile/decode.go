package profile

import (
	"bytes"
	"fmt"
	"slices"

	"lockstitch/state/jsonvalue"
	"lockstitch/state/poison"
)

// Decode makes a Snapshot of a record of the profiles topic. key is the
// profile's id; a value that is nil deletes the profile: the Snapshot is nil
// without an error. dropped counts the attributes that were left out because
// their value is an array or an object.
//
// The error is a *poison.Error. The caller sets the record aside and takes it
// for a deletion, as compaction will remove what stood before it.
//
// account_id is required. profile_id, sections, segments, attributes and tags
// may be absent or null. Members that the contract does not name are ignored.
// The Snapshot is new memory.
func Decode(key, value []byte) (snap Snapshot, dropped int, err error) {
	if err := jsonvalue.CheckKey(key); err != nil {
		return nil, 0, err
	}
	if value == nil {
		return nil, 0, nil
	}
	root, err := jsonvalue.ParseObject(value)
	if err != nil {
		return nil, 0, err
	}
	d := decoder{}
	p, err := d.profile(root, jsonvalue.Sanitize(key))
	if err != nil {
		return nil, 0, err
	}
	return encode(p), d.dropped, nil
}

// model is a profile between JSON and its canonical form; everything is sorted
// and without repeats.
type model struct {
	account  []byte
	sections []section
	segments [][]byte
}

type section struct {
	name       []byte
	attributes []attribute
	tags       [][]byte // canonical version ids
}

type attribute struct {
	id    []byte // canonical version id
	value Value
}

// member is a member of an object with its name decoded.
type member struct {
	name  []byte
	value jsonvalue.Value
}

type decoder struct {
	scratch []byte
	dropped int
}

func (d *decoder) profile(root jsonvalue.Value, key []byte) (*model, error) {
	var account, id, sections, segments jsonvalue.Value
	for name, v := range root.Members() {
		switch string(name.Text(&d.scratch)) {
		case "account_id":
			account = v
		case "profile_id":
			id = v
		case "sections":
			sections = v
		case "segments":
			segments = v
		}
	}
	switch account.Kind {
	case jsonvalue.String:
	case jsonvalue.Absent, jsonvalue.Null:
		return nil, poison.New(poison.MissingField, "account_id is absent")
	default:
		return nil, wrongType("account_id", account, "a string")
	}
	m := &model{account: account.Text(&d.scratch)}
	switch id.Kind {
	case jsonvalue.String:
		if text := id.Text(&d.scratch); !bytes.Equal(text, key) {
			return nil, poison.New(poison.ProfileMismatch, "profile_id is %q, the record key is %q", excerpt(text), excerpt(key))
		}
	case jsonvalue.Absent, jsonvalue.Null:
	default:
		return nil, wrongType("profile_id", id, "a string")
	}
	var err error
	if m.sections, err = d.sections(sections); err != nil {
		return nil, err
	}
	m.segments, err = d.segments(segments)
	return m, err
}

func (d *decoder) sections(v jsonvalue.Value) ([]section, error) {
	all, err := d.members(v, "sections", nil)
	if err != nil {
		return nil, err
	}
	out := make([]section, 0, len(all))
	for _, m := range all {
		s, err := d.section(m)
		if err != nil {
			return nil, err
		}
		if len(s.attributes)+len(s.tags) > 0 {
			out = append(out, s)
		}
	}
	return out, nil
}

func (d *decoder) section(m member) (section, error) {
	s := section{name: m.name}
	var attributes, tags jsonvalue.Value
	switch m.value.Kind {
	case jsonvalue.Null:
		return s, nil
	case jsonvalue.Object:
	default:
		return s, wrongType(fmt.Sprintf("section %q", excerpt(m.name)), m.value, "an object")
	}
	for name, v := range m.value.Members() {
		switch string(name.Text(&d.scratch)) {
		case "attributes":
			attributes = v
		case "tags":
			tags = v
		}
	}
	all, err := d.members(attributes, "attributes", VersionID)
	if err != nil {
		return s, err
	}
	s.attributes = make([]attribute, 0, len(all))
	for _, m := range all {
		a := attribute{id: m.name}
		switch m.value.Kind {
		case jsonvalue.String:
			a.value = Value{Text, m.value.Text(&d.scratch)}
		case jsonvalue.Integer, jsonvalue.Decimal:
			a.value = Value{Number, m.value.Raw}
		case jsonvalue.True:
			a.value.Kind = True
		case jsonvalue.False:
			a.value.Kind = False
		case jsonvalue.Null:
			continue
		default:
			d.dropped++
			continue
		}
		s.attributes = append(s.attributes, a)
	}
	s.tags, err = d.tags(tags)
	return s, err
}

// members are the members of an object, sorted by name, the last of equal names
// only. canonical, where given, turns names into the ids that they are.
func (d *decoder) members(v jsonvalue.Value, what string, canonical func([]byte) ([]byte, bool)) ([]member, error) {
	switch v.Kind {
	case jsonvalue.Absent, jsonvalue.Null:
		return nil, nil
	case jsonvalue.Object:
	default:
		return nil, wrongType(what, v, "an object")
	}
	var all []member
	for name, value := range v.Members() {
		m := member{name.Text(&d.scratch), value}
		if canonical != nil {
			id, ok := canonical(m.name)
			if !ok {
				return nil, poison.New(poison.OutOfRange, "%q among the %s is not a version id of 1 to %d digits", excerpt(m.name), what, MaxVersionDigits)
			}
			m.name = id
		}
		all = append(all, m)
	}
	// Stable, so that of equal names the last in the text is the last here.
	slices.SortStableFunc(all, func(a, b member) int { return compareText(a.name, b.name) })
	out := all[:0]
	for i, m := range all {
		if i+1 == len(all) || !bytes.Equal(m.name, all[i+1].name) {
			out = append(out, m)
		}
	}
	return out, nil
}

func (d *decoder) tags(v jsonvalue.Value) ([][]byte, error) {
	return d.set(v, "tags", func(item jsonvalue.Value) ([]byte, error) {
		if item.Kind != jsonvalue.String && item.Kind != jsonvalue.Integer {
			return nil, wrongType("a member of tags", item, "a string or an integer")
		}
		text := item.Text(&d.scratch)
		id, ok := VersionID(text)
		if !ok {
			return nil, poison.New(poison.OutOfRange, "%q among the tags is not a version id of 1 to %d digits", excerpt(text), MaxVersionDigits)
		}
		return id, nil
	})
}

func (d *decoder) segments(v jsonvalue.Value) ([][]byte, error) {
	return d.set(v, "segments", func(item jsonvalue.Value) ([]byte, error) {
		if item.Kind != jsonvalue.String {
			return nil, wrongType("a member of segments", item, "a string")
		}
		return item.Text(&d.scratch), nil
	})
}

// set is an array as a sorted set.
func (d *decoder) set(v jsonvalue.Value, what string, text func(jsonvalue.Value) ([]byte, error)) ([][]byte, error) {
	switch v.Kind {
	case jsonvalue.Absent, jsonvalue.Null:
		return nil, nil
	case jsonvalue.Array:
	default:
		return nil, wrongType(what, v, "an array")
	}
	var all [][]byte
	for item := range v.Items() {
		t, err := text(item)
		if err != nil {
			return nil, err
		}
		all = append(all, t)
	}
	slices.SortFunc(all, compareText)
	return slices.CompactFunc(all, bytes.Equal), nil
}

// compareText is the order of everything in a Snapshot: shorter texts first,
// then by bytes. For version ids that is their order as numbers.
func compareText(a, b []byte) int { return CompareVersionIDs(a, b) }

func wrongType(what string, v jsonvalue.Value, want string) error {
	return poison.New(poison.WrongType, "%s is %s, %s is needed", what, v.Kind, want)
}

func excerpt(b []byte) []byte {
	if len(b) > 64 {
		return b[:64]
	}
	return b
}
