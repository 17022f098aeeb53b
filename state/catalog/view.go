package catalog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// Config says which catalog a View follows.
type Config struct {
	Opts  []kgo.Opt
	Topic string
	Log   *slog.Logger
}

// sayAfter is how often Load says how far it is.
const sayAfter = 5 * time.Second

// View is the local copy of the catalog. A cut becomes visible in it whole: it
// is one transaction on one partition.
type View struct {
	tail *kafka.Tail
	log  *slog.Logger

	mu sync.RWMutex
	st state
}

// SliceRef names one stored slice. Info is shared and must not be changed.
type SliceRef struct {
	SegmentID string
	Object    string
	Info      *segment.SliceInfo
}

func (s *Segment) ref(in *segment.SliceInfo) SliceRef {
	return SliceRef{SegmentID: s.ID, Object: s.Object, Info: in}
}

type state struct {
	segments   map[string]*Segment
	replaced   map[string]int64    // segments that were replaced lately, and when (ms)
	forgotAt   time.Time           // when those of long ago were last taken out of it
	accounts   map[string]*account // those with at least one slice
	positions  map[string]*Position
	first      map[string]*FirstEnds
	registered map[string]*Adopted
	adopted    map[string]*Adopted
	marks      map[string][]hourMarks // "<topic id>/<partition>" → hours in order
	retention  Retention
}

// incarnations are those of a topic; nil: it was never met. See Adopted.
func (s *state) incarnations(topic string) *Adopted {
	if a, ok := s.adopted[topic]; ok {
		return a
	}
	return s.registered[topic]
}

func newState() state {
	return state{
		segments:   make(map[string]*Segment),
		replaced:   make(map[string]int64),
		accounts:   make(map[string]*account),
		positions:  make(map[string]*Position),
		first:      make(map[string]*FirstEnds),
		registered: make(map[string]*Adopted),
		adopted:    make(map[string]*Adopted),
		marks:      make(map[string][]hourMarks),
	}
}

// Open follows the catalog topic. It does not wait until the end is reached;
// CatchUp does.
func Open(ctx context.Context, cfg Config) (*View, error) {
	v := &View{st: newState(), log: cfg.Log}
	tail, err := kafka.StartTail(ctx, kafka.TailConfig{Opts: cfg.Opts, Topic: cfg.Topic, Apply: v.apply, Log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if n := tail.Partitions(); n != 1 {
		tail.Close()
		return nil, fmt.Errorf("catalog: topic %s has %d partitions; it must have 1, so that a cut becomes visible whole", cfg.Topic, n)
	}
	v.tail = tail
	return v, nil
}

// Close stops following.
func (v *View) Close() { v.tail.Close() }

// CatchUp waits until everything committed before the call is visible.
func (v *View) CatchUp(ctx context.Context) error {
	if err := v.tail.CatchUp(ctx); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	return nil
}

// SameTopic is an error if the topic was made anew.
func (v *View) SameTopic(ctx context.Context) error {
	if err := v.tail.SameTopic(ctx); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	return nil
}

// Load is CatchUp for whoever has just opened the view. With the segments of a year
// that takes minutes, and the log is told how far it is. It is an error once nothing more
// was read for as long as patience; with none, 0, it waits.
func (v *View) Load(ctx context.Context, patience time.Duration) error {
	loaded := make(chan error, 1)
	go func() { loaded <- v.load(ctx, patience) }()
	say := time.NewTicker(sayAfter)
	defer say.Stop()
	for {
		select {
		case err := <-loaded:
			return err
		case <-say.C:
			v.log.Info("reading the catalog", "offset", v.tail.Position(0), "end", v.tail.Target(0))
		}
	}
}

func (v *View) load(ctx context.Context, patience time.Duration) error {
	if patience == 0 {
		return v.CatchUp(ctx)
	}
	if err := v.tail.Load(ctx, patience); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	return nil
}

// Err is why the catalog cannot be used: a record of another version
// (*kafka.VersionError) or a damaged one (*kafka.DamagedError). Nil if it can.
func (v *View) Err() error { return v.tail.Err() }

// Changed returns a channel that is closed when something new was applied.
func (v *View) Changed() <-chan struct{} { return v.tail.Changed() }

// Client is the view's Kafka client, for further requests.
func (v *View) Client() *kgo.Client { return v.tail.Client() }

// Position is where a partition of an event topic, or of the profiles, stands.
func (v *View) Position(id segment.TopicID, partition int32) (Position, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	p, ok := v.st.positions[partitionKey(id, partition)]
	if !ok {
		return Position{}, false
	}
	return *p, true
}

// Positions are where all partitions of a topic stand that have a position
// record, in order of their numbers.
func (v *View) Positions(id segment.TopicID) []Position {
	v.mu.RLock()
	var out []Position
	for _, p := range v.st.positions {
		if p.TopicID == id {
			out = append(out, *p)
		}
	}
	v.mu.RUnlock()
	sort.Slice(out, func(i, j int) bool { return out[i].Partition < out[j].Partition })
	return out
}

// OtherEvents are where the event partitions stand of topics that are not among these:
// nobody consumes them any more, by the settings of who asks. In order of topic,
// incarnation (oldest first) and partition.
func (v *View) OtherEvents(topics []string) []Position {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var out []Position
	for key, p := range v.st.positions {
		if _, events := v.st.first[key]; events && !slices.Contains(topics, p.Topic) {
			out = append(out, *p)
		}
	}
	incarnation := func(p *Position) int {
		if a := v.st.incarnations(p.Topic); a != nil {
			return slices.Index(a.IDs, p.TopicID)
		}
		return -1
	}
	slices.SortFunc(out, func(a, b Position) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(incarnation(&a), incarnation(&b)),
			bytes.Compare(a.TopicID[:], b.TopicID[:]), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}

// LogTime is the greatest log time (ms) of all partitions; 0: there is none.
func (v *View) LogTime() int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	var t int64
	for _, p := range v.st.positions {
		t = max(t, p.LogTime)
	}
	return t
}

// FirstEnds are the ends recorded before the partition's first event was
// processed.
func (v *View) FirstEnds(id segment.TopicID, partition int32) (FirstEnds, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	f, ok := v.st.first[partitionKey(id, partition)]
	if !ok {
		return FirstEnds{}, false
	}
	return *f, true
}

// Adopted lists the topic ids that stand or stood under a topic's name, oldest
// first; the last one is in use. The index of an id is its incarnation.
func (v *View) Adopted(topic string) []segment.TopicID {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if a := v.st.incarnations(topic); a != nil {
		return slices.Clone(a.IDs)
	}
	return nil
}

// Knows tells whether an input topic has the id or had it.
func (v *View) Knows(id segment.TopicID) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	known := func(topics map[string]*Adopted) bool {
		for _, a := range topics {
			if slices.Contains(a.IDs, id) {
				return true
			}
		}
		return false
	}
	return known(v.st.adopted) || known(v.st.registered)
}

// GivenUp is the offset below which an operator has given up what the log of a
// partition of the topic in use has lost unread; 0: nothing is.
func (v *View) GivenUp(topic string, partition int32) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if a := v.st.incarnations(topic); a != nil {
		return a.GivenUp[partition]
	}
	return 0
}

// Segments lists the live segments in order of their ids, which is the order
// in which they were sealed. They are shared and must not be changed.
func (v *View) Segments() []*Segment {
	out := v.Unsorted()
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// Unsorted is Segments in no order: for a million that takes a fraction of the time.
func (v *View) Unsorted() []*Segment {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*Segment, 0, len(v.st.segments))
	for _, s := range v.st.segments {
		out = append(out, s)
	}
	return out
}

// Count is the number of segments.
func (v *View) Count() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.st.segments)
}

// Live says whether a segment is in the catalog.
func (v *View) Live(id string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.st.segments[id]
	return ok
}

// replacedKept (ms) is how long a View remembers what was replaced: longer than
// anybody asks. Every forgetEvery it looks for what it may forget, not with each
// record: that would take as long as there are records and ids in these days.
const (
	replacedKept = int64(72 * time.Hour / time.Millisecond)
	forgetEvery  = time.Hour
)

// Replaced is when (ms) another segment has taken a segment's place, by the clock of
// who made that; 0: none has, or it was long ago.
func (v *View) Replaced(id string) int64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.st.replaced[id]
}

func (v *View) apply(r *kgo.Record) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.st.decode(r)
}

func (s *state) applySegment(id string, value []byte, merged bool) error {
	if old, ok := s.segments[id]; ok {
		s.drop(old)
		delete(s.segments, id)
	}
	if value == nil {
		return nil
	}
	seg := new(Segment)
	if err := json.Unmarshal(value, seg); err != nil {
		return err
	}
	if seg.ID != id {
		return fmt.Errorf("the record names segment %q", seg.ID)
	}
	if merged != (len(seg.Replaces) > 0) {
		return fmt.Errorf("it takes the place of %d segments", len(seg.Replaces))
	}
	seg.merged = merged
	s.replace(seg)
	s.segments[id] = seg
	s.add(seg)
	return nil
}

// replace drops the segments that seg takes the place of.
func (s *state) replace(seg *Segment) {
	if len(seg.Replaces) == 0 {
		return
	}
	made := seg.Sealed()
	now := time.Now()
	from := now.UnixMilli() - replacedKept
	if now.Sub(s.forgotAt) >= forgetEvery {
		s.forgotAt = now
		maps.DeleteFunc(s.replaced, func(_ string, at int64) bool { return at < from })
	}
	for _, id := range seg.Replaces {
		if old, ok := s.segments[id]; ok {
			s.drop(old)
			delete(s.segments, id)
		}
		if made >= from {
			s.replaced[id] = made
		}
	}
	seg.Replaces = nil
}
