package consumer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/oklog/ulid/v2"
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
)

// maxDeadLetter is the size from which on a dead letter's value goes to the
// object store: brokers refuse records above 1 MB by default.
const maxDeadLetter = 900_000

// deadLetter is a record set aside.
type deadLetter struct {
	rec *kgo.Record
	why *poison.Error
}

func (d *deadLetter) size() int64 {
	n := len(d.rec.Key) + len(d.rec.Value) + 512
	for _, h := range d.rec.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return int64(n)
}

// record makes the record for the dead-letter topic. One that is too large for
// a broker is stored as an object first, whole, and named in the record.
func (d *deadLetter) record(ctx context.Context, topic string, store objects.Store) (*kgo.Record, error) {
	r := d.rec
	out := &kgo.Record{Topic: topic, Key: r.Key, Value: r.Value}
	out.Headers = append(out.Headers, r.Headers...)
	add := func(k, v string) {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: k, Value: []byte(v)})
	}
	if d.size() > maxDeadLetter {
		name := fmt.Sprintf("dead-letters/%s/%d/%d-%s", r.Topic, r.Partition, r.Offset, ulid.Make())
		if err := store.Put(ctx, name, r.Value); err != nil {
			return nil, fmt.Errorf("storing a dead letter: %w", err)
		}
		sum := sha256.Sum256(r.Value)
		out.Value = nil
		if len(r.Key) > maxDeadLetter/4 {
			out.Key = r.Key[:maxDeadLetter/4]
		}
		out.Headers = nil
		room := maxDeadLetter / 2
		for _, h := range r.Headers {
			if room -= len(h.Key) + len(h.Value); room < 0 {
				break
			}
			out.Headers = append(out.Headers, h)
		}
		add(headerObject, name)
		add(headerSHA256, hex.EncodeToString(sum[:]))
	}
	add(headerReason, string(d.why.Reason))
	add(headerDetail, d.why.Detail)
	add(headerTopic, r.Topic)
	add(headerPartition, strconv.Itoa(int(r.Partition)))
	add(headerOffset, strconv.FormatInt(r.Offset, 10))
	add(headerTimestamp, strconv.FormatInt(r.Timestamp.UnixMilli(), 10))
	return out, nil
}
