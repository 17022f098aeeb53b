package consumer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstitch/state/kafka"
	"lockstitch/state/local"
	"lockstitch/state/segment"
)

// rebuildReaders is how many slices of a lane are read at a time while its
// deduplication entries are rebuilt, rebuildLanes of how many lanes that is done
// at a time: the memory that it takes does not grow with the number of lanes.
const (
	rebuildReaders = 8
	rebuildLanes   = 2
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
	for _, in := range l.inputs {
		if err := c.rebuildDedup(ctx, l, in, from[in.stream.ID]); err != nil {
			return err
		}
	}
	return nil
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
	return from, nil
}

// rebuildDedup adds the entries of the events of in that were kept at offsets
// from … its position, as far as the horizon reaches.
func (c *Consumer) rebuildDedup(ctx context.Context, l *lane, in *input, from int64) error {
	begun := time.Now()
	oldest := in.pos.LogTime - l.dd.horizon
	if from < in.pos.Next && oldest > 0 {
		first, err := c.firstSince(ctx, in, oldest)
		if err != nil {
			return err
		}
		from = max(from, first)
	}
	if from < in.pos.Next {
		n, err := c.loadDedup(ctx, l, in, from, oldest)
		if err != nil {
			return err
		}
		if n > 0 {
			c.log.Info("rebuilt deduplication entries from segments", "lane", l.n, "topic", in.stream.Topic, "entries", n, "seconds", time.Since(begun).Seconds())
		}
	}
	return c.db.Damaged(l.dd.add(nil, map[segment.TopicID]local.DedupMarker{in.stream.ID: {Next: in.pos.Next, Horizon: l.dd.horizon}}))
}

// loadDedup reads the entries of all slices that hold rows of in at offsets from
// … its position, and answers how many there are.
func (c *Consumer) loadDedup(ctx context.Context, l *lane, in *input, from, oldest int64) (n int, err error) {
	select {
	case c.rebuilding <- struct{}{}:
		defer func() { <-c.rebuilding }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	type place struct {
		object string
		info   *segment.SliceInfo
		rows   int // of in, at most
	}
	var slices []place
	rows := 0
	for _, seg := range c.deps.Catalog.Segments() {
		for i := range seg.Slices {
			if n := rowsOf(&seg.Slices[i], in, from); n > 0 {
				slices = append(slices, place{seg.Object, &seg.Slices[i], n})
				rows += n
			}
		}
	}
	load := l.dd.lane.LoadDedup(rows, l.dd.horizon)
	defer func() { err = errors.Join(err, c.db.Damaged(load.Close())) }()
	eg, ectx := errgroup.WithContext(ctx)
	eg.SetLimit(rebuildReaders)
	for _, s := range slices {
		eg.Go(func() error {
			entries, err := c.keysOf(ectx, s.object, s.info, in, from, oldest, s.rows)
			if err != nil {
				return err
			}
			return c.db.Damaged(load.Add(entries))
		})
	}
	if err := eg.Wait(); err != nil {
		return 0, err
	}
	n, err = l.dd.take(ctx, load)
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

// rowsOf is how many rows of in at offsets from … its position a slice has at
// most.
func rowsOf(info *segment.SliceInfo, in *input, from int64) int {
	for _, r := range info.Sources {
		if src := r.Source(); src.ID == in.stream.ID && src.Partition == in.partition {
			return int(min(int64(info.Rows), max(0, min(r.Next, in.pos.Next)-max(r.Min, from))))
		}
	}
	return 0
}

// keysOf reads the deduplication entries of one slice: of rows of in with
// offsets in [from, position) and a log time of at least oldest, of which there
// are about n.
func (c *Consumer) keysOf(ctx context.Context, object string, info *segment.SliceInfo, in *input, from, oldest int64, n int) ([]local.DedupEntry, error) {
	r, err := c.deps.Store.Open(ctx, object, info.Offset, info.KeysLength)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", object, err)
	}
	data, err := io.ReadAll(io.LimitReader(r, info.KeysLength))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", object, err)
	}
	s, err := segment.OpenKeys(object, info, data)
	if err != nil {
		return nil, err
	}
	types, err := s.Types()
	if err != nil {
		return nil, err
	}
	codes, err := s.SourceCodes()
	if err != nil {
		return nil, err
	}
	offsets, err := s.Offsets()
	if err != nil {
		return nil, err
	}
	times, err := s.LogTimes()
	if err != nil {
		return nil, err
	}
	sources := s.Sources()
	account := []byte(info.Account)
	out := make([]local.DedupEntry, 0, n)
	var corr []byte
	for i := range types {
		src := &sources[codes[i]]
		if src.ID != in.stream.ID || src.Partition != in.partition || offsets[i] < from || offsets[i] >= in.pos.Next || times[i] < oldest {
			continue
		}
		if corr, err = s.AppendCorrelation(corr[:0], i); err != nil {
			return nil, err
		}
		out = append(out, local.DedupEntry{Key: dedupKey(in.stream.ID, account, types[i], corr), Offset: offsets[i], LogTime: times[i]})
	}
	return out, nil
}
