package segment

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"unique"
)

// String gives the id as Kafka's own tools print it: 22 characters of unpadded
// URL-safe base64.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// ParseTopicID reads what String gives.
func ParseTopicID(text string) (TopicID, error) {
	var id TopicID
	if len(text) != 22 {
		return id, fmt.Errorf("topic id %q: must be 22 characters of URL-safe base64", text)
	}
	p, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(p) != len(id) {
		return id, fmt.Errorf("topic id %q: must be 22 characters of URL-safe base64", text)
	}
	copy(id[:], p)
	return id, nil
}

// MarshalText writes what String gives.
func (id TopicID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what String gives.
func (id *TopicID) UnmarshalText(text []byte) error {
	parsed, err := ParseTopicID(string(text))
	if err == nil {
		*id = parsed
	}
	return err
}

// Compare orders sources as rows of equal server_time are ordered (contract
// 2.5): by topic name bytewise, incarnation, partition.
func (s Source) Compare(o Source) int {
	if c := strings.Compare(s.Topic, o.Topic); c != 0 {
		return c
	}
	if c := cmp.Compare(s.Incarnation, o.Incarnation); c != 0 {
		return c
	}
	return cmp.Compare(s.Partition, o.Partition)
}

// Range is the range of offsets from min to below next of a partition of the stream.
func (s Stream) Range(partition int32, min, next int64) OffsetRange {
	return OffsetRange{source: unique.Make(Source{s, partition}), Min: min, Next: next}
}

// Source is the source that the range speaks about.
func (r OffsetRange) Source() Source { return r.source.Value() }

// sliceJSON is SliceInfo on the wire. Thousands of them stand in one catalog
// record, so names are short and the sources of a stream share one entry.
type sliceJSON struct {
	Account string       `json:"a"`
	Rows    int          `json:"n"`
	Times   [2]int64     `json:"t"` // first, last − first
	Place   [3]int64     `json:"b"` // offset, length, length of the keys
	Streams []streamJSON `json:"s"`
}

type streamJSON struct {
	Topic       string     `json:"t"`
	Incarnation int        `json:"i,omitempty"`
	ID          TopicID    `json:"d"`
	Ranges      [][3]int64 `json:"p"` // partition, first offset, number of offsets
}

// MarshalJSON writes the compact form described in FORMAT.md.
func (s SliceInfo) MarshalJSON() ([]byte, error) {
	j := sliceJSON{Account: s.Account, Rows: s.Rows, Times: [2]int64{s.MinTime, s.MaxTime - s.MinTime},
		Place: [3]int64{s.Offset, s.Length, s.KeysLength}}
	for i, r := range s.Sources {
		src := r.Source()
		if i == 0 || src.Stream != s.Sources[i-1].Source().Stream {
			j.Streams = append(j.Streams, streamJSON{Topic: src.Topic, Incarnation: src.Incarnation, ID: src.ID})
		}
		last := &j.Streams[len(j.Streams)-1]
		last.Ranges = append(last.Ranges, [3]int64{int64(src.Partition), r.Min, r.Next - r.Min})
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads the compact form and refuses numbers that no slice has.
func (s *SliceInfo) UnmarshalJSON(data []byte) error {
	var j sliceJSON
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("slice: %w", err)
	}
	out := SliceInfo{Account: j.Account, Rows: j.Rows, MinTime: j.Times[0], MaxTime: j.Times[0] + j.Times[1],
		Offset: j.Place[0], Length: j.Place[1], KeysLength: j.Place[2]}
	sources := 0
	for _, st := range j.Streams {
		sources += len(st.Ranges)
	}
	out.Sources = make([]OffsetRange, 0, sources)
	for _, st := range j.Streams {
		stream := Stream{Topic: st.Topic, Incarnation: st.Incarnation, ID: st.ID}
		for _, r := range st.Ranges {
			out.Sources = append(out.Sources, stream.Range(int32(r[0]), r[1], r[1]+r[2]))
			if r[0] != int64(int32(r[0])) {
				return fmt.Errorf("slice of account %q: partition %d is out of range", j.Account, r[0])
			}
		}
	}
	if err := out.check(); err != nil {
		return err
	}
	*s = out
	return nil
}

// check refuses what Seal never writes.
func (s *SliceInfo) check() error {
	bad := func(what string) error { return fmt.Errorf("slice of account %q: %s is out of range", s.Account, what) }
	switch {
	case s.Rows < 1 || s.Rows > MaxSliceRows:
		return bad("its number of rows")
	case s.MinTime < 0 || s.MaxTime < s.MinTime || s.MaxTime > maxTime:
		return bad("its time")
	case s.Offset < 0 || s.KeysLength < 0 || s.Length < s.KeysLength || s.Offset+s.Length < s.Offset:
		return bad("its place")
	case len(s.Sources) == 0 || len(s.Sources) > maxSources:
		return bad("its number of sources")
	}
	for i, r := range s.Sources {
		src := r.Source()
		if src.Partition < 0 || src.Incarnation < 0 || r.Min < 0 || r.Next <= r.Min {
			return bad("a source")
		}
		if i > 0 && s.Sources[i-1].Source().Compare(src) >= 0 {
			return bad("the order of its sources")
		}
	}
	return nil
}
