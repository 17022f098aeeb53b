package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lockstitch/internal/bubble"
	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

type sample struct {
	section, activity, split, name string
	typ                            event.Type
	ago                            time.Duration
}

// keep stores events of acme as one segment.
func (r *rig) keep(id string, samples ...sample) {
	r.t.Helper()
	r.keepAt(id, time.Now(), samples...)
}

// keepAt is keep for samples that are so long ago of a time.
func (r *rig) keepAt(id string, now time.Time, samples ...sample) {
	r.t.Helper()
	b := segment.NewBuffer()
	stream := &segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}
	for i, s := range samples {
		ev := event.Event{Type: s.typ, CorrelationID: fmt.Appendf(nil, "%s-%d", id, i), AccountID: []byte("acme"), Section: []byte(s.section),
			ProfileID: []byte("p"), ServerTime: now.Add(-s.ago).UnixMilli()}
		ev.Cells[event.ActivityID], ev.Cells[event.SplitID], ev.Cells[event.ActivityName] = []byte(s.activity), []byte(s.split), []byte(s.name)
		b.Add(stream, 0, int64(i), ev.ServerTime, &ev, nil)
	}
	n := 0
	err := segment.Seal([]*segment.Buffer{b}, func(o segment.Object) error {
		name := fmt.Sprintf("segments/2026/%s-%d", id, n)
		n++
		for i := range o.Slices {
			r.slices.refs = append(r.slices.refs, catalog.SliceRef{SegmentID: name, Object: name, Info: &o.Slices[i]})
		}
		return r.store.Put(r.t.Context(), name, o.Data)
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestActivities(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	r.define(`{"kind":"section","account_id":"acme","discriminator":"a/b c","name":"Odd"}`, `{"kind":"section","account_id":"acme","discriminator":"empty","name":"E"}`)
	day := 24 * time.Hour
	r.keep("1",
		sample{"s1", "x", "x", "old name", event.Sent, 3 * day},
		sample{"s1", "y", "y1", "Y", event.Sent, 2 * day},
		sample{"s1", "y", "y2", "Y", event.Opened, 2 * day},
		sample{"s1", "", "", "nameless", event.Sent, day},
		sample{"a/b c", "z", "z", "Z", event.Clicked, day},
	)
	r.keep("2", sample{"s1", "x", "x", "new name", event.Clicked, time.Hour}, sample{"s1", "x", "x", "new name", event.Sent, 2 * time.Hour})
	// One segment on both sides of the 90 days.
	r.keep("3", sample{"s1", "x", "x", "ancient", event.Sent, 91 * day}, sample{"s1", "x", "x", "ancient", event.Sent, 89 * day})

	for _, word := range []string{"sections", "section"} {
		for range 2 { // the second time from memory
			var l ActivityList
			a := r.do("GET", "/emails/"+word+"/s1/activities", "a", "")
			a.json(t, &l)
			if a.StatusCode != 200 || len(l.Items) != 2 || l.NextPageToken != "" {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			x, y := l.Items[0], l.Items[1]
			if x.ActivityID != "x" || x.Name != "new name" || x.Counts != (Counts{Sent: 3, Clicked: 1}) || len(x.Splits) != 1 {
				t.Fatalf("%+v", x)
			}
			if y.ActivityID != "y" || len(y.Splits) != 2 || y.Splits[1].SplitID != "y2" || y.Splits[1].Counts != (Counts{Opened: 1}) {
				t.Fatalf("%+v", y)
			}
			if d := time.Since(time.UnixMilli(int64(x.FirstSeen))); d < 88*day || d > 90*day {
				t.Fatalf("first seen %s ago", d)
			}
		}
		var one Activity
		r.do("GET", "/emails/"+word+"/s1/activities/y", "a", "").json(t, &one)
		if one.ActivityID != "y" {
			t.Fatalf("%+v", one)
		}
	}
	var first, second ActivityList
	r.do("GET", "/emails/sections/s1/activities?limit=1", "a", "").json(t, &first)
	r.do("GET", "/emails/sections/s1/activities?limit=1&page_token="+first.NextPageToken, "a", "").json(t, &second)
	if len(first.Items) != 1 || len(second.Items) != 1 || second.Items[0].ActivityID != "y" || second.NextPageToken != "" {
		t.Fatalf("%+v %+v", first, second)
	}
	if a := r.do("GET", "/emails/sections/a%2Fb%20c/activities/z", "a", ""); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := r.do("GET", "/emails/sections/empty/activities", "a", ""); string(a.body) != `{"items":[]}`+"\n" {
		t.Fatalf("%s", a.body)
	}
	for _, p := range []string{"sections/nope/activities", "section/%00/activities", "sections/%ff/activities", "sections/%2e%2e/activities", "sections/s1/activities/nope", "section/s1/activities/nope", "sections/s1/activities/%ff"} {
		r.problem(r.do("GET", "/emails/"+p, "a", ""), 404, "not-found")
	}
	r.problem(r.do("GET", "/emails/sections/s1/activities", "b", ""), 404, "not-found") // another account's
	for _, q := range []string{"limit=0", "page_token=x", "page_token=", "page_token=e30"} {
		r.problem(r.do("GET", "/emails/sections/s1/activities?"+q, "a", ""), 400, "invalid-request")
	}
	// A store without the segment is not an answer without its events. Where it counts no
	// more since it was listed, it was removed in time.
	r.keep("4", sample{"s1", "x", "x", "n", event.Sent, time.Minute})
	ref := r.slices.refs[len(r.slices.refs)-1]
	if err := r.store.Delete(t.Context(), ref.Object); err != nil {
		t.Fatal(err)
	}
	r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 500, "stored-data-damaged")
	r.slices.removed = ref.SegmentID
	r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 503, "unavailable")
	r.slices.removed = ""
	// Nor is one in which it is of a newer version: upgraded replicas can read it.
	newer := make([]byte, ref.Info.Offset+ref.Info.Length)
	copy(newer[ref.Info.Offset:], "LSSL\x02")
	if err := r.store.Put(t.Context(), ref.Object, newer); err != nil {
		t.Fatal(err)
	}
	r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 503, "unavailable")
}

// TestActivitiesOfDamagedSegments: what an export ends in an error for is no failure of the
// store either that asking again would mend: an object that is cut off, in what is read of
// a slice that lies within the window and of one that its beginning cuts.
func TestActivitiesOfDamagedSegments(t *testing.T) {
	const day = 24 * time.Hour
	for name, samples := range map[string][]sample{
		"within": {{"s1", "x", "x", "n", event.Sent, day}},
		"cut":    {{"s1", "x", "x", "n", event.Sent, 91 * day}, {"s1", "x", "x", "n", event.Sent, 89 * day}},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			r := newRig(t, func(_ *Config, d *Deps) { d.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			r.define(definitions...)
			r.keep("1", samples...)
			ref := r.slices.refs[0]
			whole, err := ref.Read(t.Context(), r.store, ref.Info.Length)
			if err != nil {
				t.Fatal(err)
			}
			needed := ref.Info.KeysLength
			if name == "cut" {
				needed = ref.Info.Length
			}
			for _, n := range []int64{needed - 1, 20, 0, -1} { // bytes of the slice that are left
				if err := os.Truncate(filepath.Join(r.dir, ref.Object), ref.Info.Offset+n); err != nil {
					t.Fatal(err)
				}
				log.Reset()
				p := r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 500, "stored-data-damaged")
				if strings.Contains(p.Detail, "segments/") {
					t.Errorf("%s", p.Detail)
				}
				if want := fmt.Sprintf("segment %s is damaged at byte %d: ", ref.Object, ref.Info.Offset+max(0, n)); !strings.Contains(log.String(), want) {
					t.Errorf("%d bytes are left: no %q in the log:\n%s", n, want, log.String())
				}
			}
			flipped := slices.Concat(make([]byte, ref.Info.Offset), whole)
			flipped[ref.Info.Offset+20] ^= 1
			if err := errors.Join(r.store.Delete(t.Context(), ref.Object), r.store.Put(t.Context(), ref.Object, flipped)); err != nil {
				t.Fatal(err)
			}
			r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 500, "stored-data-damaged")
		})
	}
}

// Ids are whatever the events say: each can be asked for, percent-encoded.
func TestActivityIDs(t *testing.T) {
	r := newRig(t, nil)
	ids := []string{"7", "a/b", "a b", "a+b", "50%", "%2F", "..", ".", "?x#y", "é👩‍👧", "a;b=c", "\"q\"", "\n", "x\x00", strings.Repeat("long", 300)}
	sections := []string{"s1", "../s", "ö/%"}
	for i, section := range sections {
		value, err := json.Marshal(map[string]any{"kind": "section", "account_id": "acme", "discriminator": section, "name": "n"})
		if err != nil {
			t.Fatal(err)
		}
		r.define(string(value))
		var samples []sample
		for n, id := range ids {
			samples = append(samples, sample{section, id, id, id, event.Type(n % int(event.NumTypes)), time.Duration(n) * time.Hour})
		}
		r.keep(fmt.Sprint(i), samples...)
	}
	encode := func(s string) string { return strings.ReplaceAll(url.PathEscape(s), ".", "%2E") }
	for _, section := range sections {
		for _, word := range []string{"section", "sections"} {
			at := "/emails/" + word + "/" + encode(section) + "/activities"
			var l ActivityList
			r.do("GET", at, "a", "").json(t, &l)
			if len(l.Items) != len(ids) {
				t.Fatalf("%s: %d activities", at, len(l.Items))
			}
			for n, id := range ids { // the latest event first
				if l.Items[n].ActivityID != id {
					t.Errorf("%s: activity %d is %q, want %q", at, n, l.Items[n].ActivityID, id)
				}
				var one Activity
				a := r.do("GET", at+"/"+encode(id), "a", "")
				if a.StatusCode != 200 {
					t.Errorf("%s: %d %s", a.Request.URL, a.StatusCode, a.body)
					continue
				}
				a.json(t, &one)
				if one.ActivityID != id || one.Name != id || len(one.Splits) != 1 || one.Splits[0].SplitID != id {
					t.Errorf("%q: %+v", id, one)
				}
			}
		}
	}
	// Names of the counts are the types of the seed's list.
	a := r.do("GET", "/emails/sections/s1/activities/7", "a", "")
	if !strings.Contains(string(a.body), `"counts":{"SENT":1,"DELIVERED":0,"OPENED":0,"CLICKED":0,"BOUNCED":0,"UNSUBSCRIBED":0,"ABUSE":0}`) {
		t.Errorf("%s", a.body)
	}
	// Paging meets each once, whatever stands in the ids.
	got, token := 0, ""
	for {
		var l ActivityList
		r.do("GET", "/emails/sections/s1/activities?limit=4"+token, "a", "").json(t, &l)
		for _, item := range l.Items {
			if got >= len(ids) || item.ActivityID != ids[got] {
				t.Fatalf("item %d is %q", got, item.ActivityID)
			}
			got++
		}
		if l.NextPageToken == "" {
			break
		}
		token = "&page_token=" + l.NextPageToken
	}
	if got != len(ids) {
		t.Errorf("%d items on all pages", got)
	}
}

// Pages go on behind ids too long for a URL, and behind several activities seen
// last in one moment.
func TestActivityPages(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	at := time.Now().Add(-time.Hour)
	var samples []sample
	var want []string
	for i := range 9 {
		id := string(rune('a'+i)) + strings.Repeat("x", 40_000)
		want = append(want, id)
		samples = append(samples, sample{"s1", id, id, "n", event.Sent, time.Duration(i/3) * time.Minute})
	}
	r.keepAt("1", at, samples...)
	var got []string
	for token := ""; ; {
		var l ActivityList
		a := r.do("GET", "/emails/sections/s1/activities?limit=2"+token, "a", "")
		if a.json(t, &l); a.StatusCode != 200 {
			t.Fatalf("%d %.100s", a.StatusCode, a.body)
		}
		for _, item := range l.Items {
			got = append(got, item.ActivityID)
		}
		if l.NextPageToken == "" {
			break
		}
		token = "&page_token=" + l.NextPageToken
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d activities on all pages, or in another order; want %d", len(got), len(want))
	}

	// The end of a page is seen again before the next is asked for.
	all := []Activity{{ActivityID: "b", LastSeen: 9}, {ActivityID: "a", LastSeen: 5}, {ActivityID: "c", LastSeen: 5}, {ActivityID: "d", LastSeen: 1}}
	for n, c := range []struct {
		end  Activity
		next int
	}{{all[0], 1}, {all[1], 2}, {all[2], 3}, {all[3], 4}, {Activity{ActivityID: "b", LastSeen: 5}, 1}, {Activity{ActivityID: "b", LastSeen: 4}, 3}, {Activity{LastSeen: 99}, 0}} {
		if got := endOf(&c.end).next(all); got != c.next {
			t.Errorf("%d: behind %+v comes item %d, want %d", n, c.end, got, c.next)
		}
	}
}

// held is a store that holds what it is asked for back.
type held struct {
	objects.Store
	asked atomic.Int32
	open  chan struct{}
}

func (h *held) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	h.asked.Add(1)
	<-h.open
	return h.Store.Open(ctx, name, off, n)
}

// However many calls there are, no more slices than configured are in memory.
func TestSlicesAreReadAFewAtATime(t *testing.T) {
	r := newRig(t, nil)
	for i := range 6 {
		r.keep(fmt.Sprint(i), sample{"s1", "x", "x", "n", event.Sent, time.Hour})
	}
	store, now := r.store, time.Now()
	bubble.Test(t, func(t *testing.T) {
		h := &held{Store: store, open: make(chan struct{})}
		s := &server{
			cfg: Config{ActivityReads: 2, ActivityWindow: 24 * time.Hour}, deps: Deps{Catalog: r.slices, Store: h},
			reads: make(chan struct{}, 2), summaries: newSummaryCache(1 << 20), sums: newMemory(1 << 20),
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				mem := s.sums.share()
				defer mem.end()
				if all, err := s.summarise(t.Context(), activityQuestion{account: "acme", section: "s1"}, now, mem); err != nil || len(all) != 1 || all[0].Counts.Sent != 6 {
					t.Errorf("%+v %v", all, err)
				}
			})
		}
		synctest.Wait()
		if n := h.asked.Load(); n != 2 {
			t.Errorf("%d slices are being read", n)
		}
		close(h.open)
		wg.Wait()
	})
}

// slow is a store that takes its time and counts what it is asked for.
type slow struct {
	objects.Store
	never        bool // answers
	reads, bytes atomic.Int64
}

func (s *slow) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	s.reads.Add(1)
	s.bytes.Add(n)
	answer := time.After(time.Second)
	if s.never {
		answer = nil
	}
	select {
	case <-answer:
		return s.Store.Open(ctx, name, off, n)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestActivitiesOfManySlices: with a slice for each of 2,160 hours from a store that is
// slow they cannot be summed up in time, nor remembered one by one. Asked again it
// comes to an end, and from then on reads what is new.
func TestActivitiesOfManySlices(t *testing.T) {
	r := newRig(t, nil)
	const hours = 90 * 24
	now := time.Now().Truncate(24 * time.Hour).Add(12 * time.Hour)
	stream := &segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}
	var object []byte // all slices in one, which saves time here
	for h := range hours {
		ev := event.Event{Type: event.Sent, CorrelationID: []byte("c"), AccountID: []byte("acme"), Section: []byte("s1"), ProfileID: []byte("p"),
			ServerTime: now.Add(-time.Duration(hours-h)*time.Hour + time.Minute).UnixMilli()}
		ev.Cells[event.ActivityID], ev.Cells[event.SplitID] = fmt.Append(nil, "a", h%3), []byte("x")
		ev.Cells[event.ActivityName] = fmt.Appendf(nil, "name %04d", h)
		b := segment.NewBuffer()
		b.Add(stream, 0, int64(h), ev.ServerTime, &ev, nil)
		if err := segment.Seal([]*segment.Buffer{b}, func(o segment.Object) error {
			info := o.Slices[0]
			data := o.Data[info.Offset : info.Offset+info.Length]
			info.Offset = int64(len(object))
			object = append(object, data...)
			r.slices.refs = append(r.slices.refs, catalog.SliceRef{SegmentID: fmt.Sprint(h), Object: "segments/x", Info: &info})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.store.Put(t.Context(), "segments/x", object); err != nil {
		t.Fatal(err)
	}
	store, refs := r.store, r.slices.refs
	bubble.Test(t, func(t *testing.T) {
		st := &slow{Store: store}
		s := &server{
			cfg: Config{ActivityReads: 8, ActivityWindow: 90 * 24 * time.Hour}, deps: Deps{Catalog: r.slices, Store: st},
			reads: make(chan struct{}, 8), summaries: newSummaryCache(300_000), sums: newMemory(1 << 20),
		}
		ask := func() ([]Activity, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			mem := s.sums.share()
			defer mem.end()
			return s.summarise(ctx, activityQuestion{account: "acme", section: "s1"}, now, mem)
		}
		asked := 1
		all, err := ask()
		for ; err != nil && asked < 20; asked++ {
			all, err = ask()
		}
		if err != nil || asked < 2 || len(all) != 3 {
			t.Fatalf("asked %d times: %d activities, %v", asked, len(all), err)
		}
		for i, a := range all {
			if a.Counts.Sent != hours/3 || a.Name != fmt.Sprintf("name %04d", hours-1-i) || len(a.Splits) != 1 || a.Splits[0].Counts != a.Counts {
				t.Errorf("%+v", a)
			}
		}
		if n := st.bytes.Load() / st.reads.Load(); n > firstBytes {
			t.Errorf("%d bytes were read of a slice", n)
		}
		t.Logf("asked %d times, %d reads", asked, st.reads.Load())
		st.reads.Store(0)
		if again, err := ask(); err != nil || !slices.EqualFunc(all, again, func(a, b Activity) bool { return a.ActivityID == b.ActivityID && a.Counts == b.Counts }) || st.reads.Load() != 0 {
			t.Errorf("asked again: %v after %d reads, %v", again, st.reads.Load(), err)
		}
		// Another slice of the newest hour, and the window has gone on by two.
		r.slices.refs = append(slices.Clone(refs), refs[hours-1])
		r.slices.refs[hours].SegmentID = "another"
		now = now.Add(2 * time.Hour)
		all, err = ask()
		total := int64(0)
		for _, a := range all {
			total += a.Counts.Sent
		}
		if err != nil || total != hours-1 || st.reads.Load() != 2 {
			t.Errorf("%d events after %d reads, %v; want %d after those of an hour", total, st.reads.Load(), err, hours-1)
		}
	})
}

// What is not summed up in time is told from a store that does not answer.
func TestActivitiesNotInTime(t *testing.T) {
	r := newRig(t, func(cfg *Config, d *Deps) {
		cfg.ActivityTimeout, d.Store = 10*time.Millisecond, &slow{Store: d.Store, never: true}
	})
	r.define(definitions...)
	r.keep("1", sample{"s1", "x", "x", "n", event.Sent, time.Hour})
	p := r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 503, "unavailable")
	if !strings.Contains(p.Detail, "within 10ms") || !strings.Contains(p.Detail, "ask again") {
		t.Errorf("%+v", p)
	}
}

func TestSummaryCacheStaysInItsBudget(t *testing.T) {
	c := newSummaryCache(4096)
	for i := range int64(100) {
		c.put(stretchKey{Lo: uint64(i)}, make([]segment.Activity, 3))
		if c.used > c.budget {
			t.Fatalf("%d of %d bytes used", c.used, c.budget)
		}
	}
	if _, ok := c.get(stretchKey{Lo: 99}); !ok || c.order.Len() != len(c.byKey) || c.order.Len() == 100 {
		t.Fatalf("%d remembered", c.order.Len())
	}
}

// TestActivitiesEndBeforeTheirConnection does: a call over its time is told so, and not that
// the store cannot be read.
func TestActivitiesEndBeforeTheirConnection(t *testing.T) {
	c := (Config{}).withDefaults()
	if c.ActivityTimeout+2*c.KafkaTimeout >= readTimeout { // definitions and catalog are looked at before
		t.Errorf("activities may take %s, reading their request %s", c.ActivityTimeout+2*c.KafkaTimeout, readTimeout)
	}
}
