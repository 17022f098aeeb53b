package catalog

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/segment"
)

// MaxRecordBytes bounds a catalog record: brokers refuse records over 1 MB by
// default.
const MaxRecordBytes = 512 << 10

const (
	keySegment  = "s/"
	keyPosition = "p/"
	keyFirst    = "f/"
	keyAdopted  = "t/"
	keyMarks    = "m/"
	keyRetained = "r/"
)

// VersionError reports a record that another version of the software wrote in
// a form this one does not know. The catalog cannot be used.
type VersionError struct {
	Key     string
	Offset  int64
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("catalog record %q at offset %d has version %d; this program reads version %d", e.Key, e.Offset, e.Version, Version)
}

// CorruptError reports a record that cannot be what a replica wrote. The
// catalog cannot be used: leaving the record out could make an export short.
type CorruptError struct {
	Key    string
	Offset int64
	Cause  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("catalog record %q at offset %d is damaged: %v", e.Key, e.Offset, e.Cause)
}

func (e *CorruptError) Unwrap() error { return e.Cause }

// Record is the Kafka record that commits the segment.
func (s *Segment) Record(topic string) (*kgo.Record, error) {
	s.Version = Version
	return encode(topic, keySegment+s.ID, s)
}

// Tombstone is the Kafka record that removes the segment.
func (s *Segment) Tombstone(topic string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: 0, Key: []byte(keySegment + s.ID)}
}

// Record is the Kafka record that moves the partition's position.
func (p *Position) Record(topic string) (*kgo.Record, error) {
	p.Version = Version
	return encode(topic, keyPosition+partitionKey(p.TopicID, p.Partition), p)
}

// Record is the Kafka record that fixes the ends at first deployment.
func (f *FirstEnds) Record(topic string) (*kgo.Record, error) {
	f.Version = Version
	return encode(topic, keyFirst+partitionKey(f.TopicID, f.Partition), f)
}

// Record is the Kafka record that names a topic's incarnations.
func (a *Adopted) Record(topic string) (*kgo.Record, error) {
	a.Version = Version
	return encode(topic, keyAdopted+a.Topic, a)
}

func partitionKey(id segment.TopicID, partition int32) string {
	return fmt.Sprintf("%s/%d", id, partition)
}

func encode(topic, key string, v any) (*kgo.Record, error) {
	val, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("catalog record %q: %w", key, err)
	}
	if len(val) > MaxRecordBytes {
		return nil, fmt.Errorf("catalog record %q: %d bytes, over the limit of %d", key, len(val), MaxRecordBytes)
	}
	return &kgo.Record{Topic: topic, Partition: 0, Key: []byte(key), Value: val}, nil
}

// decode reads one record into the state. A null value deletes.
func (s *state) decode(r *kgo.Record) error {
	key := string(r.Key)
	if len(key) < 2 {
		return &CorruptError{Key: key, Offset: r.Offset, Cause: fmt.Errorf("unknown key")}
	}
	kind, rest := key[:2], key[2:]
	if r.Value != nil {
		var v struct {
			Version int `json:"v"`
		}
		if err := json.Unmarshal(r.Value, &v); err != nil {
			return &CorruptError{Key: key, Offset: r.Offset, Cause: err}
		}
		if v.Version != Version {
			return &VersionError{Key: key, Offset: r.Offset, Version: v.Version}
		}
	}
	var err error
	switch kind {
	case keySegment:
		err = s.applySegment(rest, r.Value)
	case keyPosition:
		err = applyMap(s.positions, rest, r.Value)
	case keyFirst:
		err = applyMap(s.first, rest, r.Value)
	case keyAdopted:
		err = applyMap(s.adopted, rest, r.Value)
	case keyMarks:
		err = s.applyMarks(rest, r.Value)
	case keyRetained:
		err = s.applyRetention(rest, r.Value)
	default:
		err = fmt.Errorf("unknown kind %q", strings.ToValidUTF8(kind, "?"))
	}
	if err != nil {
		return &CorruptError{Key: key, Offset: r.Offset, Cause: err}
	}
	return nil
}

func applyMap[T any](m map[string]*T, key string, value []byte) error {
	if value == nil {
		delete(m, key)
		return nil
	}
	v := new(T)
	if err := json.Unmarshal(value, v); err != nil {
		return err
	}
	m[key] = v
	return nil
}
