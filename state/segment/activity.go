package segment

import (
	"encoding/binary"

	"lockstitch/state/event"
)

// Activity sums up the rows of a slice that belong to one split of one
// activity of one section.
type Activity struct {
	Section, ActivityID, SplitID string
	// The names that the latest row by server_time has.
	ActivityName, SplitActivityName string
	First, Last                     int64 // server_time, ms
	Counts                          [event.NumTypes]int64
}

// activities encodes the summary, in the order of first appearance.
func (e *encoder) activities() []byte {
	type key struct{ section, activity, split uint32 }
	type sum struct {
		first, last int // rows
		counts      [event.NumTypes]int64
	}
	cell := func(c event.Cell, i int) uint32 { return e.codes[columnCells+int(c)][i] }
	index := map[key]int{}
	var sums []sum
	var lastKey key
	at := -1
	for i, r := range e.rows {
		k := key{e.codes[columnSection][i], cell(event.ActivityID, i), cell(event.SplitID, i)}
		if at < 0 || k != lastKey {
			found, ok := index[k]
			if !ok {
				found = len(sums)
				index[k] = found
				sums = append(sums, sum{first: i})
			}
			at, lastKey = found, k
		}
		sums[at].last = i
		if r.typ < event.NumTypes {
			sums[at].counts[r.typ]++
		}
	}

	text := func(column, i int) []byte { return e.text.bytes(e.dicts[column][e.codes[column][i]]) }
	start := e.rows[0].server
	raw := binary.AppendUvarint(e.raw[:0], uint64(len(sums)))
	for _, s := range sums {
		raw = appendString(raw, text(columnSection, s.first))
		raw = appendString(raw, text(columnCells+int(event.ActivityID), s.first))
		raw = appendString(raw, text(columnCells+int(event.SplitID), s.first))
		raw = appendString(raw, text(columnCells+int(event.ActivityName), s.last))
		raw = appendString(raw, text(columnCells+int(event.SplitActivityName), s.last))
		raw = binary.AppendUvarint(raw, uint64(e.rows[s.first].server-start))
		raw = binary.AppendUvarint(raw, uint64(e.rows[s.last].server-e.rows[s.first].server))
		for _, n := range s.counts {
			raw = binary.AppendUvarint(raw, uint64(n))
		}
	}
	e.raw = raw
	return raw
}

func takeActivities(p []byte, info *SliceInfo) ([]Activity, error) {
	n, p, err := takeUvarint(p)
	if err != nil {
		return nil, err
	}
	if n > uint64(info.Rows) || n > uint64(len(p)) {
		return nil, errNumber
	}
	out := make([]Activity, n)
	total := int64(0)
	for i := range out {
		a := &out[i]
		for _, to := range [...]*string{&a.Section, &a.ActivityID, &a.SplitID, &a.ActivityName, &a.SplitActivityName} {
			var s []byte
			if s, p, err = takeString(p); err != nil {
				return nil, err
			}
			*to = string(s)
		}
		var since, span uint64
		if since, p, err = takeUvarint(p); err != nil {
			return nil, err
		}
		if span, p, err = takeUvarint(p); err != nil {
			return nil, err
		}
		if since > maxTime || span > maxTime || info.MinTime+int64(since)+int64(span) > info.MaxTime {
			return nil, errNumber
		}
		a.First = info.MinTime + int64(since)
		a.Last = a.First + int64(span)
		for t := range a.Counts {
			var c uint64
			if c, p, err = takeUvarint(p); err != nil {
				return nil, err
			}
			if c > uint64(info.Rows) {
				return nil, errNumber
			}
			a.Counts[t] = int64(c)
			total += int64(c)
		}
	}
	if total != int64(info.Rows) {
		return nil, errNumber
	}
	if len(p) != 0 {
		return nil, errLong
	}
	return out, nil
}
