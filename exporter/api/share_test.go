package api

import (
	"fmt"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"lockstitch/state/event"
	"lockstitch/state/segment"
)

// mailings are events of a section, each of an activity of its own, or of a split of
// its own of the one activity that is named.
func mailings(section, activity string, n int) []sample {
	out := make([]sample, n)
	for i := range out {
		id := fmt.Sprintf("id-%05d", i)
		out[i] = sample{section, id, id, "n", event.Sent, time.Duration(i) * time.Second}
		if activity != "" {
			out[i].activity = activity
		}
	}
	return out
}

// Who makes events says how many activities there are, and splits of one. What does not
// fit into the memory for them is refused, and takes nothing from others.
func TestTooManyActivities(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.ActivitySumBytes, c.ActivityCacheBytes = 256<<10, 64<<10 })
	for _, s := range []string{"many", "few", "split"} {
		r.define(fmt.Sprintf(`{"kind":"section","account_id":"acme","discriminator":%q,"name":"n"}`, s))
	}
	r.keep("1", mailings("many", "", 2000)...)
	r.keep("2", append(mailings("split", "x", 2000), append(mailings("few", "", 10), mailings("split", "y", 100)...)...)...)
	// Days before, in which there is little.
	r.keepAt("3", time.Now().Add(-10*24*time.Hour), append(mailings("many", "", 1), mailings("few", "", 1)...)...)
	for range 20 { // each gives back what it took
		for _, path := range []string{"sections/many/activities", "sections/split/activities", "sections/split/activities/x", "section/many/activities", "section/split/activities/x"} {
			if p := r.problem(r.do("GET", "/emails/"+path, "a", ""), 413, "too-many-activities"); !strings.Contains(p.Detail, "memory_limit") {
				t.Errorf("%s: %+v", path, p)
			}
		}
	}
	for range 2 { // the second time from memory, where that was not too much to remember
		for id, want := range map[string]int64{"id-00000": 2, "id-01999": 1} {
			var one Activity
			r.do("GET", "/emails/sections/many/activities/"+id, "a", "").json(t, &one)
			if one.ActivityID != id || one.Counts.Sent != want || len(one.Splits) != 1 {
				t.Errorf("%s: %+v", id, one)
			}
		}
		var one Activity
		if r.do("GET", "/emails/sections/split/activities/y", "a", "").json(t, &one); len(one.Splits) != 100 || one.Counts.Sent != 100 {
			t.Errorf("%d splits, %+v", len(one.Splits), one.Counts)
		}
		var l ActivityList
		if r.do("GET", "/emails/sections/few/activities", "a", "").json(t, &l); len(l.Items) != 10 || l.Items[0].Counts.Sent != 2 || l.Items[9].Counts.Sent != 1 {
			t.Errorf("%+v", l)
		}
	}
}

// The memory is that of all calls, and a call has it until its answer is written.
func TestMemoryOfActivitiesIsShared(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.ActivitySumBytes = 256 << 10 })
	for _, account := range []string{"acme", "other"} {
		r.define(fmt.Sprintf(`{"kind":"section","account_id":%q,"discriminator":"s1","name":"n"}`, account))
	}
	r.keep("1", mailings("s1", "x", 180)...)
	for i := range r.slices.refs { // of both accounts
		info := *r.slices.refs[i].Info
		info.Account = "other"
		ref := r.slices.refs[i]
		ref.Info = &info
		r.slices.refs = append(r.slices.refs, ref)
	}
	const path = "/emails/sections/s1/activities"
	asked, goOn, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	req := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
	req.Header.Set("Authorization", "Bearer "+r.token("a"))
	go func() {
		defer close(done)
		r.handler.ServeHTTP(slowReader{httptest.NewRecorder(), asked, goOn}, req)
	}()
	<-asked
	if p := r.problem(r.do("GET", path, "b", ""), 503, "unavailable"); !strings.Contains(p.Detail, "Other calls") {
		t.Errorf("%+v", p)
	}
	close(goOn)
	<-done
	if a := r.do("GET", path, "b", ""); a.StatusCode != 200 {
		t.Errorf("%d %.200s", a.StatusCode, a.body)
	}
}

// A page ends where its activities have enough bytes, and none is left out.
func TestPagesOfManySplits(t *testing.T) {
	r := newRig(t, nil)
	r.define(definitions...)
	const n, splits = 30, 100
	for i := range n {
		r.keep(fmt.Sprint(i), mailings("s1", fmt.Sprintf("a%02d", i), splits)...)
	}
	pages, seen := 0, make(map[string]int)
	for token := ""; pages == 0 || token != ""; pages++ {
		var l ActivityList
		a := r.do("GET", "/emails/sections/s1/activities?limit=200"+token, "a", "")
		a.json(t, &l)
		for _, item := range l.Items {
			seen[item.ActivityID] += len(item.Splits)
		}
		if token = l.NextPageToken; token != "" {
			token = "&page_token=" + token
		}
	}
	if pages != 2 || len(seen) != n || seen["a00"] != splits || seen["a29"] != splits {
		t.Errorf("%d pages, %v", pages, seen)
	}
}

// What is taken of the memory is no less than what there is of it in the heap.
func TestMemoryOfActivitiesIsCounted(t *testing.T) {
	const n = 20_000
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 { // what tests before this one have left in pools
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for what, splits := range map[string]int{"a split each": 1, "three": 3, "hundreds": 500} {
		parts := make([]segment.Activity, n)
		for i := range parts {
			parts[i] = segment.Activity{Section: "s", ActivityID: fmt.Sprint("activity-", i/splits), SplitID: fmt.Sprint("split-", i), ActivityName: fmt.Sprint("Mailing ", i), SplitActivityName: fmt.Sprint("Part ", i)}
		}
		mem := newMemory(1 << 30).share()
		q := activityQuestion{section: "s"}
		before := heap()
		total := newActivityTotal(mem)
		total.add(parts)
		added, ok := total.parts()
		if took := heap() - before; took > mem.used || !ok {
			t.Errorf("%s, of a stretch: %d bytes in the heap, %d are counted", what, took, mem.used)
		}
		runtime.KeepAlive(added)
		total.giveUp()
		if mem.used != 0 {
			t.Errorf("%s: %d bytes are kept", what, mem.used)
		}

		before = heap()
		sums := activitySums{q: q, mem: mem, sums: make(map[string]*activitySum)}
		if err := sums.add(parts); err != nil {
			t.Fatal(err)
		}
		out := make([]Activity, 0, len(sums.sums))
		for id, a := range sums.sums {
			out = append(out, a.activity(id))
		}
		if took := heap() - before; took > mem.used {
			t.Errorf("%s, of all: %d bytes in the heap, %d are counted", what, took, mem.used)
		}
		runtime.KeepAlive(parts)
		runtime.KeepAlive(sums)
		runtime.KeepAlive(out)
	}
}
