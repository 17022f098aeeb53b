package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	pebblelog "github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// DamagedFileError reports damage in a file of the database.
type DamagedFileError struct {
	Path   string
	Offset int64 // of the record that cannot be read
	Cause  error
}

func (e *DamagedFileError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %v", e.Path, e.Offset, e.Cause)
}

func (e *DamagedFileError) Unwrap() error { return e.Cause }

// checkFiles reads what Pebble takes on trust when it opens a database. At a
// record that cannot be read it takes the rest of the MANIFEST, and in one case
// that of a log which others follow, for never written. What came later would
// then be there, the markers with it, and something before it would be missing.
// The newest log may end anywhere: then everything after it is missing as well.
func checkFiles(fsys vfs.FS, dir string) error {
	if _, err := fsys.Stat(dir); err != nil {
		return nil // there is nothing yet
	}
	db, err := pebble.Peek(dir, fsys)
	if err != nil || !db.Exists {
		return err
	}
	if err := checkRecords(fsys, db.ManifestFilename, newReader(pebblelog.NewReader, 0)); err != nil {
		return err
	}
	logs, err := wal.Scan(wal.Dir{FS: fsys, Dirname: dir})
	if err != nil {
		return err
	}
	for _, l := range logs[:max(0, len(logs)-1)] {
		for i := range l.NumSegments() {
			where, path := l.SegmentLocation(i)
			if err := checkRecords(where, path, newReader(pebblelog.NewReader, uint64(l.Num))); err != nil {
				return err
			}
		}
	}
	return nil
}

// newReader is pebblelog.NewReader for a number whose type has no name outside of
// Pebble.
func newReader[N ~uint64](f func(io.Reader, N) *pebblelog.Reader, number uint64) func(io.Reader) *pebblelog.Reader {
	return func(r io.Reader) *pebblelog.Reader { return f(r, N(number)) }
}

// trailer is the length of what a log that was closed may end with, before what
// is left of an older log in the same file: a header without checksum and length.
const trailer = 11

// checkRecords reads all records of a file and says whether it ends where the
// last one does.
func checkRecords(fsys vfs.FS, path string, reader func(io.Reader) *pebblelog.Reader) (err error) {
	f, err := fsys.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := reader(f)
	for {
		at := r.Offset()
		rec, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, rec)
		}
		if errors.Is(err, io.EOF) {
			return checkEnd(f, path, r.Offset())
		}
		if err != nil {
			return &DamagedFileError{Path: path, Offset: at, Cause: err}
		}
	}
}

func checkEnd(f vfs.File, path string, at int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() == at {
		return err
	}
	head := make([]byte, trailer)
	if _, err := f.ReadAt(head, at); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if binary.LittleEndian.Uint32(head) != 0 || binary.LittleEndian.Uint16(head[4:]) != 0 {
		return &DamagedFileError{Path: path, Offset: at, Cause: errors.New("a record has the number of the next log")}
	}
	return nil
}
