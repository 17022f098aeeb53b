package consumer

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

const (
	endsEvery = time.Second     // how often the log ends are asked for
	endsStale = 5 * time.Second // ends older than this say nothing: the series are absent
	endsKept  = 512             // remembered ends of a partition
)

// lagTable knows for every partition of this replica's lanes how far it is
// processed and committed, and where its log ends. It is a collector: the lag
// is worked out when it is scraped, so that it ticks when everything else
// stands still; without recent ends it is absent, not zero.
type lagTable struct {
	mu   sync.Mutex
	rows map[lagKey]*lagRow
	now  func() time.Time
	bell chan struct{} // rings when a partition is new: nothing is known of its end

	procRecords, procSeconds, durRecords, durSeconds *prometheus.Desc
}

type lagKey struct {
	topic     string
	partition int32
}

type lagRow struct {
	next      int64 // next offset to process
	committed int64 // next offset that is not committed
	unseen    int64 // Kafka time (ms) of the first data record fetched, not processed; 0: none
	unsaved   int64 // Kafka time (ms) of the first data record processed, not committed; 0: none
	ends      []seenEnd
	asked     time.Time // when the newest end was last read
}

// seenEnd is a log end and when it was first seen.
type seenEnd struct {
	end int64
	at  time.Time
}

func newLagTable(reg prometheus.Registerer) *lagTable {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("lockstitch_"+name, help, []string{"topic", "partition"}, nil)
	}
	t := &lagTable{
		rows: make(map[lagKey]*lagRow), now: time.Now, bell: make(chan struct{}, 1),
		procRecords: desc("processing_lag_records", "Log end minus the next offset to process."),
		procSeconds: desc("processing_lag_seconds", "Age of the first record not yet processed; 0 when there is none."),
		durRecords:  desc("durable_lag_records", "Log end minus the next offset of the committed position record."),
		durSeconds:  desc("durable_lag_seconds", "Age of the first record not yet committed; 0 when there is none."),
	}
	if reg != nil {
		reg.MustRegister(t)
	}
	return t
}

// Describe implements prometheus.Collector.
func (t *lagTable) Describe(ch chan<- *prometheus.Desc) {
	ch <- t.procRecords
	ch <- t.procSeconds
	ch <- t.durRecords
	ch <- t.durSeconds
}

// Collect implements prometheus.Collector.
func (t *lagTable) Collect(ch chan<- prometheus.Metric) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for k, r := range t.rows {
		if len(r.ends) == 0 || now.Sub(r.asked) > endsStale {
			continue
		}
		end := r.ends[len(r.ends)-1].end
		p := strconv.Itoa(int(k.partition))
		emit := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, k.topic, p)
		}
		emit(t.procRecords, float64(max(0, end-r.next)))
		emit(t.procSeconds, r.age(now, end, r.next, r.unseen))
		unsaved := r.unsaved
		if unsaved == 0 {
			unsaved = r.unseen
		}
		emit(t.durRecords, float64(max(0, end-r.committed)))
		emit(t.durSeconds, r.age(now, end, r.committed, unsaved))
	}
}

// age is how long something at or above position next waits: since the Kafka
// time of the first record, if it was fetched, else since an end beyond next was
// first seen.
func (r *lagRow) age(now time.Time, end, next, first int64) float64 {
	if next >= end {
		return 0
	}
	if first > 0 {
		return max(0, now.Sub(time.UnixMilli(first)).Seconds())
	}
	for _, e := range r.ends {
		if e.end > next {
			return max(0, now.Sub(e.at).Seconds())
		}
	}
	return 0
}

// end is the log end as last seen; 0 if unknown.
func (t *lagTable) end(topic string, p int32) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[lagKey{topic, p}]; r != nil && len(r.ends) > 0 {
		return r.ends[len(r.ends)-1].end
	}
	return 0
}

// reached says whether next is the end of the log, as far as that was asked for
// of late.
func (t *lagTable) reached(topic string, p int32, next int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[lagKey{topic, p}]
	return r != nil && len(r.ends) > 0 && t.now().Sub(r.asked) <= endsStale && next >= r.ends[len(r.ends)-1].end
}

func (t *lagTable) row(topic string, p int32) *lagRow {
	k := lagKey{topic, p}
	r := t.rows[k]
	if r == nil {
		r = &lagRow{}
		t.rows[k] = r
		select {
		case t.bell <- struct{}{}:
		default:
		}
	}
	return r
}

func (t *lagTable) setPosition(topic string, p int32, next, committed, unseen, unsaved int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.row(topic, p)
	r.next, r.committed, r.unseen, r.unsaved = next, max(0, committed), unseen, unsaved
	// Ends that both positions have passed are not needed any more.
	for len(r.ends) > 1 && r.ends[0].end <= min(r.next, r.committed) {
		r.ends = r.ends[1:]
	}
}

func (t *lagTable) setEnds(ends map[string]map[int32]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for topic, ps := range ends {
		for p, end := range ps {
			r := t.rows[lagKey{topic, p}]
			if r == nil {
				continue
			}
			r.asked = now
			if len(r.ends) > 0 && r.ends[len(r.ends)-1].end == end {
				continue
			}
			if len(r.ends) >= endsKept { // keep the oldest, thin out the rest
				kept := r.ends[:1]
				for i := 2; i < len(r.ends); i += 2 {
					kept = append(kept, r.ends[i])
				}
				r.ends = kept
			}
			r.ends = append(r.ends, seenEnd{end, now})
		}
	}
}

// forget removes a lane's series: it has moved away.
func (t *lagTable) forget(n int32, topics []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, topic := range topics {
		delete(t.rows, lagKey{topic, n})
	}
}

func (t *lagTable) partitions() map[string][]int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string][]int32)
	for k := range t.rows {
		out[k.topic] = append(out[k.topic], k.partition)
	}
	return out
}

// watchEnds keeps the log ends up to date: those of a new lane are asked for at
// once, all of them every second. What cannot be asked grows stale; partitions
// whose brokers answer do not suffer from others, nor does the look at the topics:
// one without a leader is not waited for longer than until the next round.
func (c *Consumer) watchEnds(ctx context.Context) {
	tick := time.NewTicker(endsEvery)
	defer tick.Stop()
	seen, untold := make(map[string]int32), false
	for {
		if parts := c.lag.partitions(); len(parts) > 0 {
			limit := endsStale
			if untold {
				limit = endsEvery
			}
			rctx, cancel := context.WithTimeout(ctx, limit)
			ends, err := kafka.ListOffsets(rctx, c.group, parts, kafka.AtEnd, kafka.HighWatermark)
			c.lag.setEnds(ends)
			untold = err != nil
			cancel()
		}
		wctx, cancel := context.WithTimeout(ctx, endsStale)
		c.watchTopics(wctx, seen)
		cancel()
		select {
		case <-tick.C:
		case <-c.lag.bell:
		case <-ctx.Done():
			return
		}
	}
}

// watchTopics looks whether the input topics are still those that were adopted: an
// idle topic brings no error when another one takes its name. And whether they have
// other numbers of partitions than were seen before: the group's leader would hear of
// that after minutes. And a replica that got what it had before it started again has
// the lanes assigned anew.
func (c *Consumer) watchTopics(ctx context.Context, seen map[string]int32) {
	infos, err := kafka.Describe(ctx, c.group, c.inputs()...)
	if err != nil {
		return
	}
	c.lastSeen.Store(infos)
	for t, i := range infos {
		if before, ok := seen[t]; ok && before != i.Partitions {
			c.group.ForceMetadataRefresh()
		}
		seen[t] = i.Partitions
	}
	partitions := maps.Clone(seen)
	if c.balancer.again.CompareAndSwap(true, false) {
		c.group.ForceRebalance()
	}
	c.mail.post(func(context.Context) error {
		c.tellUnread(partitions)
		if t := c.anew(infos); t != "" {
			c.remade(t)
		}
		return nil
	})
}

// anew is a topic that lanes read and that was made anew since; "" if there is none. A
// broker that the controller does not reach tells the id of before, which says nothing.
func (c *Consumer) anew(infos map[string]kafka.TopicInfo) string {
	other := func(topic string, read segment.TopicID) bool {
		id := segment.TopicID(infos[topic].ID)
		return id != read && !c.past(topic, id)
	}
	for _, l := range c.lanes {
		if l.prof == nil {
			continue
		}
		if other(l.prof.topic, l.prof.id) {
			return l.prof.topic
		}
		for _, in := range l.inputs {
			if other(in.stream.Topic, in.stream.ID) {
				return in.stream.Topic
			}
		}
	}
	return ""
}

// past tells whether an id is one that the topic had before it was made anew and adopted.
func (c *Consumer) past(topic string, id segment.TopicID) bool {
	ids := c.deps.Catalog.Adopted(topic)
	return len(ids) > 0 && slices.Contains(ids[:len(ids)-1], id)
}

// publish tells the lag table and the counters what the lanes have done.
func (c *Consumer) publish() {
	waits := false // something for a cut, or a lane that may have it: it was taken over anew as a cut failed
	for n, l := range c.lanes {
		waits = waits || l.dirty || l.stage != ready
		if l.prof == nil { // not taken over yet: it stands where the catalog says
			for _, topic := range c.inputs() {
				var next int64
				if ids := c.deps.Catalog.Adopted(topic); len(ids) > 0 && !slices.Contains(l.anew, topic) { // of one made anew nothing is read
					pos, _ := c.deps.Catalog.Position(ids[len(ids)-1], n)
					next = pos.Next
				}
				c.lag.setPosition(topic, n, next, next, 0, 0)
			}
			continue
		}
		for _, in := range l.inputs {
			c.lag.setPosition(in.stream.Topic, n, in.pos.Next, in.committed.Next, l.unseen(in), in.oldest)
		}
		c.lag.setPosition(l.prof.topic, n, l.prof.next, l.prof.deadTo, 0, l.prof.oldest)
		l.counts.lookups, l.dd.lookups = l.dd.lookups, 0
		c.metrics.count(&l.counts)
	}
	if !waits {
		c.metrics.cutsGoOn()
	}
}

// unseen is the Kafka time of the first data record of in that was fetched and
// not processed; 0 if there is none.
func (l *lane) unseen(in *input) int64 {
	for _, b := range l.waiting {
		if b.in != in {
			continue
		}
		for _, r := range b.records {
			if r.Offset >= in.pos.Next && !r.Attrs.IsControl() {
				return r.Timestamp.UnixMilli()
			}
		}
	}
	return 0
}
