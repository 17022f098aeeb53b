package consumer

import (
	"slices"
	"time"
)

// leftoverEvery is how often is looked for lanes whose local state is left over.
const leftoverEvery = time.Hour

// leftovers are the lanes whose state lies on this disk, of no use to anybody: they are
// not ours, and what a takeover would find is older than what it reads anew anyway, the
// profiles, and than what tells duplicates. So is what no marker of the profiles goes
// with, of a takeover that came to no end.
func (c *Consumer) leftovers(now time.Time) (out []int32, err error) {
	stored, err := c.db.Stored()
	if err != nil {
		return nil, err
	}
	for _, n := range stored {
		if c.lanes[n] != nil {
			continue
		}
		m, ok, err := c.db.Lane(n).ProfileMarker()
		if err != nil {
			return nil, err
		}
		if !ok || c.profileAge(m, now) > max(c.cfg.ProfileStale, c.cfg.DedupHorizon) {
			out = append(out, n)
		}
	}
	return out, nil
}

// dropLeftovers removes them, at times: the disk would have the state of all lanes that
// this replica ever had, with the attributes of profiles that were deleted since, and
// the group's leader would be told so. Nobody else works on the state of a lane that is
// not ours: takeovers begin in this goroutine, and end before their lane is given up.
func (c *Consumer) dropLeftovers(now time.Time) error {
	if now.Before(c.leftoverAt) {
		return nil
	}
	c.leftoverAt = now.Add(min(leftoverEvery, c.cfg.ProfileStale))
	lanes, err := c.leftovers(now)
	if err == nil && len(lanes) > 0 {
		c.log.Info("the local state of lanes that others have had for long is removed", "lanes", lanes)
		err = c.db.Drop(lanes)
	}
	if err != nil {
		return c.db.Damaged(err)
	}
	c.forgetLanes(lanes)
	return nil
}

// usefulLanes are the lanes whose state lies on this disk and is worth being gone on
// with, for the balancer.
func (c *Consumer) usefulLanes(now time.Time) ([]int32, error) {
	lanes, err := c.db.Lanes()
	if err != nil {
		return nil, err
	}
	old, err := c.leftovers(now)
	return slices.DeleteFunc(lanes, func(n int32) bool { return slices.Contains(old, n) }), err
}
