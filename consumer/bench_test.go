package consumer

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

const (
	benchProfiles = 100_000
	benchEvents   = 400_000
)

func benchProfile(i int) *kgo.Record {
	return &kgo.Record{Topic: "profiles", Key: fmt.Appendf(nil, "profile-%08d", i), Value: fmt.Appendf(nil,
		`{"account_id":"acme","profile_id":"profile-%08d","sections":{"usercreated.sections.europe-r6tz73a27t":{"attributes":{"491874":"female","9820534":"person%d@example.com","3":%d,"4":true,"5":"2020-02-02","6":"Stockholm"},"tags":["52001","52002"]}},"segments":["usercreated.segments.women-rjz6b8td2n"]}`, i, i, i%90)}
}

func benchEvent(r *rand.Rand, i int) *kgo.Record {
	types := []string{"SENT", "DELIVERED", "OPENED", "CLICKED"}
	return &kgo.Record{Topic: "email-events", Key: fmt.Appendf(nil, "profile-%08d", r.IntN(benchProfiles)), Value: fmt.Appendf(nil,
		`{"correlation_id":"%08x-%04x-4%03x-8%03x-%012x","type":%q,"account_id":"acme","section":"usercreated.sections.europe-r6tz73a27t","activity_id":"%d","activity_name":"Spring letter %d","sender":"Shop","subject":"Hello %d","event_time":%d,"server_time":%d,"device":"MOBILE","location":"SE"}`,
		r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Uint64()>>16, types[r.IntN(len(types))], r.IntN(40), r.IntN(40), r.IntN(40), 1_760_000_000_000+int64(i)*10, 1_760_000_000_050+int64(i)*10)}
}

// cpu is the CPU time, user and system, that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLane is one lane's work on a batch: decode, deduplicate, decorate,
// collect. Nothing is read or committed.
func BenchmarkLane(b *testing.B) {
	db, err := local.Open(b.TempDir(), "c", "g", local.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	state := db.Lane(0)
	l := &lane{
		buf: segment.NewBuffer(), dd: newDedup(state, 7*24*3600*1000, enoughForBlooms()), dec: event.Decoder{},
		misrouted: func([]byte) bool { return false }, room: math.MaxInt64,
		prof: &profiles{lane: state, cache: make(map[string]*history), cacheLimit: 256 << 20},
	}
	in := &input{stream: &segment.Stream{Topic: "email-events"}}
	l.inputs = []*input{in}
	var recs []*kgo.Record
	for i := range 20_000 {
		r := benchProfile(i)
		r.Offset = int64(i)
		recs = append(recs, r)
	}
	if err := l.applyProfiles(recs, time.Now()); err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	recs = recs[:0]
	for i := range 50_000 {
		r := benchEvent(rng, i)
		r.Key = fmt.Appendf(nil, "profile-%08d", rng.IntN(20_000))
		r.Timestamp = time.UnixMilli(1_760_000_000_000)
		recs = append(recs, r)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%len(recs) == 0 {
			b.StopTimer()
			l.buf.Reset(32 << 20)
			clear(l.dd.pending)
			b.StartTimer()
		}
		r := recs[i%len(recs)]
		r.Offset = int64(i)
		if err := l.process(in, r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAsOf finds the version that decorates an event: of profiles with as many
// versions as most have, which are in memory or are not; of one that has changed since its
// last event, reading the change included; and, as of any time, of one with a million.
func BenchmarkAsOf(b *testing.B) {
	const ids = 1000
	fill := func(b *testing.B, versions int, cacheLimit int64) *versionLog {
		l := newVersionLog(b, cacheLimit)
		for at := range versions {
			for i := range ids {
				l.put(fmt.Sprint("profile-", i), int64(at), 200)
			}
			l.read()
		}
		return l
	}
	keys := make([][]byte, ids)
	for i := range keys {
		keys[i] = fmt.Append(nil, "profile-", i)
	}
	ask := func(b *testing.B, l *versionLog, id []byte, at int64) {
		if _, err := l.p.asOf(id, at, false, 0); err != nil {
			b.Fatal(err)
		}
	}
	for _, versions := range []int{1, 3} {
		for name, cacheLimit := range map[string]int64{"in memory": 64 << 20, "not in memory": 8 << 10} {
			b.Run(fmt.Sprintf("%d %s", versions, name), func(b *testing.B) {
				l := fill(b, versions, cacheLimit)
				for i := range keys {
					ask(b, l, keys[i], 1)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					ask(b, l, keys[i%ids], 1)
				}
			})
		}
	}
	b.Run("changed", func(b *testing.B) {
		l := fill(b, 1, 64<<20)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			l.put(string(keys[i%ids]), int64(1+i), 200)
			if len(l.queue) == ids || i == b.N-1 {
				l.floor = int64(i - 2*ids)
				l.read()
				for i := range keys {
					ask(b, l, keys[i], math.MaxInt64)
				}
			}
		}
	})
	b.Run("hot", func(b *testing.B) {
		const versions = 1_000_000
		l := newVersionLog(b, 64<<20)
		for i := range int64(versions) {
			l.put("hot", i, 200)
			if len(l.queue) == 10_000 {
				l.read()
			}
		}
		before := time.Now()
		ask(b, l, []byte("hot"), 0)
		first := time.Since(before)
		rng := rand.New(rand.NewPCG(1, 2))
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			ask(b, l, []byte("hot"), rng.Int64N(versions))
		}
		b.ReportMetric(float64(first.Milliseconds()), "first-ms")
	})
}

// BenchmarkFilters compares the CPU time of asking for new keys with the filters with
// that of asking Pebble for each, as it is done for keys beyond the filters' memory.
// There are more entries than fit into Pebble's cache. Metrics: ns a key of both, and
// the ratio (Pebble / filters).
func BenchmarkFilters(b *testing.B) {
	const entries, asked, horizon = 5_000_000, 200_000, 7 * 24 * 3600 * 1000
	const logTime = 1_760_000_000_000
	db, err := local.Open(b.TempDir(), "c", "g", local.Options{CacheBytes: 32 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	key := func() (k local.DedupKey) {
		binary.BigEndian.PutUint64(k[:8], rng.Uint64())
		binary.BigEndian.PutUint64(k[8:], rng.Uint64())
		return k
	}
	load := db.Lane(0).LoadDedup(entries, horizon)
	some := make([]local.DedupEntry, 8192)
	for at := 0; at < entries; at += len(some) {
		for i := range some {
			some[i] = local.DedupEntry{Key: key(), Offset: int64(at + i), LogTime: logTime}
		}
		if err := load.Add(some); err != nil {
			b.Fatal(err)
		}
	}
	with := newDedup(db.Lane(0), horizon, enoughForBlooms())
	if _, err := with.take(b.Context(), load); err != nil {
		b.Fatal(err)
	}
	without := newDedup(db.Lane(0), horizon, &bloomMemory{})
	without.bloom(local.Generation(logTime, horizon)).add(key())
	ask := func(d *dedup) float64 {
		d.lookups = 0
		before := cpu()
		for range asked {
			if again, err := d.duplicate(key(), entries, logTime); err != nil || again {
				b.Fatalf("a new key: %v, %v", again, err)
			}
		}
		return float64((cpu() - before).Nanoseconds()) / asked
	}
	for b.Loop() {
		filtered := ask(with)
		if with.lookups > asked/50 {
			b.Fatalf("%d of %d keys were asked for in Pebble", with.lookups, asked)
		}
		pebble := ask(without)
		if without.lookups < asked {
			b.Fatalf("%d of %d keys were asked for in Pebble", without.lookups, asked)
		}
		b.ReportMetric(filtered, "filters-ns/key")
		b.ReportMetric(pebble, "pebble-ns/key")
		b.ReportMetric(pebble/filtered, "ratio")
	}
}

// BenchmarkRebuild compares the CPU time of passes for one lane each with that of one pass
// for eight, over slices that have rows of all of them. What follows, to sort and write the
// entries, is BenchmarkLoadDedup. Metrics: ns an entry of both, and the ratio (one by one /
// together).
func BenchmarkRebuild(b *testing.B) {
	const perSlice, slices, horizon = 100_000, 10, 7 * 24 * 3600 * 1000
	const logTime = 1_760_000_000_000
	store, err := objects.Open(b.Context(), "file://"+b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	db, err := local.Open(b.TempDir(), "c", "g", local.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	c := &Consumer{db: db, deps: Deps{Store: store}}
	stream := &segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}
	rng := rand.New(rand.NewPCG(1, 2))
	var refs []catalog.SliceRef
	for s := range slices {
		buf, dec := segment.NewBuffer(), event.Decoder{}
		for i := range perSlice {
			var ev event.Event
			if err := dec.Decode([]byte("p"), benchEvent(rng, i).Value, logTime, &ev); err != nil {
				b.Fatal(err)
			}
			buf.Add(stream, int32(i%passLanes), int64(s*perSlice+i), logTime, &ev, nil)
		}
		if err := segment.Seal([]*segment.Buffer{buf}, func(o segment.Object) error {
			name := fmt.Sprint("segments/", s, "-", len(refs))
			for i := range o.Slices {
				refs = append(refs, catalog.SliceRef{Object: name, Info: &o.Slices[i]})
			}
			return store.Put(b.Context(), name, o.Data)
		}); err != nil {
			b.Fatal(err)
		}
	}
	read := func(lanes ...int32) float64 {
		p := &pass{wants: make(map[segment.Partition]want), failed: make(map[*rebuild]error)}
		var loads []*local.DedupLoad
		for _, n := range lanes {
			within := stream.Range(n, 0, slices*perSlice)
			load := db.Lane(n).LoadDedup(slices*perSlice/passLanes, horizon)
			defer load.Close()
			loads = append(loads, load)
			p.wants[within.Source().At()] = want{missing{within, 0}, &rebuild{load: load, over: make(chan struct{})}}
		}
		before := cpu()
		for _, ref := range refs {
			c.readKeys(b.Context(), p, ref)
		}
		took := cpu() - before
		entries := 0
		for _, load := range loads {
			for _, n := range load.Generations() {
				entries += n
			}
		}
		if len(p.failed) > 0 || entries != slices*perSlice*len(lanes)/passLanes {
			b.Fatalf("%d entries of %d lanes: %v", entries, len(lanes), p.failed)
		}
		return float64(took.Nanoseconds()) / (slices * perSlice)
	}
	for b.Loop() {
		alone := 0.0
		var all []int32
		for n := range int32(passLanes) {
			alone += read(n)
			all = append(all, n)
		}
		together := read(all...)
		b.ReportMetric(alone, "alone-ns/entry")
		b.ReportMetric(together, "together-ns/entry")
		b.ReportMetric(alone/together, "ratio")
	}
}

// BenchmarkPipeline compares the CPU time of the whole ingest with that of the
// bare client reading the same records, in one run against a broker in another
// process. Metrics: ns an event of both, and the share (ceiling / pipeline).
func BenchmarkPipeline(b *testing.B) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), brokerEnv+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(strings.TrimSpace(addr))}
	prod, err := kgo.NewClient(append(opts[:1:1], kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.MaxBufferedRecords(50_000))...)
	if err != nil {
		b.Fatal(err)
	}
	topics := kafka.DefaultTopics()
	if _, err := kafka.Create(b.Context(), prod, topics, kafka.CreateOptions{Partitions: 2, ReplicationFactor: 1}); err != nil {
		b.Fatal(err)
	}
	put := func(r *kgo.Record) {
		prod.Produce(b.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range benchProfiles {
		put(benchProfile(i))
	}
	if err := prod.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	for i := range benchEvents {
		put(benchEvent(rng, i))
	}
	if err := prod.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	prod.Close()

	for b.Loop() {
		ceiling := benchCeiling(b, opts)
		pipeline := benchIngest(b, opts, topics)
		b.ReportMetric(float64(ceiling.Nanoseconds())/benchEvents, "ceiling-ns/event")
		b.ReportMetric(float64(pipeline.Nanoseconds())/benchEvents, "pipeline-ns/event")
		b.ReportMetric(float64(ceiling)/float64(pipeline), "share")
	}
}

func benchCeiling(b *testing.B, opts []kgo.Opt) time.Duration {
	cl, err := kgo.NewClient(append(opts[:1:1], kgo.ConsumeTopics("email-events"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	before := cpu()
	for n := 0; n < benchEvents; {
		n += cl.PollRecords(b.Context(), 10_000).NumRecords()
	}
	return cpu() - before
}

func benchIngest(b *testing.B, opts []kgo.Opt, topics kafka.Topics) time.Duration {
	group := "bench-" + ulid.Make().String()
	log := slog.New(slog.DiscardHandler)
	topics.Catalog = group
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	if _, err := kafka.Create(b.Context(), cl, topics, kafka.CreateOptions{Partitions: 2, ReplicationFactor: 1}); err != nil {
		b.Fatal(err)
	}
	cat, err := catalog.Open(b.Context(), catalog.Config{Opts: opts, Topic: topics.Catalog, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer cat.Close()
	store, err := objects.Open(b.Context(), "file://"+b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	c, err := New(Config{Kafka: opts, Topics: topics, Group: group, DataDir: b.TempDir()}, Deps{Store: store, Catalog: cat, Reports: noReports{}, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	// The profiles are brought in first; they are not part of the figure.
	ctx, cancel := context.WithCancel(b.Context())
	started := make(chan time.Duration, 1)
	c.cfg.Hook = func(step string) {
		if step == StepUpload {
			select {
			case started <- cpu():
			default:
			}
		}
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	ends, err := kafka.Ends(b.Context(), cl, "email-events")
	if err != nil {
		b.Fatal(err)
	}
	before := <-started
	for settled := false; !settled; {
		changed := cat.Changed()
		settled = true
		for _, e := range ends["email-events"] {
			if p, ok := cat.Position(e.TopicID, e.Partition); !ok || p.Next < e.End {
				settled = false
			}
		}
		if !settled {
			<-changed
		}
	}
	used := cpu() - before
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return used
}

type noReports struct{}

func (noReports) Pending() []*report.Report { return nil }
func (noReports) Changed() <-chan struct{}  { return nil }
