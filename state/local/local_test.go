package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"lockstitch/state/profile"
	"lockstitch/state/segment"
)

// A database that cannot be opened leaves Pebble's disk health ticker behind.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/cockroachdb/pebble/v2/vfs.(*diskHealthCheckingFS).startTickerLocked.func1"))
}

func openAt(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(dir, "cluster", "group", Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func snapshot(t testing.TB, val string) profile.Snapshot {
	t.Helper()
	s, _, err := profile.Decode([]byte("p"), fmt.Appendf(nil, `{"account_id":"acme","sections":{"s":{"attributes":{"1":%q}}}}`, val))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// versionsOf reads all versions of a profile.
func versionsOf(l *Lane, id string) ([]Version, error) {
	vs, all, err := l.Versions([]byte(id), math.MaxInt, math.MaxInt64)
	if err == nil && !all {
		err = errors.New("versions were left out")
	}
	return vs, err
}

func TestProfileVersions(t *testing.T) {
	db := openAt(t, filepath.Join(t.TempDir(), "d"))
	defer db.Close()
	l := db.Lane(3)
	put := func(id string, offset, at int64, s profile.Snapshot, floor int64) {
		t.Helper()
		b := l.NewProfileBatch()
		if err := b.Put([]byte(id), Version{Offset: offset, Time: at, Snapshot: s}, floor); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(ProfileMarker{TopicID: segment.TopicID{1}, Next: offset + 1, At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	offsets := func(id string) string {
		t.Helper()
		vs, err := versionsOf(l, id)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, v := range vs {
			out += fmt.Sprintf("%d@%d ", v.Offset, v.Time)
		}
		return out
	}
	a := snapshot(t, "a")
	put("p", 1, 100, a, math.MinInt64)
	put("p", 2, 200, nil, math.MinInt64)
	put("pp", 3, 250, a, math.MinInt64)
	put("p", 4, 300, a, math.MinInt64)
	if got := offsets("p"); got != "4@300 2@200 1@100 " {
		t.Errorf("versions %q", got)
	}
	put("p", 5, 400, a, 250) // 2@200 is the newest at most as old as 250: 1@100 goes
	if got := offsets("p"); got != "5@400 4@300 2@200 " {
		t.Errorf("versions after pruning %q", got)
	}
	if got := offsets("pp"); got != "3@250 " {
		t.Errorf("versions of the other profile %q", got)
	}
	for i := range int64(200) { // of one that changes often 20 are always younger than the floor
		put("hot", 100+i, 1000*i, a, 1000*(i-20))
	}
	if n := strings.Count(offsets("hot"), "@"); n < 21 || n > 22 {
		t.Errorf("%d versions of a profile that changes often; 21 can be asked for", n)
	}
	if vs, err := versionsOf(db.Lane(4), "p"); err != nil || len(vs) != 0 {
		t.Errorf("another lane sees %v %v", vs, err)
	}
	if m, ok, err := l.ProfileMarker(); err != nil || !ok || m.Next != 300 {
		t.Errorf("marker %+v %v %v", m, ok, err)
	}
	if lanes, err := db.Lanes(); err != nil || len(lanes) != 1 || lanes[0] != 3 {
		t.Errorf("lanes %v %v", lanes, err)
	}
	if err := l.ResetProfiles(); err != nil {
		t.Fatal(err)
	}
	if got := offsets("p"); got != "" {
		t.Errorf("versions after the reset %q", got)
	}
	if _, ok, _ := l.ProfileMarker(); ok {
		t.Error("the marker is still there after the reset")
	}
}

// TestSomeVersions: what is read of a profile's versions where not all are wanted, with
// another profile among them whose id has the same hash.
func TestSomeVersions(t *testing.T) {
	db := openAt(t, filepath.Join(t.TempDir(), "d"))
	defer db.Close()
	l := db.Lane(3)
	b := l.NewProfileBatch()
	snap := snapshot(t, "a")
	for i := range int64(10) {
		v := Version{Offset: 2 * i, Time: 100 - i, Snapshot: snap}
		if i == 3 {
			v.Snapshot = nil
		}
		other := binary.BigEndian.AppendUint64(l.profilePrefix([]byte("p")), ^uint64(2*i+1))
		if err := errors.Join(b.Put([]byte("p"), v, math.MinInt64), b.b.Set(other, appendVersion(nil, []byte("q"), v), nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(ProfileMarker{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		limit int
		bytes int
		want  int
	}{{11, 9 * len(snap), 10}, {10, math.MaxInt, 10}, {9, math.MaxInt, 9}, {0, math.MaxInt, 0}, {10, 9*len(snap) - 1, 9}, {10, 2*len(snap) + 1, 2}, {10, 0, 0}} {
		vs, all, err := l.Versions([]byte("p"), c.limit, int64(c.bytes))
		if err != nil || len(vs) != c.want || all != (c.want == 10) {
			t.Errorf("at most %d of %d bytes: %d, all: %v, %v", c.limit, c.bytes, len(vs), all, err)
		}
		for i, v := range vs {
			if v.Offset != int64(18-2*i) || (v.Snapshot == nil) != (v.Offset == 6) {
				t.Errorf("at most %d of %d bytes: %d is %+v", c.limit, c.bytes, i, v)
			}
		}
	}
	for _, c := range []struct{ below, time, want int64 }{
		{math.MaxInt64, math.MaxInt64, 18}, {18, math.MaxInt64, 16}, {7, 97, 6}, {6, 97, -1}, {6, 98, 4}, {2, 100, 0}, {0, 100, -1}, {math.MaxInt64, 90, -1},
	} {
		v, ok, err := l.FindVersion([]byte("p"), c.below, func(offset, time int64) bool {
			if time != 100-offset/2 || offset%2 != 0 || offset >= c.below {
				t.Errorf("below %d: asked for %d of the time %d", c.below, offset, time)
			}
			return time <= c.time
		})
		if err != nil || ok != (c.want >= 0) || ok && (v.Offset != c.want || (v.Snapshot == nil) != (v.Offset == 6)) {
			t.Errorf("as of %d below %d: %+v %v %v", c.time, c.below, v, ok, err)
		}
	}
	if v, ok, err := l.OldestVersion([]byte("p")); !ok || err != nil || v.Offset != 0 || string(v.Snapshot) != string(snap) {
		t.Errorf("the oldest: %+v %v %v", v, ok, err)
	}
	if v, ok, err := l.OldestVersion([]byte("q")); ok || err != nil {
		t.Errorf("the oldest of a profile without any: %+v %v", v, err)
	}
}

func TestDedupEntries(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	db := openAt(t, dir)
	l := db.Lane(0)
	id := segment.TopicID{9}
	const horizon = 1000
	k1, k2 := DedupKey{1}, DedupKey{2}
	err := l.WriteDedup([]DedupEntry{{k1, 10, 500}, {k2, 11, 1500}}, horizon, map[segment.TopicID]DedupMarker{id: {Next: 12}})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openAt(t, dir)
	defer db.Close()
	l = db.Lane(0)
	if e, ok, err := l.LookupDedup(0, k1); err != nil || !ok || e.Offset != 10 || e.LogTime != 500 {
		t.Errorf("%+v %v %v", e, ok, err)
	}
	if _, ok, _ := l.LookupDedup(0, k2); ok {
		t.Error("an entry of generation 1 is in generation 0")
	}
	if m, ok, err := l.DedupMarker(id); err != nil || !ok || m.Next != 12 {
		t.Errorf("marker %+v %v %v", m, ok, err)
	}
	n := 0
	if err := l.ScanDedup(1, func(DedupKey) bool { n++; return true }); err != nil || n != 1 {
		t.Errorf("scan of generation 1: %d, %v", n, err)
	}
	if err := l.DropDedupBefore(1); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := l.LookupDedup(0, k1); ok {
		t.Error("a dropped generation still answers")
	}
	if err := l.ResetDedup(); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := l.DedupMarker(id); ok {
		t.Error("the marker is still there after the reset")
	}
}

func TestStateOfAnotherVersionIsRebuilt(t *testing.T) {
	for _, change := range []int{-1, 1} {
		dir := filepath.Join(t.TempDir(), "d")
		db := openAt(t, dir)
		id := db.id
		if err := errors.Join(db.Lane(0).WriteDedup([]DedupEntry{{Key: DedupKey{1}, LogTime: 1}}, 1000, nil), db.Close()); err != nil {
			t.Fatal(err)
		}
		id.Version += change
		if err := writeIdentity(vfs.Default, dir, id); err != nil {
			t.Fatal(err)
		}
		// Not while another process has it, and not of another cluster.
		var foreign *ForeignError
		if _, err := Open(dir, "other", "group", Options{Log: slog.New(slog.DiscardHandler)}); !errors.As(err, &foreign) {
			t.Fatalf("of another cluster: %v", err)
		}
		db = openAt(t, dir)
		if db.Replica() != id.Replica || db.id.Version != formatVersion {
			t.Errorf("identity %+v", db.id)
		}
		if _, ok, err := db.Lane(0).LookupDedup(0, DedupKey{1}); ok || err != nil {
			t.Errorf("state of version %d was read: %v", id.Version, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestForeignDirectoriesAreRefusedAndLeftAlone(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	mine := filepath.Join(t.TempDir(), "mine")
	openAt(t, mine).Close()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "thesis.tex"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	garbled := t.TempDir()
	if err := os.WriteFile(filepath.Join(garbled, identityFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ dir, cluster, group string }{
		"another cluster": {mine, "other", "group"},
		"another group":   {mine, "cluster", "other"},
		"other files":     {full, "cluster", "group"},
		"garbled":         {garbled, "cluster", "group"},
	} {
		_, err := Open(c.dir, c.cluster, c.group, Options{Log: log})
		var foreign *ForeignError
		if !errors.As(err, &foreign) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(full, "thesis.tex")); err != nil {
		t.Error(err)
	}
}

// A start that was killed, or had no room on the disk, between writing the
// identity and naming it must not be the last one.
func TestStartAfterOneThatStoppedHalfway(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, identityFile+newSuffix), []byte(`{"ver`), 0o644); err != nil {
		t.Fatal(err)
	}
	db := openAt(t, dir)
	id := db.Replica()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openAt(t, dir)
	defer db.Close()
	if id == "" || db.Replica() != id {
		t.Errorf("replica %q, then %q", id, db.Replica())
	}
}

func TestErrorsThatRepeatAreLoggedOnce(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, nil))
	log := (&DB{log: logger}).options(Options{FS: vfs.NewMem(), Log: logger}).Logger
	for range 1000 {
		log.Errorf("background error: %s", "no space left on device")
	}
	if n := strings.Count(out.String(), "no space left"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestDamagedStateIsDiscarded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	db := openAt(t, dir)
	replica := db.Replica()
	if err := db.Lane(0).WriteDedup([]DedupEntry{{DedupKey{1}, 1, 1}}, 1000, map[segment.TopicID]DedupMarker{{1}: {Next: 2}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Damaged(fmt.Errorf("%w: found while reading", errDamaged)); err == nil {
		t.Fatal("damage is no error")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openAt(t, dir)
	if _, ok, _ := db.Lane(0).DedupMarker(segment.TopicID{1}); ok {
		t.Error("damaged state was kept")
	}
	if db.Replica() != replica {
		t.Error("the replica got another name")
	}
	db.Close()
	// A file of Pebble's that cannot be read at all.
	names, err := filepath.Glob(filepath.Join(dir, pebbleDir, "MANIFEST-*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, n := range names {
		if err := os.WriteFile(n, []byte("garbage"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	openAt(t, dir).Close()
}

func TestTwoProcessesCannotShareADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	db := openAt(t, dir)
	defer db.Close()
	if err := db.Lane(0).WriteDedup([]DedupEntry{{DedupKey{1}, 1, 1}}, 1000, nil); err != nil {
		t.Fatal(err)
	}
	if other, err := Open(dir, "cluster", "group", Options{Log: slog.New(slog.DiscardHandler)}); err == nil {
		other.Close()
		t.Fatal("a directory in use was opened a second time")
	} else if !strings.Contains(err.Error(), dir+" is in use") {
		t.Error(err)
	}
	if _, ok, err := db.Lane(0).LookupDedup(0, DedupKey{1}); !ok || err != nil {
		t.Errorf("the first owner lost its state: %v %v", ok, err)
	}
}

// What cannot be opened is held by nobody, which whoever looks for the other
// process would never learn. A directory cannot, for root either.
func TestALockThatCannotBeOpenedIsNotInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	openAt(t, dir).Close()
	lock := filepath.Join(dir, "LOCK")
	if err := errors.Join(os.Remove(lock), os.Mkdir(lock, 0o700)); err != nil {
		t.Fatal(err)
	}
	if db, err := Open(dir, "cluster", "group", Options{Log: slog.New(slog.DiscardHandler)}); err == nil {
		db.Close()
		t.Fatal("opened")
	} else if !strings.Contains(err.Error(), dir+" cannot be written") || strings.Contains(err.Error(), "in use") {
		t.Error(err)
	}
}

// TestAProfileThatAlwaysChanges: its versions go as they come, and each costs about what
// one of another profile does, however many went before.
func TestAProfileThatAlwaysChanges(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	const versions, behind = 20_000, 10
	db := openAt(t, filepath.Join(t.TempDir(), "d"))
	defer db.Close()
	l := db.Lane(3)
	snap := snapshot(t, "a")
	put := func(from, n int64, id func(i int64) string) time.Duration {
		t.Helper()
		before := cpu()
		for at := from; at < from+n; at += 1000 {
			b := l.NewProfileBatch()
			for i := at; i < at+1000; i++ {
				if err := b.Put([]byte(id(i)), Version{Offset: i, Time: i, Snapshot: snap}, i-behind); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.Commit(ProfileMarker{}); err != nil {
				t.Fatal(err)
			}
		}
		return cpu() - before
	}
	// Of four times as many, so that what else the process does counts for little.
	const more = 4
	others := put(0, more*versions, func(i int64) string { return fmt.Sprint("p", i) }) / more
	for range 2 { // what is read again is pruned again
		hot := put(versions, versions, func(int64) string { return "hot" })
		if hot > 20*others {
			t.Errorf("%v of processor time, of other profiles %v", hot, others)
		}
		vs, err := versionsOf(l, "hot")
		if err != nil || len(vs) != behind+1 || vs[0].Offset != 2*versions-1 {
			t.Errorf("%d versions: %v", len(vs), err)
		}
	}
	for range 2 { // nothing is left of many at once either
		put(versions, versions, func(i int64) string { return fmt.Sprint(i % (2 * oldestKept)) })
		if n := len(l.oldest); n > oldestKept {
			t.Errorf("the oldest of %d profiles are known", n)
		}
		for i := range 2 * oldestKept {
			if vs, err := versionsOf(l, fmt.Sprint(i)); err != nil || len(vs) > 2 || vs[0].Offset < 2*versions-2*oldestKept {
				t.Fatalf("versions of %d: %+v %v", i, vs, err)
			}
		}
	}
}
