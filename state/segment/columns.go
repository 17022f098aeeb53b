package segment

import (
	"math/bits"

	"lockstitch/state/event"
)

// Column is a dictionary column: row i has the text Dict[Codes[i]], as it came
// with the event, not escaped. Entries of Dict are distinct and stand in the
// order in which rows first have them. Columns that depend on one another often
// share the same Codes slice.
type Column struct {
	Dict  [][]byte
	Codes []uint32
}

// varints reads the row count of zigzag or plain deltas.
func (s *Slice) varints(i int, each func(row int, v uint64) bool) error {
	p, err := s.unpack(i)
	if err != nil {
		return err
	}
	for row := range s.info.Rows {
		var v uint64
		if v, p, err = takeUvarint(p); err != nil {
			return s.damaged(i, err)
		}
		if !each(row, v) {
			return s.damaged(i, errNumber)
		}
	}
	if len(p) != 0 {
		return s.damaged(i, errLong)
	}
	return nil
}

// ServerTimes are the server_time of the rows in ms, ascending.
func (s *Slice) ServerTimes() ([]int64, error) {
	return s.serverTimes.get(func() ([]int64, error) {
		out := make([]int64, s.info.Rows)
		time := s.info.MinTime
		err := s.varints(blockServerTimes, func(row int, v uint64) bool {
			if v > uint64(s.info.MaxTime-time) {
				return false
			}
			time += int64(v)
			out[row] = time
			return true
		})
		if err == nil && (out[0] != s.info.MinTime || time != s.info.MaxTime) {
			err = s.damaged(blockServerTimes, errNumber)
		}
		return out, err
	})
}

// EventTimes are the event_time of the rows in ms: any value.
func (s *Slice) EventTimes() ([]int64, error) {
	return s.eventTimes.get(func() ([]int64, error) {
		if s.only > 0 {
			return nil, errNotThere
		}
		server, err := s.ServerTimes()
		if err != nil {
			return nil, err
		}
		out := make([]int64, s.info.Rows)
		err = s.varints(blockEventTimes, func(row int, v uint64) bool {
			out[row] = server[row] + unzigzag(v) // wraps around as it did when written
			return true
		})
		return out, err
	})
}

// Offsets are the Kafka offsets of the rows.
func (s *Slice) Offsets() ([]int64, error) {
	return s.offsets.get(func() ([]int64, error) {
		source, err := s.SourceCodes()
		if err != nil {
			return nil, err
		}
		out := make([]int64, s.info.Rows)
		last := make([]int64, len(s.sources))
		for i, r := range s.info.Sources {
			last[i] = r.Min
		}
		err = s.varints(blockOffsets, func(row int, v uint64) bool {
			r := &s.info.Sources[source[row]]
			at := last[source[row]] + unzigzag(v)
			last[source[row]], out[row] = at, at
			return at >= r.Min && at < r.Next
		})
		return out, err
	})
}

// LogTimes are the log times of the rows' partitions at their offsets, in ms.
func (s *Slice) LogTimes() ([]int64, error) {
	return s.logTimes.get(func() ([]int64, error) {
		source, err := s.SourceCodes()
		if err != nil {
			return nil, err
		}
		out := make([]int64, s.info.Rows)
		last := make([]int64, len(s.sources))
		for i := range last {
			last[i] = s.info.MinTime
		}
		err = s.varints(blockLogTimes, func(row int, v uint64) bool {
			last[source[row]] += unzigzag(v)
			out[row] = last[source[row]]
			return true
		})
		return out, err
	})
}

// codeVector reads a block that is nothing but a code vector.
func (s *Slice) codeVector(i int, first, limit uint32) ([]uint32, error) {
	p, err := s.unpack(i)
	if err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return make([]uint32, s.info.Rows), nil
	}
	codes, rest, err := takeCodes(p, s.info.Rows, first, limit)
	if err == nil && len(rest) != 0 {
		err = errLong
	}
	if err != nil {
		return nil, s.damaged(i, err)
	}
	return codes, nil
}

// Types are the event types of the rows.
func (s *Slice) Types() ([]event.Type, error) {
	return s.types.get(func() ([]event.Type, error) {
		codes, err := s.codeVector(blockTypes, 0, uint32(event.NumTypes))
		if err != nil {
			return nil, err
		}
		out := make([]event.Type, len(codes))
		for i, c := range codes {
			out[i] = event.Type(c)
		}
		return out, nil
	})
}

// SourceCodes say for each row which of Sources it came from.
func (s *Slice) SourceCodes() ([]uint16, error) {
	return s.sourceCodes.get(func() ([]uint16, error) {
		codes, err := s.codeVector(blockSources, 0, uint32(len(s.sources)))
		if err != nil {
			return nil, err
		}
		out := make([]uint16, len(codes))
		for i, c := range codes {
			out[i] = uint16(c)
		}
		return out, nil
	})
}

// Activities sums up the rows by section, activity and split.
func (s *Slice) Activities() ([]Activity, error) {
	return s.activities.get(func() ([]Activity, error) {
		p, err := s.unpack(blockActivities)
		if err != nil {
			return nil, err
		}
		out, err := takeActivities(p, &s.info)
		if err != nil {
			return nil, s.damaged(blockActivities, err)
		}
		return out, nil
	})
}

// correlation finds the correlation id of a row.
type correlation struct {
	uuids  []byte
	others [][]byte
	isUUID []byte   // a bit per row; nil: all are
	rank   []uint16 // per 64 rows: UUIDs before
}

func (c *correlation) at(row int) (uuid, other []byte) {
	if c.isUUID == nil {
		return c.uuids[16*row : 16*row+16], nil
	}
	n := int(c.rank[row>>6])
	for i := row &^ 63 >> 3; i < row>>3; i++ {
		n += bits.OnesCount8(c.isUUID[i])
	}
	n += bits.OnesCount8(c.isUUID[row>>3] & (1<<(row&7) - 1))
	if bit(c.isUUID, row) {
		return c.uuids[16*n : 16*n+16], nil
	}
	return nil, c.others[row-n]
}

func (s *Slice) correlations() (*correlation, error) {
	return s.correlation.get(func() (*correlation, error) {
		uuids, err := s.unpack(blockUUIDs)
		if err != nil {
			return nil, err
		}
		p, err := s.unpack(blockCorrelations)
		if err != nil {
			return nil, err
		}
		c := &correlation{uuids: uuids}
		rows := s.info.Rows
		if len(p) == 0 {
			if len(uuids) != 16*rows {
				return nil, s.damaged(blockUUIDs, errShort)
			}
			return c, nil
		}
		size := packedLen(rows, 1)
		if len(p) < size {
			return nil, s.damaged(blockCorrelations, errShort)
		}
		c.isUUID, p = p[:size], p[size:]
		n := 0
		for row := range rows {
			if row&63 == 0 {
				c.rank = append(c.rank, uint16(n))
			}
			if bit(c.isUUID, row) {
				n++
			}
		}
		others, rest, err := takeStrings(p, rows)
		if err == nil && (len(rest) != 0 || len(others) != rows-n || len(uuids) != 16*n) {
			err = errNumber
		}
		if err != nil {
			return nil, s.damaged(blockCorrelations, err)
		}
		c.others = others
		return c, nil
	})
}

// AppendCorrelation appends the correlation id of a row, as it came, to dst.
func (s *Slice) AppendCorrelation(dst []byte, row int) ([]byte, error) {
	c, err := s.correlations()
	if err != nil {
		return dst, err
	}
	uuid, other := c.at(row)
	if uuid != nil {
		return appendUUID(dst, uuid), nil
	}
	return append(dst, other...), nil
}

// columnCodes decodes the codes of a column, which may be those of an earlier
// one. Whether they fit the dictionary is checked with it.
func (s *Slice) columnCodes(c int) ([]uint32, error) {
	return s.codes[c].get(func() ([]uint32, error) {
		i := blockColumns + 2*c + 1
		p, err := s.unpack(i)
		if err != nil {
			return nil, err
		}
		if len(p) == 2 && p[0] == codesSame {
			if int(p[1]) >= c {
				return nil, s.damaged(i, errNumber)
			}
			return s.columnCodes(int(p[1]))
		}
		if len(p) == 0 {
			return s.zeros(), nil
		}
		codes, rest, err := takeCodes(p, s.info.Rows, 0, uint32(s.info.Rows))
		if err == nil && len(rest) != 0 {
			err = errLong
		}
		if err != nil {
			return nil, s.damaged(i, err)
		}
		return codes, nil
	})
}

// allZeros is what all columns with a single value share.
var allZeros = make([]uint32, MaxSliceRows)

func (s *Slice) zeros() []uint32 { return allZeros[:s.info.Rows:s.info.Rows] }

func (s *Slice) column(c int) (*Column, error) {
	return s.columns[c].get(func() (*Column, error) {
		if s.only > 0 {
			return nil, errNotThere
		}
		i := blockColumns + 2*c
		p, err := s.unpack(i)
		if err != nil {
			return nil, err
		}
		col := &Column{Dict: [][]byte{{}}}
		if len(p) > 0 {
			dict, rest, err := takeStrings(p, s.info.Rows)
			if err == nil && (len(rest) != 0 || len(dict) == 0) {
				err = errNumber
			}
			if err != nil {
				return nil, s.damaged(i, err)
			}
			col.Dict = dict
		}
		if col.Codes, err = s.columnCodes(c); err != nil {
			return nil, err
		}
		if !below(col.Codes, uint32(len(col.Dict))) {
			return nil, s.damaged(i+1, errCode)
		}
		return col, nil
	})
}

// Cells is the column of one of the event's cells.
func (s *Slice) Cells(c event.Cell) (*Column, error) {
	if c >= event.NumCells {
		return nil, errNumber
	}
	return s.column(columnCells + int(c))
}

// Sections is the column of the events' section discriminators.
func (s *Slice) Sections() (*Column, error) { return s.column(columnSection) }

// SnapshotCodes say for each row with which profile snapshot it was decorated:
// 0 for none, else 1 + the index of the snapshot.
func (s *Slice) SnapshotCodes() ([]uint32, error) {
	return s.snapCodes.get(func() ([]uint32, error) {
		const i = blockSnapshotCodes
		p, err := s.unpack(i)
		if err != nil {
			return nil, err
		}
		limit := uint32(s.shape.snapshots) + 1
		if len(p) == 0 || p[0] != codesFollow {
			if len(p) == 0 {
				return s.zeros(), nil
			}
			return s.codeVector(i, 1, limit)
		}
		profiles, err := s.columnCodes(columnProfile)
		if err != nil {
			return nil, err
		}
		codes, err := takeFollow(p, profiles, limit)
		if err != nil {
			return nil, s.damaged(i, err)
		}
		return codes, nil
	})
}
