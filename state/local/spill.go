package local

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// spill sorts records whose keys begin with a hash, however many they are: it
// deals them by the first bits of the hash to buckets, which lie in one file, and
// sorts one bucket at a time. The file is made when the buckets do not fit into
// memory.
type spill struct {
	db      *DB
	keySize int // bytes, at least 8
	shift   int // of the first 64 bits of a key, which leaves the bucket's number
	buckets []bucket
	file    vfs.File
	path    string
	end     int64 // of file
	room    int   // bytes of a bucket in memory
	bytes   int64 // added so far
}

// bucket has the records of a range of hashes: the last in mem, the others in
// chunks of the file. A record is the length of its value (4 bytes), key, value.
type bucket struct {
	mem    []byte
	chunks []chunk
}

type chunk struct{ at, n int64 }

const maxBuckets = 1 << 10

// newSpill makes room for about so many bytes, of which as many as memory says
// are kept there while they come in, and a bucket, at most Options.LoadBytes, while
// it is sorted. With more than expected, buckets get larger.
func newSpill(db *DB, keySize int, expect, memory int64) *spill {
	s := &spill{db: db, keySize: keySize, shift: 64}
	n := int64(1)
	for n < maxBuckets && n*db.loadBytes < expect {
		n *= 2
		s.shift--
	}
	s.buckets, s.room = make([]bucket, n), int(min(expect, memory)/n)
	return s
}

func (s *spill) add(key, value []byte) error {
	b := &s.buckets[binary.BigEndian.Uint64(key)>>s.shift]
	n := 4 + len(key) + len(value)
	switch {
	case b.mem == nil:
		b.mem = make([]byte, 0, s.room)
	case len(b.mem) > 0 && len(b.mem)+n > s.room:
		if err := s.write(b); err != nil {
			return err
		}
	}
	b.mem = binary.LittleEndian.AppendUint32(b.mem, uint32(len(value)))
	b.mem = append(append(b.mem, key...), value...)
	s.bytes += int64(n)
	return nil
}

// write moves what a bucket has in memory to the file.
func (s *spill) write(b *bucket) (err error) {
	if s.file == nil {
		s.path = s.db.loadPath()
		if s.file, err = s.db.opt.FS.Create(s.path, vfs.WriteCategoryUnspecified); err != nil {
			return err
		}
	}
	if _, err := s.file.Write(b.mem); err != nil {
		return err
	}
	b.chunks = append(b.chunks, chunk{s.end, int64(len(b.mem))})
	s.end += int64(len(b.mem))
	b.mem = b.mem[:0]
	return nil
}

// record is where a record lies in its bucket.
type record struct {
	hash uint64 // the first bits of its key
	at   uint32
}

// each calls f for the records in the order of their keys, and between after
// those of each bucket. The memory is the spill's.
func (s *spill) each(f func(key, value []byte) error, between func() error) error {
	var data []byte
	var order []record
	for i := range s.buckets {
		b := &s.buckets[i]
		data = data[:0]
		for _, c := range b.chunks {
			from := len(data)
			data = slices.Grow(data, int(c.n))[:from+int(c.n)]
			if n, err := s.file.ReadAt(data[from:], c.at); int64(n) < c.n {
				return cmp.Or(err, io.ErrUnexpectedEOF)
			}
		}
		data = append(data, b.mem...)
		*b = bucket{}
		order = order[:0]
		for at := 0; at < len(data); at += 4 + s.keySize + int(binary.LittleEndian.Uint32(data[at:])) {
			order = append(order, record{binary.BigEndian.Uint64(data[at+4:]), uint32(at)})
		}
		slices.SortFunc(order, func(a, b record) int {
			if a.hash != b.hash {
				return cmp.Compare(a.hash, b.hash)
			}
			return bytes.Compare(s.key(data, a), s.key(data, b))
		})
		for _, r := range order {
			from := int(r.at) + 4 + s.keySize
			if err := f(s.key(data, r), data[from:from+int(binary.LittleEndian.Uint32(data[r.at:]))]); err != nil {
				return err
			}
		}
		if err := between(); err != nil {
			return err
		}
	}
	return nil
}

func (s *spill) key(data []byte, r record) []byte { return data[int(r.at)+4:][:s.keySize] }

// close drops the file.
func (s *spill) close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return cmp.Or(err, s.db.opt.FS.Remove(s.path))
}
