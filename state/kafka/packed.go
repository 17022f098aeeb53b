package kafka

import (
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A batch that unpacks to more than MaxBatchBytes ends the fetching of its partition:
// the client goes on when its offset is set. It cannot be passed over, but compaction
// takes it away once its keys have newer records. It is tried again until then.
const (
	packedFirst = time.Second
	packedMax   = 30 * time.Second // it is fetched, and unpacked up to the bound, each time
)

// packed are the partitions of a Tail that have come to such a batch.
type packed map[int32]*packedPartition

type packedPartition struct {
	pauses *backoff.ExponentialBackOff
	again  time.Time // when it is tried; zero: it has been, and the answer is not there
}

// stop notes that a partition is not fetched any more.
func (m packed) stop(p int32) {
	if m[p] == nil {
		m[p] = &packedPartition{pauses: &backoff.ExponentialBackOff{InitialInterval: packedFirst, Multiplier: 2, MaxInterval: packedMax}}
	}
	m[p].again = time.Now().Add(m[p].pauses.NextBackOff())
}

// stopped says whether a partition waits to be tried again.
func (m packed) stopped(p int32) bool { return m[p] != nil && !m[p].again.IsZero() }

// first is when the next one is to be tried.
func (m packed) first() (at time.Time, some bool) {
	for p, s := range m {
		if m.stopped(p) && (!some || s.again.Before(at)) {
			at, some = s.again, true
		}
	}
	return at, some
}

// unpack has those partitions fetched again whose time has come.
func (t *Tail) unpack() {
	set := make(map[int32]kgo.EpochOffset)
	for p, s := range t.packed {
		if t.packed.stopped(p) && !time.Now().Before(s.again) {
			s.again = time.Time{}
			set[p] = kgo.EpochOffset{Epoch: -1, Offset: t.Position(p)}
		}
	}
	if len(set) > 0 {
		t.cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{t.cfg.Topic: set})
	}
}
