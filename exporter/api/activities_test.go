package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
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
	b := segment.NewBuffer()
	stream := &segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}
	for i, s := range samples {
		ev := event.Event{Type: s.typ, CorrelationID: fmt.Appendf(nil, "%s-%d", id, i), AccountID: []byte("acme"), Section: []byte(s.section),
			ProfileID: []byte("p"), ServerTime: time.Now().Add(-s.ago).UnixMilli()}
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
	if a := r.do("GET", "/emails/sections/empty/activities", "a", ""); string(a.body) != `{"items":[]}` {
		t.Fatalf("%s", a.body)
	}
	for _, p := range []string{"sections/nope/activities", "section/%00/activities", "sections/%ff/activities", "sections/%2e%2e/activities", "sections/s1/activities/nope", "section/s1/activities/nope", "sections/s1/activities/%ff"} {
		r.problem(r.do("GET", "/emails/"+p, "a", ""), 404, "not-found")
	}
	r.problem(r.do("GET", "/emails/sections/s1/activities", "b", ""), 404, "not-found") // another account's
	for _, q := range []string{"limit=0", "page_token=x", "page_token=", "page_token=e30"} {
		r.problem(r.do("GET", "/emails/sections/s1/activities?"+q, "a", ""), 400, "invalid-request")
	}
	// A store without the segment is not an answer without its events.
	r.keep("4", sample{"s1", "x", "x", "n", event.Sent, time.Minute})
	if err := r.store.Delete(t.Context(), r.slices.refs[len(r.slices.refs)-1].Object); err != nil {
		t.Fatal(err)
	}
	r.problem(r.do("GET", "/emails/sections/s1/activities", "a", ""), 503, "unavailable")
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

func TestSummaryCacheStaysInItsBudget(t *testing.T) {
	c := newSummaryCache(4096)
	for i := range int64(100) {
		c.put(sliceKey{"s", i}, make([]segment.Activity, 3))
		if c.used > c.budget {
			t.Fatalf("%d of %d bytes used", c.used, c.budget)
		}
	}
	if _, ok := c.get(sliceKey{"s", 99}); !ok || c.order.Len() != len(c.byKey) || c.order.Len() == 100 {
		t.Fatalf("%d remembered", c.order.Len())
	}
}
