package segment

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Directory reads the directory of an object from its footer. Errors:
// *CorruptError, *VersionError.
func Directory(object string, data []byte) ([]SliceInfo, error) {
	corrupt := func(at int, format string, args ...any) error {
		return &CorruptError{Object: object, Offset: int64(at), Cause: fmt.Sprintf(format, args...)}
	}
	n := len(data)
	if n < objectHead+objectTail {
		return nil, corrupt(n, "%d bytes are too few for an object", n)
	}
	switch {
	case string(data[:4]) != objectMagic:
		return nil, corrupt(0, "it does not begin as an object does")
	case data[4] != version: // the rest may be anything
		return nil, &VersionError{Object: object, Offset: 4, Version: int(data[4])}
	case data[5]|data[6]|data[7] != 0:
		return nil, corrupt(5, "reserved bytes are not zero")
	}
	tail := data[n-objectTail:]
	if string(tail[12:]) != trailerMagic || tail[1]|tail[2]|tail[3] != 0 {
		return nil, corrupt(n-objectTail, "it does not end as an object does")
	}
	if tail[0] != version {
		return nil, &VersionError{Object: object, Offset: int64(n - objectTail), Version: int(tail[0])}
	}
	size := int64(binary.LittleEndian.Uint32(tail[4:]))
	if size > int64(n-objectHead-objectTail) {
		return nil, corrupt(n-objectTail+4, "a directory of %d bytes does not fit", size)
	}
	start := n - objectTail - int(size)
	dir := data[start : n-objectTail]
	if crc32.Checksum(data[start:n-8], castagnoli) != binary.LittleEndian.Uint32(tail[8:]) {
		return nil, corrupt(start, "checksum of the directory does not match")
	}
	list, err := takeDirectory(dir, int64(start))
	if err != nil {
		return nil, corrupt(start, "directory: %v", err)
	}
	return list, nil
}

// maxOrigin bounds what Origin reads of the directory of a slice.
const maxOrigin = 4 << 20

// Origin reads the beginning of an object and tells where the rows of its first
// slice come from. Errors: those of r, *CorruptError, *VersionError.
func Origin(object string, r io.Reader) ([]OffsetRange, error) {
	s := &Slice{object: object}
	head := make([]byte, objectHead+sliceHead)
	n, err := io.ReadFull(r, head)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, s.corrupt(int64(n), "%d bytes are too few for an object", n)
	case err != nil:
		return nil, err
	case string(head[:4]) != objectMagic:
		return nil, s.corrupt(0, "it does not begin as an object does")
	case head[4] != version:
		return nil, &VersionError{Object: object, Offset: 4, Version: int(head[4])}
	case head[5]|head[6]|head[7] != 0:
		return nil, s.corrupt(5, "reserved bytes are not zero")
	}
	s.info.Offset = objectHead
	size := int64(binary.LittleEndian.Uint32(head[objectHead+8:]))
	dir, err := io.ReadAll(io.LimitReader(r, min(size, maxOrigin)))
	if err != nil {
		return nil, err
	}
	if _, err := s.head(append(head[objectHead:], dir...)); err != nil {
		return nil, err
	}
	return s.info.Sources, nil
}

func takeDirectory(p []byte, end int64) ([]SliceInfo, error) {
	count, p, err := takeUvarint(p)
	if err != nil {
		return nil, err
	}
	if count < 1 || count > MaxDirectorySlices {
		return nil, errNumber
	}
	var list []SliceInfo
	next := int64(objectHead)
	for range count {
		var info SliceInfo
		if info, p, err = takeInfo(p); err != nil {
			return nil, err
		}
		var v [3]uint64
		for i := range v {
			if v[i], p, err = takeUvarint(p); err != nil {
				return nil, err
			}
			if v[i] > uint64(end) {
				return nil, errNumber
			}
		}
		info.Offset, info.Length, info.KeysLength = int64(v[0]), int64(v[1]), int64(v[2])
		if info.Offset != next || info.Length < sliceHead || info.KeysLength > info.Length {
			return nil, errNumber
		}
		next += info.Length
		list = append(list, info)
	}
	if next != end || len(p) != 0 {
		return nil, errLong
	}
	return list, nil
}

// Verify reads a whole object: magic, version, every checksum, every column,
// the order of the rows, the ranges in the directory, and that the directory is
// want (nil: not compared). Errors: *CorruptError, *VersionError.
func Verify(object string, data []byte, want []SliceInfo) error {
	list, err := Directory(object, data)
	if err != nil {
		return err
	}
	corrupt := func(at int64, format string, args ...any) error {
		return &CorruptError{Object: object, Offset: at, Cause: fmt.Sprintf(format, args...)}
	}
	if want != nil && len(want) != len(list) {
		return corrupt(0, "it has %d slices, the catalog says %d", len(list), len(want))
	}
	for i := range list {
		info := &list[i]
		if want != nil {
			if what := info.differs(&want[i]); what != "" || info.Offset != want[i].Offset {
				return corrupt(info.Offset, "slice %d: its %s is not what the catalog says", i, cmp.Or(what, "position"))
			}
		}
		s, err := OpenSlice(object, info, data[info.Offset:info.Offset+info.Length])
		if err != nil {
			return err
		}
		if err := s.verify(); err != nil {
			return err
		}
	}
	return nil
}

// verify decodes everything and checks what the single columns cannot know.
func (s *Slice) verify() error {
	times, err := s.ServerTimes()
	if err != nil {
		return err
	}
	if _, err := s.EventTimes(); err != nil {
		return err
	}
	if _, err := s.LogTimes(); err != nil {
		return err
	}
	types, err := s.Types()
	if err != nil {
		return err
	}
	source, err := s.SourceCodes()
	if err != nil {
		return err
	}
	offsets, err := s.Offsets()
	if err != nil {
		return err
	}
	if err := s.verifyOrder(times, source, offsets); err != nil {
		return err
	}
	for c := range numColumns {
		if _, err := s.column(c); err != nil {
			return err
		}
	}
	var id []byte
	for row := range s.info.Rows {
		if id, err = s.AppendCorrelation(id[:0], row); err != nil {
			return err
		}
		if len(id) == 0 {
			return s.corrupt(int64(s.blocks[blockCorrelations].off), "row %d has no correlation id", row)
		}
	}
	activities, err := s.Activities()
	if err != nil {
		return err
	}
	var have, counted [256]int64
	for _, t := range types {
		have[t]++
	}
	for _, a := range activities {
		for t, n := range a.Counts {
			counted[t] += n
		}
	}
	if have != counted {
		return s.corrupt(int64(s.blocks[blockActivities].off), "the activities do not count the rows")
	}
	return s.verifySnapshots()
}

func (s *Slice) verifyOrder(times []int64, source []uint16, offsets []int64) error {
	least := make([]int64, len(s.sources))
	next := make([]int64, len(s.sources))
	for i := range times {
		if i > 0 {
			c := cmp.Or(cmp.Compare(times[i-1], times[i]), cmp.Compare(source[i-1], source[i]), cmp.Compare(offsets[i-1], offsets[i]))
			if c >= 0 {
				return s.corrupt(sliceHead, "rows %d and %d are not in order", i-1, i)
			}
		}
		at := source[i]
		if next[at] == 0 || offsets[i] < least[at] {
			least[at] = offsets[i]
		}
		next[at] = max(next[at], offsets[i]+1)
	}
	for i, r := range s.info.Sources {
		if r.Min != least[i] || r.Next != next[i] {
			return s.corrupt(sliceHead, "the offsets of %s[%d] are not those of its rows", r.Source().Topic, r.Source().Partition)
		}
	}
	return nil
}

// verifySnapshots decodes the snapshot columns one by one, keeping none:
// there may be thousands.
func (s *Slice) verifySnapshots() error {
	codes, err := s.SnapshotCodes()
	if err != nil {
		return err
	}
	top := uint32(0)
	for _, c := range codes {
		if c > top+1 {
			return s.corrupt(int64(s.blocks[blockSnapshotCodes].off), "snapshot %d appears before snapshot %d", c, top+1)
		}
		top = max(top, c)
	}
	if int(top) != s.shape.snapshots {
		return s.corrupt(int64(s.blocks[blockSnapshotCodes].off), "rows speak of %d snapshots, there are %d", top, s.shape.snapshots)
	}
	d, err := s.snapshotDirectory()
	if err != nil {
		return err
	}
	sections := slices.Clone(d.sections)
	slices.SortFunc(sections, bytes.Compare)
	if len(slices.CompactFunc(sections, bytes.Equal)) != len(d.sections) {
		return s.damaged(blockSnapshotDirectory, errNumber)
	}
	values := 0
	for i := range d.columns {
		c := &d.columns[i]
		if c.kind == kindAttribute {
			v, err := s.values(c)
			if err != nil {
				return err
			}
			values += len(v.Dict)
		} else if _, err := s.members(c); err != nil {
			return err
		}
		if c.kind == kindAudience && len(c.section) != 0 {
			return s.snapDamaged(c, errNumber)
		}
	}
	if values != s.shape.values {
		return s.corrupt(sliceHead, "its snapshots have %d values, the directory says %d", values, s.shape.values)
	}
	return nil
}
