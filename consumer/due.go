package consumer

import (
	"time"

	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// bufferedBytes is what the lanes hold in memory until the next cut. What one without anything to
// be cut keeps for later is not of that: no cut would make room.
func (c *Consumer) bufferedBytes() int64 {
	var n int64
	for _, l := range c.lanes {
		if l.dirty {
			n += l.bytes()
		}
	}
	return n
}

// deadBytes is what of that are dead letters.
func (c *Consumer) deadBytes() int64 {
	var n int64
	for _, l := range c.lanes {
		n += l.deadBytes
	}
	return n
}

// full says that nothing more may be processed until the next cut.
func (c *Consumer) full() bool {
	for _, l := range c.lanes {
		if l.full() {
			return true
		}
	}
	return c.bufferedBytes() >= c.bufferLimit() || c.deadBytes() >= deadPerCut
}

// deadPerCut is how many bytes of dead letters make a cut due: their topic may have
// one partition and a quota, and a transaction must end within its timeout.
const deadPerCut = 4 << 20

// bufferLimit is the part of the memory budget for what waits for a cut;
// sealing it takes about as much again.
func (c *Consumer) bufferLimit() int64 { return c.cfg.MemoryBytes / 4 }

// room is how many bytes the lanes may add in one turn together. Not ever less as the buffers
// fill up: one lane alone would come to its share of the rest, of the rest of that, and so on.
func (c *Consumer) room() int64 {
	left := c.bufferLimit() - c.bufferedBytes()
	if left <= 0 {
		return 0
	}
	return max(left, c.bufferLimit()/8)
}

// cutDue says whether it is time for a cut: the buffers are full, something has
// waited for the flush interval, a lane that was taken over must be announced, or a
// request waits for what has been processed.
func (c *Consumer) cutDue(now time.Time) bool {
	if c.full() {
		return true
	}
	due, behind := false, false
	for _, l := range c.lanes {
		if l.stage != ready && l.stage != catchingUp || !l.dirty {
			continue
		}
		if l.unannounced() || now.Sub(l.dirtyFrom) >= c.cfg.FlushInterval || l.merged != nil && now.Sub(l.dirtyFrom) >= mergedPatience {
			return true
		}
		for _, in := range l.inputs {
			if b := c.barrier(in); in.committed.Next < b {
				if in.pos.Next >= b {
					due = true
				} else {
					behind = true
				}
			}
		}
	}
	// While another lane of ours is still on its way to the barrier, one cut
	// for both is better than two.
	return due && (!behind || now.Sub(c.lastCut) > barrierPatience)
}

// mergedPatience is how long a merged segment waits for a cut: with a long flush
// interval a day has too few of them for all that there is to be merged.
const mergedPatience = time.Minute

// barrierPatience is how long a lane that has reached a barrier waits for
// others of the replica that have not.
const barrierPatience = 100 * time.Millisecond

// barrier is the greatest end below which a pending request needs in to be
// committed.
func (c *Consumer) barrier(in *input) int64 {
	return c.barriers[segment.Partition{Topic: in.stream.ID, N: in.partition}]
}

// isAwaited tells whether a pending request waits for what a lane has not processed.
func (c *Consumer) isAwaited() bool {
	for _, l := range c.lanes {
		for _, in := range l.inputs {
			if in.pos.Next < c.barrier(in) {
				return true
			}
		}
	}
	return false
}

// readBarriers takes the ends of the pending requests, of each once: there may be many, and each has
// one for every partition. Those of requests that are over go together, when these are more than one
// for each 16 that are pending. Until then they make one cut of a partition too many at the most, or
// let one for the others wait for as long as their own would have.
func (c *Consumer) readBarriers() {
	pending := c.deps.Reports.Pending()
	c.addBarriers(pending)
	if over := len(c.awaited) - len(pending); 16*over > len(pending) {
		clear(c.awaited)
		clear(c.barriers)
		c.addBarriers(pending)
	}
}

// addBarriers takes in those that are new.
func (c *Consumer) addBarriers(pending []*report.Report) {
	for _, r := range pending {
		if c.awaited[r.Request.ID] {
			continue
		}
		c.awaited[r.Request.ID] = true
		for _, e := range r.Request.Question.Barrier {
			k := e.At()
			c.barriers[k] = max(c.barriers[k], e.Offset)
		}
	}
}
