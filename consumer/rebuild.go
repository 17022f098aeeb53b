package consumer

import (
	"context"
	"errors"
	"time"

	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/segment"
)

// prepareDedup brings the deduplication entries up to the position records:
// what the local state lacks is read from the committed segments.
func (c *Consumer) prepareDedup(ctx context.Context, l *lane, state *local.Lane) error {
	from, err := c.dedupFrom(l, state)
	if err != nil {
		return c.db.Damaged(err)
	}
	var logTimes []int64
	for _, in := range l.inputs {
		if in.pos.LogTime > 0 {
			logTimes = append(logTimes, in.pos.LogTime)
		}
	}
	if err := l.dd.load(logTimes); err != nil {
		return c.db.Damaged(err)
	}
	return c.rebuildDedup(ctx, l, from)
}

// dedupFrom says for each input below which offset the local entries are
// complete. Entries that do not fit the catalog are dropped, all of the lane's.
func (c *Consumer) dedupFrom(l *lane, state *local.Lane) (map[segment.TopicID]int64, error) {
	from := make(map[segment.TopicID]int64)
	for _, in := range l.inputs {
		m, ok, err := state.DedupMarker(in.stream.ID)
		if err != nil {
			return nil, err
		}
		if !ok || m.Next > in.pos.Next || m.Horizon != l.dd.horizon {
			if ok {
				c.log.Warn("local deduplication state is ahead of the catalog or of another horizon, and is discarded", "lane", l.n, "topic", in.stream.Topic,
					"local", m.Next, "catalog", in.pos.Next, "local_horizon_ms", m.Horizon, "horizon_ms", l.dd.horizon)
			}
			return make(map[segment.TopicID]int64), state.ResetDedup()
		}
		from[in.stream.ID] = m.Next
	}
	// From now on entries are dropped by the log times of these inputs alone: a topic that
	// was taken off the list and comes back lacks some.
	return from, state.ForgetDedupMarkers(from)
}

// missing is what a lane lacks of the entries of one of its inputs: those of events
// that were kept in within, with a log time of at least oldest (ms).
type missing struct {
	within segment.OffsetRange
	oldest int64
}

// rebuildDedup adds the entries of the events of all inputs that were kept at offsets
// from … their positions, as far as the horizon reaches.
func (c *Consumer) rebuildDedup(ctx context.Context, l *lane, from map[segment.TopicID]int64) error {
	begun := time.Now()
	var lacks []missing
	markers := make(map[segment.TopicID]local.DedupMarker)
	for _, in := range l.inputs {
		first, oldest := from[in.stream.ID], in.pos.LogTime-l.dd.horizon
		if first < in.pos.Next && oldest > 0 {
			since, err := c.firstSince(ctx, in, oldest)
			if err != nil {
				return err
			}
			first = max(first, since)
		}
		if first < in.pos.Next {
			lacks = append(lacks, missing{in.stream.Range(in.partition, first, in.pos.Next), oldest})
		}
		markers[in.stream.ID] = local.DedupMarker{Next: in.pos.Next, Horizon: l.dd.horizon}
	}
	if len(lacks) > 0 {
		n, err := c.loadDedup(ctx, l, lacks)
		if err != nil {
			return err
		}
		if n > 0 {
			c.log.Info("rebuilt deduplication entries from segments", "lane", l.n, "entries", n, "seconds", time.Since(begun).Seconds())
		}
	}
	return c.db.Damaged(l.dd.add(nil, markers))
}

// loadDedup takes the entries that a lane lacks from the segments, and answers how many
// there are.
func (c *Consumer) loadDedup(ctx context.Context, l *lane, lacks []missing) (n int, err error) {
	rows := 0 // at most
	for _, m := range lacks {
		for _, ref := range c.deps.Catalog.SlicesSince(m.within, m.oldest) {
			rows += rowsOf(ref.Info, m.within)
		}
	}
	if rows == 0 {
		return 0, nil
	}
	r := &rebuild{lacks: lacks, load: l.dd.lane.LoadDedup(rows, l.dd.horizon), read: make(chan error, 1), over: make(chan struct{})}
	defer close(r.over)
	defer func() { err = errors.Join(err, c.db.Damaged(r.load.Close())) }()
	select {
	case c.rebuilds <- r:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case err := <-r.read:
		if err != nil {
			return 0, err
		}
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case c.sorting <- struct{}{}:
		defer func() { <-c.sorting }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	n, err = l.dd.take(ctx, r.load)
	return n, c.db.Damaged(err)
}

// firstSince is an offset below which no event has a log time of at least t, by
// the broker's time index; 0 where the log does not reach back that far.
func (c *Consumer) firstSince(ctx context.Context, in *input, t int64) (int64, error) {
	part := map[string][]int32{in.stream.Topic: {in.partition}}
	start, err := kafka.ListOffsets(ctx, c.deps.Catalog.Client(), part, kafka.AtStart, kafka.HighWatermark)
	if err != nil {
		return 0, err
	}
	first, err := kafka.ListOffsets(ctx, c.deps.Catalog.Client(), part, t, kafka.HighWatermark)
	if err != nil {
		return 0, err
	}
	f := first[in.stream.Topic][in.partition]
	if f <= start[in.stream.Topic][in.partition] {
		return 0, nil
	}
	return f, nil
}

// rowsOf is how many rows with offsets within a range a slice has at most.
func rowsOf(info *segment.SliceInfo, within segment.OffsetRange) int {
	for _, r := range info.Sources {
		if r.Source().At() == within.Source().At() {
			return int(min(int64(info.Rows), max(0, min(r.Next, within.Next)-max(r.Min, within.Min))))
		}
	}
	return 0
}
