package api

import (
	"encoding/binary"
	"time"

	"github.com/zeebo/xxh3"

	"lockstitch/state/catalog"
)

// stretch are the slices of an account that are summed up together.
type stretch struct {
	refs []catalog.SliceRef
	key  stretchKey
	cut  bool // some of their events are older than the window
}

// stretchKey names the slices of a stretch for ever, and the section: segments are
// immutable and their ids are never reused. Another slice makes another stretch.
type stretchKey = xxh3.Uint128

const hourMillis, dayMillis = int64(time.Hour / time.Millisecond), 24 * int64(time.Hour/time.Millisecond)

// stretchesOf divides slices, which are in order of their first events, into
// stretches: days, but hours of the first day of the window, which slices leave, and
// of the last two, which most new ones belong to. Times are in ms.
func stretchesOf(refs []catalog.SliceRef, section string, since, now int64) (out []stretch) {
	begin := func(t int64) int64 {
		if day := t - t%dayMillis; day > since && day < now-2*dayMillis {
			return day
		}
		return t - t%hourMillis
	}
	var at int64
	for i := range refs {
		cut := refs[i].Info.MinTime < since
		if b := begin(refs[i].Info.MinTime); i == 0 || b != at || cut != out[len(out)-1].cut {
			at = b
			out = append(out, stretch{cut: cut})
		}
		st := &out[len(out)-1]
		st.refs = append(st.refs, refs[i])
	}
	var names []byte
	for i := range out {
		names = append(names[:0], section...)
		for _, r := range out[i].refs {
			names = binary.BigEndian.AppendUint64(append(names, r.SegmentID...), uint64(r.Info.Offset))
		}
		out[i].key = xxh3.Hash128(names)
	}
	return out
}
