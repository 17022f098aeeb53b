package segment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"lockstitch/internal/seed"
	"lockstitch/state/event"
	"lockstitch/state/profile"
)

func TestRoundTrip(t *testing.T) {
	r := seed.Rand(t)
	rounds := 30
	if testing.Short() {
		rounds = 5
	}
	for round := range rounds {
		n := 1 + r.IntN(400)
		if round%10 == 9 {
			n = 12000
		}
		rows := randomRows(t, r, n, 1+r.IntN(5))
		objects := seal(t, spread(r, rows, 1+r.IntN(4))...)
		slices.SortStableFunc(rows, compareRows)
		checkRows(t, objects, rows)
		for _, o := range objects {
			if err := Verify("test", o.Data, o.Slices); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := Dump(&out, "test", o.Data); err != nil {
				t.Fatal(err)
			}
			dec := json.NewDecoder(&out)
			lines := 0
			for dec.More() {
				var line map[string]any
				if err := dec.Decode(&line); err != nil {
					t.Fatal(err)
				}
				lines++
			}
			if lines < len(o.Slices) {
				t.Fatalf("dump has %d lines", lines)
			}
		}
	}
}

// checkRows compares the objects' rows of each account with want, in order.
func checkRows(t *testing.T, objects []Object, want []testRow) {
	t.Helper()
	byAccount := map[string][]testRow{}
	for _, r := range want {
		byAccount[string(r.ev.AccountID)] = append(byAccount[string(r.ev.AccountID)], r)
	}
	for _, s := range openAll(t, objects) {
		left := byAccount[s.info.Account]
		got := s.readRows(t)
		if len(got) > len(left) {
			t.Fatalf("too many rows of %s", s.info.Account)
		}
		for i := range got {
			if d := got[i].same(&left[i]); d != "" {
				t.Fatalf("row %d of %s: %s", i, s.info.Account, d)
			}
		}
		checkSnapshots(t, s, left[:len(got)])
		checkActivities(t, s, left[:len(got)])
		checkKeys(t, s, got)
		byAccount[s.info.Account] = left[len(got):]
	}
	for a, left := range byAccount {
		if len(left) > 0 {
			t.Fatalf("%d rows of %s are missing", len(left), a)
		}
	}
}

func checkSnapshots(t *testing.T, s *Slice, rows []testRow) {
	t.Helper()
	codes, err := s.SnapshotCodes()
	if err != nil {
		t.Fatal(err)
	}
	distinct := map[string]uint32{}
	type key struct{ kind, section, id string }
	all := map[key]bool{}
	for i, r := range rows {
		if (codes[i] == 0) != (r.snap == nil) {
			t.Fatalf("row %d: snapshot code %d", i, codes[i])
		}
		if r.snap == nil {
			continue
		}
		if c, ok := distinct[string(r.snap)]; ok && c != codes[i] {
			t.Fatalf("row %d: snapshot %d, was %d before", i, codes[i], c)
		}
		distinct[string(r.snap)] = codes[i]
		r.snap.Attributes(func(sec, id []byte, _ profile.Value) { all[key{"attribute", string(sec), string(id)}] = true })
		r.snap.Tags(func(sec, id []byte) { all[key{"tag", string(sec), string(id)}] = true })
		r.snap.Segments(func(d []byte) { all[key{"audience", "", string(d)}] = true })
	}
	if len(distinct) != s.Snapshots() {
		t.Fatalf("%d snapshots, want %d", s.Snapshots(), len(distinct))
	}
	for text, code := range distinct {
		have := map[key]profile.Value{}
		snap := profile.Snapshot(text)
		snap.Attributes(func(sec, id []byte, v profile.Value) { have[key{"attribute", string(sec), string(id)}] = v })
		snap.Tags(func(sec, id []byte) { have[key{"tag", string(sec), string(id)}] = profile.Value{} })
		snap.Segments(func(d []byte) { have[key{"audience", "", string(d)}] = profile.Value{} })
		for k := range all {
			want, ok := have[k]
			got, found := snapshotValue(t, s, k.kind, k.section, k.id, int(code-1))
			if found != ok || got.Kind != want.Kind || !bytes.Equal(got.Raw, want.Raw) {
				t.Fatalf("%v of snapshot %d: %v %v, want %v %v", k, code-1, got, found, want, ok)
			}
		}
	}
	if v, err := s.Attribute("section-0", "999999"); v != nil || err != nil {
		t.Fatal("an attribute that nobody has:", v, err)
	}
	if v, err := s.Audience("nobody"); v != nil || err != nil || v.Has(0) {
		t.Fatal("an audience without members:", v, err)
	}
}

func snapshotValue(t *testing.T, s *Slice, kind, section, id string, snap int) (profile.Value, bool) {
	t.Helper()
	var b Bitmap
	var err error
	switch kind {
	case "attribute":
		c, err := s.Attribute(section, id)
		if err != nil {
			t.Fatal(err)
		}
		if c == nil || c.Codes[snap] == 0 {
			return profile.Value{}, false
		}
		return c.Dict[c.Codes[snap]-1], true
	case "tag":
		b, err = s.Tag(section, id)
	default:
		b, err = s.Audience(id)
	}
	if err != nil {
		t.Fatal(err)
	}
	return profile.Value{}, b.Has(snap)
}

func checkActivities(t *testing.T, s *Slice, rows []testRow) {
	t.Helper()
	type key struct{ section, activity, split string }
	want := map[key]*Activity{}
	for _, r := range rows {
		k := key{string(r.ev.Section), string(r.ev.Cells[event.ActivityID]), string(r.ev.Cells[event.SplitID])}
		a := want[k]
		if a == nil {
			a = &Activity{Section: k.section, ActivityID: k.activity, SplitID: k.split, First: r.ev.ServerTime}
			want[k] = a
		}
		a.Last, a.ActivityName, a.SplitActivityName = r.ev.ServerTime, string(r.ev.Cells[event.ActivityName]), string(r.ev.Cells[event.SplitActivityName])
		a.Counts[r.ev.Type]++
	}
	got, err := s.Activities()
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d activities, want %d: %v", len(got), len(want), err)
	}
	for _, a := range got {
		if w := want[key{a.Section, a.ActivityID, a.SplitID}]; w == nil || a != *w {
			t.Fatalf("activity %+v, want %+v", a, w)
		}
	}
}

// checkKeys opens the prefix of the slice alone.
func checkKeys(t *testing.T, s *Slice, rows []testRow) {
	t.Helper()
	k, err := OpenKeys("test", &s.info, s.data[:s.info.KeysLength])
	if err != nil {
		t.Fatal(err)
	}
	types, err := k.Types()
	if err != nil {
		t.Fatal(err)
	}
	off, err := k.Offsets()
	if err != nil {
		t.Fatal(err)
	}
	log, err := k.LogTimes()
	if err != nil {
		t.Fatal(err)
	}
	src, err := k.SourceCodes()
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		id, err := k.AppendCorrelation(nil, i)
		if err != nil {
			t.Fatal(err)
		}
		if types[i] != rows[i].ev.Type || off[i] != rows[i].offset || log[i] != rows[i].log || k.Sources()[src[i]] != rows[i].source ||
			!bytes.Equal(id, rows[i].ev.CorrelationID) {
			t.Fatalf("keys of row %d differ", i)
		}
	}
	a, err := k.Activities()
	if err != nil || len(a) == 0 {
		t.Fatal(a, err)
	}
	short, err := OpenActivities("test", &s.info, s.data[:s.blocks[blockActivities].off+s.blocks[blockActivities].stored])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := short.Activities(); err != nil || !slices.Equal(a, b) {
		t.Fatalf("activities %v, %v; want %v", b, err, a)
	}
	if _, err := short.Types(); !errors.Is(err, errNotThere) {
		t.Fatalf("the types of a slice that was opened for its activities: %v", err)
	}
	for what, call := range map[string]func() error{
		"EventTimes":    func() error { _, err := k.EventTimes(); return err },
		"Cells":         func() error { _, err := k.Cells(event.Subject); return err },
		"Sections":      func() error { _, err := k.Sections(); return err },
		"the profiles":  func() error { _, err := k.column(columnProfile); return err },
		"SnapshotCodes": func() error { _, err := k.SnapshotCodes(); return err },
		"Attribute":     func() error { _, err := k.Attribute("a", "1"); return err },
		"Tag":           func() error { _, err := k.Tag("a", "1"); return err },
		"Audience":      func() error { _, err := k.Audience("a"); return err },
	} {
		if call() == nil {
			t.Fatalf("%s of a slice opened by its keys gives no error", what)
		}
	}
}

// The same rows give the same bytes, however they came in.
func TestDeterminism(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	r := seed.Rand(t)
	for range 10 {
		rows := randomRows(t, r, 1+r.IntN(3000), 1+r.IntN(30))
		want := seal(t, spread(r, rows, 1)...)
		for range 3 {
			buffers := spread(r, rows, 1+r.IntN(5))
			r.Shuffle(len(buffers), func(i, j int) { buffers[i], buffers[j] = buffers[j], buffers[i] })
			for range 2 { // a cut that failed seals again
				got := seal(t, buffers...)
				if len(got) != len(want) {
					t.Fatalf("%d objects, want %d", len(got), len(want))
				}
				for i := range got {
					if !bytes.Equal(got[i].Data, want[i].Data) || got[i].FirstHour != want[i].FirstHour {
						t.Fatalf("object %d differs", i)
					}
				}
			}
		}
	}
}

func TestResetForgetsAll(t *testing.T) {
	r := seed.Rand(t)
	b := NewBuffer()
	for range 5 {
		rows := randomRows(t, r, 1+r.IntN(3000), 2)
		for i := range rows {
			rows[i].add(b)
		}
		fresh := NewBuffer()
		for i := range rows {
			rows[i].add(fresh)
		}
		if b.Rows() != len(rows) {
			t.Fatalf("%d rows, want %d", b.Rows(), len(rows))
		}
		if got, want := seal(t, b), seal(t, fresh); !slices.EqualFunc(got, want, func(a, b Object) bool { return bytes.Equal(a.Data, b.Data) }) {
			t.Fatal("a buffer used again gives other objects than a new one")
		}
		b.Reset(32 << 20)
		if b.Rows() != 0 || len(seal(t, b)) != 0 {
			t.Fatal("rows are left after Reset")
		}
	}
}

// simpleRow is a row with nothing special.
func simpleRow(i int, account string, server int64) testRow {
	return testRow{source: Source{Stream{Topic: "email-events", ID: TopicID{1}}, 0}, offset: int64(i), log: server,
		ev: event.Event{CorrelationID: []byte(strconv.Itoa(i)), AccountID: []byte(account), Section: []byte("s"), ProfileID: []byte("p"), ServerTime: server}}
}

func TestObjectsAreBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	t.Run("a backlog of many hours", func(t *testing.T) {
		b := NewBuffer()
		r := rand.New(rand.NewPCG(1, 1))
		hours := map[int64]int{}
		for i := range 200_000 {
			h := r.Int64N(90 * 24)
			if i%2 == 0 {
				h = 100 * r.Int64N(3) // big hours
			}
			hours[h]++
			row := simpleRow(i, "a", h*hourMillis+r.Int64N(hourMillis))
			row.add(b)
		}
		objects := seal(t, b)
		if len(objects) > MaxObjects || len(objects) < 3 {
			t.Fatalf("%d objects", len(objects))
		}
		seen := map[int64]int{}
		for n, o := range objects {
			for _, s := range openAll(t, objects[n:n+1]) {
				times, err := s.ServerTimes()
				if err != nil {
					t.Fatal(err)
				}
				if s.Rows() > MaxSliceRows {
					t.Fatalf("a slice of %d rows", s.Rows())
				}
				for i, at := range times {
					h := at / hourMillis
					if old, ok := seen[h]; ok && old != n {
						t.Fatalf("hour %d is in objects %d and %d", h, old, n)
					}
					seen[h] = n
					if i >= hourBreak && h != times[i-1]/hourMillis {
						t.Fatalf("a slice goes on after its hour although it has %d rows", i)
					}
					if at < o.FirstHour.UnixMilli() {
						t.Fatalf("a row before the object's first hour")
					}
				}
			}
		}
		if len(seen) != len(hours) {
			t.Fatalf("%d hours, want %d", len(seen), len(hours))
		}
	})
	t.Run("many accounts", func(t *testing.T) {
		b := NewBuffer()
		for i := range 5000 {
			row := simpleRow(i, fmt.Sprintf("account-%d", i), 1000)
			row.add(b)
		}
		checkDirectories(t, seal(t, b), 3)
	})
	t.Run("many sources", func(t *testing.T) {
		b := NewBuffer()
		for i := range 64 * 1000 {
			row := simpleRow(i, fmt.Sprintf("account-%d", i/64), 1000)
			row.source.Partition = int32(i % 64)
			row.add(b)
		}
		checkDirectories(t, seal(t, b), 3)
	})
	t.Run("more sources than a slice takes", func(t *testing.T) {
		b := NewBuffer()
		for i := range maxSources + 10 {
			row := simpleRow(0, "a", 1000)
			row.source.Partition = int32(i)
			row.add(b)
		}
		objects := seal(t, b)
		if n := len(openAll(t, objects)); n != 2 {
			t.Fatalf("%d slices", n)
		}
	})
	t.Run("long texts", func(t *testing.T) {
		b := NewBuffer()
		for i := range 40 {
			row := simpleRow(i, "a", 1000)
			row.ev.Cells[event.Subject] = bytes.Repeat([]byte{byte(i)}, 1<<20)
			row.add(b)
		}
		objects := seal(t, b)
		for _, s := range openAll(t, objects) {
			if s.Rows() > 16 {
				t.Fatalf("a slice with %d MiB of text", s.Rows())
			}
		}
		for _, o := range objects {
			if err := Verify("test", o.Data, o.Slices); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("profiles that share no tag", func(t *testing.T) {
		b := NewBuffer()
		var want []testRow
		next := 1
		for i, tags := range []int{maxSnapColumns/2 + 1, maxSnapColumns/2 + 1, 3, 2 * maxSnapColumns, 1, 1} {
			row := simpleRow(i, "a", 1000)
			text := []byte(`{"account_id":"a","sections":{"s":{"tags":[`)
			for range tags {
				text = append(strconv.AppendInt(text, int64(next), 10), ',')
				next++
			}
			var err error
			if row.snap, _, err = profile.Decode([]byte("p"), append(text[:len(text)-1], "]}}}"...)); err != nil {
				t.Fatal(err)
			}
			row.add(b)
			want = append(want, row)
		}
		objects := seal(t, b)
		var rows []int
		for _, s := range openAll(t, objects) {
			rows = append(rows, s.Rows())
		}
		if !slices.Equal(rows, []int{1, 2, 1, 2}) {
			t.Errorf("slices of %d rows", rows)
		}
		checkRows(t, objects, want)
	})
}

func checkDirectories(t *testing.T, objects []Object, atLeast int) {
	t.Helper()
	if len(objects) < atLeast {
		t.Fatalf("%d objects, want %d at least", len(objects), atLeast)
	}
	for _, o := range objects {
		text, err := json.Marshal(o.Slices)
		if err != nil {
			t.Fatal(err)
		}
		if len(o.Slices) > MaxDirectorySlices || len(text) > MaxDirectoryBytes+2 {
			t.Fatalf("a directory of %d slices, %d bytes", len(o.Slices), len(text))
		}
		var back []SliceInfo
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if err := Verify("test", o.Data, back); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSealRefusesContradictions(t *testing.T) {
	twice := NewBuffer()
	for range 2 {
		row := simpleRow(7, "a", 1)
		row.add(twice)
	}
	ids := NewBuffer()
	for i := range 2 {
		row := simpleRow(i, "a", 1)
		row.source.ID = TopicID{byte(i)}
		row.add(ids)
	}
	for what, b := range map[string]*Buffer{"an offset added twice": twice, "one stream with two ids": ids} {
		if err := Seal([]*Buffer{b}, func(Object) error { return nil }); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	good := NewBuffer()
	row := simpleRow(0, "a", 1)
	row.add(good)
	if err := Seal([]*Buffer{good}, func(Object) error { return errLong }); !errors.Is(err, errLong) {
		t.Errorf("the error of emit comes back as %v", err)
	}
}

// Columns that depend on one another share their codes, in memory too.
func TestDependentColumnsShareCodes(t *testing.T) {
	b := NewBuffer()
	for i := range 1000 {
		row := simpleRow(i, "a", int64(i))
		row.ev.Cells[event.ActivityID] = strconv.AppendInt(nil, int64(i*i%7), 10)
		row.ev.Cells[event.Subject] = fmt.Appendf(nil, "subject of %d", i*i%7)
		row.add(b)
	}
	s := openAll(t, seal(t, b))[0]
	one, err := s.Cells(event.ActivityID)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Cells(event.Subject)
	if err != nil {
		t.Fatal(err)
	}
	if &one.Codes[0] != &other.Codes[0] {
		t.Fatal("the codes are kept twice")
	}
}

func TestSliceInfoJSON(t *testing.T) {
	info := SliceInfo{Account: "<é>\"", Rows: 3, MinTime: 1_700_000_000_000, MaxTime: 1_700_000_000_500, Offset: 8, Length: 500, KeysLength: 200,
		Sources: []OffsetRange{Stream{Topic: "a", ID: TopicID{1}}.Range(2, 5, 9), Stream{Topic: "a", ID: TopicID{1}}.Range(3, 0, 1),
			Stream{Topic: "a", Incarnation: 1, ID: TopicID{2}}.Range(0, 7, 8)}}
	text, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	var back SliceInfo
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if what := back.differs(&info); what != "" || back.Offset != info.Offset {
		t.Fatalf("%s came back with another %s", text, what)
	}
	for _, bad := range []string{`{}`, `{"a":"x","n":0,"t":[0,0],"b":[0,0,0],"s":[]}`, `{"unknown":1}`, `[]`,
		`{"a":"x","n":1,"t":[0,0],"b":[0,9,9],"s":[{"t":"a","d":"AQAAAAAAAAAAAAAAAAAAAA","p":[[4294967296,0,1]]}]}`,
		`{"a":"x","n":1,"t":[0,-1],"b":[0,9,9],"s":[{"t":"a","d":"AQAAAAAAAAAAAAAAAAAAAA","p":[[0,0,1]]}]}`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestTopicID(t *testing.T) {
	id := TopicID{0xfb, 0xff, 1, 2, 3}
	text := id.String()
	back, err := ParseTopicID(text)
	if err != nil || back != id || len(text) != 22 {
		t.Fatal(text, back, err)
	}
	for _, bad := range []string{"", "x", text + "A", text[:21] + "B", text[:21] + "=", "++++++++++++++++++++++"} {
		if _, err := ParseTopicID(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestKeyOf(t *testing.T) {
	seen := map[[2]uint64]string{}
	for _, id := range []TopicID{{}, {1}} {
		for _, typ := range []event.Type{event.Sent, event.Opened} {
			for _, pair := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"abc", ""}, {"", "abc"}} {
				hi, lo := KeyOf(id, []byte(pair[0]), typ, []byte(pair[1]))
				name := fmt.Sprint(id, typ, pair)
				if other := seen[[2]uint64{hi, lo}]; other != "" {
					t.Fatalf("%s and %s have one key", name, other)
				}
				seen[[2]uint64{hi, lo}] = name
			}
		}
	}
	// The value is compared with keys computed from stored segments: it must
	// never change.
	hi, lo := KeyOf(TopicID{1, 2, 3}, []byte("acme"), event.Clicked, []byte("0198c5a2-0000-7000-8000-000000000001"))
	if got := fmt.Sprintf("%016x%016x", hi, lo); got != goldenKey {
		t.Fatalf("key %s, want %s", got, goldenKey)
	}
	account, correlation := bytes.Repeat([]byte("a"), 100), bytes.Repeat([]byte("c"), 256)
	if n := testing.AllocsPerRun(100, func() { KeyOf(TopicID{}, account, event.Sent, correlation) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

const goldenKey = "6d68735d4e91ce970bc156d15058ed55"
