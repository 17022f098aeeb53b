package consumer

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
)

const (
	// hoursPerCut bounds the records of minute marks that one cut carries, over
	// all lanes. A backlog of months crosses thousands of hours; a record has
	// up to about 1 kB, and a transaction of a few megabytes ends well within
	// its timeout. A lane that has its share processes nothing more until the
	// next cut, which is then due.
	hoursPerCut = 4096
	// keepMarks is for how much longer than segments the marks are kept, in hours
	// of log time: a standing order that is behind needs those of its periods as
	// long as it may have its rows.
	keepMarks = 7 * 24
	// oldPerCut bounds the hours that one cut forgets of a partition: more than
	// it can add in the long run, and few for one transaction.
	oldPerCut = 48
	// unreadPerCut bounds the hours that one cut forgets of all partitions that nobody
	// reads any more.
	unreadPerCut = 1000
)

// marks collects the minute marks of one partition (catalog.Marks).
type marks struct {
	hours []catalog.Marks // oldest first; the newest stays after a cut, to be completed
	dirty int             // so many at the end are to be written
}

// reach moves the log time of the partition to that of the data record at
// offset, if it is later, and marks the minute that thereby begins.
func (in *input) reach(kafkaTime, offset int64) {
	if kafkaTime <= in.pos.LogTime {
		return
	}
	if minute := catalog.MinuteOf(kafkaTime); in.pos.LogTime == 0 || minute > catalog.MinuteOf(in.pos.LogTime) {
		in.mark(minute, offset)
	}
	in.pos.LogTime = kafkaTime
}

func (in *input) mark(minute, offset int64) {
	m := &in.marks
	if hour := minute / 60; len(m.hours) == 0 || m.hours[len(m.hours)-1].Hour != hour {
		m.hours = append(m.hours, catalog.Marks{TopicID: in.stream.ID, Partition: in.partition, Hour: hour})
		m.dirty++
	}
	m.hours[len(m.hours)-1].Add(minute, offset)
	m.dirty = max(m.dirty, 1)
}

// committed keeps only the newest hour, whose record is written again when it
// gets further marks.
func (m *marks) committed() {
	if n := len(m.hours); n > 1 {
		m.hours = append([]catalog.Marks(nil), m.hours[n-1])
	}
	m.dirty = 0
}

// full says that the lane has its share of the mark records of the next cut.
func (l *lane) full() bool {
	n := 0
	for _, in := range l.inputs {
		n += in.marks.dirty
	}
	return n > 0 && n >= l.hourLimit
}

// markRecords are the records of the partition's marks since the last cut, and
// those that remove its oldest hours.
func (c *Consumer) markRecords(in *input) ([]*kgo.Record, error) {
	var out []*kgo.Record
	m := &in.marks
	for i := len(m.hours) - m.dirty; i < len(m.hours); i++ {
		r, err := m.hours[i].Record(c.cfg.Topics.Catalog)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if m.dirty > 0 {
		newest := m.hours[len(m.hours)-1].Hour
		for _, old := range c.deps.Catalog.OldMarks(in.stream.ID, in.partition, newest-int64(c.cfg.Retention/time.Hour)-keepMarks, oldPerCut) {
			out = append(out, old.Tombstone(c.cfg.Topics.Catalog))
		}
	}
	return out, nil
}

// forgetFrom is before which hour marks are forgotten of partitions that nobody reads any
// more, whose time is Kafka's; expired is what has expired and is still stored, oldest
// first. An order that is behind may still have those rows, and a retention that is too
// short by mistake may be put right before they are removed. Of a segment the newest row
// counts: where one has rows of many days, of a backlog, such an order has what is left of
// it in one file.
func (c *Consumer) forgetFrom(now time.Time, expired []*catalog.Segment) int64 {
	kept := c.kafkaTime(now) - c.cfg.Retention.Milliseconds()
	if len(expired) > 0 {
		kept = min(kept, expired[0].Newest())
	}
	return kept/time.Hour.Milliseconds() - keepMarks
}

// unreadMarks are the marks that the next cut of a lane forgets.
func (c *Consumer) unreadMarks(l *lane, limit int) []catalog.Marks {
	if l.forgets <= 0 {
		return nil
	}
	return c.deps.Catalog.UnreadMarks(c.cfg.Topics.Events, l.forgets, limit)
}

// forgotten leaves what is still to be forgotten to the lane's next cut.
func (c *Consumer) forgotten(l *lane) {
	if len(c.unreadMarks(l, 1)) > 0 {
		l.touch(time.Now())
	} else {
		l.forgets = 0
	}
}
