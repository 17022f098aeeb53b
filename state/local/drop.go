package local

import (
	"encoding/binary"
	"slices"
)

// laneKinds are all kinds of keys.
var laneKinds = []byte{kindProfile, kindProfileMarker, kindDedup, kindDedupMarker}

// Stored lists the lanes of which anything lies in the database, whether a marker
// claims it or not, in order.
func (db *DB) Stored() ([]int32, error) {
	it, err := db.p.NewIter(nil)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []int32
	for _, kind := range laneKinds {
		for ok := it.SeekGE([]byte{kind}); ok && it.Key()[0] == kind && len(it.Key()) >= 5; {
			prefix := slices.Clone(it.Key()[:5])
			out = append(out, int32(binary.BigEndian.Uint32(prefix[1:])))
			ok = it.SeekGE(after(prefix))
		}
	}
	slices.Sort(out)
	return slices.Compact(out), it.Error()
}

// Drop removes all that lies in the database of some lanes, of each lane atomically.
// Nothing of it can be read when Drop returns; the disk has the room back later, when
// the tables are compacted that have it beside what stays.
func (db *DB) Drop(lanes []int32) error {
	for _, n := range lanes {
		if err := db.Lane(n).reset(laneKinds...); err != nil {
			return err
		}
	}
	db.background.Go(func() { db.compact(lanes) })
	return nil
}

// compact rewrites the tables that overlap with the lanes. A database that is not
// written to would do so never.
func (db *DB) compact(lanes []int32) {
	for _, n := range lanes {
		for _, kind := range []byte{kindProfile, kindDedup} {
			prefix := db.Lane(n).key(kind)
			if err := db.p.Compact(db.closing, prefix, after(prefix), false); err != nil {
				if db.closing.Err() == nil {
					db.log.Warn("compacting what was dropped", "lane", n, "err", db.Damaged(err))
				}
				return
			}
		}
	}
}
