package consumer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/objects"
	"lockstitch/state/poison"
)

// Headers that a dead letter carries beside those of its record (contract 1.1).
const (
	headerReason    = "lockstitch.reason"
	headerDetail    = "lockstitch.detail"
	headerTopic     = "lockstitch.topic"
	headerPartition = "lockstitch.partition"
	headerOffset    = "lockstitch.offset"
	headerTimestamp = "lockstitch.timestamp"
	headerObject    = "lockstitch.object"
	headerSHA256    = "lockstitch.sha256"
	headerRest      = "lockstitch.rest"
)

// maxDeadLetter is the size from which on a dead letter's value goes to the
// object store: brokers refuse records above 1 MB by default.
const maxDeadLetter = 900_000

// deadLetter is a record set aside, in memory of its own: a record that was
// fetched holds the whole of what was fetched with it.
type deadLetter struct {
	rec *kgo.Record
	why *poison.Error
	// Names of the objects that hold the value, and key and headers, once they are
	// stored: a cut that is tried again uses them again.
	value, rest string
}

func newDeadLetter(r *kgo.Record, why *poison.Error) deadLetter {
	return deadLetter{rec: ownRecord(r), why: why}
}

// ownRecord is a copy that shares no memory with what was fetched.
func ownRecord(r *kgo.Record) *kgo.Record {
	own := *r
	own.Key, own.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	own.Headers = make([]kgo.RecordHeader, 0, len(r.Headers))
	for _, h := range r.Headers {
		own.Headers = append(own.Headers, kgo.RecordHeader{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
	}
	own.Context = nil
	return &own
}

// size is at least what the dead letter takes in the topic.
func (d *deadLetter) size() int64 {
	n := len(d.rec.Key) + len(d.rec.Value) + 512
	for _, h := range d.rec.Headers {
		n += len(h.Key) + len(h.Value) + 10 // their lengths take up to 5 each
	}
	return int64(n)
}

// rest is the form in which a key and headers are stored that no record has room
// for.
type rest struct {
	Key     []byte       `json:"key"`
	Headers []restHeader `json:"headers"`
}

type restHeader struct {
	Key   []byte `json:"key"` // as Value in base64: it need not be UTF-8
	Value []byte `json:"value"`
}

// record makes the record for the dead-letter topic. Of one that is too large for
// a broker the value is stored as an object first and named in the record; so are
// key and headers where they alone are too large.
func (d *deadLetter) record(ctx context.Context, topic string, store objects.Store) (*kgo.Record, error) {
	r := d.rec
	out := &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value}
	out.Headers = append(out.Headers, r.Headers...)
	add := func(k, v string) {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	if d.size() > maxDeadLetter {
		if err := d.store(ctx, store); err != nil {
			return nil, fmt.Errorf("storing a dead letter: %w", err)
		}
		out.Value = nil
		if d.rest != "" {
			out.Key, out.Headers = nil, nil
			add(headerRest, d.rest)
		}
		if r.Value != nil {
			add(headerObject, d.value)
			add(headerSHA256, fmt.Sprintf("%x", sha256.Sum256(r.Value)))
		}
	}
	add(headerReason, string(d.why.Reason))
	add(headerDetail, d.why.Detail)
	add(headerTopic, r.Topic)
	add(headerPartition, strconv.Itoa(int(r.Partition)))
	add(headerOffset, strconv.FormatInt(r.Offset, 10))
	add(headerTimestamp, strconv.FormatInt(r.Timestamp.UnixMilli(), 10))
	return out, nil
}

// store stores what no record has room for and is not stored yet.
func (d *deadLetter) store(ctx context.Context, store objects.Store) error {
	r := d.rec
	if d.value == "" && r.Value != nil {
		name, err := d.put(ctx, store, r.Value, "")
		if err != nil {
			return err
		}
		d.value = name
	}
	if d.rest != "" || d.size()-int64(len(r.Value)) <= maxDeadLetter {
		return nil
	}
	rest := rest{Key: r.Key}
	for _, h := range r.Headers {
		rest.Headers = append(rest.Headers, restHeader{Key: []byte(h.Key), Value: h.Value})
	}
	b, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	d.rest, err = d.put(ctx, store, b, ".json")
	return err
}

// put stores a part of the dead letter under a name that its bytes decide: whoever takes
// the lane over and comes upon the record again finds it there. Nothing sweeps dead letters.
func (d *deadLetter) put(ctx context.Context, store objects.Store, part []byte, ending string) (name string, err error) {
	r := d.rec
	name = fmt.Sprintf("dead-letters/%s/%d/%d-%x%s", objects.Part(r.Topic), r.Partition, r.Offset, sha256.Sum256(part), ending)
	if err := store.Put(ctx, name, part); err != nil && !errors.Is(err, objects.ErrExists) {
		return "", err
	}
	return name, nil
}
