package segment

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	"lockstitch/state/event"
	"lockstitch/state/jsonvalue"
	"lockstitch/state/profile"
)

// cellNames are the names of the contract, for Dump.
var cellNames = [event.NumCells]string{"activity_id", "split_id", "activity_name", "split_activity_name", "sender", "subject",
	"variation", "device", "location", "link_id", "link_url", "link_title", "bounce_code", "unsubscribe_topic", "abuse_section"}

type dumpSlice struct {
	Slice     int       `json:"slice"`
	Info      SliceInfo `json:"info"`
	Blocks    int       `json:"blocks"`
	Snapshots int       `json:"snapshots"`
	Columns   int       `json:"snapshot_columns"`
}

type dumpRow struct {
	Slice       int               `json:"slice"`
	Row         int               `json:"row"`
	Account     string            `json:"account_id"`
	Topic       string            `json:"topic"`
	Incarnation int               `json:"incarnation"`
	Partition   int32             `json:"partition"`
	Offset      int64             `json:"offset"`
	LogTime     int64             `json:"log_time"`
	ServerTime  int64             `json:"server_time"`
	EventTime   int64             `json:"event_time"`
	Type        string            `json:"type"`
	Correlation string            `json:"correlation_id"`
	Section     string            `json:"section"`
	Profile     string            `json:"profile_id"`
	Cells       map[string]string `json:"cells,omitempty"`
	Snapshot    int               `json:"snapshot,omitempty"` // 1 + its index; absent: undecorated
}

type dumpColumn struct {
	Slice   int          `json:"slice"`
	Kind    string       `json:"kind"`
	Section string       `json:"section,omitempty"`
	ID      string       `json:"id"`
	Members []int        `json:"snapshots,omitempty"` // tags and audiences: indexes of snapshots
	Values  []*dumpValue `json:"values,omitempty"`    // attributes: per snapshot, null where absent
}

type dumpValue struct {
	Text    *string `json:"text,omitempty"`
	Literal string  `json:"literal,omitempty"`
}

// Dump writes an object as lines of JSON: for each slice its directory entry,
// its rows, its snapshot columns. What events hold is written so that a terminal
// shows it and does not obey it. It stops at the first damage.
func Dump(w io.Writer, object string, data []byte) error {
	list, err := Directory(object, data)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	enc := json.NewEncoder(jsonvalue.Printable(out))
	enc.SetEscapeHTML(false)
	for i := range list {
		info := &list[i]
		s, err := OpenSlice(object, info, data[info.Offset:info.Offset+info.Length])
		if err != nil {
			return err
		}
		if err := s.dump(enc, i); err != nil {
			return err
		}
	}
	return out.Flush()
}

func (s *Slice) dump(enc *json.Encoder, n int) error {
	d, err := s.snapshotDirectory()
	if err != nil {
		return err
	}
	if err := enc.Encode(dumpSlice{n, s.info, len(s.blocks), s.shape.snapshots, len(d.columns)}); err != nil {
		return fmt.Errorf("dump: %w", err)
	}
	// Everything was decoded once and is kept from here on.
	if err := s.verify(); err != nil {
		return err
	}
	for row := range s.info.Rows {
		if err := enc.Encode(s.dumpRow(n, row)); err != nil {
			return fmt.Errorf("dump: %w", err)
		}
	}
	for i := range d.columns {
		c, err := s.dumpColumn(n, &d.columns[i])
		if err != nil {
			return err
		}
		if err := enc.Encode(c); err != nil {
			return fmt.Errorf("dump: %w", err)
		}
	}
	return nil
}

// dumpRow may use the columns' values: verify has decoded them.
func (s *Slice) dumpRow(n, row int) dumpRow {
	text := func(c int) string {
		col := s.columns[c].value
		return string(col.Dict[col.Codes[row]])
	}
	src := s.sources[s.sourceCodes.value[row]]
	uuid, other := s.correlation.value.at(row)
	if uuid != nil {
		other = appendUUID(nil, uuid)
	}
	out := dumpRow{
		Slice: n, Row: row, Account: s.info.Account,
		Topic: src.Topic, Incarnation: src.Incarnation, Partition: src.Partition, Offset: s.offsets.value[row],
		LogTime: s.logTimes.value[row], ServerTime: s.serverTimes.value[row], EventTime: s.eventTimes.value[row],
		Type: s.types.value[row].String(), Correlation: string(other),
		Section: text(columnSection), Profile: text(columnProfile),
		Cells: map[string]string{}, Snapshot: int(s.snapCodes.value[row]),
	}
	for c, name := range cellNames {
		if t := text(columnCells + c); t != "" {
			out.Cells[name] = t
		}
	}
	return out
}

func (s *Slice) dumpColumn(n int, c *snapPlace) (dumpColumn, error) {
	out := dumpColumn{Slice: n, Kind: [numKinds]string{"attribute", "tag", "audience"}[c.kind], Section: string(c.section), ID: string(c.id)}
	if c.kind != kindAttribute {
		b, err := s.members(c)
		for i := range s.shape.snapshots {
			if b.Has(i) {
				out.Members = append(out.Members, i)
			}
		}
		return out, err
	}
	v, err := s.values(c)
	if err != nil {
		return out, err
	}
	for _, code := range v.Codes {
		if code == 0 {
			out.Values = append(out.Values, nil)
			continue
		}
		value := v.Dict[code-1]
		d := &dumpValue{}
		switch value.Kind {
		case profile.Text:
			text := string(value.Raw)
			d.Text = &text
		case profile.True:
			d.Literal = "true"
		case profile.False:
			d.Literal = "false"
		default:
			d.Literal = string(value.Raw)
		}
		out.Values = append(out.Values, d)
	}
	return out, nil
}
