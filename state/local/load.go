package local

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"strconv"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// What a lane lacks is loaded past the log, the memtables and the compactions: it
// is sorted (spill.go) and handed to Pebble as finished tables. Nothing of a load
// is in the database before Finish, and no marker claims it before that has
// returned.

// loadLeast is from how many entries on tables of their own are cheaper than a
// batch.
const loadLeast = 10_000

// DedupLoad collects deduplication entries of a lane, to be written at once.
// Finish or Close it.
type DedupLoad struct {
	l       *Lane
	horizon int64

	mu     sync.Mutex
	s      *spill
	counts map[int32]int
	closed bool
}

// DedupLoads is for how many loads at a time memory is reckoned with.
const DedupLoads = 8

// The key of an entry while it is sorted: its hash, its generation, ^offset.
const (
	dedupSortKey   = 16 + 4 + 8
	dedupSortBytes = 4 + dedupSortKey + 10 // about what an entry takes
)

// LoadDedup starts to load about so many entries. While it collects them it keeps at
// most a quarter of Options.LoadBytes of them in memory.
func (l *Lane) LoadDedup(entries int, horizon int64) *DedupLoad {
	return &DedupLoad{l: l, horizon: horizon, s: newSpill(l.db, dedupSortKey, int64(entries)*dedupSortBytes, l.db.loadBytes/4), counts: make(map[int32]int)}
}

// Add takes entries; it may be called concurrently, and after Close, when it does nothing.
func (d *DedupLoad) Add(entries []DedupEntry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	var key [dedupSortKey]byte
	var val [2 * binary.MaxVarintLen64]byte
	for i := range entries {
		e := &entries[i]
		gen := Generation(e.LogTime, d.horizon)
		copy(key[:], e.Key[:])
		binary.BigEndian.PutUint32(key[16:], uint32(gen))
		binary.BigEndian.PutUint64(key[20:], ^uint64(e.Offset))
		if err := d.s.add(key[:], putEntry(&val, e)); err != nil {
			return err
		}
		d.counts[gen]++
	}
	return nil
}

// Generations is how many entries were added, by generation.
func (d *DedupLoad) Generations() map[int32]int { return d.counts }

// Finish writes the entries and calls seen for each, in the order of the keys. Of
// entries with one key in one generation the one with the greatest offset stays.
// When ctx ends, nothing is written.
func (d *DedupLoad) Finish(ctx context.Context, seen func(gen int32, k DedupKey)) error {
	total := 0
	for _, n := range d.counts {
		total += n
	}
	out := d.l.db.newTables(total < loadLeast)
	var key, last [25]byte
	copy(key[:], d.l.key(kindDedup))
	err := d.s.each(func(k, val []byte) error {
		copy(key[5:], k[16:20])
		copy(key[9:], k[:16])
		if key == last {
			return nil
		}
		last = key
		gen := int32(binary.BigEndian.Uint32(k[16:]))
		seen(gen, DedupKey(k))
		return out.set(gen, key[:], val)
	}, func() error { return cmp.Or(ctx.Err(), out.rotate()) })
	return out.finish(err)
}

// Close drops what was not finished.
func (d *DedupLoad) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	return d.s.close()
}

// ProfileLoad collects versions of profiles of a lane that has none, to be
// written at once. Finish or Close it.
type ProfileLoad struct {
	l   *Lane
	s   *spill
	buf []byte
}

// profileLoadBytes is how much is loaded at a time: sorting it and writing it
// takes a second or two, in which the replica's other lanes wait.
const profileLoadBytes = 128 << 20

// The key of a version while it is sorted is that of the database without kind
// and lane.
const profileSortKey = 16 + 8

// LoadProfiles starts to load about so many versions. All lanes may do so at a
// time, so that each has less in memory.
func (l *Lane) LoadProfiles(versions int64) *ProfileLoad {
	return &ProfileLoad{l: l, s: newSpill(l.db, profileSortKey, min(versions*256, profileLoadBytes), l.db.loadBytes/4)}
}

// Put adds a version.
func (p *ProfileLoad) Put(id []byte, v Version) error {
	key := binary.BigEndian.AppendUint64(p.l.profilePrefix(id), ^uint64(v.Offset))
	p.buf = appendVersion(p.buf[:0], id, v)
	return p.s.add(key[5:], p.buf)
}

// Full says that it is time to Finish.
func (p *ProfileLoad) Full() bool { return p.s.bytes >= profileLoadBytes }

// Finish writes the versions and then the marker. Versions that no event can ask
// for any more are left out, see ProfileBatch.Put.
func (p *ProfileLoad) Finish(m ProfileMarker, floor int64) error {
	out := p.l.db.newTables(p.s.file == nil)
	key := append(p.l.key(kindProfile), make([]byte, profileSortKey)...)
	covered := false
	err := p.s.each(func(k, val []byte) error {
		if string(key[5:21]) != string(k[:16]) {
			covered = false
		}
		if covered {
			return nil
		}
		copy(key[5:], k)
		if floor > math.MinInt64 {
			at, err := versionTime(val)
			if err != nil {
				return err
			}
			covered = at <= floor
		}
		return out.set(0, key, val)
	}, out.rotate)
	if err := out.finish(err); err != nil {
		return err
	}
	b := p.l.NewProfileBatch()
	defer func() { _ = b.Close() }()
	return b.Commit(m)
}

// Close drops what was not finished.
func (p *ProfileLoad) Close() error { return p.s.close() }

// tables writes sorted keys of a few streams, each into tables of its own that
// overlap with no others of the load; or, if there are few, a batch.
type tables struct {
	db      *DB
	batch   *pebble.Batch
	writers map[int32]*sstable.Writer // by stream
	paths   []string
}

// tableBytes is the size from which on another table is begun: what is written
// later is merged with them one by one.
const tableBytes = 32 << 20

func (db *DB) newTables(few bool) *tables {
	t := &tables{db: db, writers: make(map[int32]*sstable.Writer)}
	if few {
		t.batch = db.p.NewBatch()
	}
	return t
}

func (t *tables) set(stream int32, key, val []byte) error {
	if t.batch != nil {
		return t.batch.Set(key, val, nil)
	}
	w := t.writers[stream]
	if w == nil {
		path := t.db.loadPath()
		f, err := t.db.opt.FS.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), t.db.opt.MakeWriterOptions(0, t.db.p.TableFormat()))
		t.writers[stream], t.paths = w, append(t.paths, path)
	}
	return w.Set(key, val)
}

// rotate ends the tables that have become large.
func (t *tables) rotate() error {
	for stream, w := range t.writers {
		if w.Raw().EstimatedSize() >= tableBytes {
			delete(t.writers, stream)
			if err := w.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish brings the tables into the database, all or none, unless err says that
// they are not whole; then it removes them.
func (t *tables) finish(err error) error {
	if t.batch != nil {
		defer func() { _ = t.batch.Close() }()
		if err != nil {
			return err
		}
		return t.batch.Commit(pebble.NoSync)
	}
	for _, w := range t.writers {
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		for _, path := range t.paths {
			err = errors.Join(err, t.db.opt.FS.Remove(path))
		}
		return err
	}
	if len(t.paths) == 0 {
		return nil
	}
	return t.db.p.Ingest(context.Background(), t.paths)
}

// loadDir is where loads lie until they are finished. Open empties it.
const loadDir = "load"

func (db *DB) loadPath() string {
	return db.fs.PathJoin(db.dir, loadDir, strconv.FormatInt(db.loaded.Add(1), 10))
}

func makeLoadDir(fs vfs.FS, dir string) error {
	path := fs.PathJoin(dir, loadDir)
	if err := fs.RemoveAll(path); err != nil {
		return err
	}
	return fs.MkdirAll(path, 0o700)
}
