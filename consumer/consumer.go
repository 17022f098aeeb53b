// Package consumer brings events in from Kafka: it takes over lanes, reads,
// deduplicates, decorates and collects their events, and cuts. A cut (cut.go)
// is the only moment at which input counts as consumed; nothing else commits.
//
// One goroutine, the turn loop in turn.go, owns all lanes. Within a turn lanes
// run in parallel, each in one goroutine and in offset order, without locks.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/time/rate"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// Config are the settings of a Consumer. Zero values take the defaults.
type Config struct {
	Kafka              []kgo.Opt       // the connection
	Topics             kafka.Topics    // names
	Group              string          // consumer group; "lockstitch"
	InstanceID         string          // static membership (KIP-345) if set
	DataDir            string          // local state
	FS                 vfs.FS          // that DataDir is on; nil: the operating system's
	MemoryBytes        int64           // for buffers, caches and fetches together; 256 MiB
	FlushInterval      time.Duration   // the longest that processed input stays uncommitted; 30 s
	DedupHorizon       time.Duration   // 7 days
	SessionTimeout     time.Duration   // of the group; 10 s
	TransactionTimeout time.Duration   // 10 s
	ProfileStale       time.Duration   // local profiles not current for this long are read anew; half of kafka.KeepTombstone, 84 h
	SweepAge           time.Duration   // orphaned objects are removed when this old; 24 h
	SweepEvery         time.Duration   // how often is looked for them; they go at the second look; 1 h
	Retention          time.Duration   // segments are removed when this old, more than DedupHorizon; 400 days
	RemovalNotice      time.Duration   // what is to be removed is refused to new requests so long before; 24 h
	MergeSpans         []time.Duration // small segments of one are merged when it is over, then of the next, which has whole ones of it; 1 h, 24 h
	MergeEvery         time.Duration   // how often is looked for them; 5 min
	MergeFuture        time.Duration   // how far ahead of the log a server_time may be for its segment to be merged, math.MaxInt64: at will; 24 h
	// WriterSuffix, if set, makes the transactional id another one than the data
	// directory's last process had. The embedded broker needs it: after a crash
	// it aborts an open transaction without a marker, and readers would take
	// later records of the same producer for a part of it.
	WriterSuffix   string
	DefaultAccount string   // for events without account_id; empty: they are poison
	Accounts       []string // whose events are kept; empty: all
	// Hook, if set, is called at every named step of a cut and of a takeover, of
	// takeovers by a goroutine for each lane; tests crash there.
	Hook func(step string)
}

// Deps are what a Consumer works with. They outlive it, but for what waits for room on a
// full disk, see Run: that may find them closed.
type Deps struct {
	Store      objects.Store
	Catalog    *catalog.View
	Reports    Barriers
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
	// Owned is an error unless the store is the catalog's own, ErrForeignStore if it is
	// another one's, which ends Run; it is asked before each sweep. nil: it is.
	Owned func(context.Context) error
}

// ErrForeignStore says that the store belongs to another catalog.
var ErrForeignStore = errors.New("the store belongs to another catalog")

// Barriers tells which requests wait for input to be committed.
type Barriers interface {
	Pending() []*report.Report
	Changed() <-chan struct{}
}

func (c *Config) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.FlushInterval, 30*time.Second)
	def(&c.DedupHorizon, 7*24*time.Hour)
	def(&c.SessionTimeout, 10*time.Second)
	def(&c.TransactionTimeout, 10*time.Second)
	def(&c.ProfileStale, kafka.KeepTombstone/2)
	def(&c.SweepAge, 24*time.Hour)
	def(&c.SweepEvery, time.Hour)
	def(&c.Retention, 400*24*time.Hour)
	def(&c.RemovalNotice, 24*time.Hour)
	def(&c.MergeEvery, 5*time.Minute)
	def(&c.MergeFuture, 24*time.Hour)
	if c.MergeSpans == nil {
		c.MergeSpans = []time.Duration{time.Hour, 24 * time.Hour}
	}
	if c.MemoryBytes <= 0 {
		c.MemoryBytes = 256 << 20
	}
	if c.Group == "" {
		c.Group = "lockstitch"
	}
}

// Consumer is one replica's ingest.
type Consumer struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	lag     *lagTable

	db       *local.DB
	writer   string      // transactional id
	group    *kgo.Client // membership only
	balancer *laneBalancer
	events   *kgo.Client // reads the event topics
	profiles *kgo.Client // reads the profiles topic
	producer *kgo.Client // transactions; replaced when its state is in doubt

	accounts map[string]bool // Config.Accounts; nil: all
	given    *held           // what the group has given
	blooms   bloomMemory
	unread   map[lagKey]bool // partitions of which tellUnread tells
	packed   sync.Map        // lane (int32) → *kgo.ErrDecompressTooLarge that stops it
	as       membership      // as whom the lanes are held
	lanes    map[int32]*lane
	barriers map[segment.Partition]int64 // ends that pending requests wait for
	awaited  map[string]bool             // ids of the requests that these are of
	failing  bool                        // some could not in this turn
	endless  bool                        // the end of some profile partition was not told last
	endsAt   time.Time                   // when they were asked for last
	noEnds   rate.Sometimes              // logs that
	lastCut  time.Time
	retainAt time.Time // when retention is looked after next
	merging  *merging  // the segment that is being prepared; nil: none
	mergers  sync.WaitGroup
	mergeAt  time.Time // when is looked for one next
	picker   *picker
	mail     *mailbox
	quit     chan struct{} // closed when the turn loop has ended
	cutting  cutState

	lastSeen atomic.Value // map[string]kafka.TopicInfo: the input topics, for lanes that are stopped

	owned struct { // lanes with local state, for the balancer
		sync.Mutex
		lanes []int32
	}

	leftoverAt time.Time // when is looked next for local state that is left over

	rebuilds chan *rebuild // lanes that lack deduplication entries
	sorting  chan struct{} // an entry for each lane whose entries are sorted
}

// New opens the replica's local state. Run does the rest.
func New(cfg Config, deps Deps) (*Consumer, error) {
	cfg.setDefaults()
	if len(cfg.Topics.Events) == 0 {
		return nil, errors.New("consumer: no event topic is configured")
	}
	if cfg.Retention <= cfg.DedupHorizon {
		return nil, fmt.Errorf("consumer: a retention of %s is not longer than the deduplication horizon, %s", cfg.Retention, cfg.DedupHorizon)
	}
	c := &Consumer{
		cfg: cfg, deps: deps, log: deps.Log.With("component", "consumer"),
		metrics:  newMetrics(deps.Registerer, cfg.Topics, func() int64 { return deps.Catalog.Retention().Refused.OldestAvailable }, deps.Catalog.Count),
		lanes:    make(map[int32]*lane),
		barriers: make(map[segment.Partition]int64),
		awaited:  make(map[string]bool),
		noEnds:   rate.Sometimes{First: 1, Interval: 10 * time.Second},
		mail:     newMailbox(),
		quit:     make(chan struct{}),
		rebuilds: make(chan *rebuild),
		sorting:  make(chan struct{}, sortedLanes),
	}
	for _, a := range cfg.Accounts {
		if c.accounts == nil {
			c.accounts = make(map[string]bool)
		}
		c.accounts[a] = true
	}
	c.given = newHeld(c.inputs())
	c.picker = newPicker(&c.cfg)
	c.blooms.left.Store(cfg.MemoryBytes / 4)
	c.lag = newLagTable(deps.Registerer)
	return c, nil
}

// inputs are all topics that a lane has a partition of.
func (c *Consumer) inputs() []string { return c.cfg.Topics.Inputs() }

// Run consumes until ctx ends, then cuts a last time, leaves the group and
// returns nil. An error means that this replica cannot go on as it is:
// configuration, topics, or damaged local state.
//
// On a full disk it returns without what waits there for room, for as long as the
// process lives: the local state is then as a crash would have left it.
func (c *Consumer) Run(ctx context.Context) error {
	full, ended := make(chan struct{}), make(chan error, 1)
	tell := sync.OnceFunc(func() { close(full) })
	go func() {
		var err error
		defer func() { ended <- err }() // a hook may end this goroutine
		err = c.run(ctx, tell)
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	limit := time.NewTimer(revokeGrace) // the last cut may not need the disk
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-full:
	}
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		c.log.Warn("the disk was full, and the local state is left as it is; what it lacks, or was not cut, is read again")
		return nil
	}
}

// run is Run. It calls full once ctx has ended and the disk is full: it may not return.
func (c *Consumer) run(ctx context.Context, full func()) (err error) {
	if err := c.open(ctx, full); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()

	var bg sync.WaitGroup
	bgctx, stop := context.WithCancel(ctx)
	defer bg.Wait()
	defer c.endMerging()
	defer stop()
	bg.Go(func() { c.watchEnds(bgctx) })
	bg.Go(func() { c.sweepLoop(bgctx) })
	bg.Go(func() { c.drainGroup(bgctx) })
	bg.Go(func() { c.rebuildLoop(bgctx) })
	defer close(c.quit)
	c.mergeAt = time.Now().Add(c.cfg.MergeEvery)
	c.leftoverAt = time.Now().Add(min(leftoverEvery, c.cfg.ProfileStale)) // the group gives lanes back meanwhile
	return c.loop(ctx)
}

func (c *Consumer) open(ctx context.Context, full func()) error {
	infos, err := kafka.Describe(ctx, c.deps.Catalog.Client(), append(c.inputs(), c.cfg.Topics.Catalog)...)
	if err != nil {
		return fmt.Errorf("%w (`lockstitch topics create` makes missing topics)", err)
	}
	want := infos[c.cfg.Topics.Profiles].Partitions
	for _, t := range c.cfg.Topics.Events {
		if n := infos[t].Partitions; n != want {
			return fmt.Errorf("topic %s has %d partitions and %s has %d; they must have the same number, because partition n of both is one lane (see `lockstitch topics check`)",
				t, n, c.cfg.Topics.Profiles, want)
		}
	}
	cluster, err := clusterID(ctx, c.deps.Catalog.Client())
	if err != nil {
		return err
	}
	if err := catalog.Register(ctx, c.cfg.Kafka, c.cfg.Topics.Catalog, c.deps.Catalog, c.inputs()...); err != nil {
		return err
	}
	c.db, err = local.Open(c.cfg.DataDir, cluster, c.cfg.Group, local.Options{
		CacheBytes: c.cfg.MemoryBytes / 8, MemTableBytes: uint64(min(c.cfg.MemoryBytes/32, 16<<20)),
		LoadBytes: min(c.cfg.MemoryBytes/64, 16<<20), FS: c.cfg.FS, Log: c.log, Done: ctx.Done(), Held: full,
		Full: c.metrics.waitForRoom,
	})
	if err != nil {
		return err
	}
	name := c.db.Replica()
	if c.cfg.InstanceID != "" {
		name = c.cfg.InstanceID
	}
	c.writer = c.cfg.Group + "-" + name + c.cfg.WriterSuffix
	if c.owned.lanes, err = c.usefulLanes(time.Now()); err != nil {
		return errors.Join(c.db.Damaged(err), c.close())
	}
	if err := c.openClients(infos[c.cfg.Topics.Catalog].ID); err != nil {
		return errors.Join(err, c.close())
	}
	return nil
}

func (c *Consumer) close() error {
	for _, cl := range []*kgo.Client{c.group, c.events, c.profiles, c.producer} {
		if cl != nil {
			cl.Close()
		}
	}
	var errs []error
	for _, l := range c.lanes {
		l.stopTakeover()
		if l.prof != nil {
			errs = append(errs, l.prof.close())
		}
	}
	if c.db != nil {
		errs = append(errs, c.db.Close())
	}
	return errors.Join(errs...)
}

func clusterID(ctx context.Context, cl *kgo.Client) (string, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return "", fmt.Errorf("asking for the cluster id: %w", err)
	}
	if resp.ClusterID == nil {
		return "", nil
	}
	return *resp.ClusterID, nil
}
