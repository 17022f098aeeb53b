package api

import (
	"lockstitch/state/event"
	"lockstitch/state/segment"
)

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
	if newer(p.ActivityName, p.Last, a.ActivityName, a.Last) {
		a.ActivityName = p.ActivityName
	}
	if newer(p.SplitActivityName, p.Last, a.SplitActivityName, a.Last) {
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

// newer tells whether a name last given at a time (ms) takes the place of another one: of
// names given at the same moment the greater one, so that the order in which slices were
// read does not show.
func newer(name string, at int64, than string, then int64) bool {
	return at > then || at == then && name > than
}

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
	if !s.seen || newer(name, p.Last, s.name, s.last) {
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
