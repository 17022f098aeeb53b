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
// form that this one does not know.
type VersionError struct {
	Topic          string
	Partition      int32
	Offset         int64
	Key            string
	Version, Known int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("record %.80q at offset %d of %s/%d has version %d; this program reads version %d", e.Key, e.Offset, e.Topic, e.Partition, e.Version, e.Known)
}

// Damaged says that a record is damaged, and why.
func Damaged(r *kgo.Record, cause error) error {
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
// that its version is the one that is known. Errors: *DamagedError,
// *VersionError.
func Verify(r *kgo.Record, known int) error {
	stamped, err := verifyChecksum(r)
	if stamped && err != nil || r.Value == nil {
		return err
	}
	var v struct {
		Version int `json:"v"`
	}
	if jerr := json.Unmarshal(r.Value, &v); jerr != nil {
		return Damaged(r, jerr)
	}
	// Another version may also have another checksum.
	if v.Version != known {
		return &VersionError{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Version: v.Version, Known: known}
	}
	return err
}

func verifyChecksum(r *kgo.Record) (stamped bool, err error) {
	for _, h := range r.Headers {
		if h.Key != checksumHeader {
			continue
		}
		if want := checksum(r); len(h.Value) != 4 || binary.BigEndian.Uint32(h.Value) != want {
			return true, Damaged(r, fmt.Errorf("its checksum is %x, that of what it holds is %08x", h.Value, want))
		}
		stamped = true
	}
	if !stamped {
		return false, Damaged(r, errNoChecksum)
	}
	return true, nil
}
