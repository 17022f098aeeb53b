package consumer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/bubble"
	"lockstitch/internal/seed"
	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// mergeSoon lets segments be looked for all the time.
func mergeSoon(c *Config) { c.MergeEvery = 10 * time.Millisecond }

// hours puts events into so many cuts of an hour, some days ago.
func (p *past) hours(r *replica, days int, hours ...int) {
	p.t.Helper()
	for _, h := range hours {
		for cut := range 3 {
			p.event(p.ago(days).Truncate(24*time.Hour).Add(time.Duration(h)*time.Hour+time.Duration(cut)*time.Minute), fmt.Sprintf("d%d-h%d-c%d", days, h, cut))
			p.settle(r.cat)
		}
	}
}

// merged says that so many segments are left of earlier days.
func (p *past) merged(cat *catalog.View, n int) func() bool {
	return func() bool { return len(p.old(cat)) == n }
}

// old are the segments of earlier days.
func (p *past) old(cat *catalog.View) []*catalog.Segment {
	return slices.DeleteFunc(cat.Segments(), func(s *catalog.Segment) bool { return s.Newest() >= p.ago(1).UnixMilli() })
}

// TestSmallSegmentsAreMerged: those of an hour, when it is over, and those of a day. No
// row changes, and what they were made of stays for a while.
func TestSmallSegmentsAreMerged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newPast(w)
	w.produce(w.topics.Profiles, "p1", `{"account_id":"acme","sections":{"s1":{"attributes":{"7":"anna"},"tags":[1]}},"segments":["x"]}`)
	r := w.start(filepath.Join(t.TempDir(), "d"), mergeSoon)
	p.hours(r, 3, 1, 2)
	p.hours(r, 2, 5)
	p.event(p.now, "now") // Kafka's time is now
	w.settle(r.cat)
	p.await(r.cat, "not merged", p.merged(r.cat, 2))
	rows := w.rows(r.cat)
	if len(rows) != 2*(3*3+1) || len(slices.Compact(slices.Clone(rows))) != len(rows) {
		t.Errorf("rows:\n%s", strings.Join(rows, "\n"))
	}
	for _, s := range p.old(r.cat) {
		data, err := s.Read(t.Context(), w.store)
		if err == nil {
			err = segment.Verify(s.Object, data, s.Slices)
		}
		if err != nil {
			t.Error(err)
		}
	}
	r.await(t, "the cut does not end", func(*Consumer) bool { return true }) // what it has committed is counted then
	if n, err := w.counter(r, "lockstitch_segments_merged_total"); n < 9 || err != nil {
		t.Errorf("%v segments are counted as merged, %v", n, err)
	}
}

// TestMergingGoesByKafkasTime: the clock of a machine that is behind does not hold it up.
func TestMergingGoesByKafkasTime(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		r := w.start(filepath.Join(t.TempDir(), "d"), mergeSoon)
		for hour := range 3 {
			w.at = time.Now().Truncate(time.Hour).Add(time.Duration(100+hour) * time.Hour)
			for cut := range 3 {
				w.event("p1", fmt.Sprintf("h%d-c%d", hour, cut), "SENT")
				w.settle(r.cat)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for {
			changed := r.cat.Changed()
			if n := len(r.cat.Segments()); n == 1+6 {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatalf("%d segments, want those of the first hour merged, which alone is over for long enough, and six", len(r.cat.Segments()))
			}
		}
		if rows := w.rows(r.cat); len(rows) != 9 {
			t.Errorf("rows %v", rows)
		}
	})
}

// TestReplacedSegmentsAreSparedForADay, by the sweeper: an export that was planned before
// reads them.
func TestReplacedSegmentsAreSparedForADay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	aged := &agedStore{Store: w.store, young: make(map[string]bool)}
	w.store = aged
	young := "segments/493200/" + ulid.Make().String() // tells how late it is
	aged.young[young] = true
	if err := w.store.Put(t.Context(), young, []byte("x")); err != nil {
		t.Fatal(err)
	}
	p := newPast(w)
	r := w.start(filepath.Join(t.TempDir(), "d"), mergeSoon)
	p.hours(r, 3, 1)
	before := slices.DeleteFunc(w.stored(), func(name string) bool { return name == young })
	p.event(p.now, "now")
	w.settle(r.cat)
	p.await(r.cat, "not merged", p.merged(r.cat, 1))
	if n := sweepTwice(t, r.c); n != 0 {
		t.Errorf("%d objects are swept", n)
	}
	for _, name := range before {
		if r.cat.Replaced(path.Base(name)) == 0 || r.cat.Live(path.Base(name)) {
			t.Errorf("%s is not replaced", name)
		}
	}
	if err := r.stop(); err != nil { // its own sweeper reads the setting
		t.Fatal(err)
	}
	r.c.cfg.SweepAge = time.Nanosecond
	if n := sweepTwice(t, r.c); n != len(before) {
		t.Errorf("%d objects are swept later, want %d", n, len(before))
	}
}

// TestDamagedSegmentsAreNotMerged, nor those that are gone; the others are, and the log
// names what is wrong.
func TestDamagedSegmentsAreNotMerged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	disk := &badSector{Store: w.store}
	w.store = disk
	var said logged
	w.log = slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
	p, dir := newPast(w), filepath.Join(t.TempDir(), "d")
	r := w.start(dir, nil)
	p.hours(r, 3, 1, 2, 4)
	segs := r.cat.Segments()
	bad := []*catalog.Segment{segs[1], segs[len(segs)-2], segs[len(segs)/2]} // one of each hour: what is left of each is about as much
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	rd, err := w.store.Open(t.Context(), bad[0].Object, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(rd)
	_ = rd.Close()
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	// The store does not let anybody overwrite: delete first.
	for _, s := range bad[:2] {
		if err := w.store.Delete(t.Context(), s.Object); err != nil {
			t.Fatal(err)
		}
	}
	disk.object = bad[2].Object
	if err := w.store.Put(t.Context(), bad[0].Object, data); err != nil {
		t.Fatal(err)
	}
	r = w.start(dir, mergeSoon)
	p.event(p.now, "now")
	w.settle(r.cat)
	p.await(r.cat, "not merged", p.merged(r.cat, 4)) // the three, and the others' one
	for _, s := range bad {
		if !r.cat.Live(s.ID) || !strings.Contains(said.String(), s.Object) {
			t.Errorf("%s is live: %v; said: %s", s.Object, r.cat.Live(s.ID), said.String())
		}
	}
}

// TestMergingThatIsCalledOffLeavesNothingAlone: no segment is to blame, and who merges next
// takes them all.
func TestMergingThatIsCalledOffLeavesNothingAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	store := &callsOff{Store: w.store}
	w.store = store
	p := newPast(w)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.MergeEvery = time.Hour })
	p.hours(r, 3, 1)
	p.event(p.now, "now")
	w.settle(r.cat)
	ctx, cancel := context.WithCancel(t.Context())
	store.call = cancel
	if made, err := r.c.prepareMerged(ctx, p.now, r.cat.LogTime(), 0); made != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("%v, %v, want that it was called off", made, err)
	}
	store.call = nil
	made, err := r.c.prepareMerged(t.Context(), p.now, r.cat.LogTime(), 0)
	if err != nil || made == nil || len(made.places) != len(p.old(r.cat)) {
		t.Errorf("%+v, %v, want all %d segments of earlier days", made, err, len(p.old(r.cat)))
	}
}

// callsOff is a store that calls off what reads from it.
type callsOff struct {
	objects.Store
	call context.CancelFunc
}

func (s *callsOff) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if s.call != nil {
		s.call()
		return nil, ctx.Err()
	}
	return s.Store.Open(ctx, name, off, n)
}

// badSector is a store in which one object cannot be read.
type badSector struct {
	objects.Store
	object string
}

func (b *badSector) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := b.Store.Open(ctx, name, off, n)
	if err == nil && name == b.object {
		r.Close()
		r = io.NopCloser(iotest.ErrReader(errors.New("input/output error")))
	}
	return r, err
}

// TestAMergedSegmentDoesNotWaitForLong: cuts may be an hour apart.
func TestAMergedSegmentDoesNotWaitForLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	r.await(t, "lane 0 is not ready", func(c *Consumer) bool {
		l := c.lanes[mergeLane]
		if l == nil || l.stage != ready {
			return false
		}
		c.cfg.FlushInterval = time.Hour
		now := time.Now()
		l.touch(now)
		before := c.cutDue(now.Add(mergedPatience))
		l.merged = &merged{}
		if soon, later := c.cutDue(now.Add(mergedPatience-1)), c.cutDue(now.Add(mergedPatience)); before || soon || !later {
			t.Errorf("a cut is due without a merged segment: %v, soon: %v, later: %v", before, soon, later)
		}
		l.merged, l.dirty = nil, false
		return true
	})
}

// TestCrashOfMerging lets a replica die at each step of merging and of the cut that
// commits what was merged. Another one goes on: every row is there once at any time,
// also when the zombie wakes up.
func TestCrashOfMerging(t *testing.T) {
	t.Parallel()
	for _, step := range []string{StepMergeRead, StepMergeUpload, StepMergeMade, StepUpload, StepBegin, StepProduce, StepOffsets, StepCommit, StepLocal, StepDone} {
		t.Run(strings.ReplaceAll(step, "/", "-"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
			p := newPast(w)
			line := w.cable()
			died, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			var a *replica
			carries := false
			a = w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
				mergeSoon(c)
				c.Kafka = append(append([]kgo.Opt{}, c.Kafka...), kgo.Dialer(line.dial))
				c.SessionTimeout, c.TransactionTimeout = time.Second, time.Second
				c.Hook = func(at string) {
					if at == StepUpload { // of the loop, which owns the lanes
						l := a.c.lanes[mergeLane]
						carries = l != nil && l.merged != nil
					}
					if at == step && (strings.HasPrefix(step, "merge/") || carries) {
						once.Do(func() {
							line.sever()
							close(died)
							<-release
						})
					}
				}
			})
			wake := sync.OnceFunc(func() { close(release) })
			t.Cleanup(wake) // before it is waited for, also if the test fails
			a.awaitReady(t)
			p.hours(a, 3, 1, 2)
			p.event(p.now, "now")
			<-died
			w.rows(w.caughtUp()) // all that the catalog names is there
			b := w.start(filepath.Join(t.TempDir(), "b"), mergeSoon)
			b.awaitReady(t)
			w.settle(b.cat)
			p.await(b.cat, "not merged", p.merged(b.cat, 1))
			wake()
			if err := a.stop(); err != nil {
				t.Log("the zombie ended with:", err)
			}
			w.settle(b.cat)
			want := strings.Join(w.rows(b.cat), "\n")
			if n := len(strings.Split(want, "\n")); n != 2*(2*3+1) || strings.Join(slices.Compact(w.rows(w.caughtUp())), "\n") != want {
				t.Errorf("%d rows:\n%s", n, want)
			}
			p.checkReplaced()
		})
	}
}

// checkReplaced reads the catalog's log: what a segment takes the place of was there.
func (p *past) checkReplaced() {
	p.t.Helper()
	live, forgotten := make(map[string]bool), make(map[string]bool)
	for _, r := range p.committed() {
		kind, id, _ := strings.Cut(string(r.Key), "/")
		if kind != "s" && kind != "g" {
			continue
		}
		if delete(live, id); r.Value == nil {
			delete(forgotten, id)
			continue
		}
		var s catalog.Segment
		if err := json.Unmarshal(r.Value, &s); err != nil {
			p.t.Fatal(err)
		}
		for _, old := range s.Replaces {
			if !live[old] {
				p.t.Errorf("segment %s takes the place of %s, which is not there", id, old)
			}
			delete(live, old)
			forgotten[old] = true
		}
		live[id] = true
	}
	if len(forgotten) > 0 {
		p.t.Errorf("without tombstones compaction would keep %v for ever", forgotten)
	}
}

// TestWhatIsMergedInVain is not committed: what it takes the place of may be removed, or
// it may be an orphan by now.
func TestWhatIsMergedInVain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newPast(w)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	p.hours(r, 3, 1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	c, places := r.c, r.cat.Segments()
	made := func() *lane {
		s := &catalog.Segment{ID: ulid.Make().String(), Replaces: []string{places[0].ID, places[1].ID}}
		return &lane{merged: &merged{segment: s, places: places[:2], at: time.Now()}}
	}
	for name, test := range map[string]struct {
		change  func(l *lane)
		records int
		left    bool
	}{
		"as it should be":  {func(*lane) {}, 3, true},
		"an announcement":  {func(l *lane) { l.retaining = &retaining{} }, 3, true},
		"with a removal":   {func(l *lane) { l.retaining = &retaining{remove: places[2:]} }, 0, true},
		"after a removal":  {func(l *lane) { c.removed(l) }, 0, false},
		"one is not there": {func(l *lane) { l.merged.places = []*catalog.Segment{places[0], {ID: "gone"}} }, 0, false},
		"half a day old":   {func(l *lane) { l.merged.at = time.Now().Add(-12*time.Hour - time.Second) }, 0, false},
	} {
		l := made()
		test.change(l)
		records, err := c.mergedRecords(l, "cut")
		if err != nil || len(records) != test.records || (l.merged != nil) != test.left {
			t.Errorf("%s: %d records, left: %v, %v", name, len(records), l.merged, err)
		}
	}
}

// TestMergingStaysWithinItsMemory: what does not fit is tried with fewer segments, and two
// that do not are left alone.
func TestMergingStaysWithinItsMemory(t *testing.T) {
	t.Parallel()
	for _, cuts := range []int{2, 3, 4, 7} {
		t.Run(fmt.Sprint(cuts), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			p := newPast(w)
			r := w.start(filepath.Join(t.TempDir(), "d"), nil)
			for cut := range cuts {
				rec := p.record(0, p.ago(3).Truncate(time.Hour).Add(time.Duration(cut)*time.Minute), fmt.Sprint("c", cut))
				if err := p.prod.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
					t.Fatal(err)
				}
				p.settle(r.cat)
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			c, before := r.c, len(w.stored())
			c.cfg.MemoryBytes = 1 << 20 // an eighth is less than the least that a buffer takes
			made, err := c.prepareMerged(t.Context(), time.Now(), p.now.UnixMilli(), 0)
			if made != nil || err != nil || before != cuts || len(w.stored()) != before || len(c.picker.left) != 2 {
				t.Errorf("made %+v, %v; %d objects are new, %d of %d segments are left alone", made, err, len(w.stored())-before, len(c.picker.left), before)
			}
		})
	}
}

// TestPick divides random segments: only such of one span that is over are merged, within
// all bounds, and over and over until nothing is left to be done.
func TestPick(t *testing.T) {
	seed.Each(t, 20, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 9))
		cfg := Config{MemoryBytes: 4 << 20, MergeSpans: []time.Duration{time.Hour, day}, MergeFuture: day}
		p := newPicker(&cfg)
		hour := time.Hour.Milliseconds()
		now := 1000*24*hour + r.Int64N(24*hour)
		var live []*catalog.Segment
		add := func(logTime int64, rows int) {
			live = append(live, &catalog.Segment{ID: ulid.Make().String(), LogTime: logTime, Bytes: int64(rows*40 + 500), Slices: []segment.SliceInfo{
				{Account: "a", Rows: rows, MaxTime: logTime, Sources: []segment.OffsetRange{segment.Stream{Topic: "e"}.Range(r.Int32N(4), 0, 1)}}}})
		}
		rewritten, all := 0, 0
		for range 500 {
			rows := 1 + r.IntN(20)
			all += rows
			add(now-r.Int64N(9*24*hour), rows)
		}
		young := func(s *catalog.Segment, span int64) bool { return (s.Newest()/span+1)*span+span/8 > now }
		for step := 0; ; step++ {
			if step > 2000 {
				t.Fatal("no end")
			}
			got := p.pick(live, now, now, 0)
			r.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
			if again := p.pick(live, now, now, 0); !slices.Equal(again, got) {
				t.Fatalf("in another order other segments are picked: %v, %v", again, got)
			}
			if got == nil {
				break
			}
			rows, newest, sameHour, sameDay := 0, int64(0), true, true
			for _, s := range got {
				if young(s, hour) {
					t.Fatalf("a segment of %d is merged at %d", s.Newest(), now)
				}
				sameHour = sameHour && s.Newest()/hour == got[0].Newest()/hour
				sameDay = sameDay && s.Newest()/(24*hour) == got[0].Newest()/(24*hour)
				newest = max(newest, s.Newest())
				for _, in := range s.Slices {
					rows += in.Rows
				}
			}
			if len(got) < 2 || len(got) > catalog.MaxReplaced || rows > p.rows || !sameDay || !sameHour && young(got[0], 24*hour) {
				t.Fatalf("%d segments with %d rows, of an hour: %v, of a day: %v", len(got), rows, sameHour, sameDay)
			}
			if !slices.IsSortedFunc(got, func(a, b *catalog.Segment) int { return a.Slices[0].Rows - b.Slices[0].Rows }) {
				t.Fatal("the small ones are not first")
			}
			rewritten += rows
			live = slices.DeleteFunc(live, func(s *catalog.Segment) bool { return slices.Contains(got, s) })
			add(newest, rows)
		}
		if len(live) > 9+2*24 || rewritten > 6*all {
			t.Errorf("%d segments are left; %d rows were written for %d", len(live), rewritten, all)
		}
	})
}

// BenchmarkPick chooses among a million segments of a year, nearly all of which are large
// already, from the catalog's list on.
func BenchmarkPick(b *testing.B) {
	const n = 1_000_000
	cfg := Config{MemoryBytes: 256 << 20, MergeSpans: []time.Duration{time.Hour, day}, MergeFuture: day}
	now := int64(1_790_000_000_000)
	live := make(map[string]*catalog.Segment, n) // as the catalog has them
	for i := range n {
		at := now - int64(i)*(365*day).Milliseconds()/n
		s := &catalog.Segment{ID: ulid.MustNew(uint64(at), ulid.DefaultEntropy()).String(), LogTime: at, Bytes: cfg.MemoryBytes, Slices: []segment.SliceInfo{{Account: "a", Rows: 10, MaxTime: at}}}
		if i%100 == 0 {
			s.Bytes = 1000
		}
		live[s.ID] = s
	}
	for b.Loop() {
		if got := newPicker(&cfg).pick(slices.Collect(maps.Values(live)), now, now, 0); len(got) < 2 {
			b.Fatal("nothing is merged")
		}
	}
}

// TestPickOfManyAccounts: as many as one object has room for, and the guess of that is not
// far off.
func TestPickOfManyAccounts(t *testing.T) {
	cfg := Config{MemoryBytes: 256 << 20, MergeSpans: []time.Duration{time.Hour}, MergeFuture: day}
	at := int64(1_790_000_000_000)
	var segments []*catalog.Segment
	for range catalog.MaxReplaced {
		s := &catalog.Segment{ID: ulid.Make().String(), LogTime: at, Bytes: 1000}
		for a := range 800 {
			in := segment.SliceInfo{Account: fmt.Sprintf("account-%04d", a), Rows: 1, MinTime: at - 1000, MaxTime: at, Offset: 1_000_000, Length: 9000, KeysLength: 3000}
			for n := range int32(12) {
				in.Sources = append(in.Sources, segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}.Range(n, 10_000_000_000, 10_000_000_100))
			}
			s.Slices = append(s.Slices, in)
		}
		segments = append(segments, s)
	}
	if got := newPicker(&cfg).pick(segments, at+day.Milliseconds(), at+day.Milliseconds(), 0); len(got) != len(segments) {
		t.Errorf("%d segments of 800 accounts are merged, want %d", len(got), len(segments))
	}
	several := &catalog.Segment{}
	for _, in := range segments[0].Slices {
		in.Sources = nil
		for topic := range 4 {
			stream := segment.Stream{Topic: fmt.Sprintf("email-events-kind-%02d", topic), ID: segment.TopicID{byte(topic + 1)}}
			in.Sources = append(in.Sources, stream.Range(0, 10_000_000, 10_000_100), stream.Range(1, 10_000_000, 10_000_100))
		}
		several.Slices = append(several.Slices, in)
	}
	for name, s := range map[string]*catalog.Segment{"one topic": segments[0], "four topics": several} {
		size := newDirectorySize()
		size.add(s)
		text, err := json.Marshal(s.Slices)
		if err != nil {
			t.Fatal(err)
		}
		if size.bytes < len(text)*9/10 || size.bytes > len(text)*3/2 {
			t.Errorf("%s: the directory is guessed to have %d bytes, and has %d", name, size.bytes, len(text))
		}
	}
}

// TestPickLeavesAlone what is large, about to be removed, of the future, or damaged.
func TestPickLeavesAlone(t *testing.T) {
	cfg := Config{MemoryBytes: 4 << 20, MergeSpans: []time.Duration{time.Hour}, MergeFuture: day}
	now := int64(1000 * 24 * 3600 * 1000)
	expired := now - (10 * day).Milliseconds()
	one := func(change func(s *catalog.Segment)) *catalog.Segment {
		at := now - 5*3600*1000
		s := &catalog.Segment{ID: ulid.Make().String(), LogTime: at, Bytes: 1000, Slices: []segment.SliceInfo{{Account: "a", Rows: 10, MaxTime: at,
			Sources: []segment.OffsetRange{segment.Stream{Topic: "e"}.Range(0, 0, 10)}}}}
		if change != nil {
			change(s)
		}
		return s
	}
	good := []*catalog.Segment{one(nil), one(nil)}
	if got := newPicker(&cfg).pick(good, now, now, expired); len(got) != 2 {
		t.Fatalf("of two small ones %d are merged", len(got))
	}
	for name, s := range map[string]*catalog.Segment{
		"large":           one(func(s *catalog.Segment) { s.Bytes = cfg.MemoryBytes/64 + 1 }),
		"rows":            one(func(s *catalog.Segment) { s.Slices[0].Rows = int(cfg.MemoryBytes/8192) + 1 }),
		"expired":         one(func(s *catalog.Segment) { s.LogTime = expired - 1 }),
		"future":          one(func(s *catalog.Segment) { s.Slices[0].MaxTime += day.Milliseconds() + 1 }),
		"another hour":    one(func(s *catalog.Segment) { s.LogTime -= 3600 * 1000 }),
		"not over":        one(func(s *catalog.Segment) { s.LogTime = now - 1000 }),
		"larger than all": one(func(s *catalog.Segment) { s.Slices[0].Rows = 21 }),
		"accounts": one(func(s *catalog.Segment) {
			for range segment.MaxDirectorySlices + 1 {
				in := s.Slices[0]
				in.Account = ulid.Make().String()
				s.Slices = append(s.Slices, in)
			}
		}),
	} {
		if got := newPicker(&cfg).pick([]*catalog.Segment{good[0], s}, now, now, expired); got != nil {
			t.Errorf("%s: merged", name)
		}
	}
	p := newPicker(&cfg)
	p.leave(good[0])
	if got := p.pick(good, now, now, 0); got != nil {
		t.Error("what was to be left alone is merged")
	}
	p.left[good[0].ID] = time.Now().Add(-mergePatience)
	if got := p.pick(good, now, now, 0); len(got) != 2 {
		t.Error("it is left alone for ever")
	}
}

// TestPickWhatABrokerStampedAhead: one record from a clock that is ahead makes all later ones
// of its partition as new. Their segments are merged by when they were sealed, and not with
// those whose rows are of that hour, which expire long before.
func TestPickWhatABrokerStampedAhead(t *testing.T) {
	cfg := Config{MemoryBytes: 4 << 20, MergeSpans: []time.Duration{time.Hour}, MergeFuture: day}
	now := time.Now().Truncate(time.Hour).Add(time.Hour / 2)
	ahead := now.Add(30 * day).UnixMilli()
	var segments []*catalog.Segment
	add := func(sealed time.Time, newest int64) {
		id := ulid.MustNew(uint64(sealed.UnixMilli()), ulid.DefaultEntropy()).String()
		segments = append(segments, &catalog.Segment{ID: id, LogTime: newest, Bytes: 1000, Slices: []segment.SliceInfo{{Account: "a", Rows: 10, MaxTime: newest,
			Sources: []segment.OffsetRange{segment.Stream{Topic: "e"}.Range(0, 0, 10)}}}})
	}
	for _, age := range []time.Duration{0, time.Hour, 2 * time.Hour, 3 * time.Hour, 3*time.Hour + time.Minute, 4 * time.Hour} {
		add(now.Add(-age), ahead)
	}
	add(now, now.Add(-3*time.Hour).UnixMilli())
	got := newPicker(&cfg).pick(segments, now.UnixMilli(), ahead, 0)
	if len(got) != 2 || got[0] != segments[4] || got[1] != segments[3] {
		t.Errorf("%d are merged, want the two of the hour three hours ago", len(got))
	}
}
