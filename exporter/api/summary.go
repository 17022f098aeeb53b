package api

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// activityQuestion is which activities are asked for. Events without an activity id
// belong to no activity.
type activityQuestion struct {
	account, section string
	id               string // of the only one; empty: all of the section
}

// summarise adds up the activities that are asked for over all stored slices with
// events of the activity window before now, in memory that mem takes: who makes events
// says how many activities and splits there are.
//
// What slices say is added up by stretches of time beside that, which are remembered:
// there are tens of thousands of slices in a window, and some hundred stretches.
// What was added up when the time for it is over need not be read again.
func (s *server) summarise(ctx context.Context, q activityQuestion, now time.Time, mem *share) ([]Activity, error) {
	since := now.Add(-s.cfg.ActivityWindow).UnixMilli()
	refs := s.deps.Catalog.Slices(q.account, since, math.MaxInt64)
	var mu sync.Mutex
	sums := activitySums{q: q, mem: mem, sums: make(map[string]*activitySum)}
	making := s.summaries.making.share()
	defer making.end()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.ActivityReads)
	for _, st := range stretchesOf(refs, q.section, since, now.UnixMilli()) {
		if gctx.Err() != nil {
			break
		}
		if parts, ok := s.summaries.get(st.key); ok && !st.cut {
			g.Go(func() error {
				mu.Lock()
				defer mu.Unlock()
				return sums.add(parts)
			})
			continue
		}
		left, total := len(st.refs), &activityTotal{mem: making} // given up
		if !st.cut {
			total = newActivityTotal(making)
		}
		for i := range st.refs {
			ref := &st.refs[i]
			g.Go(func() error {
				// Until it is added up: what a slice says is counted nowhere.
				select {
				case s.reads <- struct{}{}:
					defer func() { <-s.reads }()
				case <-gctx.Done():
					return gctx.Err()
				}
				parts, err := s.slice(gctx, ref, since)
				if errors.Is(err, objects.ErrNotExist) {
					err = s.missing(gctx, ref, err)
				}
				if err != nil {
					return err
				}
				parts = slices.DeleteFunc(parts, func(p segment.Activity) bool { return p.Section != q.section || p.ActivityID == "" })
				mu.Lock()
				defer mu.Unlock()
				if err := sums.add(parts); err != nil {
					return err
				}
				total.add(parts)
				if left--; left == 0 {
					if parts, ok := total.parts(); ok {
						s.summaries.put(st.key, parts)
					}
					total.giveUp()
				}
				return nil
			})
		}
	}
	if err := cmp.Or(g.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	out := make([]Activity, 0, len(sums.sums))
	for id, a := range sums.sums {
		out = append(out, a.activity(id))
	}
	slices.SortFunc(out, func(a, b Activity) int { return latestFirst(&a, &b) })
	return out, nil
}

// firstBytes of a slice are read for its activities. Mostly they are enough, where
// all keys of a slice are up to 150 kB.
const firstBytes = 8 << 10

// slice summarises one slice from a server_time on. The few slices that the time
// cuts are counted row by row. The caller may change what it gets.
func (s *server) slice(ctx context.Context, ref *catalog.SliceRef, since int64) ([]segment.Activity, error) {
	if ref.Info.MinTime < since {
		data, err := ref.Read(ctx, s.deps.Store, ref.Info.Length)
		if err != nil {
			return nil, err
		}
		sl, err := segment.OpenSlice(ref.Object, ref.Info, data)
		if err != nil {
			return nil, err
		}
		return countRows(sl, since)
	}
	for n := min(firstBytes, ref.Info.KeysLength); ; n = ref.Info.KeysLength {
		data, err := ref.Read(ctx, s.deps.Store, n)
		if err != nil {
			return nil, err
		}
		sl, err := segment.OpenActivities(ref.Object, ref.Info, data)
		switch {
		case err == nil:
			return sl.Activities()
		case n == ref.Info.KeysLength:
			return nil, err
		}
	}
}

// missing says what it means that the store does not have the object of a slice: damage, if
// it counts still by the newest catalog. Else it was removed while slices were read.
func (s *server) missing(ctx context.Context, ref *catalog.SliceRef, err error) error {
	if err := s.deps.Catalog.CatchUp(ctx); err != nil {
		return err
	}
	if s.deps.Catalog.Live(ref.SegmentID) {
		return &segment.CorruptError{Object: ref.Object, Offset: ref.Info.Offset, Cause: "the store does not have the object"}
	}
	return err
}

// damaged tells stored bytes that are wrong from those that cannot be read.
func damaged(err error) bool {
	var c *segment.CorruptError
	return errors.As(err, &c)
}

// countRows is what Slice.Activities says, of the rows since a server_time only.
func countRows(sl *segment.Slice, since int64) ([]segment.Activity, error) {
	times, err := sl.ServerTimes()
	if err != nil {
		return nil, err
	}
	types, err := sl.Types()
	if err != nil {
		return nil, err
	}
	sections, err := sl.Sections()
	if err != nil {
		return nil, err
	}
	var cells [4]*segment.Column
	for i, c := range []event.Cell{event.ActivityID, event.SplitID, event.ActivityName, event.SplitActivityName} {
		if cells[i], err = sl.Cells(c); err != nil {
			return nil, err
		}
	}
	index := make(map[[3]uint32]int)
	var out []segment.Activity
	for row, t := range times {
		if t < since {
			continue
		}
		key := [3]uint32{sections.Codes[row], cells[0].Codes[row], cells[1].Codes[row]}
		i, ok := index[key]
		if !ok {
			i = len(out)
			index[key] = i
			out = append(out, segment.Activity{
				Section: text(sections, row), ActivityID: text(cells[0], row), SplitID: text(cells[1], row), First: t,
			})
		}
		a := &out[i]
		// Rows are in order of server_time: the last one named it last.
		a.ActivityName, a.SplitActivityName, a.Last = text(cells[2], row), text(cells[3], row), t
		a.Counts[types[row]]++
	}
	return out, nil
}

func text(c *segment.Column, row int) string { return string(c.Dict[c.Codes[row]]) }
