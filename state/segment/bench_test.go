package segment

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"lockstitch/state/event"
	"lockstitch/state/profile"
)

// traffic is a realistic data set: campaigns sent to profiles with 10
// attributes and 3 tags, answered by some.
type traffic struct {
	snaps []profile.Snapshot
	ids   [][]byte
	rows  []testRow
}

func newTraffic(t testing.TB, profiles, events int) *traffic {
	r := rand.New(rand.NewPCG(3, 5))
	d := &traffic{}
	first := []string{"anna", "erik", "maria", "lars", "karin", "johan", "eva", "per", "sara", "nils"}
	last := []string{"svensson", "andersson", "berg", "lind", "holm", "nyman", "ek", "dahl", "strand", "sjoberg"}
	for i := range profiles {
		mail := fmt.Sprintf("%s.%s%d@%s", first[r.IntN(10)], last[r.IntN(10)], r.IntN(1000), []string{"gmail.com", "hotmail.com", "example.se"}[r.IntN(3)])
		attributes := map[string]any{"9820534": mail, "491874": []string{"female", "male"}[r.IntN(2)], "3": r.IntN(2) == 0,
			"4": fmt.Sprintf("19%02d-%02d-%02d", 40+r.IntN(60), 1+r.IntN(12), 1+r.IntN(28)), "5": 1_600_000_000_000 + r.Int64N(1e11),
			"6": r.IntN(100), "7": float64(r.IntN(100000)) / 100, "8": []string{"Stockholm", "Malmö", "Göteborg", "Lund"}[r.IntN(4)],
			"9": first[r.IntN(10)], "10": last[r.IntN(10)]}
		s := testSection{Attributes: attributes}
		for tag := range 3 {
			if r.IntN(3) > 0 {
				s.Tags = append(s.Tags, strconv.Itoa(52001+tag))
			}
		}
		p := testProfile{Account: "acme", Sections: map[string]testSection{"usercreated.sections.europe-r6tz73a27t": s},
			Segments: []string{"usercreated.segments.women-rjz6b8td2n"}[:r.IntN(2)]}
		d.snaps = append(d.snaps, p.snapshot(t))
		d.ids = append(d.ids, fmt.Appendf(nil, "p%09d", i*7919%1000000007))
	}
	source := Source{Stream{Topic: "email-events", ID: TopicID{1}}, 3}
	type mail struct {
		profile, campaign int
		left              event.Type
	}
	var pending []mail
	now, logTime := int64(1_700_000_000_000), int64(0)
	for i := range events {
		now += r.Int64N(3)
		if i%100 == 0 {
			logTime = now + 20
		}
		row := testRow{source: source, offset: int64(i), log: logTime}
		var m mail
		if len(pending) > 0 && r.IntN(100) < 55 {
			at := r.IntN(len(pending))
			m = pending[at]
			pending[at] = pending[len(pending)-1]
			pending = pending[:len(pending)-1]
		} else {
			m = mail{r.IntN(profiles), r.IntN(20), event.Sent}
		}
		if m.left < event.Clicked && r.IntN(10) < 8 {
			pending = append(pending, mail{m.profile, m.campaign, m.left + 1})
		}
		c := m.campaign
		row.snap = d.snaps[m.profile]
		row.ev = event.Event{Type: m.left, CorrelationID: randomUUID(r), AccountID: []byte("acme"), Section: []byte("usercreated.sections.europe-r6tz73a27t"),
			ProfileID: d.ids[m.profile], ServerTime: now - r.Int64N(50), EventTime: now - 100 - r.Int64N(2000)}
		set := func(cell event.Cell, format string, args ...any) {
			row.ev.Cells[cell] = fmt.Appendf(nil, format, args...)
		}
		set(event.ActivityID, "1a2b3c4d-%d", c)
		set(event.SplitID, "1a2b3c4d-%d", c)
		set(event.ActivityName, "Autumn campaign %d", c)
		set(event.SplitActivityName, "Autumn campaign %d", c)
		set(event.Sender, "news%d@shop.example.com", c%3)
		set(event.Subject, "Don't miss our offers, week %d", c)
		set(event.Variation, "%c", 'A'+r.IntN(2))
		if m.left >= event.Opened {
			set(event.Device, "%s", []string{"Desktop", "Mobile", "Tablet", "Webmail"}[r.IntN(4)])
			set(event.Location, "%s", []string{"Sweden", "Norway", "Denmark", "Finland", "Unknown"}[r.IntN(5)])
		}
		if m.left == event.Clicked {
			l := r.IntN(12)
			set(event.LinkID, "%d", 1000+l)
			set(event.LinkURL, "https://shop.example.com/products/%d?utm_source=mail", l)
			set(event.LinkTitle, "Product %d", l)
		}
		d.rows = append(d.rows, row)
	}
	return d
}

func (d *traffic) fill(b *Buffer) {
	for i := range d.rows {
		d.rows[i].add(b)
	}
}

func BenchmarkAdd(b *testing.B) {
	d := newTraffic(b, 40_000, 100_000)
	buf := NewBuffer()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n == len(d.rows) {
			buf.Reset(32 << 20)
			n = 0
		}
		d.rows[n].add(buf)
		n++
	}
}

func BenchmarkSeal(b *testing.B) {
	d := newTraffic(b, 40_000, 100_000)
	buf := NewBuffer()
	d.fill(buf)
	held := buf.Bytes()
	size := 0
	b.ReportAllocs()
	for b.Loop() {
		size = 0
		if err := Seal([]*Buffer{buf}, func(o Object) error { size += len(o.Data); return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size)/float64(len(d.rows)), "B/event")
	b.ReportMetric(float64(held)/float64(len(d.rows)), "heldB/event")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(d.rows)), "ns/event")
}

// BenchmarkOpenSlice decodes every column that an export of 10 attributes and
// 3 tags needs.
func BenchmarkOpenSlice(b *testing.B) {
	d := newTraffic(b, 40_000, 100_000)
	buf := NewBuffer()
	d.fill(buf)
	o := seal(b, buf)[0]
	info := &o.Slices[1]
	data := o.Data[info.Offset : info.Offset+info.Length]
	b.ReportAllocs()
	for b.Loop() {
		s, err := OpenSlice("bench", info, data)
		if err != nil {
			b.Fatal(err)
		}
		if err := readExport(s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(info.Rows), "ns/event")
}

func readExport(s *Slice) error {
	const section = "usercreated.sections.europe-r6tz73a27t"
	for _, call := range []func() error{
		func() error { _, err := s.Types(); return err },
		func() error { _, err := s.EventTimes(); return err },
		func() error { _, err := s.Offsets(); return err },
		func() error { _, err := s.SnapshotCodes(); return err },
		func() error { _, err := s.Sections(); return err },
		func() error { _, err := s.AppendCorrelation(nil, 0); return err },
	} {
		if err := call(); err != nil {
			return err
		}
	}
	for c := range event.NumCells {
		if _, err := s.Cells(c); err != nil {
			return err
		}
	}
	for _, id := range []string{"9820534", "491874", "3", "4", "5", "6", "7", "8", "9", "10"} {
		if v, err := s.Attribute(section, id); err != nil || v == nil {
			return fmt.Errorf("attribute %s: %v %w", id, v, err)
		}
	}
	for _, id := range []string{"52001", "52002", "52003"} {
		if v, err := s.Tag(section, id); err != nil || v == nil {
			return fmt.Errorf("tag %s: %v %w", id, v, err)
		}
	}
	return nil
}

// TestSizes shows what each kind of block costs a row; the bound is what the
// format must not lose by accident.
func TestSizes(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	d := newTraffic(t, 400_000/8, 120_000)
	buf := NewBuffer()
	d.fill(buf)
	objects := seal(t, buf)
	names := []string{"activities", "types", "sources", "offsets", "server times", "log times", "uuids", "correlations", "event times",
		"section", "section codes", "profile", "profile codes"}
	var total int
	sum := map[string]int{}
	snapshots := 0
	for _, s := range openAll(t, objects) {
		snapshots += s.Snapshots()
		for i, b := range s.blocks {
			name := "cells"
			switch {
			case i < len(names):
				name = names[i]
			case i == blockSnapshotCodes:
				name = "snapshot codes"
			case i >= blockSnapshotDirectory:
				name = "snapshots"
			}
			sum[name] += int(b.stored)
		}
	}
	for _, o := range objects {
		total += len(o.Data)
	}
	n := float64(len(d.rows))
	for name, size := range sum {
		t.Logf("%-15s %6.2f", name, float64(size)/n)
	}
	t.Logf("%-15s %6.2f bytes an event, %.2f snapshots an event", "in all", float64(total)/n, float64(snapshots)/n)
	if perEvent := float64(total) / n; perEvent > 50 {
		t.Errorf("%.1f bytes an event", perEvent)
	}
}
