package consumer

import (
	"context"

	"lockstitch/state/local"
	"lockstitch/state/segment"
)

// dedup answers whether an event repeats an earlier kept one (contract 2.1).
// The answer is a function of the log: an entry speaks only about records after
// its own offset, and what was kept since the last cut stands beside the
// committed entries until its cut has committed, so that a replay after a crash
// meets the same entries again.
type dedup struct {
	lane    *local.Lane
	horizon int64 // ms
	pending map[local.DedupKey]local.DedupEntry
	blooms  map[int32]*bloom // by generation: keys that Pebble may hold
	memory  *bloomMemory     // of the blooms; release gives it back
	lookups int              // in Pebble, since the last look
}

// pendingEntryBytes is what an entry of pending costs, for the memory budget.
const pendingEntryBytes = 96

func newDedup(lane *local.Lane, horizon int64, memory *bloomMemory) *dedup {
	return &dedup{lane: lane, horizon: horizon, pending: make(map[local.DedupKey]local.DedupEntry), blooms: make(map[int32]*bloom), memory: memory}
}

// release gives back the memory of the blooms.
func (d *dedup) release() {
	for _, b := range d.blooms {
		b.release()
	}
}

// duplicate says whether the event at offset, with the log time there, repeats
// a kept one.
func (d *dedup) duplicate(k local.DedupKey, offset, logTime int64) (bool, error) {
	if e, ok := d.pending[k]; ok && e.Offset < offset {
		return logTime-e.LogTime <= d.horizon, nil
	}
	gen := local.Generation(logTime, d.horizon)
	for g := gen; g >= gen-1 && g >= 0; g-- {
		b := d.blooms[g]
		if b == nil || !b.has(k) {
			continue
		}
		d.lookups++
		e, ok, err := d.lane.LookupDedup(g, k)
		if err != nil {
			return false, err
		}
		if ok && e.Offset < offset {
			return logTime-e.LogTime <= d.horizon, nil
		}
	}
	return false, nil
}

// keep notes a kept event.
func (d *dedup) keep(k local.DedupKey, offset, logTime int64) {
	d.pending[k] = local.DedupEntry{Key: k, Offset: offset, LogTime: logTime}
}

func (d *dedup) bytes() int64 { return int64(len(d.pending)) * pendingEntryBytes }

// commit makes the pending entries the committed ones, once their cut has
// committed, and forgets generations that no event can ask for any more; oldest
// is the least log time (ms) that a stream of the lane goes on from.
func (d *dedup) commit(markers map[segment.TopicID]local.DedupMarker, oldest int64) error {
	entries := make([]local.DedupEntry, 0, len(d.pending))
	for _, e := range d.pending {
		entries = append(entries, e)
	}
	if err := d.add(entries, markers); err != nil {
		return err
	}
	if len(d.pending) > 1<<16 {
		d.pending = make(map[local.DedupKey]local.DedupEntry)
	} else {
		clear(d.pending)
	}
	last := local.Generation(oldest, d.horizon) - 1
	drop := false
	for g, b := range d.blooms {
		if g < last {
			b.release()
			delete(d.blooms, g)
			drop = true
		}
	}
	if drop {
		return d.lane.DropDedupBefore(last)
	}
	return nil
}

// add writes committed entries.
func (d *dedup) add(entries []local.DedupEntry, markers map[segment.TopicID]local.DedupMarker) error {
	if err := d.lane.WriteDedup(entries, d.horizon, markers); err != nil {
		return err
	}
	for i := range entries {
		d.bloom(local.Generation(entries[i].LogTime, d.horizon)).add(entries[i].Key)
	}
	return nil
}

// take finishes a load of committed entries and answers how many there are.
func (d *dedup) take(ctx context.Context, load *local.DedupLoad) (n int, err error) {
	for gen, keys := range load.Generations() {
		d.bloom(gen).grow(keys)
		n += keys
	}
	return n, load.Finish(ctx, func(gen int32, k local.DedupKey) { d.bloom(gen).add(k) })
}

func (d *dedup) bloom(gen int32) *bloom {
	b := d.blooms[gen]
	if b == nil {
		b = &bloom{memory: d.memory}
		d.blooms[gen] = b
	}
	return b
}

// load reads the keys of the generations that still count into the filters: for
// each stream's log time (ms) its own and the one before. Where the filters have no
// room it does not go on: it would read billions of keys for nothing.
func (d *dedup) load(logTimes []int64) error {
	for _, t := range logTimes {
		gen := local.Generation(t, d.horizon)
		for g := gen - 1; g <= gen; g++ {
			if d.blooms[g] != nil {
				continue // for another stream
			}
			if err := d.lane.ScanDedup(g, d.bloom(g).add); err != nil {
				return err
			}
		}
	}
	return nil
}
