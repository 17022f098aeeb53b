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

	cache      map[string]*history
	cacheBytes int64
	cacheLimit int64
}

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
		if jsonvalue.CheckKey(r.Key) != nil {
			continue // it is no event's
		}
		id := jsonvalue.Sanitize(r.Key)
		v := local.Version{Offset: r.Offset, Time: r.Timestamp.UnixMilli(), Snapshot: snap}
		if err := put(id, v); err != nil {
			return err
		}
		p.renew(id, v, floor)
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

// asOf picks the version that decorates an event (contract 2.3): the newest one
// whose Kafka time is not later than the event's. Where there is none and the
// event stood in the log before the first deployment (backlog), it is the oldest
// version if that lies below the profile end recorded then. Nil: undecorated.
func (p *profiles) asOf(id []byte, kafkaTime int64, backlog bool, profileEnd int64) (profile.Snapshot, error) {
	h, err := p.history(id)
	if err != nil {
		return nil, err
	}
	for i := range h.newest {
		if h.newest[i].Time <= kafkaTime {
			return h.newest[i].Snapshot, nil
		}
	}
	if !h.all {
		if v, ok, err := p.find(id, h, kafkaTime); ok || err != nil {
			return v.Snapshot, err
		}
	}
	if backlog {
		v, ok, err := p.oldestVersion(id, h)
		if err != nil {
			return nil, err
		}
		if ok && v.Offset < profileEnd {
			return v.Snapshot, nil
		}
	}
	return nil, nil
}

// history returns what is in memory of a profile's versions.
func (p *profiles) history(id []byte) (*history, error) {
	if h, ok := p.cache[string(id)]; ok {
		return h, nil
	}
	newest, all, err := p.lane.Versions(id, newestKept, p.entryLimit())
	if err != nil {
		return nil, err
	}
	h := &history{newest: newest, all: all, stride: fenceStride}
	key := string(id)
	p.cache[key] = h
	p.cacheBytes += h.bytes(key)
	p.makeRoom(key)
	return h, nil
}

// find looks on disk for the newest version, of those that are not in memory, whose
// Kafka time is not later.
func (p *profiles) find(id []byte, h *history, kafkaTime int64) (local.Version, bool, error) {
	w := h.walk(kafkaTime)
	v, ok, err := p.lane.FindVersion(id, w.from, func(offset, time int64) bool {
		if time <= kafkaTime {
			return true
		}
		w.pass(offset, time)
		return false
	})
	key := string(id)
	p.cacheBytes -= h.bytes(key)
	w.end()
	p.cacheBytes += h.bytes(key)
	p.makeRoom(key)
	return v, ok, err
}

func (p *profiles) oldestVersion(id []byte, h *history) (v local.Version, ok bool, err error) {
	if !h.all {
		return p.lane.OldestVersion(id)
	}
	if n := len(h.newest); n > 0 {
		return h.newest[n-1], true, nil
	}
	return v, false, nil
}

// renew takes a new version of a profile into what is in memory of it.
func (p *profiles) renew(id []byte, v local.Version, floor int64) {
	h, ok := p.cache[string(id)]
	if !ok {
		return
	}
	key := string(id)
	p.cacheBytes -= h.bytes(key)
	if !h.follows(v.Offset) {
		delete(p.cache, key)
		return
	}
	h.add(v, floor, p.entryLimit())
	p.cacheBytes += h.bytes(key)
	p.makeRoom(key)
}

// entryLimit is how many bytes of snapshots of one profile are in memory.
func (p *profiles) entryLimit() int64 { return p.cacheLimit / 4 }

// makeRoom drops what is in memory of other profiles than key until the rest fits.
func (p *profiles) makeRoom(key string) {
	if p.cacheBytes <= p.cacheLimit {
		return
	}
	for k, h := range p.cache {
		if p.cacheBytes <= p.cacheLimit {
			break
		}
		if k != key {
			p.cacheBytes -= h.bytes(k)
			delete(p.cache, k)
		}
	}
}

// noFloor keeps every version.
const noFloor = math.MinInt64

// clockSkew is by how much an event's Kafka time may lie behind the log time of
// its partition: brokers' clocks differ a little, and a new leader may stamp
// with an earlier time.
const clockSkew = int64(time.Hour / time.Millisecond)
