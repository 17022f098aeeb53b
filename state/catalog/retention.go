package catalog

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/segment"
)

// Retention is what retention has removed and is about to, under the key "r/".
// Removed never falls, and is nowhere above Refused, which falls only when what was
// announced is taken back.
type Retention struct {
	Version int   `json:"v"`
	At      int64 `json:"at"` // when Refused was raised (ms, by the clock of who did it)
	// Refused: exports that begin below are refused. The segments below it are
	// there for a while yet, for those that were accepted before.
	Refused Floor `json:"refused"`
	// Removed: segments below have been removed. The record that raises it comes
	// before their tombstones, in the same transaction.
	Removed Floor `json:"removed"`
}

// Floor is an edge of what is kept. The zero Floor is below everything.
type Floor struct {
	// OldestAvailable is a server_time (ms): no row from then on is below the
	// floor.
	OldestAvailable int64 `json:"oldest_available"`
	// Ends are the offsets behind the newest rows below the floor, in order of
	// topic id and partition.
	Ends []FloorEnd `json:"ends,omitempty"`
}

// FloorEnd is the floor in one partition.
type FloorEnd struct {
	TopicID   segment.TopicID `json:"t"`
	Partition int32           `json:"p"`
	Next      int64           `json:"n"`
}

func (e FloorEnd) compare(o FloorEnd) int {
	return cmp.Or(bytes.Compare(e.TopicID[:], o.TopicID[:]), cmp.Compare(e.Partition, o.Partition))
}

// Next is the floor in a partition; 0: there is none.
func (f *Floor) Next(id segment.TopicID, partition int32) int64 {
	if i, ok := slices.BinarySearchFunc(f.Ends, FloorEnd{TopicID: id, Partition: partition}, FloorEnd.compare); ok {
		return f.Ends[i].Next
	}
	return 0
}

// Above is the lowest floor that is not below f and has all rows of the segments
// below it.
func (f Floor) Above(segments []*Segment) Floor {
	f.Ends = slices.Clone(f.Ends)
	for _, s := range segments {
		for i := range s.Slices {
			in := &s.Slices[i]
			f.OldestAvailable = max(f.OldestAvailable, in.MaxTime+1)
			for _, r := range in.Sources {
				p := r.Source().At()
				e := FloorEnd{p.Topic, p.N, r.Next}
				at, ok := slices.BinarySearchFunc(f.Ends, e, FloorEnd.compare)
				if !ok {
					f.Ends = slices.Insert(f.Ends, at, e)
				}
				f.Ends[at].Next = max(f.Ends[at].Next, e.Next)
			}
		}
	}
	return f
}

// Covers tells whether all rows of the segment are below the floor.
func (f *Floor) Covers(s *Segment) bool {
	for i := range s.Slices {
		in := &s.Slices[i]
		if in.MaxTime >= f.OldestAvailable {
			return false
		}
		for _, r := range in.Sources {
			if p := r.Source().At(); r.Next > f.Next(p.Topic, p.N) {
				return false
			}
		}
	}
	return true
}

// Newest is the greatest log time (ms) of the segment's rows. Of a segment whose
// record does not say it, that is taken for the time at which it was sealed,
// which is later.
func (s *Segment) Newest() int64 {
	if s.LogTime > 0 {
		return s.LogTime
	}
	return s.Sealed()
}

// Sealed is when (ms) the segment was made, by the clock of who made it.
func (s *Segment) Sealed() int64 {
	id, err := ulid.ParseStrict(s.ID)
	if err != nil {
		return 1<<63 - 1 // never old enough
	}
	return int64(id.Time())
}

// Record is the Kafka record that says what is and will be removed.
func (r *Retention) Record(topic string) (*kgo.Record, error) {
	r.Version = Version
	return encode(topic, keyRetained, r)
}

// Retention is what retention has removed and is about to. It is shared and must
// not be changed.
//
// Who wants to know whether slices are all there lists them first and asks
// afterwards: the floor is raised before the first of them goes.
func (v *View) Retention() Retention {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.st.retention
}

func (s *state) applyRetention(rest string, value []byte) error {
	if rest != "" {
		return fmt.Errorf("the key goes on with %q", rest)
	}
	var r Retention
	if value == nil {
		return errors.New("nobody takes it back")
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return err
	}
	for _, f := range []*Floor{&r.Refused, &r.Removed} {
		if !slices.IsSortedFunc(f.Ends, FloorEnd.compare) {
			return errors.New("the partitions of a floor are not in order")
		}
	}
	s.retention = r
	return nil
}
