package segment

import (
	"errors"
	"io"
	"time"

	"lockstitch/state/event"
	"lockstitch/state/profile"
)

var errNotYet = errors.New("segment: not implemented yet")

const MaxSliceRows = 8192

type Source struct {
	Stream
	Partition int32
}
type Buffer struct{}

func NewBuffer() *Buffer { return &Buffer{} }
func (b *Buffer) Add(s *Stream, partition int32, offset, logTime int64, ev *event.Event, snap profile.Snapshot) {
}
func (b *Buffer) Rows() int    { return 0 }
func (b *Buffer) Bytes() int64 { return 0 }
func (b *Buffer) Reset()       {}

type Object struct {
	FirstHour time.Time
	Data      []byte
	Slices    []SliceInfo
}

func Seal(buffers []*Buffer, emit func(Object) error) error { return errNotYet }

type Slice struct{}
type Column struct {
	Dict  [][]byte
	Codes []uint32
}
type ValueColumn struct {
	Dict  []profile.Value
	Codes []uint32
}
type Bitmap []uint64

func (b Bitmap) Has(i int) bool { return i>>6 < len(b) && b[i>>6]>>(i&63)&1 != 0 }

type Activity struct {
	Section, ActivityID, SplitID    string
	ActivityName, SplitActivityName string
	First, Last                     int64
	Counts                          [event.NumTypes]int64
}

func OpenSlice(object string, info *SliceInfo, data []byte) (*Slice, error) { return nil, errNotYet }
func OpenKeys(object string, info *SliceInfo, data []byte) (*Slice, error)  { return nil, errNotYet }
func (s *Slice) Account() string                                            { return "" }
func (s *Slice) Rows() int                                                  { return 0 }
func (s *Slice) Bytes() int64                                               { return 0 }
func (s *Slice) ServerTimes() ([]int64, error)                              { return nil, errNotYet }
func (s *Slice) EventTimes() ([]int64, error)                               { return nil, errNotYet }
func (s *Slice) LogTimes() ([]int64, error)                                 { return nil, errNotYet }
func (s *Slice) Types() ([]event.Type, error)                               { return nil, errNotYet }
func (s *Slice) Sources() []Source                                          { return nil }
func (s *Slice) SourceCodes() ([]uint16, error)                             { return nil, errNotYet }
func (s *Slice) Offsets() ([]int64, error)                                  { return nil, errNotYet }
func (s *Slice) AppendCorrelation(dst []byte, row int) ([]byte, error)      { return dst, errNotYet }
func (s *Slice) Cells(c event.Cell) (*Column, error)                        { return nil, errNotYet }
func (s *Slice) Sections() (*Column, error)                                 { return nil, errNotYet }
func (s *Slice) ProfileIDs() (*Column, error)                               { return nil, errNotYet }
func (s *Slice) SnapshotCodes() ([]uint32, error)                           { return nil, errNotYet }
func (s *Slice) Snapshots() int                                             { return 0 }
func (s *Slice) Attribute(section, versionID string) (*ValueColumn, error)  { return nil, errNotYet }
func (s *Slice) Tag(section, versionID string) (Bitmap, error)              { return nil, errNotYet }
func (s *Slice) Audience(discriminator string) (Bitmap, error)              { return nil, errNotYet }
func (s *Slice) Activities() ([]Activity, error)                            { return nil, errNotYet }
func Verify(object string, data []byte, want []SliceInfo) error             { return errNotYet }
func Directory(object string, data []byte) ([]SliceInfo, error)             { return nil, errNotYet }
func Dump(w io.Writer, object string, data []byte) error                    { return errNotYet }
func KeyOf(topicID TopicID, account []byte, t event.Type, correlation []byte) (hi, lo uint64) {
	return 0, 0
}
