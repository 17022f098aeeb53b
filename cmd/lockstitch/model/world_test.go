package model

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/cmd/lockstitch/model/reference"
	"lockstitch/exporter/auth"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/kafka/replaced"
	"lockstitch/state/segment"
)

const (
	publicURL  = "http://model.example"
	brokerPort = 9092
	// barrierTimeout ends a report whose barrier was lost with its topic.
	barrierTimeout = 3 * time.Minute
	// settleTime, virtual, is waited for at rest: far more than any back-off adds up to,
	// and more than a barrier timeout. A replica's clock may be behind that of the one
	// that took the report.
	settleTime = barrierTimeout + 2*mostAhead + time.Minute
)

// world is everything of one seed: one broker or three, an object store, some replicas and
// what is known about what they were given. It lives in a bubble of virtual
// time.
type world struct {
	t      *testing.T
	seed   uint64
	begun  time.Time
	net    kfake.VirtualNetwork
	broker *kfake.Cluster
	three  *brokers // nil: there is one
	topics kafka.Topics
	bucket *bucket
	lake   *bucket // the destination of standing orders
	ghosts *ghosts
	lives  sync.WaitGroup // of processes, crashed ones too
	bg     sync.WaitGroup // of what the test runs beside itself

	partitions     int32
	flushInterval  time.Duration
	horizon        time.Duration
	sessionTimeout time.Duration
	retention      time.Duration // 0: the default, in which nothing expires
	merges         bool          // small segments of a few seconds are merged
	static         bool          // replicas are static members of the consumer group (KIP-345)
	maxFile        int64         // bytes; 0: the default, which no file reaches
	clients        []auth.Client
	replicas       []*replica
	crashRNG       *rand.Rand
	keys           *rand.Rand // decides which requests have an Idempotency-Key

	client   *kgo.Client // not subject to faults
	observer *catalog.View

	mu          sync.Mutex
	trace       []string
	failed      bool
	skew        time.Duration // of Kafka's clock
	jumps       []jump        // of it, the newest last
	alarms      map[*alarm]bool
	definitions int         // records in the topic
	defined     []time.Time // when each of them was acknowledged
	asking      int         // export requests under way
	exports     []*export
	orders      []*order
	walks       []*walk
	merged      int  // segments that were replaced, as of the last check
	counted     bool // among the systems with standing orders
	streams     streams
	paused      vector                        // ends of the events when all stood for days; nil: they have not
	firstStart  map[reference.Partition]int64 // ends of the events before any replica ran
	token       map[string]string
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := &world{
		t: t, seed: seed, begun: time.Now(), topics: kafka.DefaultTopics(),
		bucket: newBucket(rand.New(rand.NewPCG(seed, 2))), lake: newBucket(rand.New(rand.NewPCG(seed, 4))), crashRNG: rand.New(rand.NewPCG(seed, 3)), keys: rand.New(rand.NewPCG(seed, 8)),
		partitions:     1 + rng.Int32N(3),
		flushInterval:  []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, 3 * time.Second}[rng.IntN(3)],
		horizon:        time.Hour,
		sessionTimeout: []time.Duration{time.Second, 3 * time.Second}[rng.IntN(2)],
		static:         rng.IntN(4) == 0,
		token:          make(map[string]string),
		alarms:         make(map[*alarm]bool),
	}
	if rand.New(rand.NewPCG(seed, 9)).IntN(2) == 0 && *expires {
		w.retention = retention
	}
	w.merges = rand.New(rand.NewPCG(seed, 12)).IntN(2) == 0
	w.lake.place = true
	if rng.IntN(3) == 0 {
		w.topics.Events = append(w.topics.Events, "other-events")
	}
	for _, a := range accounts {
		w.clients = append(w.clients, auth.Client{ID: a, SecretHash: auth.HashSecret("secret"), Account: a})
	}
	ports, replication := []int{brokerPort}, int16(1)
	brng := rand.New(rand.NewPCG(seed, 6))
	if brng.IntN(3) == 0 && *three {
		ports, replication = append(ports, brokerPort+1, brokerPort+2), 3
	}
	var err error
	w.broker, err = kfake.NewCluster(kfake.Ports(ports...), kfake.ListenFn(w.net.Listen),
		kfake.GroupMinSessionTimeout(100*time.Millisecond),
		// Nothing is compacted: the embedded broker does not know
		// min.compaction.lag.ms, and the reference reads whole logs.
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": strconv.Itoa(100 * 365 * 24 * 3600 * 1000)}))
	if err != nil {
		t.Fatal(err)
	}
	w.client, err = kgo.NewClient(append(w.own(), kgo.ProducerLinger(0))...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kafka.Create(w.context(), w.client, w.topics, kafka.CreateOptions{Partitions: w.partitions, ReplicationFactor: replication, ReportPartitions: 2}); err != nil {
		t.Fatal(err)
	}
	if replication > 1 {
		w.three = newBrokers(w, brng)
	}
	for i := range 1 + rng.IntN(4) {
		w.replicas = append(w.replicas, w.newReplica(i))
	}
	w.ghosts = w.huntGhosts()
	w.expectStreams(rand.New(rand.NewPCG(seed, 7)))
	w.expectOrders(rand.New(rand.NewPCG(seed, 5)))
	w.notef("%d brokers, %d partitions, %d event topics, %d replicas, flush interval %v, session timeout %v, static members %v, %d standing orders, %d walks, file limit %d, merging %v", len(ports), w.partitions, len(w.topics.Events), len(w.replicas), w.flushInterval, w.sessionTimeout, w.static, len(w.orders), len(w.walks), w.maxFile, w.merges)
	return w
}

// context is for what cannot fail without a mistake of the test's own.
func (w *world) context() context.Context { return context.Background() }

func contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func (w *world) connection() []kgo.Opt {
	opts, err := kafka.Config{Brokers: w.broker.ListenAddrs()}.Opts()
	if err != nil {
		panic(err)
	}
	return opts
}

// own are the options of the test's own clients, to which nothing happens. They stand
// for days, and need not read metadata every few minutes for it.
func (w *world) own() []kgo.Opt {
	return append(w.connection(), kgo.Dialer(replaced.Past(w.net.DialContext)), kgo.MetadataMaxAge(time.Hour))
}

// close ends everything; nothing may be left running.
func (w *world) close() {
	for _, r := range w.replicas {
		r.shutdown()
	}
	w.bg.Wait()
	w.lives.Wait()
	w.ghosts.close()
	if w.observer != nil {
		w.observer.Close()
	}
	w.client.Close()
	w.broker.Close()
}

// notef records a step of the story of this seed, which is told when it fails.
func (w *world) notef(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	line := fmt.Sprintf("%9.3fs  %s", time.Since(w.begun).Seconds(), fmt.Sprintf(format, args...))
	w.trace = append(w.trace, line)
	if *verbose {
		fmt.Println(line)
	}
}

// Write takes the replicas' logs.
func (w *world) Write(p []byte) (int, error) {
	w.notef("    %s", strings.TrimSpace(string(p)))
	return len(p), nil
}

// failf says what is wrong; the story follows at the end.
func (w *world) failf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.notef("WRONG: %s", text)
	w.mu.Lock()
	w.failed = true
	w.mu.Unlock()
	w.t.Error(text)
}

// crashed is called by the hook of a process at the step where it dies.
func (w *world) crashed(r *replica, step string) {
	w.mu.Lock()
	survive := w.crashRNG.IntN(3) * 50
	rng := rand.New(rand.NewPCG(w.crashRNG.Uint64(), 0))
	again := time.Duration(w.crashRNG.IntN(2000)) * time.Millisecond
	w.mu.Unlock()
	w.notef("%s crashes at %s; %d%% of what was not synced survives", r.name, step, survive)
	r.crash(rng, survive)
	w.later(again, func() {
		w.notef("%s starts again", r.name)
		r.start()
	})
}

func (w *world) anyLives() bool {
	for _, r := range w.replicas {
		if r.living() != nil {
			return true
		}
	}
	return false
}

// later runs f beside everything else.
func (w *world) later(d time.Duration, f func()) {
	w.bg.Go(func() {
		time.Sleep(d)
		f()
	})
}

// dump reads the committed data records of a topic to its end, in order of
// partition and offset.
func (w *world) dump(topic string) []reference.Record {
	ends, err := kafka.Ends(w.context(), w.client, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	at := make(map[int32]kgo.Offset)
	left := make(map[int32]int64)
	for _, e := range ends[topic] {
		if e.End > 0 {
			at[e.Partition], left[e.Partition] = kgo.NewOffset().At(0), e.End
		}
	}
	if len(at) == 0 {
		return nil
	}
	cl, err := kgo.NewClient(append(w.own(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: at}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(w.context(), time.Minute)
	defer cancel()
	by := make([][]reference.Record, w.partitions+8)
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			w.t.Fatalf("dump of %s: %v, left %v", topic, err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				by[r.Partition] = append(by[r.Partition], reference.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
					Time: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value, Headers: headers(r)})
			}
			if end, ok := left[r.Partition]; ok && r.Offset+1 >= end {
				delete(left, r.Partition)
			}
		})
	}
	var out []reference.Record
	for _, recs := range by {
		out = append(out, recs...)
	}
	return out
}

func headers(r *kgo.Record) map[string]string {
	if len(r.Headers) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, h := range r.Headers {
		out[h.Key] = string(h.Value)
	}
	return out
}

// eventEnds are the high watermarks of the event partitions, and of those of topics that
// were taken off the list.
func (w *world) eventEnds() map[reference.Partition]int64 {
	out := w.ends(w.topics.Events...)
	maps.Copy(out, w.streams.left)
	return out
}

// ends are the high watermarks of the partitions of topics, asked for until they are
// told: leaders may change.
func (w *world) ends(topics ...string) map[reference.Partition]int64 {
	ends, err := kafka.Ends(w.context(), w.client, topics...)
	for begun := time.Now(); err != nil && time.Since(begun) < settleTime; time.Sleep(100 * time.Millisecond) {
		ends, err = kafka.Ends(w.context(), w.client, topics...)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	out := make(map[reference.Partition]int64)
	for t, ps := range ends {
		for _, p := range ps {
			out[reference.Partition{Topic: w.stream(t, segment.TopicID(p.TopicID).String()), Partition: p.Partition}] = p.End
		}
	}
	return out
}

// settle waits until everything produced so far is committed.
func (w *world) settle() bool {
	ends, err := kafka.Ends(w.context(), w.client, append(append([]string{}, w.topics.Events...), w.topics.Profiles)...)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.observer == nil {
		if w.observer, err = catalog.Open(w.context(), catalog.Config{Opts: w.own(), Topic: w.topics.Catalog, Log: discard}); err != nil {
			w.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(w.context(), settleTime)
	defer cancel()
	for {
		changed := w.observer.Changed()
		behind := ""
		for _, ps := range ends {
			for _, p := range ps {
				pos, _ := w.observer.Position(p.TopicID, p.Partition)
				if pos.Next < p.End {
					behind += fmt.Sprintf(" %s/%d at %d of %d;", p.Topic, p.Partition, pos.Next, p.End)
				}
			}
		}
		if behind == "" {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.failf("not committed after %v without faults:%s", settleTime, behind)
			return false
		}
	}
}
