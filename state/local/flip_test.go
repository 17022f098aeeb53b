package local

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"lockstitch/internal/seed"
	"lockstitch/state/profile"
	"lockstitch/state/segment"
)

var (
	flips = flag.Int("flips", fewFlips, "flips of TestFlippedBits")
)

const flipEntries = 7 // of each write of a history

// history is a directory in which n writes were made, one after the other: each
// some deduplication entries, versions of profiles, and the markers that count
// them.
type history struct {
	disk      *vfs.MemFS
	n         int
	snapshots []profile.Snapshot // of the writes
	kept      int64              // where lane 0 stands when nothing is damaged: what a log still had in memory is gone
}

func flipKey(write, i int) (k DedupKey) {
	binary.LittleEndian.PutUint64(k[:], uint64(write*flipEntries+i+1)*0x9e3779b97f4a7c15) // all over the tables
	return k
}

func flipSnapshot(t *testing.T, write int) profile.Snapshot {
	t.Helper()
	s, _, err := profile.Decode([]byte("p"), fmt.Appendf(nil, `{"account_id":"acme","sections":{"s":{"attributes":{"7":"%d-%s"},"tags":["%d"]}}}`, write, strings.Repeat("x", write%300), write+1))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// makeHistory writes; with open logs the process is killed while two logs and the
// newest one wait for their tables. Flushes make their numbers others.
func makeHistory(t *testing.T, openLogs bool, flushes int) history {
	t.Helper()
	disk := vfs.NewCrashableMem()
	var held atomic.Bool
	release := make(chan struct{})
	opt := Options{MemTableBytes: 128 << 10, Log: slog.New(slog.DiscardHandler), FS: errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") && held.Load() {
			<-release
		}
		return nil
	}))}
	db, err := Open("/d", "cluster", "group", opt)
	if err != nil {
		t.Fatal(err)
	}
	h := history{}
	first := ^wal.NumWAL(0)
	logs := func() int {
		n := 0
		names, err := disk.List("/d/" + pebbleDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if num, _, ok := wal.ParseLogFilename(name); ok && num >= first {
				n++
			}
		}
		return n
	}
	newest := 0 // writes to the third log
	for ; h.n < 600 || openLogs && newest < 50; h.n++ {
		if openLogs && logs() == 3 {
			newest++
		}
		if h.n == 150 || h.n == 300 || h.n == 450 {
			if err := db.p.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if openLogs && h.n == 600 {
			for range flushes {
				if err := db.p.Flush(); err != nil {
					t.Fatal(err)
				}
				if err := db.p.Set([]byte("x"), nil, pebble.NoSync); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.p.Flush(); err != nil {
				t.Fatal(err)
			}
			names, err := disk.List("/d/" + pebbleDir)
			if err != nil {
				t.Fatal(err)
			}
			first = 0
			for _, name := range names {
				if num, _, ok := wal.ParseLogFilename(name); ok {
					first = max(first, num)
				}
			}
			held.Store(true)
		}
		h.snapshots = append(h.snapshots, flipSnapshot(t, h.n))
		lane := db.Lane(int32(h.n % 2))
		b := lane.NewProfileBatch()
		if err := b.Put(fmt.Appendf(nil, "p%d", h.n), Version{Offset: int64(h.n), Time: int64(h.n), Snapshot: h.snapshots[h.n]}, 0); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(ProfileMarker{Next: int64(h.n + 1)}); err != nil {
			t.Fatal(err)
		}
		var entries []DedupEntry
		for i := range flipEntries {
			entries = append(entries, DedupEntry{Key: flipKey(h.n, i), Offset: int64(h.n), LogTime: int64(1000*h.n + i)})
		}
		if err := lane.WriteDedup(entries, 1e9, map[segment.TopicID]DedupMarker{{1}: {Next: int64(h.n + 1), Horizon: 1e9}}); err != nil {
			t.Fatal(err)
		}
	}
	if openLogs {
		// Else how many of the writes to the newest log have left the memory is chance.
		if err := db.p.LogData(nil, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		// The process is killed: everything written is there.
		h.disk = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		held.Store(false)
		close(release)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !openLogs {
		h.disk = disk
	}
	return h
}

// read says up to which write the database is complete, in each lane and for
// profiles and entries; it is a fault if anything below is missing or other than
// it was written.
func (h history) read(t *testing.T, db *DB, name string) error {
	t.Helper()
	for n := range int32(2) {
		lane := db.Lane(n)
		pm, _, err := lane.ProfileMarker()
		if err != nil {
			return err
		}
		dm, _, err := lane.DedupMarker(segment.TopicID{1})
		if err != nil {
			return err
		}
		for w := int(n); w < h.n; w += 2 {
			if int64(w) < pm.Next {
				vs, err := versionsOf(lane, fmt.Sprint("p", w))
				if err != nil {
					return err
				}
				if len(vs) != 1 || vs[0].Offset != int64(w) || vs[0].Time != int64(w) || string(vs[0].Snapshot) != string(h.snapshots[w]) {
					t.Fatalf("%s: write %d below %d: versions %v", name, w, pm.Next, vs)
				}
			}
			for i := range flipEntries {
				if int64(w) < dm.Next {
					e, ok, err := lane.LookupDedup(0, flipKey(w, i))
					if err != nil {
						return err
					}
					if !ok || e.Offset != int64(w) || e.LogTime != int64(1000*w+i) {
						t.Fatalf("%s: write %d below %d: entry %v %v", name, w, dm.Next, e, ok)
					}
				}
			}
		}
		keys := 0
		if err := lane.ScanDedup(0, func(DedupKey) bool { keys++; return true }); err != nil {
			return err
		}
		if want := int(dm.Next+1-int64(n)) / 2 * flipEntries; keys != want {
			t.Fatalf("%s: lane %d has %d keys, want %d with the marker at %d", name, n, keys, want, dm.Next)
		}
	}
	return nil
}

// check starts on the directory as it is, again after damage that a read has met,
// and says what became of it.
func (h history) check(t *testing.T, disk *vfs.MemFS, name string) string {
	t.Helper()
	for try := 1; ; try++ {
		var log countingHandler
		db, err := Open("/d", "cluster", "group", Options{FS: disk, MemTableBytes: 128 << 10, Log: slog.New(&log)})
		if err != nil {
			t.Fatalf("%s: start %d: %v", name, try, err)
		}
		err = h.read(t, db, name)
		m, _, merr := db.Lane(0).DedupMarker(segment.TopicID{1})
		if cerr := db.Close(); cerr != nil && err == nil {
			t.Fatalf("%s: %v", name, cerr)
		}
		switch {
		case err != nil && try == 2:
			t.Fatalf("%s: damage was met twice: %v", name, err)
		case err != nil:
			if !pebble.IsCorruptionError(err) && !errors.Is(err, errDamaged) {
				t.Fatalf("%s: not told as damage: %v", name, err)
			}
			_ = db.Damaged(err)
		case log.discarded.Load() || m.Next == 0 && merr == nil:
			return "rebuilt"
		case m.Next < h.kept:
			return "shortened"
		default:
			return "whole"
		}
	}
}

// TestFlippedBits: whatever bit of whatever file of a data directory is flipped,
// what is read is what was written, up to where the markers say; else the state is
// discarded.
func TestFlippedBits(t *testing.T) {
	n := seed.New(t)
	for _, openLogs := range []bool{false, true} {
		t.Run(map[bool]string{false: "closed", true: "killed"}[openLogs], func(t *testing.T) {
			r := rand.New(rand.NewPCG(n, 1))
			h := makeHistory(t, openLogs, 0)
			disk := h.copy()
			if got := h.check(t, disk, "undamaged"); got != "whole" {
				t.Fatalf("undamaged state is %s", got)
			}
			db, err := Open("/d", "cluster", "group", Options{FS: disk, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			m, _, err := db.Lane(0).DedupMarker(segment.TopicID{1})
			if err := errors.Join(err, db.Close()); err != nil || m.Next < 500 {
				t.Fatal(m.Next, err)
			}
			h.kept = m.Next
			kinds := h.files(t)
			live := h.tables(t)
			kinds["sst"] = slices.DeleteFunc(kinds["sst"], func(path string) bool { return !live[path] })
			if openLogs && len(kinds["log"]) < 3 {
				t.Fatalf("only %d logs are open", len(kinds["log"]))
			}
			outcomes := make(map[string]int)
			names := make([]string, 0, len(kinds))
			for k := range kinds {
				names = append(names, k)
			}
			slices.Sort(names)
			for n := range *flips {
				kind := names[n%len(names)]
				file := kinds[kind][r.IntN(len(kinds[kind]))]
				disk := h.copy()
				name := flip(t, r, disk, file)
				outcomes[kind+" "+h.check(t, disk, name)]++
			}
			t.Log(outcomes)
			for _, kind := range []string{"MANIFEST", "OPTIONS", "log", "sst", identityFile} {
				if len(kinds[kind]) == 0 {
					t.Errorf("no file of the kind %s: %v", kind, kinds)
				}
			}
			if outcomes["sst rebuilt"] == 0 || outcomes["MANIFEST rebuilt"] == 0 {
				t.Error("no damage was found")
			}
		})
	}
}

// TestWhatPebbleTakesOnTrust: every bit of the MANIFEST, and the one in the head
// of a log's record that makes it the log's end.
func TestWhatPebbleTakesOnTrust(t *testing.T) {
	h := makeHistory(t, true, 0)
	const dir = "/d/" + pebbleDir
	db, err := pebble.Peek(dir, h.disk)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkFiles(h.disk, dir); err != nil {
		t.Fatal(err)
	}
	damaged := func(disk *vfs.MemFS, path string) {
		t.Helper()
		var d *DamagedFileError
		if err := checkFiles(disk, dir); !errors.As(err, &d) || d.Path != path {
			t.Errorf("%s: %v", path, err)
		}
	}
	manifest, err := readFile(h.disk, db.ManifestFilename)
	if err != nil {
		t.Fatal(err)
	}
	disk := h.copy()
	for i := range 8 * len(manifest) {
		manifest[i/8] ^= 1 << (i % 8)
		if err := writeFile(disk, db.ManifestFilename, manifest); err != nil {
			t.Fatal(err)
		}
		damaged(disk, db.ManifestFilename)
		manifest[i/8] ^= 1 << (i % 8)
	}
	for flushes, seen := 0, 0; seen == 0; flushes++ {
		if flushes == 5 {
			t.Fatal("no log has an even number")
		}
		h := makeHistory(t, true, flushes)
		logs := h.files(t)["log"]
		slices.Sort(logs)
		for _, path := range logs[:len(logs)-1] {
			b, err := readFile(h.disk, path)
			if err != nil {
				t.Fatal(err)
			}
			if b[7]&1 != 0 { // the number of the log, behind checksum, length and kind
				continue
			}
			seen++
			b[7] |= 1
			disk := h.copy()
			if err := writeFile(disk, path, b); err != nil {
				t.Fatal(err)
			}
			damaged(disk, path)
			if got := h.check(t, disk, path); got != "rebuilt" {
				t.Errorf("%s: the state is %s", path, got)
			}
		}
	}
}

// copy is the directory, for damaging.
func (h history) copy() *vfs.MemFS {
	out := vfs.NewMem()
	if ok, err := vfs.Clone(h.disk, out, "/d", "/d"); err != nil || !ok {
		panic(fmt.Sprint(ok, err))
	}
	return out
}

// files are the files that have content, by kind.
func (h history) files(t *testing.T) map[string][]string {
	t.Helper()
	kinds := make(map[string][]string)
	for _, dir := range []string{"/d", "/d/" + pebbleDir} {
		names, err := h.disk.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := dir + "/" + name
			info, err := h.disk.Stat(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err != nil || info.IsDir() || info.Size() == 0 {
				continue
			}
			kind, _, _ := strings.Cut(name, "-")
			if i := strings.IndexByte(name, '.'); i >= 0 && name != identityFile {
				kind = name[i+1:]
			}
			kinds[kind] = append(kinds[kind], path)
		}
	}
	return kinds
}

// tables are those of the state. A process that is killed behind a compaction leaves
// others, too, which the next start removes unread: damage to them is none.
func (h history) tables(t *testing.T) map[string]bool {
	t.Helper()
	const dir = "/d/" + pebbleDir
	db, err := pebble.Open(dir, &pebble.Options{FS: h.copy(), ReadOnly: true, Logger: &quiet{log: slog.New(slog.DiscardHandler)}})
	if err != nil {
		t.Fatal(err)
	}
	levels, err := db.SSTables()
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	live := make(map[string]bool)
	for _, table := range slices.Concat(levels...) {
		live[fmt.Sprintf("%s/%s.sst", dir, table.BackingSSTNum)] = true
	}
	return live
}

// flip flips one bit, of the head or the foot of the file as often as of what
// lies between.
func flip(t *testing.T, r *rand.Rand, disk *vfs.MemFS, path string) string {
	t.Helper()
	b, err := readFile(disk, path)
	if err != nil {
		t.Fatal(err)
	}
	at := r.IntN(len(b))
	switch edge := min(len(b), 64); r.IntN(3) {
	case 0:
		at = r.IntN(edge)
	case 1:
		at = len(b) - 1 - r.IntN(edge)
	}
	bit := r.IntN(8)
	b[at] ^= 1 << bit
	if err := writeFile(disk, path, b); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s, byte %d of %d, bit %d", path, at, len(b), bit)
}

// countingHandler notes whether the state was discarded.
type countingHandler struct{ discarded atomic.Bool }

func (h *countingHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h *countingHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *countingHandler) WithGroup(string) slog.Handler            { return h }
func (h *countingHandler) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "discard") {
		h.discarded.Store(true)
	}
	return nil
}
