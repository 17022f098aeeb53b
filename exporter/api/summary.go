package api

import (
	"cmp"
	"container/list"
	"context"
	"encoding/binary"
	"errors"
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

// stretch are the slices of an account that are summed up together.
type stretch struct {
	refs []catalog.SliceRef
	key  stretchKey
	cut  bool // some of their events are older than the window
}

// stretchKey names the slices of a stretch for ever, and the section: segments are
// immutable and their ids are never reused. Another slice makes another stretch.
type stretchKey = xxh3.Uint128

const hourMillis, dayMillis = int64(time.Hour / time.Millisecond), 24 * int64(time.Hour/time.Millisecond)

// stretchesOf divides slices, which are in order of their first events, into
// stretches: days, but hours of the first day of the window, which slices leave, and
// of the last two, which most new ones belong to. Times are in ms.
func stretchesOf(refs []catalog.SliceRef, section string, since, now int64) (out []stretch) {
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
		names = append(names[:0], section...)
		for _, r := range out[i].refs {
			names = binary.BigEndian.AppendUint64(append(names, r.SegmentID...), uint64(r.Info.Offset))
		}
		out[i].key = xxh3.Hash128(names)
	}
	return out
}

// What there is in memory of each, beside its texts; what comes of it included
// (TestMemoryOfActivitiesIsCounted).
const (
	totalBytes    = 440 // of a split in an activityTotal
	activityBytes = 560 // of an activity in activitySums
	splitBytes    = 300 // of a split in one of them
)

// activityTotal adds up what slices of a stretch say, whatever their order, to be
// remembered. Where that does not fit it is given up.
type activityTotal struct {
	mem   *share
	bytes int64                           // taken of it
	sums  map[[2]string]*segment.Activity // by activity, split; nil: given up
}

func newActivityTotal(mem *share) *activityTotal {
	return &activityTotal{mem: mem, sums: make(map[[2]string]*segment.Activity)}
}

func (t *activityTotal) giveUp() {
	_ = t.mem.take(-t.bytes) // gives back, which is always possible
	t.bytes, t.sums = 0, nil
}

func (t *activityTotal) add(parts []segment.Activity) {
	for i := range parts {
		if t.sums == nil {
			return
		}
		t.addPart(&parts[i])
	}
}

func (t *activityTotal) addPart(p *segment.Activity) {
	key := [2]string{p.ActivityID, p.SplitID}
	a := t.sums[key]
	if a == nil {
		if t.take(totalBytes + int64(len(p.ActivityID)+len(p.SplitID)+len(p.ActivityName)+len(p.SplitActivityName))) {
			own := *p // not a part of all that the slice says
			t.sums[key] = &own
		}
		return
	}
	names := len(a.ActivityName) + len(a.SplitActivityName)
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
	t.take(int64(len(a.ActivityName) + len(a.SplitActivityName) - names))
}

func (t *activityTotal) take(n int64) bool {
	if t.mem.take(n) != nil {
		t.giveUp()
		return false
	}
	t.bytes += n
	return true
}

// parts is the total, unless it was given up.
func (t *activityTotal) parts() ([]segment.Activity, bool) {
	out := make([]segment.Activity, 0, len(t.sums))
	for _, a := range t.sums {
		out = append(out, *a)
	}
	return out, t.sums != nil
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

// activitySums adds up what stretches say of the activities that are asked for,
// whatever their order.
type activitySums struct {
	q    activityQuestion
	mem  *share
	sums map[string]*activitySum // by activity
}

func (s *activitySums) add(parts []segment.Activity) error {
	for i := range parts {
		p := &parts[i]
		if s.q.id != "" && p.ActivityID != s.q.id {
			continue
		}
		n, a := int64(0), s.sums[p.ActivityID]
		if a == nil {
			n += activityBytes + int64(len(p.ActivityID))
		}
		if a == nil || a.splits[p.SplitID] == nil {
			n += splitBytes + int64(len(p.SplitID))
		}
		if err := s.mem.take(n); err != nil {
			return err
		}
		if a == nil {
			a = &activitySum{splits: make(map[string]*splitSum)}
			s.sums[p.ActivityID] = a
		}
		if err := s.mem.take(a.add(p)); err != nil {
			return err
		}
	}
	return nil
}

// activitySum is what there is of an activity.
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

// add says by how many bytes names have grown.
func (a *activitySum) add(p *segment.Activity) (grown int64) {
	grown = a.splitSum.add(p.ActivityName, p)
	sp := a.splits[p.SplitID]
	if sp == nil {
		sp = new(splitSum)
		a.splits[p.SplitID] = sp
	}
	return grown + sp.add(p.SplitActivityName, p)
}

func (s *splitSum) add(name string, p *segment.Activity) (grown int64) {
	// Of names given at the same moment the greater one, so that the order in
	// which slices were read does not show.
	if !s.seen || p.Last > s.last || (p.Last == s.last && name > s.name) {
		grown = int64(len(name) - len(s.name))
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
	return grown
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
	budget int64   // of what is remembered
	making *memory // what is to be remembered while it is added up

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
	return &summaryCache{budget: budget - budget/4, making: newMemory(budget / 4), order: list.New(), byKey: make(map[stretchKey]*list.Element)}
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
	if e.bytes > c.budget/3 {
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
