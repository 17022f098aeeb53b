package consumer

import (
	"errors"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/jsonvalue"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/poison"
	"lockstitch/state/profile"
	"lockstitch/state/segment"
)

// profiles is a lane's side of the profiles topic: the versions on disk, a
// cache of them in memory, and how far the partition is read.
type profiles struct {
	topic   string
	id      segment.TopicID
	lane    *local.Lane
	next    int64       // every record below has been applied
	epoch   kafka.Epoch // of the last of them
	proof   proof
	deadTo  int64     // malformed records below have been dead-lettered by a committed cut
	pruned  int64     // versions that only events below this Kafka time (ms) ask for may be gone; 0: none
	oldest  int64     // Kafka time (ms) of the first data record not yet committed; 0: none
	current time.Time // when next was last the end of the partition, by the machine's clock
	logTime int64     // the same by Kafka's (ms); 0: unknown

	// load has the versions read since the lane had none, until settle; nil
	// otherwise.
	load   *local.ProfileLoad
	probed probed

	cache      map[string][]local.Version
	cacheBytes int64
	cacheLimit int64
}

// versionOverhead is what a cached version costs beside its snapshot.
const versionOverhead = 120

// apply takes the next records of the partition. Versions that no event can
// ask for any more, given floor, are dropped on the way. Malformed records count
// as deletions and are reported through dead.
func (p *profiles) apply(records []*kgo.Record, floor int64, dropped func(int), dead func(*kgo.Record, *poison.Error)) error {
	batch := p.lane.NewProfileBatch()
	defer func() { _ = batch.Close() }()
	put := func(id []byte, v local.Version) error { return batch.Put(id, v, floor) }
	if p.load != nil {
		put = p.load.Put
	}
	p.pruned = max(p.pruned, floor)
	for _, r := range records {
		if r.Offset < p.next {
			continue
		}
		p.next, p.epoch = r.Offset+1, kafka.EpochOf(r)
		if r.Attrs.IsControl() {
			continue
		}
		if p.oldest == 0 && r.Offset >= p.deadTo {
			p.oldest = r.Timestamp.UnixMilli()
		}
		snap, n, err := profile.Decode(r.Key, r.Value)
		if n > 0 {
			dropped(n)
		}
		if err != nil {
			var perr *poison.Error
			if !errors.As(err, &perr) {
				return err
			}
			snap = nil
			if r.Offset >= p.deadTo {
				dead(r, perr)
			}
		}
		id := jsonvalue.Sanitize(r.Key)
		v := local.Version{Offset: r.Offset, Time: r.Timestamp.UnixMilli(), Snapshot: snap}
		if err := put(id, v); err != nil {
			return err
		}
		if old, ok := p.cache[string(id)]; ok {
			p.forget(string(id), old)
		}
	}
	if p.load == nil {
		return batch.Commit(p.marker())
	}
	if !p.load.Full() {
		return nil
	}
	if err := p.settle(floor); err != nil {
		return err
	}
	p.load = p.lane.LoadProfiles(math.MaxInt32)
	return nil
}

// settle brings what was loaded into the local state: from then on versions can
// be asked for.
func (p *profiles) settle(floor int64) error {
	if p.load == nil {
		return nil
	}
	p.pruned = max(p.pruned, floor)
	err := p.load.Finish(p.marker(), floor)
	return errors.Join(err, p.close())
}

// close drops what was loaded and not settled.
func (p *profiles) close() error {
	if p.load == nil {
		return nil
	}
	err := p.load.Close()
	p.load = nil
	return err
}

// moved notes that everything below next has been read without a record there.
func (p *profiles) moved(next int64) {
	if next > p.next {
		p.next, p.epoch = next, 0
	}
}

func (p *profiles) marker() local.ProfileMarker {
	return local.ProfileMarker{TopicID: p.id, Next: p.next, Epoch: p.epoch, At: p.current, LogTime: p.logTime, Pruned: p.pruned}
}

// touch writes the marker anew, so that a replica that restarts soon knows that
// it was current.
func (p *profiles) touch(now time.Time, logTime int64) error {
	p.current, p.logTime = now, logTime
	if p.load != nil {
		return nil // its marker is written when it is settled
	}
	b := p.lane.NewProfileBatch()
	defer func() { _ = b.Close() }()
	return b.Commit(p.marker())
}

// versions returns a profile's versions, newest first.
func (p *profiles) versions(id []byte) ([]local.Version, error) {
	if v, ok := p.cache[string(id)]; ok {
		return v, nil
	}
	v, err := p.lane.Versions(id)
	if err != nil {
		return nil, err
	}
	key := string(id)
	p.cache[key] = v
	p.cacheBytes += versionsBytes(key, v)
	for k, old := range p.cache {
		if p.cacheBytes <= p.cacheLimit {
			break
		}
		if k != key {
			p.forget(k, old)
		}
	}
	return v, nil
}

func (p *profiles) forget(id string, v []local.Version) {
	p.cacheBytes -= versionsBytes(id, v)
	delete(p.cache, id)
}

func versionsBytes(id string, v []local.Version) int64 {
	n := int64(len(id)) + versionOverhead
	for i := range v {
		n += int64(len(v[i].Snapshot)) + versionOverhead
	}
	return n
}

// asOf picks the version that decorates an event (contract 2.3): the newest one
// whose Kafka time is not later than the event's. Where there is none and the
// event stood in the log before the first deployment (backlog), it is the oldest
// version below the profile end recorded then. Nil: undecorated.
func asOf(versions []local.Version, kafkaTime int64, backlog bool, profileEnd int64) profile.Snapshot {
	for i := range versions {
		if versions[i].Time <= kafkaTime {
			return versions[i].Snapshot
		}
	}
	if backlog {
		for i := len(versions) - 1; i >= 0; i-- {
			if versions[i].Offset < profileEnd {
				return versions[i].Snapshot
			}
		}
	}
	return nil
}

// noFloor keeps every version.
const noFloor = math.MinInt64

// clockSkew is by how much an event's Kafka time may lie behind the log time of
// its partition: brokers' clocks differ a little, and a new leader may stamp
// with an earlier time.
const clockSkew = int64(time.Hour / time.Millisecond)
