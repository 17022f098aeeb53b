package reference

import (
	"cmp"
	"slices"
)

// Partition names a partition of a topic.
type Partition struct {
	Topic     string
	Partition int32
}

// FirstEnds are the ends of an event partition and of its profile partition as
// they were recorded before the first event was processed (contract 2.3).
type FirstEnds struct{ EventEnd, ProfileEnd int64 }

// Input are the dumps of the topics, each partition in order of its offsets.
type Input struct {
	Events      []Record
	Profiles    []Record
	Definitions []Record
	FirstEnds   map[Partition]FirstEnds
	Horizon     int64 // of the deduplication, ms
}

// row is a kept event with the version that decorates it.
type row struct {
	rec     Record
	logTime int64 // of the partition, at the row
	ev      *event
	snap    *snapshot
}

// Counts is what became of the records of one event partition.
type Counts struct {
	Kept, Duplicates, Poison int64
	LogTime                  int64
}

// Answer is what must be stored and exported.
type Answer struct {
	rows        []row
	definitions []Record
	Counts      map[Partition]Counts
	Dead        []Record // events and profiles that must be dead letters
	Backlog     int      // rows decorated by the rule of the first deployment
	Decorated   int
}

type version struct {
	rec  Record
	snap *snapshot
}

// Compute reads the dumps by the contract's sections 1 and 2.
func Compute(in Input) *Answer {
	a := &Answer{definitions: in.Definitions, Counts: make(map[Partition]Counts)}
	type profileOf struct {
		partition int32
		id        string
	}
	versions := make(map[profileOf][]version)
	for _, r := range in.Profiles {
		s, err := decodeProfile(r)
		if err != nil {
			a.Dead = append(a.Dead, r)
			s = nil
		}
		k := profileOf{r.Partition, string(r.Key)}
		versions[k] = append(versions[k], version{r, s})
	}

	type identity struct {
		Partition
		account, kind, correlation string
	}
	kept := make(map[identity]int64) // → log time of the newest kept event
	for _, r := range in.Events {
		p := Partition{r.Topic, r.Partition}
		c := a.Counts[p]
		c.LogTime = max(c.LogTime, r.Time)
		ev, err := decodeEvent(r)
		if err != nil {
			c.Poison++
			a.Counts[p] = c
			a.Dead = append(a.Dead, r)
			continue
		}
		id := identity{p, ev.account, ev.kind, ev.correlation}
		if before, ok := kept[id]; ok && c.LogTime-before <= in.Horizon {
			c.Duplicates++
			a.Counts[p] = c
			continue
		}
		kept[id] = c.LogTime
		c.Kept++
		a.Counts[p] = c
		snap, backlog := asOf(versions[profileOf{r.Partition, ev.profile}], r, in.FirstEnds[p])
		if snap != nil && snap.account != ev.account {
			snap = nil
		}
		if snap != nil {
			a.Decorated++
			if backlog {
				a.Backlog++
			}
		}
		a.rows = append(a.rows, row{r, c.LogTime, ev, snap})
	}
	slices.SortStableFunc(a.rows, func(x, y row) int {
		return cmp.Or(cmp.Compare(x.ev.serverTime, y.ev.serverTime), cmp.Compare(x.rec.Topic, y.rec.Topic),
			cmp.Compare(x.rec.Partition, y.rec.Partition), cmp.Compare(x.rec.Offset, y.rec.Offset))
	})
	return a
}

// asOf is contract 2.3: the newest version whose Kafka time is not later than
// the event's; for an event of the backlog without one, the oldest version below
// the profile end recorded at first deployment.
func asOf(versions []version, r Record, first FirstEnds) (_ *snapshot, backlog bool) {
	for _, v := range slices.Backward(versions) {
		if v.rec.Time <= r.Time {
			return v.snap, false
		}
	}
	if r.Offset < first.EventEnd {
		for _, v := range versions {
			if v.rec.Offset < first.ProfileEnd {
				return v.snap, true
			}
		}
	}
	return nil, false
}
