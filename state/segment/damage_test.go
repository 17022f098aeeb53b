package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"lockstitch/internal/seed"
	"lockstitch/state/event"
)

var rewrite = flag.Bool("rewrite", false, "write testdata anew, after a deliberate change of the format")

// smallRows are few rows that use every kind of block.
func smallRows(t testing.TB) []testRow {
	r := rand.New(rand.NewPCG(7, 7))
	rows := randomRows(t, r, 12, 1)
	for i := range rows {
		for c := range rows[i].ev.Cells {
			rows[i].ev.Cells[c] = rows[i].ev.Cells[c][:min(len(rows[i].ev.Cells[c]), 40)]
		}
		rows[i].ev.CorrelationID = rows[i].ev.CorrelationID[:min(len(rows[i].ev.CorrelationID), 36)]
	}
	return rows
}

func smallObject(t testing.TB) Object {
	objects := seal(t, spread(rand.New(rand.NewPCG(1, 1)), smallRows(t), 2)...)
	if len(objects) != 1 || len(objects[0].Slices) < 2 {
		t.Fatalf("%d objects", len(objects))
	}
	return objects[0]
}

// isDamage tells the two typed errors from everything else. They name the object
// and a place in it.
func isDamage(err error) bool {
	var c *CorruptError
	var v *VersionError
	switch {
	case errors.As(err, &c):
		return c.Object != "" && c.Offset >= 0 && c.Cause != ""
	case errors.As(err, &v):
		return v.Object != "" && v.Offset >= 0 && v.Version != version
	}
	return false
}

// near says that the damage is told to be in the part of the object, a head, a
// directory, a block or the footer, that it is in.
func near(err error, at int64, slices []SliceInfo, footer int64) bool {
	var c *CorruptError
	if !errors.As(err, &c) || at >= footer || at < objectHead {
		return true // a version names its byte, and ends that are no ends name themselves
	}
	for _, s := range slices {
		if at >= s.Offset && at < s.Offset+s.Length {
			return c.Offset >= s.Offset && c.Offset < s.Offset+s.Length
		}
	}
	return false
}

// activitiesEnd is how many bytes of a slice its activities need.
func activitiesEnd(t *testing.T, object []byte, info *SliceInfo) int64 {
	t.Helper()
	s, err := OpenSlice("test", info, object[info.Offset:info.Offset+info.Length])
	if err != nil {
		t.Fatal(err)
	}
	b := s.blocks[blockActivities]
	return int64(b.off + b.stored)
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	o := smallObject(t)
	data := bytes.Clone(o.Data)
	if err := Verify("test", data, o.Slices); err != nil {
		t.Fatal(err)
	}
	last := o.Slices[len(o.Slices)-1]
	footer := last.Offset + last.Length
	var activities []int64 // how far those of each slice reach
	for n := range o.Slices {
		activities = append(activities, activitiesEnd(t, data, &o.Slices[n]))
	}
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			if err := Verify("test", data, nil); !isDamage(err) || !near(err, int64(i), o.Slices, footer) {
				t.Fatalf("byte %d, bit %d: Verify without the catalog says %v", i, bit, err)
			}
			for n := range o.Slices {
				info := &o.Slices[n]
				if int64(i) < info.Offset || int64(i) >= info.Offset+info.Length {
					continue
				}
				part := data[info.Offset : info.Offset+info.Length]
				var corrupt *CorruptError // in the version's byte, too
				if _, err := OpenSlice("test", info, part); !errors.As(err, &corrupt) || !isDamage(err) {
					t.Fatalf("byte %d, bit %d: OpenSlice says %v", i, bit, err)
				}
				if int64(i) < info.Offset+info.KeysLength {
					if _, err := OpenKeys("test", info, part[:info.KeysLength]); !errors.As(err, &corrupt) || !isDamage(err) {
						t.Fatalf("byte %d, bit %d: OpenKeys says %v", i, bit, err)
					}
				}
				if n := activities[n]; int64(i) < info.Offset+n {
					if _, err := OpenActivities("test", info, part[:n]); !isDamage(err) {
						t.Fatalf("byte %d, bit %d: OpenActivities says %v", i, bit, err)
					}
				}
			}
			data[i] ^= 1 << bit
		}
	}
	t.Logf("%d bytes", len(data))
}

func TestTruncationIsFound(t *testing.T) {
	o := smallObject(t)
	for n := range o.Data {
		if err := Verify("test", o.Data[:n], o.Slices); !isDamage(err) {
			t.Fatalf("%d bytes of %d: %v", n, len(o.Data), err)
		}
		if from, err := Origin("test", bytes.NewReader(o.Data[:n])); !isDamage(err) && !slices.Equal(from, o.Slices[0].Sources) {
			t.Fatalf("origin of %d bytes of %d: %v, %v", n, len(o.Data), from, err)
		}
	}
	if from, err := Origin("test", bytes.NewReader(o.Data)); err != nil || !slices.Equal(from, o.Slices[0].Sources) {
		t.Fatalf("origin: %v, %v", from, err)
	}
	if err := Verify("test", append(bytes.Clone(o.Data), 0), o.Slices); !isDamage(err) {
		t.Fatalf("a byte too many: %v", err)
	}
	info := &o.Slices[0]
	part := o.Data[info.Offset : info.Offset+info.Length]
	end := activitiesEnd(t, o.Data, info)
	for n := range part {
		if _, err := OpenSlice("test", info, part[:n]); !isDamage(err) {
			t.Fatalf("%d bytes of a slice: %v", n, err)
		}
		if _, err := OpenKeys("test", info, part[:n]); (err == nil) != (int64(n) >= info.KeysLength) {
			t.Fatalf("keys of %d bytes: %v", n, err)
		}
		if _, err := OpenActivities("test", info, part[:n]); (err == nil) != (int64(n) >= end) {
			t.Fatalf("activities of %d bytes: %v", n, err)
		}
	}
}

func TestAnotherSliceIsFound(t *testing.T) {
	o := smallObject(t)
	a, b := &o.Slices[0], &o.Slices[1]
	if _, err := OpenSlice("test", a, o.Data[b.Offset:b.Offset+b.Length]); !isDamage(err) {
		t.Fatalf("another slice in its place: %v", err)
	}
	if err := Verify("test", o.Data, o.Slices[:1]); !isDamage(err) {
		t.Fatalf("the catalog knows fewer slices: %v", err)
	}
}

// TestUnknownVersionIsRefused, and is not taken for damage, whatever stands behind it.
func TestUnknownVersionIsRefused(t *testing.T) {
	o := smallObject(t)
	r := seed.Rand(t)
	info := &o.Slices[0]
	for range 100 {
		var v *VersionError
		data := bytes.Clone(o.Data)
		for i := range data[5:] {
			data[5+i] = byte(r.Uint32())
		}
		data[4] = 2
		if _, err := Directory("test", data); !errors.As(err, &v) || v.Version != 2 || v.Object != "test" || v.Offset != 4 {
			t.Fatalf("object: %v", err)
		}
		if _, err := Origin("test", bytes.NewReader(data)); !errors.As(err, &v) || v.Version != 2 {
			t.Fatalf("origin: %v", err)
		}
		copy(data, o.Data[:objectHead+4])
		data[objectHead+4] = 3
		if _, err := Origin("test", bytes.NewReader(data)); !errors.As(err, &v) || v.Version != 3 || v.Offset != objectHead+4 {
			t.Fatalf("origin by the first slice: %v", err)
		}
		part := data[info.Offset : info.Offset+info.Length]
		if _, err := OpenSlice("test", info, part); !errors.As(err, &v) || v.Version != 3 || v.Object != "test" || v.Offset != info.Offset+4 {
			t.Fatalf("slice: %v", err)
		}
		if _, err := OpenKeys("test", info, part[:info.KeysLength]); !errors.As(err, &v) || v.Version != 3 {
			t.Fatalf("keys: %v", err)
		}
		if want := "segment test has format version 3, this build knows 1"; v.Error() != want {
			t.Fatalf("says %q, want %q", v, want)
		}
	}
}

// The format does not drift: what was written once is read, and the same rows
// give the same bytes.
func TestGolden(t *testing.T) {
	name := filepath.Join("testdata", "v1.segment")
	o := smallObject(t)
	if *rewrite {
		if err := os.WriteFile(name, o.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(name, golden, nil); err != nil {
		t.Fatal(err)
	}
	dump := func(data []byte) string {
		var b bytes.Buffer
		if err := Dump(&b, name, data); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if dump(golden) != dump(o.Data) {
		t.Error("the stored object is read differently than the one sealed now")
	}
	if !bytes.Equal(golden, o.Data) {
		t.Error("the same rows give other bytes than in testdata; after a deliberate change of the format run with -rewrite")
	}
}

// TestASectionIsListedOnce: under two numbers its columns would be in no order, and a
// profile that is put together again would have it twice.
func TestASectionIsListedOnce(t *testing.T) {
	row := simpleRow(0, "acme", 1_700_000_000_000)
	row.snap = (&testProfile{Account: "acme", Sections: map[string]testSection{"s": {Attributes: map[string]any{"1": true}, Tags: []string{"1", "2"}}}}).snapshot(t)
	b := NewBuffer()
	row.add(b)
	objects := seal(t, b)
	whole, err := openAll(t, objects)[0].snapshotDirectory()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sections []string
		numbers  [3]byte // of the attribute and the two tags
		refused  bool    // whoever looks for one column sees it
		damaged  bool    // who reads everything does
	}{
		{[]string{"s"}, [3]byte{0, 0, 0}, false, false},
		{[]string{"a", "s"}, [3]byte{1, 0, 1}, false, false},
		{[]string{"s", "s"}, [3]byte{0, 0, 1}, true, true},
		{[]string{"s", "s"}, [3]byte{0, 1, 1}, false, true},
	} {
		p := appendStrings(nil, len(c.sections), func(i int) []byte { return []byte(c.sections[i]) })
		p = append(p, byte(len(whole.columns)))
		for i, column := range whole.columns {
			p = append(appendString(append(p, column.kind, c.numbers[i]), column.id), byte(column.page), byte(column.length))
		}
		s := openAll(t, objects)[0]
		d, err := s.takeSnapDirectory(p)
		if (err != nil) != c.refused {
			t.Errorf("%v: %v", c, err)
		}
		if err != nil {
			continue
		}
		_, _ = s.snapColumns.get(func() (*snapDirectory, error) { return d, nil })
		if err := s.verify(); isDamage(err) != c.damaged {
			t.Errorf("%v, verified: %v", c, err)
		}
	}
}

// repair sets the checksums of a slice anew, so that fuzzing reaches what is
// behind them.
func repair(data []byte) {
	if len(data) < sliceHead {
		return
	}
	n := int64(binary.LittleEndian.Uint32(data[8:]))
	if n > int64(len(data))-sliceHead {
		return
	}
	dir := data[sliceHead : sliceHead+n]
	at := uint64(sliceHead + n)
	_, p, err := takeInfo(dir)
	for range 4 { // snapshots, columns, values, blocks
		if err == nil {
			_, p, err = takeUvarint(p)
		}
	}
	for err == nil && len(p) > 0 {
		var b block
		var rest []byte
		if b, rest, err = takeBlock(p); err != nil || at+uint64(b.stored) > uint64(len(data)) {
			break
		}
		if b.stored > 0 {
			crc := crc32.Checksum(data[at:at+uint64(b.stored)], castagnoli)
			binary.LittleEndian.PutUint32(p[len(p)-len(rest)-4:], crc)
		}
		at += uint64(b.stored)
		p = rest
	}
	crc := crc32.Update(crc32.Checksum(data[:12], castagnoli), castagnoli, dir)
	binary.LittleEndian.PutUint32(data[12:], crc)
}

// readAll calls every accessor; errors are expected.
func readAll(s *Slice) {
	_, _ = s.Activities()
	_, _ = s.AppendCorrelation(nil, s.Rows()-1)
	_, _ = s.Tag("section-0", "1")
	_, _ = s.Audience("audience-1")
	_, _ = s.Attribute("section-0", "1")
	_, _ = s.Cells(event.Subject)
	_, _ = s.LogTimes()
	_ = s.verify()
}

func FuzzOpenSlice(f *testing.F) {
	o := smallObject(f)
	for _, info := range o.Slices {
		f.Add(o.Data[info.Offset : info.Offset+info.Length])
	}
	big := NewBuffer()
	for i := range 3000 {
		row := simpleRow(i, "a", int64(i))
		row.ev.ProfileID = []byte{byte(i >> 3), byte(i >> 9)}
		row.add(big)
	}
	b := seal(f, big)[0]
	f.Add(b.Data[b.Slices[0].Offset:][:b.Slices[0].Length])
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		for range 2 {
			if s, err := OpenSlice("fuzz", nil, data); err == nil {
				readAll(s)
			} else if !isDamage(err) {
				t.Fatal(err)
			}
			if s, err := OpenKeys("fuzz", nil, data); err == nil {
				readAll(s)
			} else if !isDamage(err) {
				t.Fatal(err)
			}
			repair(data)
		}
	})
}

// mergeAgain takes the rows of an object that is as it should be, and merges them: what
// comes out is as it should be, too, and has as many.
func mergeAgain(t *testing.T, data []byte) {
	t.Helper()
	list, err := Directory("fuzz", data)
	if err != nil {
		t.Fatal(err)
	}
	b, rows := NewBuffer(), 0
	for i := range list {
		s, err := OpenSlice("fuzz", &list[i], data[list[i].Offset:list[i].Offset+list[i].Length])
		if err == nil {
			err = b.Take(s)
		}
		if err != nil {
			t.Fatal(err)
		}
		rows += list[i].Rows
	}
	o, err := Merge(b)
	if err != nil {
		return // two slices have a row, or a topic has two ids
	}
	if err := Verify("merged", o.Data, o.Slices); err != nil {
		t.Fatal(err)
	}
	for i := range o.Slices {
		rows -= o.Slices[i].Rows
	}
	if rows != 0 {
		t.Fatalf("%d rows more than before", -rows)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add(smallObject(f).Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		for range 2 {
			err := Verify("fuzz", data, nil)
			if err != nil && !isDamage(err) {
				t.Fatal(err)
			}
			if err == nil {
				mergeAgain(t, data)
			}
			// The footer's checksum, then those of the slices.
			if n := len(data); n >= objectHead+objectTail {
				size := int64(binary.LittleEndian.Uint32(data[n-12:]))
				if size <= int64(n-objectHead-objectTail) {
					binary.LittleEndian.PutUint32(data[n-8:], crc32.Checksum(data[n-objectTail-int(size):n-8], castagnoli))
				}
			}
			if list, err := Directory("fuzz", data); err == nil {
				for _, info := range list {
					repair(data[info.Offset : info.Offset+info.Length])
				}
			}
		}
	})
}
