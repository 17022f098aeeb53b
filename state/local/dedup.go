package local

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"lockstitch/state/segment"
)

// DedupKey is the 128-bit hash of (topic id, account, type, correlation id);
// segment.KeyOf makes it.
type DedupKey [16]byte

// DedupEntry is the newest kept event of a key.
type DedupEntry struct {
	Key     DedupKey
	Offset  int64
	LogTime int64 // log time of the partition at Offset, ms
}

// DedupMarker says which part of a stream and partition the lane's entries
// cover: every event kept at offsets below Next, as far as the horizon reaches.
// The horizon also decides in which generation an entry is found: entries that
// were written under another one are of no use.
type DedupMarker struct {
	Next    int64 `json:"next"`
	Horizon int64 `json:"horizon"` // ms
}

// Generation is the number of the deduplication generation that a log time
// belongs to: one lasts as long as the horizon, so that only the present and
// the one before can hold an entry that still counts.
func Generation(logTime, horizon int64) int32 {
	if horizon <= 0 {
		return 0
	}
	return int32(logTime / horizon)
}

// DedupMarker reads how far the entries of a stream's partition go.
func (l *Lane) DedupMarker(id segment.TopicID) (m DedupMarker, ok bool, err error) {
	v, ok, err := l.db.get(l.key(kindDedupMarker, id[:]))
	if err != nil || !ok {
		return m, false, err
	}
	if err := json.Unmarshal(v, &m); err != nil {
		return m, false, fmt.Errorf("%w: deduplication marker of lane %d: %w", errDamaged, l.n, err)
	}
	return m, true, nil
}

// ResetDedup drops all entries and markers of the lane.
func (l *Lane) ResetDedup() error {
	return l.reset(kindDedup, kindDedupMarker)
}

// ForgetDedupMarkers drops the markers of all streams but these.
func (l *Lane) ForgetDedupMarkers(but map[segment.TopicID]int64) error {
	b := l.db.p.NewBatch()
	defer b.Close()
	prefix := l.key(kindDedupMarker)
	it, err := l.db.p.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if _, keep := but[segment.TopicID(it.Key()[len(prefix):])]; !keep {
			err = b.Delete(it.Key(), nil)
		}
	}
	if err = cmp.Or(err, it.Error(), it.Close()); err != nil || b.Empty() {
		return err
	}
	return b.Commit(pebble.NoSync)
}

// reset drops all keys of the lane of some kinds, atomically. Where there are
// none it writes nothing: what is loaded later would lie over it.
func (l *Lane) reset(kinds ...byte) error {
	b := l.db.p.NewBatch()
	defer b.Close()
	for _, kind := range kinds {
		prefix := l.key(kind)
		it, err := l.db.p.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
		if err != nil {
			return err
		}
		any := it.First()
		if err := it.Close(); err != nil {
			return err
		}
		if !any {
			continue
		}
		if err := b.DeleteRange(prefix, after(prefix), nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.NoSync)
}

// WriteDedup adds entries and moves markers, atomically. Of several entries
// with one key the last one stays.
func (l *Lane) WriteDedup(entries []DedupEntry, horizon int64, markers map[segment.TopicID]DedupMarker) error {
	b := l.db.p.NewBatch()
	defer b.Close()
	var key [25]byte
	copy(key[:], l.key(kindDedup))
	var val [2 * binary.MaxVarintLen64]byte
	for i := range entries {
		e := &entries[i]
		binary.BigEndian.PutUint32(key[5:], uint32(Generation(e.LogTime, horizon)))
		copy(key[9:], e.Key[:])
		if err := b.Set(key[:], putEntry(&val, e), nil); err != nil {
			return err
		}
	}
	for id, m := range markers {
		v, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := b.Set(l.key(kindDedupMarker, id[:]), v, nil); err != nil {
			return err
		}
	}
	return b.Commit(pebble.NoSync)
}

// putEntry makes the value of an entry in buf.
func putEntry(buf *[2 * binary.MaxVarintLen64]byte, e *DedupEntry) []byte {
	n := binary.PutUvarint(buf[:], uint64(e.Offset))
	n += binary.PutVarint(buf[n:], e.LogTime)
	return buf[:n]
}

// LookupDedup reads the entry of a key in one generation.
func (l *Lane) LookupDedup(gen int32, k DedupKey) (e DedupEntry, ok bool, err error) {
	var key [25]byte
	key[0] = kindDedup
	binary.BigEndian.PutUint32(key[1:], uint32(l.n))
	binary.BigEndian.PutUint32(key[5:], uint32(gen))
	copy(key[9:], k[:])
	v, closer, err := l.db.p.Get(key[:])
	if errors.Is(err, pebble.ErrNotFound) {
		return e, false, nil
	}
	if err != nil {
		return e, false, err
	}
	defer closer.Close()
	off, n := binary.Uvarint(v)
	if n <= 0 {
		return e, false, fmt.Errorf("%w: deduplication entry %x", errDamaged, key)
	}
	lt, m := binary.Varint(v[n:])
	if m <= 0 {
		return e, false, fmt.Errorf("%w: deduplication entry %x", errDamaged, key)
	}
	return DedupEntry{Key: k, Offset: int64(off), LogTime: lt}, true, nil
}

// ScanDedup calls fn for the keys of a generation, in no useful order, until it is false.
func (l *Lane) ScanDedup(gen int32, fn func(DedupKey) bool) error {
	prefix := binary.BigEndian.AppendUint32(l.key(kindDedup), uint32(gen))
	it, err := l.db.p.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if k := it.Key(); len(k) == 25 && !fn(DedupKey(k[9:])) {
			break
		}
	}
	return it.Error()
}

// DropDedupBefore forgets the generations below gen.
func (l *Lane) DropDedupBefore(gen int32) error {
	from := l.key(kindDedup)
	to := binary.BigEndian.AppendUint32(l.key(kindDedup), uint32(gen))
	return l.db.p.DeleteRange(from, to, pebble.NoSync)
}
