package segment

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lockstitch/internal/seed"
)

// taken is a buffer with the rows of all slices of the objects.
func taken(t testing.TB, objects []Object) *Buffer {
	t.Helper()
	b := NewBuffer()
	for _, s := range openAll(t, objects) {
		if err := b.Take(s); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// TestMergedIsWhatWouldHaveBeenSealed divides rows among several cuts: merged, they
// give the bytes that one cut of all would have given.
func TestMergedIsWhatWouldHaveBeenSealed(t *testing.T) {
	r := seed.Rand(t)
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		n := 1 + r.IntN(400)
		if round%10 == 9 {
			n = 12000
		}
		rows := randomRows(t, r, n, 1+r.IntN(50))
		whole := NewBuffer()
		var objects []Object
		for rest := rows; len(rest) > 0; {
			cut := rest[:1+r.IntN(len(rest))]
			objects = append(objects, seal(t, spread(r, cut, 1+r.IntN(3))...)...)
			rest = rest[len(cut):]
		}
		r.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		for i := range rows {
			rows[i].add(whole)
		}
		want, err := Merge(whole)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Merge(taken(t, objects))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Data, want.Data) || got.LogTime != want.LogTime || !got.FirstHour.Equal(want.FirstHour) {
			t.Fatalf("round %d: %d bytes of %v from %d objects, at once %d bytes of %v", round, len(got.Data), got.FirstHour, len(objects), len(want.Data), want.FirstHour)
		}
		if err := Verify("merged", got.Data, got.Slices); err != nil {
			t.Fatal(err)
		}
		slices.SortStableFunc(rows, compareRows)
		checkRows(t, []Object{got}, rows)
	}
}

// TestMergeRefuses what does not fit into one object, rows that two segments have, and
// damage.
func TestMergeRefuses(t *testing.T) {
	if _, err := Merge(NewBuffer()); err == nil {
		t.Error("nothing was merged")
	}
	accounts := NewBuffer()
	for i := range MaxDirectorySlices + 1 {
		simple := simpleRow(i, fmt.Sprintf("account %d", i), 1_700_000_000_000)
		simple.add(accounts)
	}
	if _, err := Merge(accounts); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d accounts: %v", MaxDirectorySlices+1, err)
	}
	b := NewBuffer()
	row := simpleRow(7, "acme", 1_700_000_000_000)
	row.add(b)
	objects := seal(t, b)
	if _, err := Merge(taken(t, append(objects, objects...))); err == nil || !strings.Contains(err.Error(), "added twice") {
		t.Errorf("a row twice: %v", err)
	}
	info := &objects[0].Slices[0]
	s, err := OpenSlice("o", info, objects[0].Data[info.Offset:info.Offset+info.Length])
	if err != nil {
		t.Fatal(err)
	}
	s.info.MaxTime++ // as if a checksum had matched by chance
	b.Reset(32 << 20)
	var corrupt *CorruptError
	if err := b.Take(s); !errors.As(err, &corrupt) || b.Rows() != 0 {
		t.Errorf("a damaged slice: %v, %d rows", err, b.Rows())
	}
}

// BenchmarkMerge puts the segments of many cuts together. merged/before is
// by how much smaller they get.
func BenchmarkMerge(b *testing.B) {
	d := newTraffic(b, 10_000, 60_000)
	var objects []Object
	buf := NewBuffer()
	for rest := d.rows; len(rest) > 0; rest = rest[min(len(rest), 1000):] {
		buf.Reset(32 << 20)
		for i := range rest[:min(len(rest), 1000)] {
			rest[i].add(buf)
		}
		objects = append(objects, seal(b, buf)...)
	}
	before, after := 0, 0
	for _, o := range objects {
		before += len(o.Data)
	}
	b.ReportAllocs()
	for b.Loop() {
		buf.Reset(32 << 20)
		for _, o := range objects {
			for i := range o.Slices {
				info := &o.Slices[i]
				s, err := OpenSlice("o", info, o.Data[info.Offset:info.Offset+info.Length])
				if err == nil {
					err = buf.Take(s)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		}
		o, err := Merge(buf)
		if err != nil {
			b.Fatal(err)
		}
		after = len(o.Data)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(d.rows)), "ns/row")
	b.ReportMetric(float64(after)/float64(before), "merged/before")
}
