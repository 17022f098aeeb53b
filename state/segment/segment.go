// Package segment is the format in which kept events rest in the object store:
// immutable, columnar, dictionary-encoded, checksummed, versioned. FORMAT.md
// describes it byte by byte.
//
// An object holds slices. A slice holds up to MaxSliceRows rows of one account
// in (server_time, stream, partition, offset) order together with the distinct
// profile snapshots they were decorated with. The directory of an object's
// slices (SliceInfo) also stands in the catalog record, so that planning an
// export reads no object.
package segment

import (
	"fmt"
	"unique"
)

// TopicID is Kafka's id of a topic (KIP-516). A topic that is deleted and made
// anew has another one.
type TopicID [16]byte

// Stream is one incarnation of an event topic. Rows of equal server_time are
// ordered by (Topic, Incarnation, partition, offset).
type Stream struct {
	Topic       string  `json:"topic"`
	Incarnation int     `json:"incarnation"` // 0 for the first topic seen under the name, then 1, 2 …
	ID          TopicID `json:"-"`           // written by MarshalText in records
}

// Source is where rows came from: one partition of one stream.
type Source struct {
	Stream
	Partition int32
}

// Partition is a partition of one incarnation of a topic: what tells sources apart. A
// topic's name does not count.
type Partition struct {
	Topic TopicID
	N     int32
}

// At is the partition that the source is.
func (s Source) At() Partition { return Partition{s.ID, s.Partition} }

// OffsetRange is a half-open range [Min, Next) of offsets of one source that a
// slice's rows come from; Stream.Range makes one. The catalog of a large system has
// hundreds in memory for each of its segments, so that what a source is stands there
// once for all of its ranges.
type OffsetRange struct {
	source    unique.Handle[Source]
	Min, Next int64
}

// SliceInfo is the directory entry of one slice.
type SliceInfo struct {
	Account    string        `json:"account"`
	Rows       int           `json:"rows"`
	MinTime    int64         `json:"min_time"` // server_time of the first row, ms
	MaxTime    int64         `json:"max_time"` // server_time of the last row, ms
	Offset     int64         `json:"offset"`   // byte range of the slice in the object
	Length     int64         `json:"length"`
	KeysLength int64         `json:"keys_length"` // prefix of the slice that OpenKeys needs
	Sources    []OffsetRange `json:"sources"`
}

// CorruptError reports damage: bytes that are there but wrong. It is never
// used for a failure to read them.
type CorruptError struct {
	Object string // name of the object, as far as known
	Offset int64  // position of the damaged part in the object
	Cause  string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("segment %s is damaged at byte %d: %s", e.Object, e.Offset, e.Cause)
}

// VersionError reports an object or slice of a format version that this build
// does not know. It is no damage: another build wrote it, mostly a newer one, which can
// read it.
type VersionError struct {
	Object  string
	Offset  int64 // where the version stands
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("segment %s has format version %d, this build knows %d", e.Object, e.Version, version)
}
