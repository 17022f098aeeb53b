package catalog

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

const (
	minuteMillis = int64(time.Minute / time.Millisecond)
	hourMinutes  = 60
)

// Marks say at which offsets the log time of an event partition reached the
// minutes of one hour, under the key "m/<topic id>/<partition>/<hour>". The log
// time at an offset is the greatest Kafka time of the data records up to and
// including it. The record that moves the log time into a later minute is that
// minute's mark; it answers for the minutes jumped over on the way, too. The
// first data record of a partition is the mark of its minute.
//
// A record holds all marks of its hour so far: that of the newest hour is
// written again with every cut that adds one.
type Marks struct {
	Version   int             `json:"v"`
	TopicID   segment.TopicID `json:"-"`       // from the key, as are the next two
	Partition int32           `json:"-"`       //
	Hour      int64           `json:"-"`       // hours since the Unix epoch, not negative
	Minutes   []int           `json:"minutes"` // of the hour, 0 to 59, rising
	Offsets   []int64         `json:"offsets"` // Offsets[i] is the mark of Minutes[i]; rising
}

// MinuteOf is the minute that a log time (ms) lies in, counted from the Unix
// epoch; times before it count as the epoch, as a log time starts there.
func MinuteOf(ms int64) int64 { return max(ms, 0) / minuteMillis }

// Add notes the mark of a minute (counted from the epoch) of the hour.
func (m *Marks) Add(minute, offset int64) {
	m.Minutes = append(m.Minutes, int(minute%hourMinutes))
	m.Offsets = append(m.Offsets, offset)
}

// Record is the Kafka record that commits the marks.
func (m *Marks) Record(topic string) (*kgo.Record, error) {
	m.Version = Version
	return encode(topic, m.key(), m)
}

// Tombstone is the Kafka record that removes the marks of the hour.
func (m *Marks) Tombstone(topic string) *kgo.Record {
	return kafka.Stamp(&kgo.Record{Topic: topic, Partition: 0, Key: []byte(m.key())})
}

func (m *Marks) key() string {
	return fmt.Sprintf("%s%s/%d", keyMarks, partitionKey(m.TopicID, m.Partition), m.Hour)
}

// check says what is wrong with marks read from a record.
func (m *Marks) check() error {
	if len(m.Minutes) == 0 || len(m.Minutes) != len(m.Offsets) {
		return fmt.Errorf("%d minutes with %d offsets", len(m.Minutes), len(m.Offsets))
	}
	minute, offset := -1, int64(-1)
	for i := range m.Minutes {
		if m.Minutes[i] <= minute || m.Minutes[i] >= hourMinutes || m.Offsets[i] <= offset {
			return fmt.Errorf("minute %d at offset %d follows minute %d at offset %d", m.Minutes[i], m.Offsets[i], minute, offset)
		}
		minute, offset = m.Minutes[i], m.Offsets[i]
	}
	return nil
}

// hourMarks are the marks of one hour as a View keeps them: how many there are,
// their minutes, a byte each, which an hour that has them all goes without, and
// their offsets, each by how much the step to it is longer than the step before.
// A partition has 24 hours a day for longer than a year; BenchmarkMarks tells what
// a day takes.
type hourMarks struct {
	hour   int64
	packed string
}

func pack(m *Marks) hourMarks {
	b := []byte{byte(len(m.Minutes))}
	if len(m.Minutes) < hourMinutes {
		for _, minute := range m.Minutes {
			b = append(b, byte(minute))
		}
	}
	offset, step := int64(0), int64(0)
	for _, o := range m.Offsets {
		b = binary.AppendVarint(b, o-offset-step)
		offset, step = o, o-offset
	}
	return hourMarks{hour: m.Hour, packed: string(b)}
}

func (h hourMarks) unpack() (minutes []int, offsets []int64) {
	b := []byte(h.packed)
	n := int(b[0])
	b = b[1:]
	for i := range n {
		minute := i
		if n < hourMinutes {
			minute, b = int(b[0]), b[1:]
		}
		minutes = append(minutes, minute)
	}
	offset, step := int64(0), int64(0)
	for range n {
		longer, size := binary.Varint(b)
		b = b[size:]
		step += longer
		offset += step
		offsets = append(offsets, offset)
	}
	return minutes, offsets
}

// since is the first mark of the hour at or after a minute counted from the
// epoch.
func (h hourMarks) since(minute int64) (offset int64, ok bool) {
	minutes, offsets := h.unpack()
	for i := range minutes {
		if h.hour*hourMinutes+int64(minutes[i]) >= minute {
			return offsets[i], true
		}
	}
	return 0, false
}

func compareHour(h hourMarks, hour int64) int {
	switch {
	case h.hour < hour:
		return -1
	case h.hour > hour:
		return 1
	}
	return 0
}

// Mark is the first offset of an event partition at which its log time has
// reached t, which stands on a whole minute. It is below the partition's
// position; ok is false if no data record there has reached t. A time before
// the oldest mark that is kept is answered with that mark.
func (v *View) Mark(id segment.TopicID, partition int32, t time.Time) (offset int64, ok bool) {
	minute := MinuteOf(t.UnixMilli())
	v.mu.RLock()
	defer v.mu.RUnlock()
	hours := v.st.marks[partitionKey(id, partition)]
	i, _ := slices.BinarySearchFunc(hours, minute/hourMinutes, compareHour)
	for ; i < len(hours); i++ {
		if offset, ok = hours[i].since(minute); ok {
			return offset, true
		}
	}
	return 0, false
}

// NewestMarks are the marks of the newest hour of a partition that has any.
func (v *View) NewestMarks(id segment.TopicID, partition int32) (Marks, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	hours := v.st.marks[partitionKey(id, partition)]
	if len(hours) == 0 {
		return Marks{}, false
	}
	newest := hours[len(hours)-1]
	m := Marks{TopicID: id, Partition: partition, Hour: newest.hour}
	m.Minutes, m.Offsets = newest.unpack()
	return m, true
}

// OldMarks lists the hours before the given one of which a partition has marks,
// oldest first, at most limit of them.
func (v *View) OldMarks(id segment.TopicID, partition int32, before int64, limit int) []Marks {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []Marks
	for _, h := range v.st.marks[partitionKey(id, partition)] {
		if h.hour >= before || len(out) == limit {
			break
		}
		out = append(out, Marks{TopicID: id, Partition: partition, Hour: h.hour})
	}
	return out
}

// UnreadMarks lists hours before the given one of which partitions have marks that are
// none of these topics' incarnations in use: nobody reads them any more, by the settings
// of who asks. At most limit of them, of each partition the oldest first.
func (v *View) UnreadMarks(topics []string, before int64, limit int) []Marks {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var read []segment.TopicID
	for _, topic := range topics {
		if a := v.st.incarnations(topic); a != nil {
			read = append(read, a.IDs[len(a.IDs)-1:]...)
		}
	}
	var out []Marks
	for key, hours := range v.st.marks {
		if hours[0].hour >= before {
			continue
		}
		id, partition, err := parsePartitionKey(key)
		if err != nil || slices.Contains(read, id) {
			continue
		}
		for _, h := range hours {
			if len(out) == limit {
				return out
			}
			if h.hour >= before {
				break
			}
			out = append(out, Marks{TopicID: id, Partition: partition, Hour: h.hour})
		}
	}
	return out
}

func (s *state) applyMarks(rest string, value []byte) error {
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return errors.New("the key names no hour")
	}
	partition := rest[:i]
	hour, err := strconv.ParseInt(rest[i+1:], 10, 64)
	if err != nil || hour < 0 || hour > math.MaxInt64/hourMinutes {
		return fmt.Errorf("the key names the hour %q", rest[i+1:])
	}
	hours := s.marks[partition]
	at, found := slices.BinarySearchFunc(hours, hour, compareHour)
	if value == nil {
		if found {
			s.marks[partition] = slices.Delete(hours, at, at+1)
		}
		if len(s.marks[partition]) == 0 {
			delete(s.marks, partition)
		}
		return nil
	}
	m := Marks{Hour: hour}
	if err := json.Unmarshal(value, &m); err != nil {
		return err
	}
	if err := m.check(); err != nil {
		return err
	}
	if found {
		hours[at] = pack(&m)
	} else {
		s.marks[partition] = slices.Insert(hours, at, pack(&m))
	}
	return nil
}
