package consumer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/jsonvalue"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/poison"
	"lockstitch/state/segment"
)

// lane is the unit of ownership: partition n of every event topic and of the
// profiles. One goroutine at a time works on it.
type lane struct {
	n      int32
	stage  stage
	cancel func()        // ends the takeover
	over   chan struct{} // closed when the takeover has ended
	anew   []string      // what stops it: topics made anew and not adopted

	inputs []*input
	prof   *profiles
	dd     *dedup
	dec    event.Decoder
	ev     event.Event
	buf    *segment.Buffer
	dead   []deadLetter
	// deadBytes is what dead holds.
	deadBytes int64
	waiting   []*batch // fetched events that wait for the profiles to catch up
	waitBytes int64    // what waiting holds
	paused    bool     // no more events are fetched: too many wait
	lost      bool     // a log that it reads was cut off: nothing more is taken until it is taken over anew
	first     []catalog.FirstEnds
	claim     bool      // another group has cut it last: its positions are to name this one
	readyAt   int64     // profile offset from which on the lane is ready
	dirtyFrom time.Time // when something not yet committed was first processed
	dirty     bool
	misrouted func(profileID []byte) bool
	routed    int32      // partitions of the profiles that misrouted goes by
	counts    laneCounts // since the last look
	hourLimit int        // of mark records for the next cut; see full
	room      int64      // bytes that one run may add to what the lane holds, its last event aside
	retaining *retaining // what its next cut removes; nil: nothing
	forgets   int64      // before which hour its next cuts forget marks that nobody needs; 0: none
	merged    *merged    // what its next cut replaces segments with; nil: nothing
}

type laneCounts struct {
	duplicates, lookups, misrouted, kept, left, late int
	dead                                             map[deadCount]int
}

type deadCount struct {
	topic  string
	reason poison.Reason
}

// stage is how far a lane has come.
type stage int

const (
	takingOver stage = iota // the takeover goroutine works on it
	catchingUp              // its profiles are read up to their end
	ready                   // its events are read
	stopped                 // it cannot run: an operator must act
)

// input is one event partition of a lane.
type input struct {
	stream    *segment.Stream
	partition int32
	pos       catalog.Position // as of the last record processed
	committed catalog.Position
	from      string // the cut that it was taken over from
	first     catalog.FirstEnds
	proof     proof
	oldest    int64 // Kafka time (ms) of the first data record not yet committed; 0: none
	quiet     int64 // Kafka time (ms) before which nothing beyond committed lies, as the end of the log told; 0: unknown
	marks     marks
	probed    probed
}

// quietSlack (ms) is for how long a record may lie beyond the end of its log: that
// moves when enough replicas have the record, whose Kafka time is then long past.
const quietSlack = int64(24 * time.Hour / time.Millisecond)

// atEnd notes that all of the log was committed at a Kafka time (ms). What comes has
// been appended since: a partition without events does not hold back for ever what is
// kept for those to come.
func (in *input) atEnd(at int64) { in.quiet = max(in.quiet, at-quietSlack) }

// since is the log time (ms) from which the events beyond committed go on; 0: unknown.
func (in *input) since() int64 { return max(in.committed.LogTime, in.quiet) }

// batch is what one poll brought for a lane's event partition.
type batch struct {
	in      *input
	records []*kgo.Record
	profEnd int64 // the profiles must have reached this offset; -1: not asked yet
	bytes   int64
	since   time.Time // when it was first left to wait
	own     bool      // the records have memory of their own
}

// stayLimit is how long a batch waits on the memory that it was fetched in.
const stayLimit = time.Second

// stay lets a batch wait. After a while it gets memory of its own: as its records were
// fetched they hold all that came with them, that of other lanes too.
func (b *batch) stay(now time.Time) {
	if b.since.IsZero() {
		b.since = now
	}
	if b.own || now.Sub(b.since) < stayLimit {
		return
	}
	b.own = true
	for i, r := range b.records {
		b.records[i] = ownRecord(r)
	}
}

func newBatch(in *input, records []*kgo.Record) *batch {
	b := &batch{in: in, records: records, profEnd: -1}
	for _, r := range records {
		b.bytes += recordBytes(r)
	}
	return b
}

// recordBytes is what a fetched record costs.
func recordBytes(r *kgo.Record) int64 {
	n := len(r.Key) + len(r.Value) + 256
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value) + 40
	}
	return int64(n)
}

func (l *lane) wait(b *batch) {
	l.waiting = append(l.waiting, b)
	l.waitBytes += b.bytes
}

// run processes the waiting batches whose profiles are there, as far as there is
// room for their minute marks and their rows: what decorates an event may be a thousand times
// as large as the event.
func (l *lane) run(now time.Time) error {
	held := l.bytes()
	for len(l.waiting) > 0 {
		b := l.waiting[0]
		if b.profEnd < 0 || l.prof.next < b.profEnd {
			return nil
		}
		for _, r := range b.records {
			if r.Offset < b.in.pos.Next {
				continue
			}
			if l.full() || l.bytes()-held >= l.room {
				l.touch(now)
				return nil
			}
			if !r.Attrs.IsControl() {
				if err := l.process(b.in, r); err != nil {
					return err
				}
			}
			b.in.pos.Next, b.in.pos.Epoch = r.Offset+1, kafka.EpochOf(r)
		}
		l.touch(now)
		l.waitBytes -= b.bytes
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
	}
	l.waiting = nil
	return nil
}

// unannounced tells whether a cut must say of the lane that it was taken over before
// its events are read.
func (l *lane) unannounced() bool { return len(l.first) > 0 || l.claim }

// touch notes that there is something to commit.
func (l *lane) touch(now time.Time) {
	if !l.dirty {
		l.dirty, l.dirtyFrom = true, now
	}
}

// process turns one data record into a row, a counted duplicate or a dead
// letter.
func (l *lane) process(in *input, r *kgo.Record) error {
	kafkaTime := r.Timestamp.UnixMilli()
	if in.oldest == 0 {
		in.oldest = kafkaTime
	}
	in.reach(kafkaTime, r.Offset)

	if err := l.dec.Decode(r.Key, r.Value, kafkaTime, &l.ev); err != nil {
		var why *poison.Error
		if !errors.As(err, &why) {
			return err
		}
		in.pos.Poison++
		l.setAside(r, why)
		return nil
	}
	ev := &l.ev
	key := dedupKey(in.stream.ID, ev.AccountID, ev.Type, ev.CorrelationID)
	dup, err := l.dd.duplicate(key, r.Offset, in.pos.LogTime)
	if err != nil {
		return err
	}
	if dup {
		in.pos.Duplicates++
		l.counts.duplicates++
		return nil
	}
	if l.misrouted(routedBy(ev.ProfileID, r.Key)) {
		in.pos.Misrouted++
		l.counts.misrouted++
	}
	snap, err := l.prof.asOf(ev.ProfileID, kafkaTime, l.backlog(in, r.Offset), in.first.ProfileEnd)
	if err != nil {
		return err
	}
	if snap != nil && string(snap.Account()) != string(ev.AccountID) {
		snap = nil // an event that names another account's profile stays undecorated
	}
	l.buf.Add(in.stream, in.partition, r.Offset, in.pos.LogTime, ev, snap)
	l.dd.keep(key, r.Offset, in.pos.LogTime)
	in.pos.Kept++
	l.counts.kept++
	return nil
}

func (l *lane) setAside(r *kgo.Record, why *poison.Error) {
	d := newDeadLetter(r, why)
	l.dead = append(l.dead, d)
	l.deadBytes += d.size()
	if l.counts.dead == nil {
		l.counts.dead = make(map[deadCount]int)
	}
	l.counts.dead[deadCount{r.Topic, why.Reason}]++
}

// applyProfiles takes records of the profile partition.
func (l *lane) applyProfiles(records []*kgo.Record, now time.Time) error {
	l.countLate(records)
	err := l.prof.apply(records, l.floor(),
		func(n int) { l.counts.left += n },
		func(r *kgo.Record, why *poison.Error) { l.setAside(r, why) })
	l.touch(now)
	return err
}

// countLate counts versions that an event would have been decorated with, had
// they been there: not replicated yet when the event was processed, or stamped by
// a clock that is behind (contract 2.3, outside of the guarantee).
func (l *lane) countLate(records []*kgo.Record) {
	if l.stage != ready {
		return
	}
	var processed int64
	for _, in := range l.inputs {
		processed = max(processed, in.pos.LogTime)
	}
	for _, r := range records {
		if r.Offset >= max(l.prof.next, l.readyAt) && !r.Attrs.IsControl() && r.Timestamp.UnixMilli() <= processed {
			l.counts.late++
		}
	}
}

// floor is the Kafka time that no event still to be processed, now or after a
// crash, lies below; a version that was replaced before it is never asked for.
func (l *lane) floor() int64 {
	floor := int64(1<<63 - 1)
	for _, in := range l.inputs {
		if l.backlog(in, in.committed.Next) {
			return noFloor // it may ask for the oldest version
		}
		floor = min(floor, in.since())
	}
	if floor <= clockSkew {
		return noFloor
	}
	return floor - clockSkew
}

// backlog says whether an event at the offset was in the log before the first
// deployment. The end of the profiles that was written down then says nothing
// about a profiles topic that was made anew since.
func (l *lane) backlog(in *input, offset int64) bool {
	return offset < in.first.EventEnd && in.first.ProfileID == l.prof.id
}

// bytes is what the lane holds until the next cut.
func (l *lane) bytes() int64 {
	if l.buf == nil {
		return 0
	}
	return l.buf.Bytes() + l.dd.bytes() + l.deadBytes
}

func (l *lane) input(topic string) *input {
	for _, in := range l.inputs {
		if in.stream.Topic == topic {
			return in
		}
	}
	return nil
}

// commit makes what was cut the committed state. The cut has taken all rows,
// entries and dead letters of the lane; of the memory for them up to keep bytes stay.
func (l *lane) commit(keep int64) error {
	markers := make(map[segment.TopicID]local.DedupMarker, len(l.inputs))
	oldest := int64(1<<63 - 1)
	for _, in := range l.inputs {
		in.committed = in.pos
		in.oldest = 0
		in.marks.committed()
		markers[in.stream.ID] = local.DedupMarker{Next: in.pos.Next, Horizon: l.dd.horizon}
		if at := in.since(); at > 0 {
			oldest = min(oldest, at)
		}
	}
	l.prof.deadTo, l.prof.oldest = max(l.prof.deadTo, l.prof.next), 0
	l.first, l.claim, l.retaining = nil, false, nil
	l.buf.Reset(keep)
	l.dead, l.deadBytes = nil, 0
	l.dirty = false
	if oldest == 1<<63-1 {
		oldest = 0
	}
	return l.dd.commit(markers, oldest)
}

// stopTakeover ends the takeover goroutine, if it still runs.
func (l *lane) stopTakeover() {
	if l.cancel != nil {
		l.cancel()
		<-l.over
	}
}

func dedupKey(id segment.TopicID, account []byte, t event.Type, correlation []byte) local.DedupKey {
	var k local.DedupKey
	hi, lo := segment.KeyOf(id, account, t, correlation)
	binary.BigEndian.PutUint64(k[:8], hi)
	binary.BigEndian.PutUint64(k[8:], lo)
	return k
}

// routedBy is what a producer's partitioner sees of the profile id of an event with the key:
// where that is the id, the key as it is, which need not be UTF-8.
func routedBy(id, key []byte) []byte {
	if bytes.Equal(jsonvalue.Sanitize(key), id) {
		return key
	}
	return id
}

// router says which partition Kafka's default partitioner picks for a key.
func router(partitions int32) func(key []byte) int32 {
	p := kgo.StickyKeyPartitioner(nil).ForTopic("")
	return func(key []byte) int32 {
		if len(key) == 0 {
			return -1
		}
		return int32(p.Partition(&kgo.Record{Key: key}, int(partitions)))
	}
}
