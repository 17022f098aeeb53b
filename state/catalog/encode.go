package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// MaxRecordBytes bounds a catalog record: brokers refuse records over 1 MB by
// default.
const MaxRecordBytes = 512 << 10

const (
	keySegment    = "s/"
	keyMerged     = "g/"
	keyPosition   = "p/"
	keyFirst      = "f/"
	keyRegistered = "t/"
	keyAdopted    = "a/"
	keyMarks      = "m/"
	keyRetained   = "r/"
)

// Record is the Kafka record that commits the segment.
func (s *Segment) Record(topic string) (*kgo.Record, error) {
	s.Version = Version
	s.merged = s.merged || len(s.Replaces) > 0
	return encode(topic, s.key(), s)
}

func (s *Segment) key() string {
	if s.merged {
		return keyMerged + s.ID
	}
	return keySegment + s.ID
}

// Tombstone is the Kafka record that removes the segment.
func (s *Segment) Tombstone(topic string) *kgo.Record {
	return kafka.Stamp(&kgo.Record{Topic: topic, Partition: 0, Key: []byte(s.key())})
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

// Record is the Kafka record that names a topic's incarnations, as adopted.
func (a *Adopted) Record(topic string) (*kgo.Record, error) {
	return a.record(topic, keyAdopted)
}

// record is the record of one of the two kinds: registered or adopted.
func (a *Adopted) record(topic, kind string) (*kgo.Record, error) {
	a.Version = Version
	return encode(topic, kind+a.Topic, a)
}

func partitionKey(id segment.TopicID, partition int32) string {
	return fmt.Sprintf("%s/%d", id, partition)
}

func parsePartitionKey(key string) (id segment.TopicID, partition int32, err error) {
	topic, number, _ := strings.Cut(key, "/")
	if id, err = segment.ParseTopicID(topic); err != nil {
		return id, 0, err
	}
	n, err := strconv.ParseInt(number, 10, 32)
	return id, int32(n), err
}

func encode(topic, key string, v any) (*kgo.Record, error) {
	val, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("catalog record %q: %w", key, err)
	}
	if len(val) > MaxRecordBytes {
		return nil, fmt.Errorf("catalog record %q: %d bytes, over the limit of %d", key, len(val), MaxRecordBytes)
	}
	return kafka.Stamp(&kgo.Record{Topic: topic, Partition: 0, Key: []byte(key), Value: val}), nil
}

// decode reads one record into the state. A null value deletes. Errors:
// *kafka.DamagedError, *kafka.VersionError. Leaving the record out could make an
// export short.
func (s *state) decode(r *kgo.Record) error {
	if ok, err := kafka.Verify(r, Version); !ok {
		return err
	}
	if err := s.read(string(r.Key), r.Value); err != nil {
		return kafka.Unreadable(r, err)
	}
	return nil
}

func (s *state) read(key string, value []byte) error {
	if len(key) < 2 {
		return errors.New("unknown key")
	}
	kind, rest := key[:2], key[2:]
	switch kind {
	case keySegment:
		return s.applySegment(rest, value, false)
	case keyMerged:
		return s.applySegment(rest, value, true)
	case keyPosition:
		return applyMap(s.positions, rest, value)
	case keyFirst:
		return applyMap(s.first, rest, value)
	case keyRegistered:
		return applyMap(s.registered, rest, value)
	case keyAdopted:
		return applyMap(s.adopted, rest, value)
	case keyMarks:
		return s.applyMarks(rest, value)
	case keyRetained:
		return s.applyRetention(rest, value)
	}
	return kafka.ErrUnknownKind
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
