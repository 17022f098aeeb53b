package consumer

import (
	"maps"
	"slices"
)

// held is what this replica has from the group: by lane, the topics of which it has
// the partition. A lane runs while it is whole. It may come in parts: a topic that
// was not there as the group met, or another program's assignment. Only the group's
// callbacks use it, one at a time.
type held map[int32]map[string]bool

// add takes in partitions. Of their lanes it lists those that are whole now, which
// have a partition of so many topics, and the others.
func (h held) add(m map[string][]int32, topics int) (whole, part []int32) {
	for _, n := range lanesOf(m) {
		if h[n] == nil {
			h[n] = make(map[string]bool)
		}
		for t, ps := range m {
			if slices.Contains(ps, n) {
				h[n][t] = true
			}
		}
		if len(h[n]) == topics {
			whole = append(whole, n)
		} else {
			part = append(part, n)
		}
	}
	return whole, part
}

// remove gives partitions away and lists their lanes, none of which is whole any
// more.
func (h held) remove(m map[string][]int32) []int32 {
	lanes := lanesOf(m)
	for _, n := range lanes {
		for t, ps := range m {
			if slices.Contains(ps, n) {
				delete(h[n], t)
			}
		}
		if len(h[n]) == 0 {
			delete(h, n)
		}
	}
	return lanes
}

// lanesOf lists the lanes of partitions, in order.
func lanesOf(m map[string][]int32) []int32 {
	lanes := make(map[int32]bool)
	for _, ps := range m {
		for _, n := range ps {
			lanes[n] = true
		}
	}
	return slices.Sorted(maps.Keys(lanes))
}
