package consumer

import (
	"math"
	"slices"
	"sort"

	"lockstitch/state/local"
)

// history is what is in memory of the versions of a profile. It is small however many
// there are: a profile that a producer writes in a loop has a million in an hour.
type history struct {
	newest []local.Version // the newest ones, newest first
	all    bool            // there are no others
	fences []fence         // among the others; none has a lower low than those behind it
	stride int             // how many versions lie between two fences
}

// fence says that no version at or above the offset is of a Kafka time (ms) below low:
// who asks as of an earlier time begins below it. Times may go back from one version to
// the next, so that nothing but a look at each of them tells.
type fence struct{ offset, low int64 }

const (
	newestKept  = 16   // versions
	fenceStride = 256  // at first
	fencesKept  = 1024 // more are thinned out, and put further apart

	versionOverhead = 120 // what a version in memory costs beside its snapshot
	fenceBytes      = 16
)

func (h *history) bytes(id string) int64 {
	n := int64(len(id)) + versionOverhead + int64(cap(h.fences))*fenceBytes
	for i := range h.newest {
		n += int64(len(h.newest[i].Snapshot)) + versionOverhead
	}
	return n
}

// follows says whether a version at the offset comes next: those that are read again
// may be here already.
func (h *history) follows(offset int64) bool {
	if len(h.newest) == 0 {
		return h.all
	}
	return offset > h.newest[0].Offset
}

// add takes a new version. As on disk, what stands before one that is at most of the
// floor is dropped, and what has no room in so many bytes of snapshots.
func (h *history) add(v local.Version, floor, bytes int64) {
	v.Snapshot = slices.Clone(v.Snapshot) // it may have spare memory
	h.newest = slices.Insert(h.newest, 0, v)
	keep := 0
	for keep < min(len(h.newest), newestKept) && (keep == 0 || h.newest[keep-1].Time > floor) {
		if bytes -= int64(len(h.newest[keep].Snapshot)); bytes < 0 {
			break
		}
		keep++
	}
	if keep < len(h.newest) {
		h.newest = slices.Delete(h.newest, keep, len(h.newest))
		h.all = false
	}
	for i := 0; i < len(h.fences) && h.fences[i].low > v.Time; i++ {
		h.fences[i].low = v.Time
	}
	n := len(h.fences)
	for n > 0 && h.fences[n-1].low <= floor { // nobody asks as of earlier
		n--
	}
	if n < len(h.fences) && n < fencesKept/4 {
		h.stride = max(fenceStride, h.stride/2)
	}
	h.fences = h.fences[:n]
}

// walk begins to look for a version of at most a Kafka time.
func (h *history) walk(kafkaTime int64) *walk {
	w := &walk{h: h, from: math.MaxInt64, low: math.MaxInt64}
	for i := range h.newest {
		w.from, w.low = h.newest[i].Offset, min(w.low, h.newest[i].Time)
	}
	w.at = sort.Search(len(h.fences), func(i int) bool { return h.fences[i].low <= kafkaTime })
	if w.at > 0 {
		w.from, w.low = h.fences[w.at-1].offset, h.fences[w.at-1].low
	}
	return w
}

// walk is a look at the versions below an offset, which leaves fences on its way.
type walk struct {
	h      *history
	from   int64 // the offset
	low    int64 // the earliest time of those at or above where it has come
	at     int   // where its fences are to stand
	passed int   // versions since the last fence
	fences []fence
}

// pass notes a version that is of a later time.
func (w *walk) pass(offset, time int64) {
	w.low = min(w.low, time)
	if w.passed++; w.passed < w.h.stride {
		return
	}
	w.passed = 0
	if w.fences = append(w.fences, fence{offset, w.low}); len(w.fences) == fencesKept {
		w.fences = w.h.thin(w.fences)
	}
}

func (w *walk) end() {
	w.h.fences = slices.Insert(w.h.fences, w.at, w.fences...)
	for len(w.h.fences) > fencesKept {
		w.h.fences = w.h.thin(w.h.fences)
	}
}

// thin leaves every second fence.
func (h *history) thin(fences []fence) []fence {
	h.stride *= 2
	for i := range len(fences) / 2 {
		fences[i] = fences[2*i+1]
	}
	return fences[:len(fences)/2]
}
