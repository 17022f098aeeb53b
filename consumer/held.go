package consumer

import (
	"maps"
	"slices"
)

// held is what this replica has from the group: by lane, the input topics of which
// it has the partition. A lane runs while it is whole. It may come in parts: a topic
// that was not there as the group met, or another program's assignment. Partitions
// of further topics, which replicas with other settings read, do not matter. Only
// the group's callbacks use it, one at a time.
type held struct {
	inputs []string
	lanes  map[int32]map[string]bool
}

func newHeld(inputs []string) *held {
	return &held{inputs: inputs, lanes: make(map[int32]map[string]bool)}
}

// add takes in partitions. Of their lanes it lists those that are whole now and the
// others.
func (h *held) add(m map[string][]int32) (whole, part []int32) {
	for _, n := range h.lanesOf(m) {
		if h.lanes[n] == nil {
			h.lanes[n] = make(map[string]bool)
		}
		for _, t := range h.inputs {
			if slices.Contains(m[t], n) {
				h.lanes[n][t] = true
			}
		}
		if len(h.lanes[n]) == len(h.inputs) {
			whole = append(whole, n)
		} else {
			part = append(part, n)
		}
	}
	return whole, part
}

// remove gives partitions away and lists their lanes, none of which is whole any
// more.
func (h *held) remove(m map[string][]int32) []int32 {
	lanes := h.lanesOf(m)
	for _, n := range lanes {
		for _, t := range h.inputs {
			if slices.Contains(m[t], n) {
				delete(h.lanes[n], t)
			}
		}
		if len(h.lanes[n]) == 0 {
			delete(h.lanes, n)
		}
	}
	return lanes
}

// lanesOf lists the lanes of partitions of input topics, in order.
func (h *held) lanesOf(m map[string][]int32) []int32 {
	lanes := make(map[int32]bool)
	for _, t := range h.inputs {
		for _, n := range m[t] {
			lanes[n] = true
		}
	}
	return slices.Sorted(maps.Keys(lanes))
}
