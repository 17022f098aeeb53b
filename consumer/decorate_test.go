package consumer

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/seed"
	"lockstitch/state/local"
	"lockstitch/state/poison"
	"lockstitch/state/profile"
)

// versionLog is a profile partition and, read from it, a lane's profiles.
type versionLog struct {
	t      testing.TB
	p      *profiles
	offset int64
	floor  int64
	queue  []*kgo.Record // produced, not read
	done   []*kgo.Record // the newest that were read
}

func newVersionLog(t testing.TB, cacheLimit int64) *versionLog {
	t.Helper()
	db, err := local.Open("/d", "c", "g", local.Options{FS: vfs.NewMem(), Log: quietLog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	p := &profiles{lane: db.Lane(0), cache: make(map[string]*history), cacheLimit: cacheLimit}
	return &versionLog{t: t, p: p, floor: noFloor}
}

// put produces a version with so many bytes of text; none: a deletion.
func (l *versionLog) put(id string, at int64, text int) {
	r := &kgo.Record{Key: []byte(id), Offset: l.offset, Timestamp: time.UnixMilli(at)}
	if text > 0 {
		r.Value = fmt.Appendf(nil, `{"account_id":"acme","sections":{"s":{"attributes":{"1":"%0*d"}}}}`, text, l.offset)
	}
	l.offset++
	l.queue = append(l.queue, r)
}

// read brings what was produced to the lane.
func (l *versionLog) read() {
	l.t.Helper()
	dead := func(r *kgo.Record, why *poison.Error) { l.t.Fatalf("%s is malformed: %v", r.Value, why) }
	if err := l.p.apply(l.queue, l.floor, func(int) {}, dead); err != nil {
		l.t.Fatal(err)
	}
	l.done = append(l.done, l.queue...)
	l.done = l.done[max(0, len(l.done)-100):]
	l.queue = l.queue[:0]
}

// again lets the lane read some of the newest versions once more, as at a start.
func (l *versionLog) again(r *rand.Rand) {
	l.t.Helper()
	l.p.next, l.queue = l.done[0].Offset, append(l.queue, l.done[:1+r.IntN(len(l.done))]...)
	l.read()
}

// checkMemory finds too much in memory, or other than is counted.
func (l *versionLog) checkMemory() {
	l.t.Helper()
	var held int64
	for id, h := range l.p.cache {
		n := h.bytes(id)
		if most := l.p.entryLimit() + int64(len(id)) + (newestKept+1)*versionOverhead + 2*fencesKept*fenceBytes; n > most {
			l.t.Fatalf("%s takes %d bytes of memory", id, n)
		}
		held += n
	}
	if held != l.p.cacheBytes {
		l.t.Fatalf("%d bytes are in memory, counted are %d", held, l.p.cacheBytes)
	}
	if held > l.p.cacheLimit && len(l.p.cache) > 1 {
		l.t.Fatalf("%d bytes are in memory, of %d profiles", held, len(l.p.cache))
	}
}

// asOfAll is contract 2.3 to the letter, for one who has all versions, newest first.
func asOfAll(versions []local.Version, kafkaTime int64, backlog bool, profileEnd int64) profile.Snapshot {
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

// TestAsOf: what decorates an event is what the contract says, whatever of the versions
// is in memory, and however their times jump; and what is in memory stays small.
func TestAsOf(t *testing.T) {
	seed.Each(t, 8, func(t *testing.T, n uint64) {
		r := rand.New(rand.NewPCG(n, 0))
		const entry = 4 << 10 // of the bytes in memory for one profile
		l := newVersionLog(t, 4*entry)
		all := make(map[string][]local.Version) // newest first
		ids := []string{"hot"}
		for i := range 1 + r.IntN(40) {
			ids = append(ids, fmt.Sprint("p", i))
		}
		back, large, clock := r.Int64N(300), r.IntN(3) == 0, int64(1_000_000)
		prunes := r.IntN(2) == 0
		put := func() {
			id := ids[0]
			if r.IntN(3) == 0 {
				id = ids[r.IntN(len(ids))]
			}
			at, text := clock-r.Int64N(back+1), r.IntN(200)
			if r.IntN(200) == 0 {
				at -= r.Int64N(clock - 1_000_000 + 1)
			}
			if large && r.IntN(20) == 0 {
				text = r.IntN(2 * entry)
			}
			offset := l.offset
			l.put(id, at, text)
			rec := l.queue[len(l.queue)-1]
			snap, _, err := profile.Decode(rec.Key, rec.Value)
			if err != nil {
				t.Fatal(err)
			}
			all[id] = slices.Insert(all[id], 0, local.Version{Offset: offset, Time: at, Snapshot: snap})
		}
		for range 150 {
			for range r.IntN(60) {
				put()
				clock += r.Int64N(20)
				l.offset += r.Int64N(2)
			}
			if prunes && r.IntN(3) == 0 {
				l.floor = max(l.floor, clock-r.Int64N(20_000))
			}
			l.read()
			if len(l.done) > 0 && r.IntN(10) == 0 {
				l.again(r)
			}
			for range r.IntN(40) {
				id := ids[0]
				if r.IntN(2) == 0 {
					id = ids[r.IntN(len(ids))]
				}
				at := max(l.floor, 1_000_000-400+r.Int64N(clock-1_000_000+500)) // none is asked for below the floor
				if r.IntN(3) == 0 {
					at = max(l.floor, clock-r.Int64N(500))
				}
				backlog, end := !prunes && r.IntN(2) == 0, r.Int64N(l.offset+2)
				if h := l.p.cache[id]; h != nil && h.stride == fenceStride && r.IntN(2) == 0 {
					h.stride = 1 // so that there are many fences
				}
				got, err := l.p.asOf([]byte(id), at, backlog, end)
				if err != nil {
					t.Fatal(err)
				}
				if want := asOfAll(all[id], at, backlog, end); string(got) != string(want) || (got == nil) != (want == nil) {
					t.Fatalf("%s as of %d, backlog %v to %d: got %q, want %q", id, at, backlog, end, got, want)
				}
			}
			l.checkMemory()
		}
	})
}

// TestAHotProfile: of a profile that a producer has written in a loop little is in memory,
// and its events do not look at all of its versions.
func TestAHotProfile(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	const versions, limit, text = 150_000, 1 << 20, 8
	l := newVersionLog(t, limit)
	for i := range int64(versions) {
		l.put("hot", 1000+i/10, text)
		if len(l.queue) == 10_000 {
			l.read()
		}
	}
	ask := func(kafkaTime, offset int64) {
		t.Helper()
		snap, err := l.p.asOf([]byte("hot"), kafkaTime, true, versions)
		if err != nil {
			t.Fatal(err)
		}
		var got string
		snap.Attributes(func(_, _ []byte, v profile.Value) { got += string(v.Raw) })
		if got != fmt.Sprintf("%0*d", text, offset) {
			t.Fatalf("as of %d: %q, want version %d", kafkaTime, got, offset)
		}
	}
	// Copies of all would be 38 MiB. The blocks that Pebble reads are 9 where its cache is
	// Go's memory, without cgo. What else it does, behind this test, ends by itself.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ask(1000, 9) // it looks at nearly all
		ask(999, 0)  // there is none: the oldest
		runtime.ReadMemStats(&after)
		n := after.TotalAlloc - before.TotalAlloc
		if n <= 16<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("an event took %d MiB", n>>20)
			break
		}
		clear(l.p.cache) // the next event finds nothing in memory either
		l.p.cacheBytes = 0
	}
	l.checkMemory()
	h := l.p.cache["hot"]
	if far := versions / len(h.fences); far > 2*h.stride || h.stride > 4*versions/fencesKept {
		t.Errorf("%d fences, %d apart", len(h.fences), h.stride)
	}
	for i := int64(0); i < versions/10; i += 7 {
		ask(1000+i, 10*i+9)
	}
	l.checkMemory()

	// It goes on like that, and its events follow.
	for i := int64(versions); i < versions+40_000; i++ {
		l.put("hot", 1000+i/10, text)
		if len(l.queue) == 1000 {
			l.floor = 1000 + i/10 - 1000
			l.read()
			ask(l.floor, 10*(l.floor-1000)+9)
		}
	}
	l.checkMemory()
	if len(h.fences) > 2*10_000/fenceStride || h.stride != fenceStride {
		t.Errorf("%d fences, %d apart, for the last 10,000 versions", len(h.fences), h.stride)
	}
}
