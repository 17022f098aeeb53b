package consumer

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
	"lockstitch/state/task"
)

// Merging puts small segments together, so that their number is that of hours and
// days and not of cuts. The owner of mergeLane prepares one segment beside its
// loop, and a cut of that lane commits it: the group's generation fences who does
// not own it any more, and an outcome in doubt is decided like that of any cut. Which
// ones: pick.go.

// The named steps of merging, see Config.Hook; a goroutine beside the loop calls them.
const (
	StepMergeRead   = "merge/read"   // read the segments that are put together
	StepMergeUpload = "merge/upload" // upload the one that takes their place
	StepMergeMade   = "merge/made"   // it waits for a cut
)

const (
	// mergeLane is the lane whose owner merges; it alone removes segments.
	mergeLane = retainLane
	// mergePatience is for how long a segment is left alone that cannot be merged.
	mergePatience = 6 * time.Hour
)

// merging is a segment that is being prepared for a lane.
type merging struct {
	lane   *lane
	cancel context.CancelFunc
	made   chan *merged // gets one, if there is any, and is closed
	err    error        // for who has received from made
}

// merged is a segment that is ready to be committed.
type merged struct {
	segment *catalog.Segment
	places  []*catalog.Segment // whose it takes
	at      time.Time
}

// merge begins to prepare a segment when there is something to be merged, and hands it
// to the lane's next cut when it is ready. One is prepared at a time.
func (c *Consumer) merge(ctx context.Context, now time.Time) {
	l := c.lanes[mergeLane]
	if l != nil && l.stage != ready {
		l = nil
	}
	if m := c.merging; m != nil {
		if m.lane != l {
			m.cancel()
		}
		select {
		case made := <-m.made:
			m.cancel()
			c.merging = nil
			if m.lane != l {
				break
			}
			if m.err == nil {
				c.metrics.tasks.Done(task.Merging)
			}
			if made != nil {
				l.merged = made
				l.touch(now)
			}
		default:
			return
		}
	}
	if l == nil || l.merged != nil || c.merging != nil || now.Before(c.mergeAt) {
		return
	}
	c.mergeAt = now.Add(c.cfg.MergeEvery)
	mctx, cancel := context.WithCancel(ctx)
	m := &merging{lane: l, cancel: cancel, made: make(chan *merged, 1)}
	c.merging = m
	// Whatever the machine's clock says: what is merged too soon is only merged again. What
	// has expired is retention's to say.
	over, expired := c.deps.Catalog.LogTime(), c.kafkaTime(now)-c.cfg.Retention.Milliseconds()
	c.mergers.Go(func() {
		defer close(m.made)
		made, err := c.prepareMerged(mctx, now, over, expired)
		m.err = err
		switch {
		case err != nil && mctx.Err() == nil:
			level := slog.LevelWarn
			if one := (*segment.CorruptError)(nil); errors.As(err, &one) || errors.Is(err, objects.ErrNotExist) {
				level = slog.LevelError // exports of its rows fail, too
			}
			c.log.Log(mctx, level, "segments could not be merged", "err", err)
		case made != nil:
			m.made <- made
			c.at(StepMergeMade)
		}
	})
}

// endMerging is for the end of the loop.
func (c *Consumer) endMerging() {
	if c.merging != nil {
		c.merging.cancel()
	}
	c.mergers.Wait()
}

// prepareMerged reads the catalog to its end, and makes and uploads the segment that
// takes the place of those that are to be merged next; nil: there are none.
func (c *Consumer) prepareMerged(ctx context.Context, now time.Time, over, expired int64) (*merged, error) {
	if err := c.deps.Catalog.CatchUp(ctx); err != nil {
		return nil, err
	}
	places := c.picker.pick(c.deps.Catalog.Unsorted(), now.UnixMilli(), over, expired)
	for len(places) > 1 {
		c.at(StepMergeRead)
		o, err := c.readMerged(ctx, places)
		var one *segmentError
		switch {
		case err == nil:
			return c.uploadMerged(ctx, o, places)
		case errors.Is(err, segment.ErrTooLarge):
			if len(places) == 2 {
				c.picker.leave(places...)
				return nil, nil
			}
			places = places[:max(2, len(places)/2)] // the smaller ones: large ones are not made anew for them
		case errors.As(err, &one) && ctx.Err() == nil: // else nothing is wrong but that it was called off
			c.picker.leave(one.segment)
			return nil, err
		default:
			return nil, err
		}
	}
	return nil, nil
}

// segmentError is what is wrong with one of the segments.
type segmentError struct {
	segment *catalog.Segment
	error
}

func (e *segmentError) Unwrap() error { return e.error }

// readMerged puts the rows of the segments into one object. What does not fit into the
// memory that there is for it is segment.ErrTooLarge.
func (c *Consumer) readMerged(ctx context.Context, places []*catalog.Segment) (segment.Object, error) {
	buf := segment.NewBuffer()
	for _, s := range places {
		data, err := s.Read(ctx, c.deps.Store)
		if err != nil {
			// While the store is away that leaves a few alone in vain, but one that cannot
			// be read holds up no other.
			return segment.Object{}, &segmentError{s, err}
		}
		for i := range s.Slices {
			info := &s.Slices[i]
			in, err := segment.OpenSlice(s.Object, info, data[info.Offset:info.Offset+info.Length])
			if err == nil {
				err = buf.Take(in)
			}
			if err != nil {
				return segment.Object{}, &segmentError{s, err}
			}
			if buf.Bytes() > c.cfg.MemoryBytes/8 {
				return segment.Object{}, segment.ErrTooLarge
			}
		}
	}
	o, err := segment.Merge(buf)
	if err != nil && !errors.Is(err, segment.ErrTooLarge) {
		c.picker.leave(places...) // rows that two of them have
	}
	return o, err
}

func (c *Consumer) uploadMerged(ctx context.Context, o segment.Object, places []*catalog.Segment) (*merged, error) {
	c.at(StepMergeUpload)
	begun := time.Now()
	s, err := c.store(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		s.Replaces = append(s.Replaces, p.ID)
	}
	return &merged{segment: s, places: places, at: begun}, nil
}

// mergedRecords commit what is ready for the lane, with the cut of the given id. What
// has waited for so long that the sweeper might take it for an orphan, or takes the
// place of what is not there any more, is given up: it is one now.
func (c *Consumer) mergedRecords(l *lane, id string) ([]*kgo.Record, error) {
	m := l.merged
	if m == nil || l.retaining != nil && len(l.retaining.remove) > 0 {
		return nil, nil // removed segments may be among them: not with the same cut
	}
	stale := time.Since(m.at) > c.cfg.SweepAge/2
	for _, p := range m.places {
		stale = stale || !c.deps.Catalog.Live(p.ID)
	}
	if stale {
		l.merged = nil
		return nil, nil
	}
	m.segment.Cut = id
	topic := c.cfg.Topics.Catalog
	rec, err := m.segment.Record(topic)
	if err != nil {
		return nil, err
	}
	out := []*kgo.Record{rec}
	for _, p := range m.places {
		out = append(out, p.Tombstone(topic))
	}
	return out, nil
}

// replaced notes that a cut with a merged segment in it has committed. The next one is
// looked for at once.
func (c *Consumer) replaced(l *lane) {
	m := l.merged
	l.merged = nil
	c.metrics.mergedSegments.Add(float64(len(m.places)))
	var bytes int64
	for _, p := range m.places {
		bytes += p.Bytes
	}
	c.log.Debug("segments were merged", "count", len(m.places), "bytes", bytes, "into", m.segment.Object, "of", m.segment.Bytes)
	c.mergeAt = time.Time{}
}

// removed notes that segments were removed: what is being put together, or has been,
// may have rows of theirs.
func (c *Consumer) removed(l *lane) {
	l.merged = nil
	if c.merging != nil {
		c.merging.cancel()
	}
}
