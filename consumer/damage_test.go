package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/seed"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// logged collects a log.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String is all that was logged.
func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// await waits until the log has a line with all of the words, and returns it.
func (l *logged) await(t *testing.T, words ...string) string {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		lines := strings.Split(l.String(), "\n")
	next:
		for _, line := range lines {
			for _, w := range words {
				if !strings.Contains(line, w) {
					continue next
				}
			}
			return line
		}
	}
	t.Fatalf("nothing was logged with %q", words)
	return ""
}

// TestDamagedSegmentStopsTheRebuild: without the entries that the segment holds
// duplicates would be kept. The lane waits, says for what, and goes on when the
// object is whole again. So it does for one that an upgraded replica has stored.
func TestDamagedSegmentStopsTheRebuild(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(data []byte, info segment.SliceInfo)
		says  string
	}{
		"damaged": {func(data []byte, info segment.SliceInfo) { data[info.Offset+info.KeysLength-1] ^= 4 }, "is damaged at byte"},
		"newer": {func(data []byte, info segment.SliceInfo) {
			data[info.Offset+4] = 2
			data[info.Offset+12] ^= 1 // the checksum is another one
		}, "has format version 2, this build knows 1"},
	} {
		t.Run(name, func(t *testing.T) { testSpoiltSegment(t, c.spoil, c.says) })
	}
}

func testSpoiltSegment(t *testing.T, spoil func(data []byte, info segment.SliceInfo), says string) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "a"), nil)
	for i := range 5 {
		w.event("p1", fmt.Sprintf("c%d", i), "SENT")
	}
	w.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	whole := make(map[string][]byte)
	for _, s := range r.cat.Segments() {
		rd, err := w.store.Open(t.Context(), s.Object, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(rd)
		if err := errors.Join(err, rd.Close()); err != nil {
			t.Fatal(err)
		}
		whole[s.Object] = data
		bad := bytes.Clone(data)
		spoil(bad, s.Slices[0])
		if err := w.store.Delete(t.Context(), s.Object); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Put(t.Context(), s.Object, bad); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		w.event("p1", fmt.Sprintf("c%d", i), "SENT")
	}
	w.event("p1", "last", "SENT")
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	r = w.start(filepath.Join(t.TempDir(), "b"), nil)
	log.await(t, "level=ERROR", "taking over a lane", "segments/", says)
	r.awaitLag(t, "the lane of damaged segments has no lag", func(lag map[string]float64) bool {
		return lag[fmt.Sprintf("processing_lag_records email-events/%d", partitionOfKey("p1"))] == 6
	})
	for name, data := range whole {
		if err := w.store.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Put(t.Context(), name, data); err != nil {
			t.Fatal(err)
		}
	}
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), "\n"); got != "c0 SENT -\nc1 SENT -\nc2 SENT -\nc3 SENT -\nc4 SENT -\nlast SENT -" {
		t.Errorf("rows:\n%s", got)
	}
}

// TestWhatIsOlderThanTheHorizonIsNotRead: nor when the log does not reach back that
// far, so that no offset tells what is.
func TestWhatIsOlderThanTheHorizonIsNotRead(t *testing.T) {
	t.Parallel()
	p := newPast(newWorld(t))
	horizon := func(c *Config) { c.DedupHorizon = day }
	r := p.start(filepath.Join(t.TempDir(), "a"), horizon)
	p.event(p.ago(5), "old")
	p.settle(r.cat)
	p.event(p.now, "new")
	p.settle(r.cat)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	removed := 0
	for _, s := range r.cat.Segments() {
		if s.Newest() <= p.ago(5).UnixMilli() {
			removed++
			if err := p.store.Delete(t.Context(), s.Object); err != nil {
				t.Fatal(err)
			}
		}
	}
	if removed == 0 {
		t.Fatal("no segment is older than the horizon")
	}
	gone := make(kadm.Offsets)
	for n := range int32(lanes) {
		gone.AddOffset("email-events", n, 1, -1)
	}
	if res, err := kadm.NewClient(p.prod).DeleteRecords(t.Context(), gone); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	r = p.start(filepath.Join(t.TempDir(), "b"), horizon)
	p.event(p.now, "new")
	p.settle(r.cat)
	for _, pos := range r.cat.Positions(r.cat.Adopted("email-events")[0]) {
		if pos.Kept != 2 || pos.Duplicates != 1 {
			t.Errorf("partition %d: %d kept, %d duplicates, want 2 and 1", pos.Partition, pos.Kept, pos.Duplicates)
		}
	}
}

// flipper flips a bit behind a text in what a broker sends, while it is on.
type flipper struct {
	net.Conn
	behind string
	on     *atomic.Bool
	hits   *atomic.Int64
}

func (f *flipper) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if i := bytes.Index(p[:n], []byte(f.behind)); i >= 0 && i+len(f.behind) < n && f.on.Load() {
		p[i+len(f.behind)] ^= 1
		f.hits.Add(1)
	}
	return n, err
}

// TestDamagedBatchIsNotPassed: a batch of events whose checksum does not match is
// neither left out nor taken as it is; the log says where, once, and the lag shows
// it.
func TestDamagedBatchIsNotPassed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.prod = w.client(kgo.DisableIdempotentWrite(), kgo.ProducerBatchCompression(kgo.NoCompression()))
	var on atomic.Bool
	var hits atomic.Int64
	on.Store(true)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) {
		c.Kafka = append(slices.Clone(c.Kafka), kgo.Dialer(func(ctx context.Context, network, host string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, host)
			return &flipper{conn, "needle-", &on, &hits}, err
		}))
	})
	w.event("p1", "c0", "SENT")
	w.settle(r.cat)
	w.event("p1", "needle-1", "SENT")
	w.event("p1", "c2", "SENT")
	p := partitionOfKey("p1")
	log.await(t, "level=ERROR", "cannot fetch", "topic=email-events", fmt.Sprintf("partition=%d", p), "offset=1 ", "crc")
	begun, before := time.Now(), hits.Load()
	r.awaitLag(t, "a partition that cannot be read has no lag", func(lag map[string]float64) bool {
		return time.Since(begun) > time.Second && lag[fmt.Sprintf("processing_lag_records email-events/%d", p)] == 2
	})
	if n := float64(hits.Load()-before) / time.Since(begun).Seconds(); n == 0 || n > 40 {
		t.Errorf("the batch is fetched %.0f times a second", n)
	}
	on.Store(false)
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), "\n"); got != "c0 SENT -\nc2 SENT -\nneedle-1 SENT -" {
		t.Errorf("rows:\n%s", got)
	}
}

// TestDamageFoundInATakeoverEndsTheReplica: only a start rebuilds what is damaged, so
// that whoever would try again for ever would keep a lane that nobody runs.
func TestDamageFoundInATakeoverEndsTheReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	r := w.start(dir, nil)
	var records []*kgo.Record
	for i := range 1000 { // so many that tables have several blocks
		records = append(records, &kgo.Record{Topic: "email-events", Key: fmt.Appendf(nil, "p%d", i),
			Value: fmt.Appendf(nil, `{"correlation_id":"c%d","type":"SENT","account_id":"acme","section":"s1"}`, i)})
	}
	if err := w.prod.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	w.settle(r.cat)
	for range 2 { // a start writes tables of what the logs hold
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r = w.start(dir, nil)
		r.awaitReady(t)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "pebble", "*.sst"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/3] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r = w.start(dir, nil)
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		t.Fatal("the replica goes on with damaged state")
	}
	if err := r.stop(); err == nil || !strings.Contains(err.Error(), "is damaged and will be rebuilt") {
		t.Errorf("the replica ended with %v", err)
	}
	r = w.start(dir, nil)
	w.event("p1", "c1", "SENT") // a retry
	w.settle(r.cat)
	if n := len(w.rows(r.cat)); n != len(records) {
		t.Errorf("%d rows of %d events", n, len(records))
	}
}

// TestFlippedBitsOnDisk flips a bit in a file of each kind of a data directory
// that a replica has left, or that one uses, and starts again, as often as the
// replica ends: duplicates are known and events decorated as if nothing had been.
func TestFlippedBitsOnDisk(t *testing.T) {
	t.Parallel()
	rng := seed.Rand(t)
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	const profiles = 20
	for i := range profiles {
		w.produce("profiles", fmt.Sprintf("p%d", i), profileOf("v"))
	}
	w.tick()
	r := w.start(dir, nil)
	want := make(map[string]bool)
	round := func(n int) {
		for i := range profiles {
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%d-%d", n, i), "SENT")
			want[fmt.Sprintf("c%d-%d SENT v", n, i)] = true
			if n > 0 {
				w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%d-%d", n-1, i), "SENT") // a retry
			}
		}
	}
	round(0)
	w.settle(r.cat)
	for n, kind := range []string{"*.sst", "MANIFEST-*", "*.log", "OPTIONS-*", "../lockstitch.json", "*.sst", "running *.sst"} {
		kind, running := strings.CutPrefix(kind, "running ")
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		r = w.start(dir, nil) // a start writes tables of what the logs hold
		r.awaitReady(t)
		if !running {
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
		}
		files, err := filepath.Glob(filepath.Join(dir, "pebble", kind))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s: %v", kind, err)
		}
		file := files[rng.IntN(len(files))]
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 0 {
			at, bit := rng.IntN(len(b)), rng.IntN(8)
			t.Logf("%s, byte %d of %d, bit %d", file, at, len(b), bit)
			b[at] ^= 1 << bit
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if !running {
			r = w.start(dir, nil)
		}
		round(n + 1)
		for starts := 0; !w.settled(r); starts++ {
			if err := r.stop(); starts == 2 || err == nil {
				t.Fatalf("start %d ended with: %v", starts, err)
			}
			r = w.start(dir, nil)
		}
		if got := w.rows(r.cat); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			t.Fatalf("after %s: %d rows, want %d:\n%s", file, len(got), len(want), strings.Join(got, "\n"))
		}
	}
}

// settled is settle, unless the replica ends before.
func (w *world) settled(r *replica) bool {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	ends, err := kafka.Ends(ctx, w.prod, w.topics.Events...)
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		changed, behind := r.cat.Changed(), false
		for _, p := range slices.Concat(slices.Collect(maps.Values(ends))...) {
			pos, ok := r.cat.Position(p.TopicID, p.Partition)
			behind = behind || p.End > 0 && (!ok || pos.Next < p.End)
		}
		if !behind {
			return true
		}
		select {
		case <-changed:
		case <-r.done:
			return false
		case <-ctx.Done():
			w.t.Fatal("not settled")
		}
	}
}

func TestUserDataOfAnotherVersionIsNoHint(t *testing.T) {
	b := &laneBalancer{catalog: segment.TopicID{7}, local: func() []int32 { return []int32{3, 200} }}
	var meta kmsg.ConsumerMemberMetadata
	if err := meta.ReadFrom(b.JoinGroupMetadata([]string{"x"}, nil, 1)); err != nil {
		t.Fatal(err)
	}
	if of, got := readUserData(meta.UserData); of != b.catalog || !maps.Equal(got, map[int32]bool{3: true, 200: true}) {
		t.Errorf("own: %v %v", of, got)
	}
	short := append([]byte{userDataVersion}, make([]byte, 16)...)
	meta.UserData[0]++
	for name, data := range map[string][]byte{"newer": meta.UserData, "none": nil, "older": {1, 3, 200, 1}, "cut off": append(short, 0x80), "cut off in the id": short[:16]} {
		if of, got := readUserData(data); of != (segment.TopicID{}) || len(got) != 0 {
			t.Errorf("%s: %v %v", name, of, got)
		}
	}
}

func FuzzUserData(f *testing.F) {
	f.Add(append(append([]byte{userDataVersion}, make([]byte, 16)...), 3, 200, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, lanes := readUserData(data); len(lanes) > len(data) {
			t.Errorf("%d lanes of %d bytes", len(lanes), len(data))
		}
	})
}
