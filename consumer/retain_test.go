package consumer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

const day = 24 * time.Hour

// shortLived has segments expire after ten days, and removed at once.
func shortLived(c *Config) {
	c.Retention, c.DedupHorizon, c.RemovalNotice = 10*day, day, time.Millisecond
}

// past writes events of chosen Kafka times.
type past struct {
	*world
	prod *kgo.Client
	now  time.Time
}

func newPast(w *world) *past {
	return &past{w, w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableIdempotentWrite()), time.Now().Truncate(time.Second)}
}

// ago is so many days before now.
func (p *past) ago(days int) time.Time { return p.now.Add(-time.Duration(days) * day) }

// record is an event whose server_time is a second before its Kafka time.
func (p *past) record(part int32, at time.Time, corr string) *kgo.Record {
	value := fmt.Sprintf(`{"correlation_id":"%s-%d","type":"SENT","account_id":"acme","section":"s1","server_time":%d}`, corr, part, at.UnixMilli()-1000)
	return &kgo.Record{Topic: "email-events", Partition: part, Key: []byte("p1"), Value: []byte(value), Timestamp: at}
}

// event puts one into each partition.
func (p *past) event(at time.Time, corr string) {
	p.t.Helper()
	for part := range int32(lanes) {
		if err := p.prod.ProduceSync(p.t.Context(), p.record(part, at, corr)).FirstErr(); err != nil {
			p.t.Fatal(err)
		}
	}
}

// await waits until the catalog is as it should be.
func (p *past) await(cat *catalog.View, what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(2 * time.Minute)
	for {
		changed := cat.Changed()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			p.t.Fatalf("%s: %+v", what, cat.Retention())
		}
	}
}

// removed says that every segment older than so many days is gone.
func (p *past) removed(cat *catalog.View, days int) func() bool {
	return func() bool {
		for _, s := range cat.Segments() {
			if s.Newest() < p.ago(days).UnixMilli() {
				return false
			}
		}
		return true
	}
}

// offsets are those of a floor, by partition.
func offsets(f catalog.Floor) (out [lanes]int64) {
	for _, e := range f.Ends {
		out[e.Partition] = e.Next
	}
	return out
}

// committed are the records of the catalog's log that readers see.
func (p *past) committed() (out []*kgo.Record) {
	p.t.Helper()
	ends, err := kafka.Ends(p.t.Context(), p.prod, p.topics.Catalog)
	if err != nil {
		p.t.Fatal(err)
	}
	cl := p.client(kgo.ConsumeTopics(p.topics.Catalog), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	for next := int64(0); next < ends[p.topics.Catalog][0].End; {
		fs := cl.PollFetches(p.t.Context())
		if err := fs.Err(); err != nil {
			p.t.Fatal(err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if next = r.Offset + 1; !r.Attrs.IsControl() {
				out = append(out, r)
			}
		})
	}
	return out
}

// checkLog replays the catalog and says what retention may never have done:
// let a floor fall, remove a segment before or without the floor above it, or one
// that had not expired when it was announced.
func (p *past) checkLog(retention time.Duration) (tombstones int) {
	p.t.Helper()
	live := make(map[string]*catalog.Segment)
	var at catalog.Retention
	for _, r := range p.committed() {
		kind, id, _ := strings.Cut(string(r.Key), "/")
		switch {
		case kind == "r":
			before := at
			at = catalog.Retention{}
			if err := json.Unmarshal(r.Value, &at); err != nil {
				p.t.Fatal(err)
			}
			for _, step := range [][2]catalog.Floor{{before.Refused, at.Refused}, {before.Removed, at.Removed}, {at.Removed, at.Refused}} {
				low, high := step[0], step[1]
				if high.OldestAvailable < low.OldestAvailable {
					p.t.Errorf("a floor falls: %+v to %+v", low, high)
				}
				for _, e := range low.Ends {
					if high.Next(e.TopicID, e.Partition) < e.Next {
						p.t.Errorf("a floor falls: %+v to %+v", low, high)
					}
				}
			}
		case kind == "s" && r.Value != nil:
			s := new(catalog.Segment)
			if err := json.Unmarshal(r.Value, s); err != nil {
				p.t.Fatal(err)
			}
			live[id] = s
		case kind == "s" && live[id] != nil:
			s := live[id]
			delete(live, id)
			tombstones++
			if !at.Removed.Covers(s) {
				p.t.Errorf("segment %s is removed, and the floor %+v is not above it", id, at.Removed)
			}
			if s.Newest() >= p.now.Add(time.Minute-retention).UnixMilli() {
				p.t.Errorf("segment %s is removed, of %v", id, time.UnixMilli(s.Newest()).UTC())
			}
		}
	}
	return tombstones
}

// settleUnless waits until what was written is committed, or the replica that
// would commit it has died.
func (p *past) settleUnless(cat *catalog.View, died chan struct{}) {
	p.t.Helper()
	ends, err := kafka.Ends(p.t.Context(), p.world.prod, p.topics.Events...)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, e := range ends["email-events"] {
		for {
			changed := cat.Changed()
			if pos, _ := cat.Position(e.TopicID, e.Partition); pos.Next >= e.End {
				break
			}
			select {
			case <-changed:
			case <-died:
				return
			}
		}
	}
}

// stored are the names of the segment objects.
func (w *world) stored() (out []string) {
	w.t.Helper()
	if err := w.store.List(w.t.Context(), "segments/", func(i objects.Info) error {
		out = append(out, i.Name)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestRetentionRemovesWhatHasExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newPast(w)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { shortLived(c); c.SweepAge = time.Nanosecond })
	for _, days := range []int{30, 20, 12, 11} {
		p.event(p.ago(days), fmt.Sprintf("d%02d", days))
		w.settle(r.cat)
	}
	// Kafka's time is that of eleven days ago.
	p.await(r.cat, "not removed", p.removed(r.cat, 21))
	if rows := w.rows(r.cat); len(rows) != 6 || r.cat.Retention().Removed.OldestAvailable != p.ago(30).UnixMilli()-999 {
		t.Errorf("rows %v, %+v; want those of 20 days ago, which is not yet ten days, by Kafka's time", rows, r.cat.Retention())
	}
	for _, days := range []int{9, 1, 0} {
		p.event(p.ago(days), fmt.Sprintf("d%02d", days))
		w.settle(r.cat)
	}
	p.await(r.cat, "not removed", p.removed(r.cat, 10))
	if got, want := strings.Join(w.rows(r.cat), "\n"), "d00-0 SENT -\nd00-1 SENT -\nd01-0 SENT -\nd01-1 SENT -\nd09-0 SENT -\nd09-1 SENT -"; got != want {
		t.Errorf("rows:\n%s\nwant:\n%s", got, want)
	}
	at := r.cat.Retention()
	if got, want := at.Removed.OldestAvailable, p.ago(11).UnixMilli()-999; got != want {
		t.Errorf("the oldest available is %d, want %d: the last row removed and a millisecond", got, want)
	}
	if got := offsets(at.Removed); got != [lanes]int64{4, 4} {
		t.Errorf("removed up to the offsets %v, want 4, 4", got)
	}
	n := p.checkLog(10 * day)
	r.await(t, "the cut does not end", func(*Consumer) bool { return true }) // what it has committed is counted then
	if got, err := w.counter(r, "lockstitch_segments_expired_total"); err != nil || int(got) != n || n < 4 {
		t.Errorf("%v segments counted, %d removed, %v", got, n, err)
	}

	// The objects are there until they are swept, and then those that are live.
	sweepTwice(t, r.c)
	var live []string
	for _, s := range r.cat.Segments() {
		live = append(live, s.Object)
	}
	slices.Sort(live)
	if got := w.stored(); !slices.Equal(got, live) {
		t.Errorf("stored %v, live %v", got, live)
	}
	if got := w.rows(w.caughtUp()); len(got) != 6 {
		t.Errorf("rows %v of the catalog read anew", got)
	}
	if got := w.caughtUp().Retention(); got.Removed.OldestAvailable != at.Removed.OldestAvailable {
		t.Errorf("the catalog read anew says %+v", got)
	}
}

// TestAFloorThatIsTooLargeFailsNoCut: it grows with the partitions that ever had events,
// those of topics that were made anew included.
func TestAFloorThatIsTooLargeFailsNoCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	old := func(id byte, partitions int) *catalog.Segment {
		in := segment.SliceInfo{Account: "a", Rows: 1, MinTime: 1, MaxTime: 1_700_000_000_000}
		stream := segment.Stream{Topic: "email-events", ID: segment.TopicID{id}}
		for n := range partitions {
			in.Sources = append(in.Sources, stream.Range(int32(n), 123_000_000, 123_456_789))
		}
		return &catalog.Segment{ID: ulid.Make().String(), Slices: []segment.SliceInfo{in}, LogTime: 1_700_000_000_000}
	}
	floor := catalog.Floor{}.Above([]*catalog.Segment{old(1, 4850)})
	write := func(r *kgo.Record, err error) {
		t.Helper()
		if err == nil {
			err = w.prod.ProduceSync(t.Context(), r).FirstErr()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write((&catalog.Retention{At: 1, Refused: floor, Removed: floor}).Record(w.topics.Catalog))
	write(old(2, 300).Record(w.topics.Catalog))
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.event("p1", "c1", "SENT")
	w.event("p2", "c2", "SENT")
	w.settle(r.cat)
	r.await(t, "retention is not looked at", func(c *Consumer) bool {
		c.retainAt = time.Time{}
		c.retain(t.Context(), time.Now())
		return strings.Contains(log.String(), "nothing expires")
	})
	w.event("p1", "c3", "SENT")
	w.event("p2", "c4", "SENT")
	w.settle(r.cat)
}

// TestABacklogKeepsWhatItsDuplicatesNeed: what a partition that is behind has kept
// has not expired, however late it is elsewhere; a replica on an empty disk knows
// the retry that comes next in it.
func TestABacklogKeepsWhatItsDuplicatesNeed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newPast(w)
	stand := func(cat *catalog.View, part int32, next int64) func() bool {
		return func() bool {
			infos, err := kafka.Describe(t.Context(), p.world.prod, "email-events")
			if err != nil {
				t.Fatal(err)
			}
			pos, _ := cat.Position(infos["email-events"].ID, part)
			return pos.Next >= next
		}
	}
	r := w.start(filepath.Join(t.TempDir(), "a"), shortLived)
	put := func(r *kgo.Record) {
		t.Helper()
		if err := p.prod.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	put(p.record(1, p.ago(30), "slow"))
	w.settle(r.cat)
	slow := r.cat.Segments()[0].ID
	// A transaction holds partition 1 back, with a retry in it.
	txn := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionalID("upstream"))
	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := txn.ProduceSync(t.Context(), p.record(1, p.ago(30).Add(time.Hour), "slow")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	put(p.record(0, p.ago(25), "old"))
	p.await(r.cat, "not read", stand(r.cat, 0, 1))
	put(p.record(0, p.now, "new"))
	p.await(r.cat, "not removed", func() bool {
		for _, s := range r.cat.Segments() {
			if s.ID != slow && s.Newest() < p.ago(10).UnixMilli() {
				return false
			}
		}
		return stand(r.cat, 0, 2)()
	})
	if !r.cat.Live(slow) {
		t.Fatal("what the partition that is behind has kept was removed")
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = w.start(filepath.Join(t.TempDir(), "b"), shortLived)
	if err := txn.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	w.settle(r.cat)
	if got, err := w.counter(r, "lockstitch_duplicates_dropped_total"); err != nil || got != 1 {
		t.Errorf("%v duplicates dropped, want 1; %v", got, err)
	}
	// Read to its end, it has the time of Kafka.
	p.await(r.cat, "not removed", p.removed(r.cat, 10))
	if got := strings.Join(w.rows(r.cat), "\n"); got != "new-0 SENT -" {
		t.Errorf("rows %s", got)
	}
}

// TestAnnouncedLongBeforeItIsRemoved: those who were accepted before have time.
func TestAnnouncedLongBeforeItIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newPast(w)
	dir := filepath.Join(t.TempDir(), "d")
	r := w.start(dir, func(c *Config) { shortLived(c); c.RemovalNotice = 0 }) // the default
	p.event(p.ago(30), "old")
	w.settle(r.cat)
	p.event(p.now, "new")
	w.settle(r.cat)
	if err := r.stop(); err != nil { // it looks once an hour, and at its start
		t.Fatal(err)
	}
	r = w.start(dir, func(c *Config) { shortLived(c); c.RemovalNotice = 0 })
	p.await(r.cat, "not announced", func() bool { return r.cat.Retention().Refused.OldestAvailable > 0 })
	at := r.cat.Retention()
	if got, want := at.Refused.OldestAvailable, p.ago(30).UnixMilli()-999; got != want || len(at.Removed.Ends) != 0 {
		t.Errorf("%+v, want %d refused and nothing removed", at, want)
	}
	if rows := w.rows(r.cat); len(rows) != 4 {
		t.Errorf("rows %v, want all", rows)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = w.start(dir, func(c *Config) { shortLived(c); c.RemovalNotice = time.Until(time.UnixMilli(at.At)) + time.Hour })
	r.awaitReady(t)
	p.event(p.now, "newer")
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 6 {
		t.Errorf("rows %v, want all", rows)
	}
}

// TestCrashWhileSegmentsAreRemoved lets a replica die as each step of the cut
// begins that removes. Nothing that the catalog names may be missing at any time,
// and the zombie that wakes up must not let a floor fall that another has raised.
func TestCrashWhileSegmentsAreRemoved(t *testing.T) {
	t.Parallel()
	for _, step := range []string{StepUpload, StepBegin, StepProduce, StepOffsets, StepCommit, StepLocal, StepDone} {
		t.Run(strings.TrimPrefix(step, "cut/"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kfake.GroupMinSessionTimeout(100*time.Millisecond))
			p := newPast(w)
			line := w.cable()
			died, release, armed := make(chan struct{}), make(chan struct{}), make(chan struct{})
			var once sync.Once
			var a *replica
			removes := false
			a = w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
				shortLived(c)
				c.Kafka = append(append([]kgo.Opt{}, c.Kafka...), kgo.Dialer(line.dial))
				c.SessionTimeout, c.TransactionTimeout = time.Second, time.Second
				c.Hook = func(at string) {
					select {
					case <-armed:
					default:
						return
					}
					if at == StepUpload {
						l := a.c.lanes[retainLane]
						removes = l != nil && l.retaining != nil && len(l.retaining.remove) > 0
					}
					if at == step && removes {
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
			close(armed)
			a.awaitReady(t)
			for _, days := range []int{30, 20, 9} {
				p.event(p.ago(days), fmt.Sprintf("d%02d", days))
				p.settleUnless(a.cat, died)
			}
			p.event(p.now, "d00")
			<-died
			// All that the catalog names is there, also when another sweeps now.
			b := w.start(filepath.Join(t.TempDir(), "b"), func(c *Config) { shortLived(c); c.SweepAge = time.Nanosecond })
			sweepTwice(t, b.c)
			w.rows(w.caughtUp())
			b.awaitReady(t)
			w.settle(b.cat)
			p.await(b.cat, "not removed", p.removed(b.cat, 10))
			high := b.cat.Retention()
			wake()
			if err := a.stop(); err != nil {
				t.Log("the zombie ended with:", err)
			}
			w.settle(b.cat)
			if got, want := strings.Join(w.rows(w.caughtUp()), "\n"), "d00-0 SENT -\nd00-1 SENT -\nd09-0 SENT -\nd09-1 SENT -"; got != want {
				t.Errorf("rows:\n%s\nwant:\n%s", got, want)
			}
			if got := w.caughtUp().Retention(); got.Removed.OldestAvailable != high.Removed.OldestAvailable || offsets(got.Removed) != [lanes]int64{2, 2} {
				t.Errorf("%+v, want %+v", got, high)
			}
			if n := p.checkLog(10 * day); n < 2 {
				t.Errorf("%d segments removed", n)
			}
		})
	}
}

// TestWhenASegmentIsOld goes through the times that count.
func TestWhenASegmentIsOld(t *testing.T) {
	const now, keep = int64(1_000_000), int64(1_000)
	topic := segment.TopicID{1}
	p0, p1 := segment.Partition{Topic: topic, N: 0}, segment.Partition{Topic: topic, N: 1}
	seg := func(logTime, server int64) *catalog.Segment {
		return &catalog.Segment{LogTime: logTime, Slices: []segment.SliceInfo{
			{MaxTime: server, Sources: []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 0, 1)}},
			{MaxTime: 0, Sources: []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 0, 1), segment.Stream{ID: topic}.Range(1, 0, 1)}},
		}}
	}
	for name, c := range map[string]struct {
		seg    *catalog.Segment
		behind map[segment.Partition]int64
		want   bool
	}{
		"just old":                        {seg(now-keep-1, now-keep-1), nil, true},
		"not yet, by Kafka's time":        {seg(now-keep, 0), nil, false},
		"not yet, by server_time":         {seg(0+1, now-keep), nil, false},
		"a row of the future":             {seg(1, now*1000), nil, false},
		"old in a partition behind":       {seg(400, 0), map[segment.Partition]int64{p1: 1401}, true},
		"not yet in a partition behind":   {seg(400, 0), map[segment.Partition]int64{p1: 1400}, false},
		"not yet in one of two behind":    {seg(400, 0), map[segment.Partition]int64{p0: 1400, p1: 9000}, false},
		"another partition is behind":     {seg(400, 0), map[segment.Partition]int64{{Topic: topic, N: 2}: 1}, true},
		"a log that was never read":       {seg(400, 0), map[segment.Partition]int64{p0: 0}, false},
		"sealed long ago, time not known": {&catalog.Segment{ID: "00000000010000000000000000"}, nil, true},
		"sealed now, time not known":      {&catalog.Segment{ID: "000000ZZZZ0000000000000000"}, nil, false},
		"neither known":                   {&catalog.Segment{ID: "x"}, nil, false},
	} {
		a := ages{retention: keep, now: now, behind: c.behind}
		if got := a.old(c.seg); got != c.want {
			t.Errorf("%s: old %v", name, got)
		}
	}
}

// TestRetentionDecidesOnce: a shorter retention lets many segments expire at once.
// They go in parts, one with each cut, without another look at all that is stored.
func TestRetentionDecidesOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newPast(w)
	const old = 2*removalsPerCut + 100
	records := make([]*kgo.Record, old)
	for i := range records {
		s := &catalog.Segment{ID: ulid.Make().String(), LogTime: p.ago(30).UnixMilli(), Slices: []segment.SliceInfo{{
			Account: "acme", Rows: 1, MaxTime: p.ago(30).UnixMilli(), Sources: []segment.OffsetRange{segment.Stream{ID: segment.TopicID{9}}.Range(0, int64(i), int64(i+1))},
		}}}
		var err error
		if records[i], err = s.Record(w.topics.Catalog); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var left []int                             // segments to be removed, before each cut that removes
	decided := make(map[*catalog.Segment]bool) // the last segment of each decision
	var c *Consumer
	started := make(chan struct{})
	r := w.start(filepath.Join(t.TempDir(), "d"), func(cfg *Config) {
		shortLived(cfg)
		cfg.Hook = func(step string) {
			if <-started; step != StepUpload { // of the loop, which owns the lanes
				return
			}
			if l := c.lanes[retainLane]; l != nil && l.retaining != nil && len(l.retaining.remove) > 0 {
				remove := l.retaining.remove
				left = append(left, len(remove))
				decided[remove[len(remove)-1]] = true
			}
		}
	})
	c = r.c
	close(started)
	p.event(p.now, "new")
	p.await(r.cat, "not removed", p.removed(r.cat, 10))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if want := []int{old, old - removalsPerCut, old - 2*removalsPerCut}; !slices.Equal(slices.Compact(left), want) || len(decided) != 1 { // a cut that failed is tried again
		t.Errorf("%v segments left before the cuts that remove, decided %d times; want %v, once", left, len(decided), want)
	}
	if n := p.checkLog(10 * day); n != old {
		t.Errorf("%d segments removed, want %d", n, old)
	}
	if got, err := w.counter(r, "lockstitch_segments_expired_total"); err != nil || int(got) != old {
		t.Errorf("%v segments counted, want %d; %v", got, old, err)
	}
	if rows := w.rows(w.caughtUp()); len(rows) != lanes {
		t.Errorf("rows %v left, want the new ones", rows)
	}
}

// TestStepsOfRetention: announced, waited for, removed in parts, announced again.
func TestStepsOfRetention(t *testing.T) {
	topic := segment.TopicID{1}
	var old []*catalog.Segment
	for i := range int64(removalsPerCut + 1) {
		old = append(old, &catalog.Segment{ID: fmt.Sprint(i), Slices: []segment.SliceInfo{{MaxTime: i, Sources: []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 0, i+1)}}}})
	}
	const notice = 100
	var at catalog.Retention
	if next := nextRetention(at, nil, 5, notice); next != nil {
		t.Fatalf("nothing is old: %+v", next)
	}
	step := func(expired []*catalog.Segment, now int64) *retaining {
		t.Helper()
		next := nextRetention(at, expired, now, notice)
		if next != nil {
			at = next.record
		}
		return next
	}
	most := old[:removalsPerCut]
	if next := step(most, 1000); next == nil || len(next.remove) != 0 || at.At != 1000 || at.Refused.OldestAvailable != removalsPerCut || at.Removed.OldestAvailable != 0 {
		t.Fatalf("not announced: %+v", next)
	}
	if next := step(old, 1099); next != nil {
		t.Fatalf("too early: %+v", next)
	}
	if next := step(old, 900); next == nil || len(next.remove) != 0 || at.At != 900 || at.Refused.OldestAvailable != removalsPerCut {
		t.Fatalf("announced by a clock that was ahead, and not anew: %+v", next)
	}
	if next := step(old[:removalsPerCut], 1000); next == nil || len(next.remove) != removalsPerCut || at.Removed.OldestAvailable != removalsPerCut || at.Removed.Next(topic, 0) != removalsPerCut {
		t.Fatalf("not removed: %+v", next)
	}
	if next := step(old[removalsPerCut:], 1001); next == nil || len(next.remove) != 0 || at.Refused.Next(topic, 0) != removalsPerCut+1 || at.Removed.Next(topic, 0) != removalsPerCut {
		t.Fatalf("the rest is not announced: %+v", next)
	}
	more := append(old, &catalog.Segment{Slices: []segment.SliceInfo{{MaxTime: 3, Sources: []segment.OffsetRange{segment.Stream{ID: topic}.Range(0, 0, 4)}}}})
	if next := step(more, 1101); next == nil || len(next.remove) != removalsPerCut+2 || len(next.part()) != removalsPerCut || at.Removed.Next(topic, 0) != removalsPerCut+1 {
		t.Fatalf("more than a cut carries: %+v", next)
	}
}

// TestAnAnnouncementIsTakenBack: one replica had a shorter retention, which was put right
// before anything was removed.
func TestAnAnnouncementIsTakenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, dir := newPast(w), filepath.Join(t.TempDir(), "d")
	r := w.start(dir, func(c *Config) { shortLived(c); c.RemovalNotice = day })
	for _, days := range []int{30, 20, 0} {
		p.event(p.ago(days), fmt.Sprintf("d%02d", days))
		w.settle(r.cat)
	}
	await := func(what string, oldest int) {
		t.Helper()
		r.await(t, what, func(c *Consumer) bool { c.retainAt = time.Time{}; return true })
		p.await(r.cat, what, func() bool {
			return r.cat.Retention().Refused.OldestAvailable == p.ago(oldest).UnixMilli()-999
		})
	}
	await("not announced", 20)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = w.start(dir, func(c *Config) { c.Retention, c.DedupHorizon, c.RemovalNotice = 25*day, day, day })
	r.awaitReady(t)
	await("not taken back as far as it had not expired", 30)
	if at := r.cat.Retention(); at.Removed.OldestAvailable != 0 || len(w.rows(r.cat)) != 3*lanes {
		t.Errorf("%+v, %d rows", at, len(w.rows(r.cat)))
	}
}
