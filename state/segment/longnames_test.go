package segment

import (
	"bytes"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"lockstitch/state/profile"
)

// step is what one thing takes of memory that is done with rows between a cut and a file.
type step struct {
	name      string
	allocated int64
}

// stepsOf seals, reads and merges versions of a profile that has all of its tags, and an
// attribute, in one section.
func stepsOf(t *testing.T, section string, versions, tags int) (out []step) {
	t.Helper()
	buf := NewBuffer()
	for v := range versions {
		text := fmt.Appendf(nil, `{"account_id":"acme","sections":{"%s":{"attributes":{"7":%d},"tags":[10000`, section, v)
		for i := range tags - 1 {
			text = strconv.AppendInt(append(text, ','), int64(10_001+i), 10)
		}
		row := simpleRow(v, "acme", 1_700_000_000_000)
		var err error
		if row.snap, _, err = profile.Decode([]byte("p"), append(text, "]}}}"...)); err != nil {
			t.Fatal(err)
		}
		row.add(buf)
	}
	do := func(name string, f func()) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		out = append(out, step{name, int64(after.TotalAlloc - before.TotalAlloc)})
	}
	var o []Object
	do("Seal", func() { o = seal(t, buf) })
	do("OpenSlice and look-ups", func() {
		s := openAll(t, o)[0]
		for i := range 100 {
			if b, err := s.Tag(section, strconv.Itoa(10_000+i)); err != nil || b.Count() != versions {
				t.Error(b, err)
			}
		}
		if v, err := s.Attribute(section, "7"); err != nil || v == nil || len(v.Dict) != versions {
			t.Error(v, err)
		}
	})
	do("Verify", func() {
		if err := Verify("test", o[0].Data, o[0].Slices); err != nil {
			t.Error(err)
		}
	})
	do("Take and Merge", func() {
		if merged, err := Merge(taken(t, o)); err != nil || !bytes.Equal(merged.Data, o[0].Data) {
			t.Error("merged it is not what was sealed:", err)
		}
	})
	return out
}

// TestALongSectionIsNotReadForEachColumn: what one costs beyond a short one is some copies
// of each version's, and not the tags times that.
func TestALongSectionIsNotReadForEachColumn(t *testing.T) {
	for _, c := range []struct{ section, versions, tags int }{
		{64 << 10, 4, 10_000},
		{800 << 10, 4, 20_000},
		{480 << 10, 1, 80_000},
	} {
		short := stepsOf(t, "s", c.versions, c.tags)
		long := stepsOf(t, strings.Repeat("s", c.section), c.versions, c.tags)
		for i, s := range long {
			more, most := s.allocated-short[i].allocated, 10*int64(c.section*c.versions)
			if more > most {
				t.Errorf("%+v: %s allocates %d kB more than with a short name, %d at most", c, s.name, more>>10, most>>10)
			}
		}
		if t.Failed() {
			return // what comes next might need the memory of the machine
		}
	}
}
