package api

import (
	"cmp"
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/segment"
)

// summarise adds up the activities of a section over all stored slices with
// events of the activity window before now. Events without an activity id belong
// to no activity.
//
// What slices say is added up by stretches of time first, which are remembered:
// there are tens of thousands of slices in a window, and some hundred stretches.
// What was added up when the time for it is over need not be read again.
func (s *server) summarise(ctx context.Context, account, section string, now time.Time) ([]Activity, error) {
	since := now.Add(-s.cfg.ActivityWindow).UnixMilli()
	refs := s.deps.Catalog.Slices(account, since, math.MaxInt64)
	var mu sync.Mutex
	sum := make(map[string]*activitySum)
	add := func(parts []segment.Activity) {
		for i := range parts {
			if p := &parts[i]; p.Section == section && p.ActivityID != "" {
				if sum[p.ActivityID] == nil {
					sum[p.ActivityID] = &activitySum{splits: make(map[string]*splitSum)}
				}
				sum[p.ActivityID].add(p)
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.ActivityReads)
	for _, st := range stretchesOf(refs, since, now.UnixMilli()) {
		if gctx.Err() != nil {
			break
		}
		if parts, ok := s.summaries.get(st.key); ok && !st.cut {
			mu.Lock()
			add(parts)
			mu.Unlock()
			continue
		}
		left := len(st.refs)
		total := make(activityTotal)
		for i := range st.refs {
			ref := &st.refs[i]
			g.Go(func() error {
				parts, err := s.slice(gctx, ref, since)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				total.add(parts)
				if left--; left == 0 {
					parts := total.parts()
					add(parts)
					if !st.cut {
						s.summaries.put(st.key, parts)
					}
				}
				return nil
			})
		}
	}
	if err := cmp.Or(g.Wait(), ctx.Err()); err != nil {
		return nil, err
	}
	out := make([]Activity, 0, len(sum))
	for id, a := range sum {
		out = append(out, a.activity(id))
	}
	slices.SortFunc(out, func(a, b Activity) int { return latestFirst(&a, &b) })
	return out, nil
}

// stretch are the slices of an account that are summed up together.
type stretch struct {
	refs []catalog.SliceRef
	key  stretchKey
	cut  bool // some of their events are older than the window
}

// stretchKey names the slices of a stretch for ever: segments are immutable and
// their ids are never reused. Another slice makes another stretch.
type stretchKey = xxh3.Uint128

const hourMillis, dayMillis = int64(time.Hour / time.Millisecond), 24 * int64(time.Hour/time.Millisecond)

// stretchesOf divides slices, which are in order of their first events, into
// stretches: days, but hours of the first day of the window, which slices leave, and
// of the last two, which most new ones belong to. Times are in ms.
func stretchesOf(refs []catalog.SliceRef, since, now int64) (out []stretch) {
	begin := func(t int64) int64 {
		if day := t - t%dayMillis; day > since && day < now-2*dayMillis {
			return day
		}
		return t - t%hourMillis
	}
	var at int64
	for i := range refs {
		cut := refs[i].Info.MinTime < since
		if b := begin(refs[i].Info.MinTime); i == 0 || b != at || cut != out[len(out)-1].cut {
			at = b
			out = append(out, stretch{cut: cut})
		}
		st := &out[len(out)-1]
		st.refs = append(st.refs, refs[i])
	}
	var names []byte
	for i := range out {
		names = names[:0]
		for _, r := range out[i].refs {
			names = binary.BigEndian.AppendUint64(append(names, r.SegmentID...), uint64(r.Info.Offset))
		}
		out[i].key = xxh3.Hash128(names)
	}
	return out
}

// activityTotal adds up summaries of slices, whatever their order.
type activityTotal map[[3]string]*segment.Activity // by section, activity, split

func (t activityTotal) add(parts []segment.Activity) {
	for i := range parts {
		p := &parts[i]
		key := [3]string{p.Section, p.ActivityID, p.SplitID}
		a := t[key]
		if a == nil {
			t[key] = p
			continue
		}
		later, same := p.Last > a.Last, p.Last == a.Last
		if later || same && p.ActivityName > a.ActivityName {
			a.ActivityName = p.ActivityName
		}
		if later || same && p.SplitActivityName > a.SplitActivityName {
			a.SplitActivityName = p.SplitActivityName
		}
		a.First, a.Last = min(a.First, p.First), max(a.Last, p.Last)
		for i, n := range p.Counts {
			a.Counts[i] += n
		}
	}
}

func (t activityTotal) parts() []segment.Activity {
	out := make([]segment.Activity, 0, len(t))
	for _, a := range t {
		out = append(out, *a)
	}
	return out
}

// firstBytes of a slice are read for its activities. Mostly they are enough, where
// all keys of a slice are up to 150 kB.
const firstBytes = 8 << 10

// slice summarises one slice from a server_time on. The few slices that the time
// cuts are counted row by row. The caller may change what it gets.
func (s *server) slice(ctx context.Context, ref *catalog.SliceRef, since int64) ([]segment.Activity, error) {
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ref.Info.MinTime < since {
		data, err := s.readSlice(ctx, ref, ref.Info.Length)
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
		data, err := s.readSlice(ctx, ref, n)
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

func (s *server) readSlice(ctx context.Context, ref *catalog.SliceRef, n int64) ([]byte, error) {
	if n < 0 || n > ref.Info.Length {
		return nil, &segment.CorruptError{Object: ref.Object, Offset: ref.Info.Offset, Cause: "the directory gives the keys a length outside of the slice"}
	}
	r, err := s.deps.Store.Open(ctx, ref.Object, ref.Info.Offset, n)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", ref.Object, err)
	}
	defer r.Close()
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("reading %s: %w", ref.Object, err)
	}
	return data, nil
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

// activitySum adds up summaries of slices, whatever their order.
type activitySum struct {
	splitSum
	splits map[string]*splitSum
}

type splitSum struct {
	name        string
	first, last int64
	counts      [event.NumTypes]int64
	seen        bool
}

func (a *activitySum) add(p *segment.Activity) {
	a.splitSum.add(p.ActivityName, p)
	sp := a.splits[p.SplitID]
	if sp == nil {
		sp = new(splitSum)
		a.splits[p.SplitID] = sp
	}
	sp.add(p.SplitActivityName, p)
}

func (s *splitSum) add(name string, p *segment.Activity) {
	// Of names given at the same moment the greater one, so that the order in
	// which slices were read does not show.
	if !s.seen || p.Last > s.last || (p.Last == s.last && name > s.name) {
		s.name = name
	}
	if !s.seen || p.First < s.first {
		s.first = p.First
	}
	if !s.seen || p.Last > s.last {
		s.last = p.Last
	}
	s.seen = true
	for i, n := range p.Counts {
		s.counts[i] += n
	}
}

func (a *activitySum) activity(id string) Activity {
	out := Activity{
		ActivityID: id, Name: a.name, FirstSeen: Time(a.first), LastSeen: Time(a.last), Counts: countsOf(&a.counts),
		Splits: make([]Split, 0, len(a.splits)),
	}
	for _, id := range sortedNames(a.splits) {
		sp := a.splits[id]
		out.Splits = append(out.Splits, Split{SplitID: id, Name: sp.name, FirstSeen: Time(sp.first), LastSeen: Time(sp.last), Counts: countsOf(&sp.counts)})
	}
	return out
}

// summaryCache remembers summaries of stretches within a budget of bytes; the one
// not asked for longest goes first.
type summaryCache struct {
	budget int64

	mu    sync.Mutex
	used  int64
	order *list.List // of *summary, asked for last in front
	byKey map[stretchKey]*list.Element
}

type summary struct {
	key   stretchKey
	parts []segment.Activity
	bytes int64
}

func newSummaryCache(budget int64) *summaryCache {
	return &summaryCache{budget: budget, order: list.New(), byKey: make(map[stretchKey]*list.Element)}
}

// get returns shared memory that must not be changed.
func (c *summaryCache) get(k stretchKey) ([]segment.Activity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byKey[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*summary).parts, true
}

func (c *summaryCache) put(k stretchKey, parts []segment.Activity) {
	e := &summary{key: k, parts: parts, bytes: 256}
	for i := range parts {
		p := &parts[i]
		e.bytes += 160 + int64(len(p.Section)+len(p.ActivityID)+len(p.SplitID)+len(p.ActivityName)+len(p.SplitActivityName))
	}
	if e.bytes > c.budget/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[k]; ok {
		return
	}
	c.byKey[k] = c.order.PushFront(e)
	c.used += e.bytes
	for c.used > c.budget {
		last := c.order.Back()
		old := last.Value.(*summary)
		c.order.Remove(last)
		delete(c.byKey, old.key)
		c.used -= old.bytes
	}
}
