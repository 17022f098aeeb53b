// Package local is a replica's own disk: a Pebble database with the versions of
// the profiles and the deduplication entries of its lanes.
//
// It is a cache. Everything in it can be rebuilt from Kafka and the committed
// segments, so nothing of the database is ever synced: a crash may lose the
// newest writes, and the markers, written in the same batches, say exactly what
// is there. Only the file that names the replica is synced, once.
package local

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/oklog/ulid/v2"
	"golang.org/x/time/rate"
)

// formatVersion is the version of everything in the directory. State of another
// version is discarded and rebuilt.
const formatVersion = 2

const (
	identityFile = "lockstitch.json"
	rebuildFile  = "rebuild"
	newSuffix    = ".new" // of a file that is being written
	pebbleDir    = "pebble"
)

// Identity says whose state a directory holds.
type Identity struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"` // Kafka's cluster id
	Group   string `json:"group"`   // the consumer group
	Replica string `json:"replica"` // made once for each directory; names the replica's transactional id
	Sum     string `json:"crc32c"`  // of the JSON with an empty sum, 8 hex digits
}

func (id Identity) sum() string {
	id.Sum = ""
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // texts and a number
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// ForeignError reports a directory that holds something else than this
// replica's state. It is neither used nor changed.
type ForeignError struct {
	Dir    string
	Detail string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("data directory %s: %s; give another data-dir, or empty this one if nothing in it is needed (it is rebuilt from Kafka and the segments)", e.Dir, e.Detail)
}

// DB is the open database. Its lanes may be used concurrently, each by one
// goroutine at a time.
type DB struct {
	p         *pebble.DB
	opt       *pebble.Options
	lock      io.Closer
	fs        vfs.FS
	dir       string
	id        Identity
	log       *slog.Logger
	loadBytes int64
	loaded    atomic.Int64 // files made in loadDir so far, for their names

	background sync.WaitGroup // what Drop leaves to be done
	closing    context.Context
	stop       context.CancelFunc // of closing

	mu     sync.Mutex
	damage error // see Err
	noted  bool  // for the next start
}

// Options tune the database.
type Options struct {
	CacheBytes    int64  // Pebble's block cache
	MemTableBytes uint64 // one memtable
	LoadBytes     int64  // what a load sorts at a time, see LoadDedup and LoadProfiles; 4 MiB
	FS            vfs.FS // nil: the operating system's
	// Held, if set, is called once, when Done is closed and a write waits for room on
	// a full disk. That write goes on to wait, and whoever waits for it, or for Close,
	// does so until there is room: it must be left if the process is to end.
	Done <-chan struct{}
	Held func()
	// Full, if set, is called when writes begin to wait for room on a full disk, and
	// when they wait no more.
	Full func(full bool)
	Log  *slog.Logger
}

// Open opens or makes the state of a replica in dir. A directory of another
// cluster, group or program is a *ForeignError. Damaged state and state of
// another version is discarded, with a warning; nothing is before the directory
// is known to be ours alone.
func Open(dir, cluster, group string, opt Options) (*DB, error) {
	if opt.FS == nil {
		opt.FS = vfs.Default
	}
	if err := opt.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	id, stale, err := identify(opt.FS, dir, cluster, group)
	if err != nil {
		return nil, err
	}
	lock, err := Lock(opt.FS, opt.FS.PathJoin(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("data directory %s %w", dir, err)
	}
	if stale != "" {
		opt.Log.Warn("discarding local state; it is rebuilt from Kafka and the segments", "dir", dir, "why", stale)
		if err := errors.Join(discard(opt.FS, dir), writeIdentity(opt.FS, dir, id)); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	db, err := openLocked(dir, opt)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	db.id, db.lock = id, lock
	return db, nil
}

// openLocked opens the database in a directory that is ours alone.
func openLocked(dir string, opt Options) (*DB, error) {
	path := opt.FS.PathJoin(dir, pebbleDir)
	if _, err := opt.FS.Stat(opt.FS.PathJoin(dir, rebuildFile)); err == nil {
		opt.Log.Warn("discarding damaged local state; it is rebuilt from Kafka and the segments", "dir", dir)
		if err := discard(opt.FS, dir); err != nil {
			return nil, err
		}
	}
	db := &DB{fs: opt.FS, dir: dir, log: opt.Log, loadBytes: opt.LoadBytes}
	if db.loadBytes <= 0 {
		db.loadBytes = 4 << 20
	}
	db.closing, db.stop = context.WithCancel(context.Background())
	if err := makeLoadDir(opt.FS, dir); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	db.opt = db.options(opt)
	err := checkFiles(opt.FS, path)
	if err == nil {
		db.p, err = pebble.Open(path, db.opt)
	}
	if err != nil {
		opt.Log.Warn("local state cannot be opened and is discarded; it is rebuilt from Kafka and the segments", "dir", dir, "err", err)
		if derr := discard(opt.FS, dir); derr != nil {
			return nil, derr
		}
		db.opt, db.damage, db.noted = db.options(opt), nil, false
		db.p, err = pebble.Open(path, db.opt)
	}
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	return db, nil
}

func (db *DB) options(opt Options) *pebble.Options {
	o := &pebble.Options{
		FS:                          whileFull(opt.FS, db.dir, db.log, opt),
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                opt.MemTableBytes,
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       4,
		MaxOpenFiles:                500,
		Logger:                      &quiet{log: opt.Log, errors: rate.Sometimes{First: 1, Interval: errorsEvery}},
		EventListener:               &pebble.EventListener{DataCorruption: db.onDamage},
	}
	if opt.CacheBytes > 0 {
		o.CacheSize = opt.CacheBytes
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.EnsureDefaults() // for who makes tables with them
	return o
}

// identify says whose directory it is, and makes one that is empty a replica's.
// With a reason the state in it is stale, to be discarded before the identity is
// written.
func identify(fsys vfs.FS, dir, cluster, group string) (id Identity, stale string, err error) {
	fresh := Identity{Version: formatVersion, Cluster: cluster, Group: group, Replica: ulid.Make().String()}
	path := fsys.PathJoin(dir, identityFile)
	b, err := readFile(fsys, path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, "", fmt.Errorf("data directory: %w", err)
	}
	entries, lerr := fsys.List(dir)
	if lerr != nil {
		return id, "", fmt.Errorf("data directory: %w", lerr)
	}
	if err != nil {
		// What is left of a start that was stopped, or had no room, before the
		// identity had its name is ours.
		entries = slices.DeleteFunc(entries, func(name string) bool { return name == identityFile+newSuffix })
		if len(entries) > 0 {
			return id, "", &ForeignError{Dir: dir, Detail: fmt.Sprintf("it is not empty (%s …) and no %s says that it is a replica's", entries[0], identityFile)}
		}
		return fresh, "", writeIdentity(fsys, dir, fresh)
	}
	err = json.Unmarshal(b, &id)
	switch {
	case err != nil || id.Replica == "" || id.Version == formatVersion && id.Sum != id.sum():
		if !slices.Contains(entries, pebbleDir) {
			return id, "", &ForeignError{Dir: dir, Detail: identityFile + " cannot be read"}
		}
		// It is ours, and damaged. A new name for the replica is as good.
		return fresh, identityFile + " is damaged", nil
	case id.Cluster != cluster || id.Group != group:
		return id, "", &ForeignError{Dir: dir, Detail: fmt.Sprintf("it belongs to group %q on cluster %q, not to group %q on cluster %q", id.Group, id.Cluster, group, cluster)}
	case id.Version != formatVersion:
		fresh.Replica = id.Replica
		return fresh, fmt.Sprintf("it is of version %d, this program makes version %d", id.Version, formatVersion), nil
	}
	return id, "", nil
}

// writeIdentity replaces the file whole and syncs it: a crash, of the machine
// too, leaves the old one or the new one. Anything else would be taken for
// somebody else's directory ever after.
func writeIdentity(fsys vfs.FS, dir string, id Identity) error {
	id.Sum = id.sum()
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	path := fsys.PathJoin(dir, identityFile)
	tmp := path + newSuffix
	if err := writeFile(fsys, tmp, append(b, '\n')); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := fsys.Rename(tmp, path); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

func discard(fsys vfs.FS, dir string) error {
	if err := fsys.RemoveAll(fsys.PathJoin(dir, pebbleDir)); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := fsys.Remove(fsys.PathJoin(dir, rebuildFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

// writeFile returns when the data is on disk; the name need not be yet.
func writeFile(fsys vfs.FS, path string, data []byte) error {
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Replica is the id made once for the directory.
func (db *DB) Replica() string { return db.id.Replica }

// Damaged notes that the state was found damaged, so that the next Open
// discards it, and returns err with a word about that.
func (db *DB) Damaged(err error) error {
	if !pebble.IsCorruptionError(err) && !errors.Is(err, errDamaged) {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.damage == nil {
		db.damage = fmt.Errorf("local state in %s is damaged and will be rebuilt at the next start: %w", db.dir, err)
	}
	if !db.noted {
		if werr := writeFile(db.fs, db.fs.PathJoin(db.dir, rebuildFile), []byte(err.Error()+"\n")); werr != nil {
			return errors.Join(db.damage, werr)
		}
		db.noted = true
	}
	return db.damage
}

// Err is the damage that was found first, by whoever came upon it, Pebble's own
// compactions included. Nothing but a new start cures it. Nil: none was.
func (db *DB) Err() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.damage
}

var errDamaged = errors.New("damaged value")

// Close closes the database and gives the directory free.
func (db *DB) Close() error {
	db.stop()
	db.background.Wait()
	return errors.Join(db.p.Close(), db.lock.Close())
}

// Lane gives access to the state of one lane.
func (db *DB) Lane(n int32) *Lane { return &Lane{db: db, n: n} }

// Lane is the state of one lane; one goroutine at a time may use it.
type Lane struct {
	db     *DB
	n      int32
	oldest map[profileHash]int64 // offset of the oldest version, of some profiles; see noteOldest
}

// key makes a key of the lane: kind, lane, rest.
func (l *Lane) key(kind byte, rest ...[]byte) []byte {
	k := make([]byte, 5, 64)
	k[0] = kind
	binary.BigEndian.PutUint32(k[1:], uint32(l.n))
	for _, r := range rest {
		k = append(k, r...)
	}
	return k
}

// after is the first key behind all keys with the given prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// get reads a small value; ok is false if there is none.
func (db *DB) get(key []byte) (val []byte, ok bool, err error) {
	v, closer, err := db.p.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	val = append([]byte(nil), v...)
	return val, true, closer.Close()
}

// errorsEvery is how often Pebble's errors are logged: with a full disk it fails
// to flush many times a second.
const errorsEvery = 10 * time.Second

// quiet passes on what Pebble finds fatal, some of its errors, and drops its
// chatter.
type quiet struct {
	log    *slog.Logger
	errors rate.Sometimes
}

func (q *quiet) Infof(string, ...any) {}
func (q *quiet) Errorf(f string, a ...any) {
	q.errors.Do(func() { q.log.Error("pebble", "msg", fmt.Sprintf(f, a...)) })
}
func (q *quiet) Fatalf(f string, a ...any) {
	q.log.Error("pebble cannot go on", "msg", fmt.Sprintf(f, a...))
	os.Exit(1)
}
