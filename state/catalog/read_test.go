package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// TestRead: an object that is not what the catalog says is damaged from a byte on, and one
// that is not there is not damaged.
func TestRead(t *testing.T) {
	store, err := objects.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	data := []byte("head slice tail")
	if err := store.Put(t.Context(), "o", data); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	sha := hex.EncodeToString(sum[:])
	ref := func(object string, offset, length int64) SliceRef {
		return SliceRef{Object: object, Info: &segment.SliceInfo{Offset: offset, Length: length}}
	}
	slice := func(r SliceRef, n int64) func() ([]byte, error) {
		return func() ([]byte, error) { return r.Read(t.Context(), store, n) }
	}
	whole := func(object string, n int64, sha string) func() ([]byte, error) {
		s := Segment{Object: object, Bytes: n, SHA256: sha}
		return func() ([]byte, error) { return s.Read(t.Context(), store) }
	}
	for i, c := range []struct {
		read func() ([]byte, error)
		want string // "": damaged
		at   int64
	}{
		{slice(ref("o", 5, 5), 5), "slice", 0},
		{slice(ref("o", 5, 5), 2), "sl", 0},
		{slice(ref("o", 11, 4), 4), "tail", 0},
		{slice(ref("o", 11, 9), 4), "tail", 0},
		{slice(ref("o", 11, 9), 9), "", 15},
		{slice(ref("o", 15, 9), 9), "", 15},
		{slice(ref("o", 40, 9), 9), "", 40},
		{slice(ref("o", 5, 5), 6), "", 5},
		{slice(ref("o", 5, 5), -1), "", 5},
		{slice(ref("o", 5, 0), 0), "", 5},
		{slice(ref("o", 5, 2<<30), 5), "", 5},
		{whole("o", 15, sha), string(data), 0},
		{whole("o", 16, sha), "", 15},
		{whole("o", 14, sha), "", 14},
		{whole("o", 15, "00"), "", 0},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			got, err := c.read()
			var corrupt *segment.CorruptError
			switch {
			case c.want != "":
				if err != nil || !bytes.Equal(got, []byte(c.want)) {
					t.Errorf("%q, %v; want %q", got, err, c.want)
				}
			case !errors.As(err, &corrupt) || corrupt.Object != "o" || corrupt.Offset != c.at:
				t.Errorf("%q, %v; want damage at byte %d", got, err, c.at)
			}
		})
	}
	for _, read := range []func() ([]byte, error){slice(ref("none", 0, 5), 5), whole("none", 15, sha)} {
		if _, err := read(); !errors.Is(err, objects.ErrNotExist) {
			t.Errorf("%v of an object that is not there", err)
		}
	}
}
