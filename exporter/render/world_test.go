package render

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/profile"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// world is a set of kept rows of one account, with everything that the
// reference needs to show them without the code under test.
type world struct {
	r        *rand.Rand
	streams  []segment.Stream
	sections []string
	people   []person // the first is nobody: a row without a profile
	rows     []kept
}

type person struct {
	attributes map[string]map[string]any // section → version id → string, json.Number, bool
	tags       map[string]map[string]bool
	audiences  map[string]bool
	snapshot   profile.Snapshot
}

type kept struct {
	stream     int
	partition  int32
	offset     int64
	typ        event.Type
	server, at int64
	section    string
	corr       string
	cells      [event.NumCells]string
	person     int
}

var texts = []string{"", "a", "Höst", "a,b", `say "x"`, "line\nbreak", "cr\r", "=1+1", "+46", "-5", "@me", "\ttab", "\x00", "\ufeffbom", "שלום", "👩‍👩‍👧",
	"2024-02-29", "2024-02-30", "2024-02-29T10:11:12.3456+02:00", "1969-12-31T23:59:59.9999Z", "true", "1e5", strings.Repeat("long, ", 400)}

var numbers = []string{"0", "-0", "1", "-1.50", "1e3", "1.5e-7", "1e999999999", "-1E126", "12345678901234567890123456789012345678901.10", "1700000000000"}

var versions = []string{"1", "7", "491874", "9820534"}

func newWorld(t testing.TB, seed uint64, rows int, span int64) *world {
	t.Helper()
	w := &world{r: rand.New(rand.NewPCG(seed, 99)), sections: []string{"s.europe", "s.asia", "s.ö"}}
	for i, name := range []string{"mail", "mail", "a-mail"} {
		w.streams = append(w.streams, segment.Stream{Topic: name, Incarnation: []int{1, 0, 0}[i], ID: segment.TopicID{byte(9 - i)}})
	}
	w.people = append(w.people, person{})
	for range 1 + w.r.IntN(40) {
		w.people = append(w.people, w.person(t))
	}
	next := map[[2]int]int64{}
	for range rows {
		k := kept{stream: w.r.IntN(len(w.streams)), partition: w.r.Int32N(3), typ: event.Type(w.r.IntN(int(event.NumTypes))),
			server: 1_700_000_000_000 + w.r.Int64N(span), at: w.r.Int64N(5) - 2, section: w.pick(w.sections), person: w.r.IntN(len(w.people))}
		n := [2]int{k.stream, int(k.partition)}
		k.offset = next[n]
		next[n] += 1 + w.r.Int64N(2)
		switch w.r.IntN(3) {
		case 0:
			k.corr = w.pick(texts[1:]) + strconv.Itoa(w.r.IntN(99))
		case 1:
			k.corr = fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", w.r.Uint32(), w.r.IntN(1<<16), w.r.IntN(1<<12), w.r.IntN(1<<12), w.r.Int64N(1<<48))
		default:
			k.corr = strings.ToUpper(fmt.Sprintf("%08x-aaaa-4bbb-8ccc-%012x", w.r.Uint32(), w.r.Int64N(1<<48)))
		}
		if len(k.corr) > 256 {
			k.corr = k.corr[:250]
		}
		for c := range k.cells {
			if w.r.IntN(3) > 0 {
				k.cells[c] = w.pick(texts)
			}
		}
		w.rows = append(w.rows, k)
	}
	return w
}

func (w *world) pick(from []string) string { return from[w.r.IntN(len(from))] }

func (w *world) person(t testing.TB) person {
	p := person{attributes: map[string]map[string]any{}, tags: map[string]map[string]bool{}, audiences: map[string]bool{}}
	sections := map[string]any{}
	for _, s := range w.sections {
		if w.r.IntN(4) == 0 {
			continue
		}
		p.attributes[s], p.tags[s] = map[string]any{}, map[string]bool{}
		tags := []string{}
		for _, v := range versions {
			switch w.r.IntN(6) {
			case 0, 1:
				p.attributes[s][v] = w.pick(texts)
			case 2:
				p.attributes[s][v] = json.Number(w.pick(numbers))
			case 3:
				p.attributes[s][v] = w.r.IntN(2) == 0
			}
			if w.r.IntN(3) == 0 {
				p.tags[s][v] = true
				tags = append(tags, v)
			}
		}
		sections[s] = map[string]any{"attributes": p.attributes[s], "tags": tags}
	}
	audiences := []string{}
	for _, a := range []string{"aud.women", "aud.europe"} {
		if w.r.IntN(2) == 0 {
			p.audiences[a] = true
			audiences = append(audiences, a)
		}
	}
	value, err := json.Marshal(map[string]any{"account_id": "acme", "sections": sections, "segments": audiences})
	if err != nil {
		t.Fatal(err)
	}
	snap, dropped, err := profile.Decode([]byte("p"), value)
	if err != nil || dropped != 0 {
		t.Fatalf("%s: %v, %d dropped", value, err, dropped)
	}
	p.snapshot = snap
	return p
}

// store seals the rows, in the order of their offsets, into a random number of
// cuts of a random number of lanes.
func (w *world) store(t testing.TB, cuts int) (objects.Store, []catalog.SliceRef) {
	t.Helper()
	ctx := context.Background()
	store, err := objects.Open(ctx, (&url.URL{Scheme: "file", Path: t.TempDir()}).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	byCut := make([][]kept, cuts)
	for i, k := range w.rows { // rows of one source stay in order
		c := min(i*cuts/len(w.rows)+w.r.IntN(2)*int(k.partition%2), cuts-1)
		byCut[c] = append(byCut[c], k)
	}
	var refs []catalog.SliceRef
	for c, rows := range byCut {
		lanes := make([]*segment.Buffer, 3)
		for i := range lanes {
			lanes[i] = segment.NewBuffer()
		}
		for _, k := range rows {
			ev := event.Event{Type: k.typ, CorrelationID: []byte(k.corr), AccountID: []byte("acme"), Section: []byte(k.section), ProfileID: []byte("p"), EventTime: k.at, ServerTime: k.server}
			for i := range k.cells {
				ev.Cells[i] = []byte(k.cells[i])
			}
			lanes[k.partition].Add(&w.streams[k.stream], k.partition, k.offset, k.server, &ev, w.people[k.person].snapshot)
		}
		n := 0
		err := segment.Seal(lanes, func(o segment.Object) error {
			name := fmt.Sprintf("segments/%d-%d", c, n)
			n++
			for i := range o.Slices {
				refs = append(refs, catalog.SliceRef{SegmentID: name, Object: name, Info: &o.Slices[i]})
			}
			return store.Put(ctx, name, o.Data)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.r.Shuffle(len(refs), func(i, k int) { refs[i], refs[k] = refs[k], refs[i] })
	return store, refs
}

// question asks for a random window, barrier, columns and filter; pass is what
// the filter means.
func (w *world) question(span int64) (q *report.Question, pass func(aud map[string]bool) bool) {
	q = &report.Question{StartAt: 1_700_000_000_000 + w.r.Int64N(span/2+1) - 5, CompleteThrough: time.Now(), SpreadsheetSafe: w.r.IntN(2) == 0}
	if w.r.IntN(3) > 0 {
		end := q.StartAt + 1 + w.r.Int64N(span)
		q.EndAt = &end
	}
	for _, s := range w.streams {
		for n := range int32(3) {
			if w.r.IntN(8) > 0 {
				q.Barrier = append(q.Barrier, report.End{Topic: s.Topic, TopicID: s.ID, Partition: n, Offset: w.r.Int64N(int64(len(w.rows)/4 + 2))})
			}
			if w.r.IntN(4) == 0 {
				q.After = append(q.After, report.End{Topic: s.Topic, TopicID: s.ID, Partition: n, Offset: w.r.Int64N([]int64{20, int64(len(w.rows)/4 + 2)}[w.r.IntN(2)])})
			}
		}
	}
	if w.r.IntN(4) == 0 { // of a topic that is gone
		q.After = append(q.After, report.End{Topic: "mail", TopicID: segment.TopicID{77}, Offset: w.r.Int64N(20)})
	}
	types := []string{"text", "boolean", "date", "timestamp", "number", "decimal", "location", "unheard-of"}
	for range w.r.IntN(6) {
		q.Attributes = append(q.Attributes, report.AttributeColumn{Section: w.pick(w.sections), VersionID: w.pick(append(versions, "5")), Name: w.pick(texts), Type: w.pick(types)})
	}
	for range w.r.IntN(3) {
		q.Tags = append(q.Tags, report.TagColumn{Section: w.pick(w.sections), VersionID: w.pick(append(versions, "5")), Name: w.pick(texts)})
	}
	q.Email = map[string][]report.EmailVersion{w.sections[0]: {{VersionID: "9820534", Type: "text"}, {VersionID: "7", Type: w.pick(types)}}, w.sections[2]: {{VersionID: "1", Type: "text"}}}
	q.Audiences = map[string]string{"women": "aud.women", "eu": "aud.europe"}
	switch w.r.IntN(4) {
	case 0:
		q.Filter, pass = "!eu & women", func(a map[string]bool) bool { return !a["aud.europe"] && a["aud.women"] }
	case 1:
		q.Filter, pass = "!(eu|women)", func(a map[string]bool) bool { return !a["aud.europe"] && !a["aud.women"] }
	default:
		pass = func(map[string]bool) bool { return true }
	}
	return q, pass
}

// reference is the text of the export by the letter of the contract, as simply
// as can be.
func (w *world) reference(q *report.Question, pass func(map[string]bool) bool) (string, int64) {
	quote := func(s string, free bool) string {
		if q.SpreadsheetSafe && !free && s != "" && strings.Contains("=+-@\t\r", s[:1]) {
			s = "'" + s
		}
		if strings.ContainsAny(s, ",\"\r\n") {
			s = `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
		}
		return s
	}
	header := strings.Split("activity_id,split_id,activity_name,split_activity_name,sender,subject,address,variation,type,correlation_id,event_time,server_time,device,location,link_id,link_url,link_title,bounce_code,unsubscribe_topic,abuse_section", ",")
	for _, a := range q.Attributes {
		header = append(header, quote(a.Name+" (version_id: "+a.VersionID+")", false))
	}
	for _, a := range q.Tags {
		header = append(header, quote(a.Name+" (version_id: "+a.VersionID+")", false))
	}
	lines := []string{strings.Join(header, ",")}
	offsets := func(ends []report.End, k *kept) (int64, bool) {
		for _, e := range ends {
			if e.TopicID == w.streams[k.stream].ID && e.Partition == k.partition {
				return e.Offset, true
			}
		}
		return 0, false
	}
	var rows []*kept
	for i := range w.rows {
		k := &w.rows[i]
		barrier, known := offsets(q.Barrier, k)
		after, _ := offsets(q.After, k)
		if k.server >= q.StartAt && (q.EndAt == nil || k.server < *q.EndAt) && known && k.offset < barrier && k.offset >= after && pass(w.people[k.person].audiences) {
			rows = append(rows, k)
		}
	}
	order := func(k *kept) string {
		s := w.streams[k.stream]
		return fmt.Sprintf("%020d %-10s %05d %05d %020d", k.server, s.Topic, s.Incarnation, k.partition, k.offset)
	}
	sort.Slice(rows, func(i, j int) bool { return order(rows[i]) < order(rows[j]) })
	for _, k := range rows {
		p := w.people[k.person]
		value := func(section, version, as string) (string, bool) {
			v, has := p.attributes[section][version]
			if !has {
				return "", false
			}
			text, free := typed(as, v)
			return quote(text, free), true
		}
		mail := ""
		for _, e := range q.Email[k.section] {
			if v, has := value(k.section, e.VersionID, e.Type); has {
				mail = v
				break
			}
		}
		c := func(i event.Cell) string { return quote(k.cells[i], false) }
		line := []string{c(0), c(1), c(2), c(3), c(4), c(5), mail, c(6), strings.Split("SENT DELIVERED OPENED CLICKED BOUNCED UNSUBSCRIBED ABUSE", " ")[k.typ],
			quote(k.corr, false), fmt.Sprint(k.at), fmt.Sprint(k.server), c(7), c(8), c(9), c(10), c(11), c(12), c(13), c(14)}
		for _, a := range q.Attributes {
			v, _ := value(a.Section, a.VersionID, a.Type)
			line = append(line, v)
		}
		for _, a := range q.Tags {
			line = append(line, map[bool]string{true: "TAG"}[p.tags[a.Section][a.VersionID]])
		}
		lines = append(lines, strings.Join(line, ","))
	}
	return strings.Join(lines, "\n") + "\n", int64(len(rows))
}

// typed is the text of a value and whether the rule of its type wrote it. It
// knows the answers for what newWorld puts into profiles.
func typed(as string, v any) (text string, free bool) {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v), as == "boolean"
	case json.Number:
		if as == "number" || as == "decimal" {
			return map[string]string{"0": "0", "-0": "0", "1": "1", "-1.50": "-1.5", "1e3": "1000", "1.5e-7": "0.00000015", "1e999999999": "1e999999999", "1700000000000": "1700000000000",
				"-1E126": "-1" + strings.Repeat("0", 126), "12345678901234567890123456789012345678901.10": "12345678901234567890123456789012345678901.1"}[string(v)], true
		}
		return string(v), as == "timestamp" && !strings.ContainsAny(string(v), ".eE")
	default:
		s := v.(string)
		switch {
		case as == "date" && strings.HasPrefix(s, "2024-02-29"):
			return "2024-02-29", true
		case as == "date" && strings.HasPrefix(s, "1969-12-31"):
			return "1969-12-31", true
		case as == "timestamp" && s == "2024-02-29T10:11:12.3456+02:00":
			return "1709194272345", true
		case as == "timestamp" && s == "1969-12-31T23:59:59.9999Z":
			return "-1", true
		}
		return s, false
	}
}

func unzip(t testing.TB, file []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
