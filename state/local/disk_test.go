package local

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"lockstitch/state/segment"
)

// fullDisk is a file system in memory that has no room while full is set, and says so
// when it is asked for some.
func fullDisk() (disk vfs.FS, full *atomic.Bool, refused <-chan struct{}) {
	full = new(atomic.Bool)
	asked := make(chan struct{}, 1)
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind != errorfs.OpFileWrite && op.Kind != errorfs.OpCreate || !full.Load() {
			return nil
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		return syscall.ENOSPC
	})), full, asked
}

// writeBatches writes what fills several memtables.
func writeBatches(db *DB, batches, entries int) <-chan error {
	written := make(chan error, 1)
	go func() {
		for b := range batches {
			var all []DedupEntry
			for i := range entries {
				all = append(all, DedupEntry{Key: DedupKey{byte(b), byte(i >> 8), byte(i)}, Offset: int64(i), LogTime: 1})
			}
			if err := db.Lane(0).WriteDedup(all, 1000, map[segment.TopicID]DedupMarker{{1}: {Next: int64(b)}}); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	return written
}

// A full disk makes writes wait, at the end of the process too: to Pebble one that fails
// is fatal. What was written is there when there is room.
func TestFullDiskIsWaitedFor(t *testing.T) {
	for _, ending := range []bool{false, true} {
		disk, full, refused := fullDisk()
		done, held := make(chan struct{}), make(chan struct{})
		db, err := Open(filepath.Join(t.TempDir(), "d"), "cluster", "group", Options{
			FS: disk, MemTableBytes: 256 << 10, Done: done, Held: func() { close(held) }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		full.Store(true)
		const batches, entries = 50, 1000
		written := writeBatches(db, batches, entries)
		<-refused
		if ending {
			close(done)
			<-held
		}
		full.Store(false)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := db.Lane(0).ScanDedup(0, func(DedupKey) bool { n++; return true }); err != nil || n != batches*entries {
			t.Errorf("%d entries are there, want %d: %v", n, batches*entries, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Damage within a table is an error to who reads it, and the next start begins
// anew; it does not end the process.
func TestDamageWithinATableIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	db := openAt(t, dir)
	var all []DedupEntry
	for i := range 10_000 {
		all = append(all, DedupEntry{Key: DedupKey{byte(i >> 8), byte(i)}, Offset: int64(i), LogTime: 1})
	}
	if err := db.Lane(0).WriteDedup(all, 1000, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.p.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, pebbleDir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, name := range tables {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(b) / 2 { // the footer and the index stay
			b[i] ^= 0x5a
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	db = openAt(t, dir)
	err = db.Lane(0).ScanDedup(0, func(DedupKey) bool { return true })
	if err == nil {
		t.Fatal("damage was not noticed")
	}
	if _, serr := os.Stat(filepath.Join(dir, rebuildFile)); serr != nil {
		t.Error("the damage was not noted down:", serr)
	}
	if werr := db.Damaged(err); werr == nil || errors.Is(werr, os.ErrNotExist) || fmt.Sprint(werr) == fmt.Sprint(err) {
		t.Errorf("the error does not say that it is damage: %v", werr)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openAt(t, dir)
	defer db.Close()
	if err := db.Lane(0).ScanDedup(0, func(DedupKey) bool { t.Fatal("damaged state was kept"); return false }); err != nil {
		t.Error(err)
	}
}
