package profile

import (
	"errors"
	"fmt"
)

// Check reports whether b is a Snapshot: every length, count, order, id and
// kind. It does not look into the texts. Nil is the Snapshot of a deleted
// profile and right; empty bytes that are not nil are not.
func Check(b []byte) error {
	if b == nil {
		return nil
	}
	if len(b) == 0 {
		return errors.New("profile snapshot: empty")
	}
	if b[0] != formatVersion {
		return fmt.Errorf("profile snapshot: format version %d, want %d", b[0], formatVersion)
	}
	r := open(b)
	if r.bad {
		return errors.New("profile snapshot: cut short in its head")
	}
	var last []byte
	for i := range r.sections {
		name, body := r.text(), r.text()
		if r.bad {
			return fmt.Errorf("profile snapshot: cut short in section %d", i)
		}
		if i > 0 && compareText(last, name) >= 0 {
			return fmt.Errorf("profile snapshot: section %d out of order", i)
		}
		last = name
		if err := checkSection(body); err != nil {
			return fmt.Errorf("profile snapshot: section %d: %w", i, err)
		}
	}
	if err := checkTexts(&r, false); err != nil {
		return fmt.Errorf("profile snapshot: segments: %w", err)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("profile snapshot: %d bytes too many", len(r.b))
	}
	return nil
}

func checkSection(body []byte) error {
	r := reader{b: body}
	n := r.count()
	var last []byte
	for i := range n {
		id, v := r.attribute()
		if r.bad {
			return fmt.Errorf("cut short in attribute %d", i)
		}
		if v.Kind >= numKinds {
			return fmt.Errorf("attribute %d is of the unknown kind %d", i, v.Kind)
		}
		if err := checkNext(last, id, i, true); err != nil {
			return fmt.Errorf("attribute %d: %w", i, err)
		}
		last = id
	}
	left := len(r.b)
	if err := checkTexts(&r, true); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	if len(r.b) != 0 {
		return fmt.Errorf("%d bytes too many", len(r.b))
	}
	if n == 0 && left == 1 {
		return errors.New("neither an attribute nor a tag")
	}
	return nil
}

func checkTexts(r *reader, ids bool) error {
	var last []byte
	for i := range r.count() {
		t := r.text()
		if r.bad {
			break
		}
		if err := checkNext(last, t, i, ids); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		last = t
	}
	if r.bad {
		return errors.New("cut short")
	}
	return nil
}

// checkNext checks entry i of a list against the one before it.
func checkNext(last, next []byte, i int, id bool) error {
	if i > 0 && compareText(last, next) >= 0 {
		return errors.New("out of order")
	}
	if id {
		if canonical, ok := VersionID(next); !ok || len(canonical) != len(next) {
			return errors.New("not a canonical version id")
		}
	}
	return nil
}
