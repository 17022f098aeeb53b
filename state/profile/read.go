package profile

import "encoding/binary"

// Account is the account that the profile belongs to; nil for a nil Snapshot.
func (s Snapshot) Account() []byte {
	r := open(s)
	return r.account
}

// Attributes calls f for every attribute, sorted by section and version id.
func (s Snapshot) Attributes(f func(section, versionID []byte, v Value)) {
	r := open(s)
	for range r.sections {
		name, body := r.text(), r.text()
		in := reader{b: body}
		for range in.count() {
			id, v := in.attribute()
			f(name, id, v)
		}
	}
}

// Tags calls f for every tag that is set, sorted by section and version id.
func (s Snapshot) Tags(f func(section, versionID []byte)) {
	r := open(s)
	for range r.sections {
		name, body := r.text(), r.text()
		in := reader{b: body}
		for range in.count() {
			in.attribute()
		}
		for range in.count() {
			f(name, in.text())
		}
	}
}

// Segments calls f for the discriminator of every audience that the profile is
// in, sorted.
func (s Snapshot) Segments(f func(discriminator []byte)) {
	r := open(s)
	for range r.sections {
		r.text()
		r.text()
	}
	for range r.count() {
		f(r.text())
	}
}

// reader walks over the bytes of a Snapshot. On bytes that Check would refuse
// it ends early with empty results; it never reads outside of b.
type reader struct {
	b        []byte
	account  []byte
	sections int
	bad      bool
}

func open(s Snapshot) reader {
	if len(s) == 0 || s[0] != formatVersion {
		return reader{bad: true}
	}
	r := reader{b: s[1:]}
	r.account = r.text()
	r.sections = r.count()
	return r
}

func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		n := r.b[0]
		r.b = r.b[1:]
		return uint64(n)
	}
	n, size := binary.Uvarint(r.b)
	if size <= 0 || r.b[size-1] == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[size:]
	return n
}

// count is a number of entries, of which each has at least one byte.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) text() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	t := r.b[:n:n]
	r.b = r.b[n:]
	return t
}

func (r *reader) attribute() ([]byte, Value) {
	id := r.text()
	if len(r.b) == 0 {
		r.fail()
		return nil, Value{}
	}
	v := Value{Kind: ValueKind(r.b[0])}
	r.b = r.b[1:]
	if v.Kind == Text || v.Kind == Number {
		v.Raw = r.text()
	}
	return id, v
}

func (r *reader) fail() { r.b, r.bad = nil, true }
