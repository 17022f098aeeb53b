package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"lockstitch/state/event"
)

// errNotThere is returned for columns that the prefix of a slice does not hold.
var errNotThere = errors.New("segment: only the beginning of the slice was opened")

// Slice is one slice, opened. Checksums are verified when it is opened, columns
// are decoded when they are first asked for and then kept. All methods may be
// called concurrently. What they return aliases the slice and must not be
// changed.
type Slice struct {
	object  string
	data    []byte
	info    SliceInfo
	sources []Source
	shape   snapShape
	blocks  []block
	only    int // so many blocks are there, the first ones; 0: all

	activities   once[[]Activity]
	types        once[[]event.Type]
	sourceCodes  once[[]uint16]
	offsets      once[[]int64]
	serverTimes  once[[]int64]
	eventTimes   once[[]int64]
	logTimes     once[[]int64]
	correlation  once[*correlation]
	codes        [numColumns]once[[]uint32]
	columns      [numColumns]once[*Column]
	snapCodes    once[[]uint32]
	snapColumns  once[*snapDirectory]
	mu           sync.Mutex
	valueColumns map[int]*once[*ValueColumn]
	bitmaps      map[int]*once[Bitmap]
	pages        []once[[]byte]
}

// once is a value that is made at its first use.
type once[T any] struct {
	sync.Once
	value T
	err   error
}

func (o *once[T]) get(make func() (T, error)) (T, error) {
	o.Do(func() { o.value, o.err = make() })
	return o.value, o.err
}

// OpenSlice opens the bytes of exactly one slice: info.Length bytes at
// info.Offset of the object. It keeps data, which must not change any more, and
// verifies every checksum. With a nil info nothing is compared and positions in
// errors count from the start of data. Errors: *CorruptError, *VersionError.
func OpenSlice(object string, info *SliceInfo, data []byte) (*Slice, error) {
	return open(object, info, data, 0)
}

// OpenKeys opens the first info.KeysLength bytes of a slice (more are allowed),
// which hold the activities, types, sources, offsets, server times, log times
// and correlation ids. The other accessors return an error. See OpenSlice.
func OpenKeys(object string, info *SliceInfo, data []byte) (*Slice, error) {
	return open(object, info, data, keyBlocks)
}

// OpenActivities opens the beginning of a slice, as long as it may be, for its
// activities. They are its first block: a few KiB mostly do, and with fewer than
// are needed it is an error as if it were damaged; info.KeysLength bytes always do.
// See OpenSlice.
func OpenActivities(object string, info *SliceInfo, data []byte) (*Slice, error) {
	return open(object, info, data, blockActivities+1)
}

func open(object string, info *SliceInfo, data []byte, only int) (*Slice, error) {
	s := &Slice{object: object, only: only}
	if info != nil {
		s.info.Offset = info.Offset
	}
	body, err := s.head(data)
	if err != nil {
		return nil, err
	}
	if err := s.place(data, body, info); err != nil {
		return nil, err
	}
	for i, b := range s.blocks {
		if crc32.Checksum(s.stored(b), castagnoli) != b.crc && b.stored > 0 {
			return nil, s.corrupt(int64(b.off), "checksum of block %d does not match", i)
		}
	}
	return s, nil
}

func (s *Slice) corrupt(at int64, format string, args ...any) error {
	return &CorruptError{Object: s.object, Offset: s.info.Offset + at, Cause: fmt.Sprintf(format, args...)}
}

// damaged reports that a block whose checksum matches makes no sense.
func (s *Slice) damaged(i int, err error) error {
	return s.corrupt(int64(s.blocks[i].off), "block %d: %v", i, err)
}

// head reads the slice's head and directory and returns where the blocks begin.
func (s *Slice) head(data []byte) (body int, err error) {
	if len(data) < sliceHead {
		return 0, s.corrupt(0, "%d bytes are too few for a slice", len(data))
	}
	if string(data[:4]) != sliceMagic {
		return 0, s.corrupt(0, "there is no slice")
	}
	n := int64(binary.LittleEndian.Uint32(data[8:]))
	fits := n <= int64(len(data))-sliceHead
	var dir []byte
	if fits {
		dir = data[sliceHead : sliceHead+n]
	}
	whole := fits && sliceChecksum(data, dir) == binary.LittleEndian.Uint32(data[12:])
	switch {
	case data[4] != version && !whole: // the rest may be anything
		return 0, &VersionError{Object: s.object, Offset: s.info.Offset + 4, Version: int(data[4])}
	case data[4] != version:
		return 0, s.corrupt(4, "its version says %d, its checksum %d", data[4], version)
	case data[5]|data[6]|data[7] != 0:
		return 0, s.corrupt(5, "reserved bytes are not zero")
	case !fits:
		return 0, s.corrupt(8, "a directory of %d bytes does not fit", n)
	case !whole:
		return 0, s.corrupt(sliceHead, "checksum of the directory does not match")
	}
	if err := s.directory(dir); err != nil {
		return 0, s.corrupt(sliceHead, "directory: %v", err)
	}
	return sliceHead + int(n), nil
}

func (s *Slice) directory(p []byte) error {
	info, p, err := takeInfo(p)
	if err != nil {
		return err
	}
	info.Offset = s.info.Offset
	s.info = info
	var shape [3]uint64
	for i := range shape {
		if shape[i], p, err = takeUvarint(p); err != nil {
			return err
		}
		if shape[i] > maxSliceBytes {
			return errNumber
		}
	}
	s.shape = snapShape{int(shape[0]), int(shape[1]), int(shape[2])}
	count, p, err := takeUvarint(p)
	if err != nil {
		return err
	}
	if s.shape.snapshots > info.Rows || count < uint64(blockPages) || count > maxBlocks || count > uint64(len(p)) {
		return errNumber
	}
	s.blocks = make([]block, count)
	for i := range s.blocks {
		if s.blocks[i], p, err = takeBlock(p); err != nil {
			return fmt.Errorf("block %d: %w", i, err)
		}
	}
	if len(p) != 0 {
		return errLong
	}
	return nil
}

// place finds the blocks in data and compares with what the catalog says.
func (s *Slice) place(data []byte, body int, want *SliceInfo) error {
	at, unpacked := int64(body), int64(0)
	need := int64(0)
	for i := range s.blocks {
		if at > 1<<31 {
			return s.corrupt(sliceHead, "the blocks are too long")
		}
		s.blocks[i].off = uint32(at)
		at += int64(s.blocks[i].stored)
		unpacked += int64(s.blocks[i].raw)
		if i == keyBlocks-1 {
			s.info.KeysLength = at
		}
		if i == s.only-1 {
			need = at
		}
	}
	s.info.Length = at
	if unpacked > maxSliceBytes {
		return s.corrupt(sliceHead, "its blocks unpack to %d bytes", unpacked)
	}
	if s.only == 0 {
		need = s.info.Length
	}
	if int64(len(data)) < need || s.only == 0 && int64(len(data)) > need {
		return s.corrupt(int64(min(len(data), int(need))), "the slice has %d bytes instead of %d", len(data), need)
	}
	if want != nil {
		if what := s.info.differs(want); what != "" {
			return s.corrupt(sliceHead, "its %s is not what the catalog says", what)
		}
	}
	s.data = data[:need]
	if s.only > 0 {
		s.blocks = s.blocks[:s.only]
	}
	for i := range s.info.Sources {
		s.sources = append(s.sources, s.info.Sources[i].Source())
	}
	if n := len(s.blocks) - blockPages; n > 0 {
		s.pages = make([]once[[]byte], n)
	}
	return nil
}

// differs names what differs from o, except the position.
func (s *SliceInfo) differs(o *SliceInfo) string {
	switch {
	case s.Account != o.Account:
		return "account"
	case s.Rows != o.Rows:
		return "number of rows"
	case s.MinTime != o.MinTime || s.MaxTime != o.MaxTime:
		return "time range"
	case s.Length != o.Length || s.KeysLength != o.KeysLength:
		return "length"
	case len(s.Sources) != len(o.Sources):
		return "number of sources"
	}
	for i := range s.Sources {
		if s.Sources[i] != o.Sources[i] {
			return "source"
		}
	}
	return ""
}

func takeInfo(p []byte) (info SliceInfo, rest []byte, err error) {
	account, p, err := takeString(p)
	if err != nil {
		return info, nil, err
	}
	info.Account = string(account)
	var n [4]uint64
	for i := range n {
		if n[i], p, err = takeUvarint(p); err != nil {
			return info, nil, err
		}
	}
	rows, first, span, sources := n[0], n[1], n[2], n[3]
	if rows < 1 || rows > MaxSliceRows || first > maxTime || span > maxTime-first || sources < 1 || sources > maxSources ||
		sources*20 > uint64(len(p)) {
		return info, nil, errNumber
	}
	info.Rows, info.MinTime, info.MaxTime = int(rows), int64(first), int64(first+span)
	info.Sources = make([]OffsetRange, sources)
	for i := range info.Sources {
		if info.Sources[i], p, err = takeRange(p); err != nil {
			return info, nil, err
		}
	}
	// The place is not part of it yet; any that is consistent will do.
	if err := info.check(); err != nil {
		return info, nil, err
	}
	return info, p, nil
}

func takeRange(p []byte) (r OffsetRange, rest []byte, err error) {
	topic, p, err := takeString(p)
	if err != nil {
		return r, nil, err
	}
	incarnation, p, err := takeUvarint(p)
	if err != nil {
		return r, nil, err
	}
	var id TopicID
	if len(p) < len(id) {
		return r, nil, errShort
	}
	p = p[copy(id[:], p):]
	var n [3]uint64
	for i := range n {
		if n[i], p, err = takeUvarint(p); err != nil {
			return r, nil, err
		}
	}
	if incarnation > 1<<31-1 || n[0] > 1<<31-1 || n[1] > 1<<62 || n[2] > 1<<62 {
		return r, nil, errNumber
	}
	stream := Stream{Topic: string(topic), Incarnation: int(incarnation), ID: id}
	return stream.Range(int32(n[0]), int64(n[1]), int64(n[1]+n[2])), p, nil
}

func (s *Slice) stored(b block) []byte { return s.data[b.off : b.off+b.stored : b.off+b.stored] }

// unpack returns the content of block i.
func (s *Slice) unpack(i int) ([]byte, error) {
	if i >= len(s.blocks) {
		return nil, errNotThere
	}
	b := s.blocks[i]
	p, err := unpackBlock(b, s.stored(b))
	if err != nil {
		return nil, s.damaged(i, err)
	}
	return p, nil
}

// Rows is the number of rows, at least 1.
func (s *Slice) Rows() int { return s.info.Rows }

// Snapshots is the number of distinct profile snapshots.
func (s *Slice) Snapshots() int { return s.shape.snapshots }

// Sources is the table of sources that SourceCodes speaks of, in order.
func (s *Slice) Sources() []Source { return s.sources }
