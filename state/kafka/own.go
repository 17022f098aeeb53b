package kafka

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Records of our own topics (the catalog, the reports) are JSON with a version,
// "v", and carry a checksum of their own, as a header. That of Kafka covers a
// batch from one producer to its consumers as long as nobody unpacks it; a broker
// that compacts and whoever copies a topic do, and write a new one.
//
// The key begins with the kind of the record, a letter and "/". A later version may
// add kinds, and its replicas run beside those of this one while they are upgraded
// one by one. A kind that is a capital letter is passed over by who does not know it,
// its tombstones too, whatever the version and the value; any other is refused, its
// tombstones too. So a capital letter is for what a replica may leave out without a
// wrong answer: a hint, a statistic. What decides which rows an export has, what is
// to be done or done already, or which objects are kept gets a small letter: who does
// not know it must stop. There is none with a capital letter yet.
const checksumHeader = "lockstitch.crc32c"

// DamagedError reports a record of one of our own topics that cannot be what a
// replica wrote. What follows from the topic is not known any more: leaving the
// record out could make an export short.
type DamagedError struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       string
	Cause     error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("record %.80q at offset %d of %s/%d is damaged: %v", e.Key, e.Offset, e.Topic, e.Partition, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

// VersionError reports a record that another version of the software wrote in a
// form, or of a kind, that this one does not know.
type VersionError struct {
	Topic          string
	Partition      int32
	Offset         int64
	Key            string
	Version, Known int // Known is 0 if not even the kind is known
}

func (e *VersionError) Error() string {
	if e.Known == 0 {
		return fmt.Sprintf("record %.80q at offset %d of %s/%d is of a kind that this program does not know; a newer version wrote it", e.Key, e.Offset, e.Topic, e.Partition)
	}
	return fmt.Sprintf("record %.80q at offset %d of %s/%d has version %d; this program reads version %d", e.Key, e.Offset, e.Topic, e.Partition, e.Version, e.Known)
}

// ErrUnknownKind is the cause for which a record of an unknown kind cannot be read.
var ErrUnknownKind = errors.New("unknown kind of record")

// Unreadable says that a record which Verify lets through cannot be read, and why:
// *VersionError for ErrUnknownKind, else *DamagedError.
func Unreadable(r *kgo.Record, cause error) error {
	if errors.Is(cause, ErrUnknownKind) {
		return &VersionError{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key)}
	}
	return damaged(r, cause)
}

func damaged(r *kgo.Record, cause error) error {
	return &DamagedError{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Cause: cause}
}

// Stamp gives a record its checksum. Key and value must not be changed any more.
func Stamp(r *kgo.Record) *kgo.Record {
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: checksumHeader, Value: binary.BigEndian.AppendUint32(nil, checksum(r))})
	return r
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(r *kgo.Record) uint32 {
	sum := crc32.Checksum(binary.AppendUvarint(nil, uint64(len(r.Key))), castagnoli)
	sum = crc32.Update(sum, castagnoli, r.Key)
	if r.Value == nil {
		return crc32.Update(sum, castagnoli, []byte{0})
	}
	return crc32.Update(crc32.Update(sum, castagnoli, []byte{1}), castagnoli, r.Value)
}

var errNoChecksum = errors.New("it has no checksum")

// Verify checks a record that Stamp has stamped and, unless it is a tombstone,
// that its version is the one that is known. Without ok it is not to be read: it is
// of a kind to pass over, or there is an error. Errors: *DamagedError, *VersionError.
func Verify(r *kgo.Record, known int) (ok bool, err error) {
	stamped, err := verifyChecksum(r)
	if stamped && err != nil {
		return false, err
	}
	if stamped && len(r.Key) > 0 && 'A' <= r.Key[0] && r.Key[0] <= 'Z' {
		return false, nil
	}
	if r.Value == nil {
		return err == nil, err
	}
	var v struct {
		Version int `json:"v"`
	}
	if jerr := json.Unmarshal(r.Value, &v); jerr != nil {
		return false, damaged(r, jerr)
	}
	// Another version may also have another checksum.
	if v.Version != known {
		return false, &VersionError{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Version: v.Version, Known: known}
	}
	return err == nil, err
}

func verifyChecksum(r *kgo.Record) (stamped bool, err error) {
	for _, h := range r.Headers {
		if h.Key != checksumHeader {
			continue
		}
		if want := checksum(r); len(h.Value) != 4 || binary.BigEndian.Uint32(h.Value) != want {
			return true, damaged(r, fmt.Errorf("its checksum is %x, that of what it holds is %08x", h.Value, want))
		}
		stamped = true
	}
	if !stamped {
		return false, damaged(r, errNoChecksum)
	}
	return true, nil
}
