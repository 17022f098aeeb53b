package local

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/zeebo/xxh3"

	"lockstitch/state/kafka"
	"lockstitch/state/profile"
	"lockstitch/state/segment"
)

// Kinds of keys. All begin with the kind and the lane (4 bytes, big endian).
const (
	kindProfile       = 'p' // hash of the profile id (16), ^offset (8) → version
	kindProfileMarker = 'P' // → ProfileMarker
	kindDedup         = 'd' // generation (4), key (16) → offset, log time
	kindDedupMarker   = 'D' // topic id (16) → DedupMarker
)

// ProfileMarker says how far the lane's profiles are read.
type ProfileMarker struct {
	TopicID segment.TopicID `json:"topic_id"`
	Next    int64           `json:"next"`               // every record below has been applied
	Epoch   kafka.Epoch     `json:"epoch,omitempty"`    // of the last of them
	At      time.Time       `json:"at"`                 // when that was last the end of the partition, by the machine's clock
	LogTime int64           `json:"log_time,omitempty"` // the same by Kafka's, as far as events tell it (ms); 0: unknown
	// Pruned is the greatest floor with which versions were put: some that only
	// events below this Kafka time (ms) can ask for are gone. 0: none.
	Pruned int64 `json:"pruned,omitempty"`
}

// Version is one version of a profile.
type Version struct {
	Offset   int64            // of its record
	Time     int64            // Kafka time of its record, ms
	Snapshot profile.Snapshot // nil: deleted
}

// ProfileMarker reads the lane's marker; ok is false if there is none.
func (l *Lane) ProfileMarker() (m ProfileMarker, ok bool, err error) {
	v, ok, err := l.db.get(l.key(kindProfileMarker))
	if err != nil || !ok {
		return m, false, err
	}
	if err := json.Unmarshal(v, &m); err != nil {
		return m, false, fmt.Errorf("%w: profile marker of lane %d: %w", errDamaged, l.n, err)
	}
	return m, true, nil
}

// ResetProfiles drops all profiles of the lane and their marker.
func (l *Lane) ResetProfiles() error { return l.reset(kindProfile, kindProfileMarker) }

// ProfileBatch collects versions, to be written together with the marker.
type ProfileBatch struct {
	l   *Lane
	b   *pebble.Batch
	buf []byte
}

// NewProfileBatch starts a batch. Commit or Close it.
func (l *Lane) NewProfileBatch() *ProfileBatch {
	return &ProfileBatch{l: l, b: l.db.p.NewIndexedBatch()}
}

// Put adds a version. Older versions that no event can ask for any more are
// dropped: those before the newest one whose Kafka time is at most floor.
func (b *ProfileBatch) Put(id []byte, v Version, floor int64) error {
	prefix := b.l.profilePrefix(id)
	if at, ok := b.l.oldest[profileHash(prefix[5:])]; ok && v.Offset < at {
		delete(b.l.oldest, profileHash(prefix[5:])) // it is read again
	}
	if floor > math.MinInt64 {
		if err := b.prune(prefix, floor); err != nil {
			return err
		}
	}
	b.buf = appendVersion(b.buf[:0], id, v)
	return b.b.Set(binary.BigEndian.AppendUint64(prefix, ^uint64(v.Offset)), b.buf, nil)
}

// pruneLimit bounds the work of one Put: a long history shrinks by this much
// with each new version.
const pruneLimit = 8

// prune deletes versions from the oldest on, as long as a newer one is at most of the
// floor: however many there are above it.
func (b *ProfileBatch) prune(prefix []byte, floor int64) error {
	hash, end := profileHash(prefix[5:]), after(prefix)
	if at, ok := b.l.oldest[hash]; ok {
		end = behind(prefix, at)
	}
	it, err := b.b.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: end})
	if err != nil {
		return err
	}
	defer it.Close()
	var older []byte
	for n, ok := 0, it.Last(); ok && n <= pruneLimit; n, ok = n+1, it.Prev() {
		_, v, err := decodeVersion(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if older != nil {
			if v.Time > floor {
				break
			}
			if err := b.b.Delete(older, nil); err != nil {
				return err
			}
			b.l.noteOldest(hash, v.Offset)
		}
		older = append([]byte(nil), it.Key()...)
	}
	return it.Error()
}

// profileHash is what stands for a profile in keys.
type profileHash [16]byte

// oldestKept is of how many profiles a lane knows the oldest version.
const oldestKept = 1024

// noteOldest notes that nothing is left of a profile below an offset. Pebble passes over
// what was deleted key by key until it is compacted away: who looks for the oldest version
// of a profile that changes all the time begins here.
func (l *Lane) noteOldest(hash profileHash, offset int64) {
	if l.oldest == nil {
		l.oldest = make(map[profileHash]int64)
	}
	l.oldest[hash] = offset
	for other := range l.oldest {
		if len(l.oldest) <= oldestKept {
			break
		}
		if other != hash {
			delete(l.oldest, other)
		}
	}
}

// Len is the number of bytes collected.
func (b *ProfileBatch) Len() int { return b.b.Len() }

// Commit writes the batch and the marker, atomically.
func (b *ProfileBatch) Commit(m ProfileMarker) error {
	v, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := b.b.Set(b.l.key(kindProfileMarker), v, nil); err != nil {
		return err
	}
	return b.b.Commit(pebble.NoSync)
}

// Close drops what was not committed.
func (b *ProfileBatch) Close() error { return b.b.Close() }

// Versions reads the newest versions of a profile, newest first: at most so many, with
// snapshots of at most so many bytes. All says that there are no others. The memory is
// the caller's.
func (l *Lane) Versions(id []byte, limit int, bytes int64) (out []Version, all bool, err error) {
	it, err := l.versions(id, math.MaxInt64)
	if err != nil {
		return nil, false, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		got, v, err := decodeVersion(it.Key(), it.Value())
		if err != nil {
			return nil, false, err
		}
		if string(got) != string(id) {
			continue // another profile whose id has the same hash
		}
		if bytes -= int64(len(v.Snapshot)); len(out) == limit || bytes < 0 {
			return out, false, nil
		}
		out = append(out, v.clone())
	}
	return out, true, it.Error()
}

// FindVersion looks for the newest version of a profile below an offset that take takes;
// ok is false if there is none. However many it passes over, none is in memory but the
// one that it returns, whose memory is the caller's.
func (l *Lane) FindVersion(id []byte, below int64, take func(offset, time int64) bool) (v Version, ok bool, err error) {
	it, err := l.versions(id, below)
	if err != nil {
		return v, false, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		got, v, err := splitVersion(it.Key(), it.Value())
		if err != nil {
			return v, false, err
		}
		if string(got) != string(id) || !take(v.Offset, v.Time) {
			continue
		}
		_, v, err = decodeVersion(it.Key(), it.Value())
		return v.clone(), err == nil, err
	}
	return v, false, it.Error()
}

// OldestVersion reads the version of a profile with the lowest offset; ok is false if
// there is none. The memory is the caller's.
func (l *Lane) OldestVersion(id []byte) (v Version, ok bool, err error) {
	it, err := l.versions(id, math.MaxInt64)
	if err != nil {
		return v, false, err
	}
	defer it.Close()
	for ok := it.Last(); ok; ok = it.Prev() {
		got, v, err := decodeVersion(it.Key(), it.Value())
		if err != nil {
			return v, false, err
		}
		if string(got) == string(id) {
			return v.clone(), true, nil
		}
	}
	return v, false, it.Error()
}

// versions iterates over what is stored under a profile's hash below an offset, newest
// first.
func (l *Lane) versions(id []byte, below int64) (*pebble.Iterator, error) {
	prefix := l.profilePrefix(id)
	return l.db.p.NewIter(&pebble.IterOptions{LowerBound: behind(prefix, below), UpperBound: after(prefix)})
}

// behind is the first key behind that of a profile's version at an offset. It may use the
// spare memory of the prefix.
func behind(prefix []byte, offset int64) []byte {
	return append(binary.BigEndian.AppendUint64(prefix, ^uint64(offset)), 0)
}

func (v Version) clone() Version {
	v.Snapshot = append(profile.Snapshot(nil), v.Snapshot...)
	return v
}

func (l *Lane) profilePrefix(id []byte) []byte {
	h := xxh3.Hash128(id).Bytes()
	return l.key(kindProfile, h[:])
}

// appendVersion appends the value of a version.
func appendVersion(b, id []byte, v Version) []byte {
	b = binary.AppendUvarint(b, uint64(len(id)))
	b = append(b, id...)
	b = binary.AppendVarint(b, v.Time)
	return append(b, v.Snapshot...)
}

// decodeVersion reads one stored version; id and Snapshot alias value.
func decodeVersion(key, value []byte) (id []byte, v Version, err error) {
	id, v, err = splitVersion(key, value)
	if err == nil {
		if err = profile.Check(v.Snapshot); err != nil {
			err = fmt.Errorf("%w: profile version %x: %w", errDamaged, key, err)
		}
	}
	return id, v, err
}

// splitVersion is decodeVersion without a look into the snapshot.
func splitVersion(key, value []byte) (id []byte, v Version, err error) {
	n, w := binary.Uvarint(value)
	if w <= 0 || n > uint64(len(value)-w) || len(key) < 8 {
		return nil, v, fmt.Errorf("%w: profile version %x", errDamaged, key)
	}
	id, value = value[w:w+int(n)], value[w+int(n):]
	v.Time, w = binary.Varint(value)
	if w <= 0 {
		return nil, v, fmt.Errorf("%w: profile version %x", errDamaged, key)
	}
	v.Offset = int64(^binary.BigEndian.Uint64(key[len(key)-8:]))
	if value = value[w:]; len(value) > 0 {
		v.Snapshot = value
	}
	return id, v, nil
}

// versionTime reads the time of a stored version alone.
func versionTime(value []byte) (int64, error) {
	n, w := binary.Uvarint(value)
	if w > 0 && n <= uint64(len(value)-w) {
		if at, w := binary.Varint(value[w+int(n):]); w > 0 {
			return at, nil
		}
	}
	return 0, fmt.Errorf("%w: profile version", errDamaged)
}

// Lanes lists the lanes whose profiles lie in the database.
func (db *DB) Lanes() ([]int32, error) {
	it, err := db.p.NewIter(&pebble.IterOptions{LowerBound: []byte{kindProfileMarker}, UpperBound: []byte{kindProfileMarker + 1}})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []int32
	for ok := it.First(); ok; ok = it.Next() {
		if k := it.Key(); len(k) == 5 {
			out = append(out, int32(binary.BigEndian.Uint32(k[1:])))
		}
	}
	return out, it.Error()
}
