package report

import (
	"bytes"
	"cmp"
	"slices"

	"lockstitch/state/segment"
)

// Later is the position that is in every partition the later one of two. A
// partition that is in neither counts as 0 and stays away. The result is in
// order of topic id and partition; the arguments are not changed.
func Later(a, b []End) []End {
	at := make(map[segment.Partition]int, len(a)+len(b))
	out := make([]End, 0, len(a)+len(b))
	for _, list := range [][]End{b, a} { // names of topics rather those of b
		for _, e := range list {
			k := e.At()
			i, seen := at[k]
			if !seen {
				at[k] = len(out)
				out = append(out, e)
				continue
			}
			out[i].Offset = max(out[i].Offset, e.Offset)
			out[i].Topic = cmp.Or(out[i].Topic, e.Topic) // a floor and a cursor have no names
		}
	}
	slices.SortFunc(out, func(x, y End) int {
		return cmp.Or(bytes.Compare(x.TopicID[:], y.TopicID[:]), cmp.Compare(x.Partition, y.Partition))
	})
	return out
}

// Between are the stretches of the input from one position to another, those
// that are not empty: of each partition that the later position names.
func Between(after, end []End) []segment.OffsetRange {
	from := make(map[segment.Partition]int64, len(after))
	for _, e := range after {
		from[e.At()] = e.Offset
	}
	var out []segment.OffsetRange
	for _, e := range end {
		if first := from[e.At()]; first < e.Offset {
			out = append(out, segment.Stream{Topic: e.Topic, ID: e.TopicID}.Range(e.Partition, first, e.Offset))
		}
	}
	return out
}

// Through is the position that the finished report's file ends at, which the
// file that follows begins after: nowhere below Question.After, also in
// partitions that the barrier does not name.
func (r *Report) Through() []End {
	through := r.Request.Question.Barrier
	if r.Result != nil && r.Result.Through != nil {
		through = r.Result.Through
	}
	return Later(r.Request.Question.After, through)
}
