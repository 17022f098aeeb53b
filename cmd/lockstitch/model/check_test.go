package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"lockstitch/cmd/lockstitch/model/reference"
)

// stored is the catalog as its records say, read without the product's code.
type storedCatalog struct {
	segments  map[string]segmentRecord
	positions map[reference.Partition]positionRecord
	first     map[reference.Partition]reference.FirstEnds
	replaced  map[string]time.Time // objects of segments that another one has taken the place of, and when
}

type segmentRecord struct {
	Object   string   `json:"object"`
	SHA256   string   `json:"sha256"`
	Replaces []string `json:"replaces"`
}

type positionRecord struct {
	Topic      string `json:"topic"`
	TopicID    string `json:"topic_id"`
	Partition  int32  `json:"partition"`
	Next       int64  `json:"next"`
	LogTime    int64  `json:"log_time"`
	Kept       int64  `json:"kept"`
	Duplicates int64  `json:"duplicates"`
	Poison     int64  `json:"poison"`
	EventEnd   *int64 `json:"event_end"`
	ProfileEnd int64  `json:"profile_end"`
}

func (w *world) catalog() storedCatalog {
	c := storedCatalog{segments: make(map[string]segmentRecord), positions: make(map[reference.Partition]positionRecord), first: make(map[reference.Partition]reference.FirstEnds),
		replaced: make(map[string]time.Time)}
	for _, r := range w.dump(w.topics.Catalog) {
		var seg segmentRecord
		var pos positionRecord
		if r.Value == nil {
			delete(c.segments, string(r.Key[2:]))
			continue
		}
		if err := json.Unmarshal(r.Value, &seg); err != nil {
			w.failf("catalog record at %d: %v", r.Offset, err)
		}
		if err := json.Unmarshal(r.Value, &pos); err != nil {
			w.failf("catalog record at %d: %v", r.Offset, err)
		}
		p := reference.Partition{Topic: w.stream(pos.Topic, pos.TopicID), Partition: pos.Partition}
		switch {
		case seg.Object != "":
			for _, id := range seg.Replaces {
				old, there := c.segments[id]
				if !there {
					w.failf("%s takes the place of segment %s, which is not there", r.Key, id)
				}
				delete(c.segments, id)
				made, _ := ulid.Parse(string(r.Key[2:])) // else long ago
				c.replaced[old.Object] = made.Timestamp()
			}
			c.segments[string(r.Key[2:])] = seg
		case pos.EventEnd != nil:
			ends := reference.FirstEnds{EventEnd: *pos.EventEnd, ProfileEnd: pos.ProfileEnd}
			if old, ok := c.first[p]; ok && old != ends {
				w.failf("the first ends of %v were %v and are now %v", p, old, ends)
			}
			c.first[p] = ends
		case strings.Contains(string(r.Value), `"next"`):
			if old := c.positions[p]; pos.Next < old.Next {
				w.failf("the position of %v went from %d back to %d", p, old.Next, pos.Next)
			}
			c.positions[p] = pos
		}
	}
	return c
}

// check compares everything with the reference. The world is at rest.
func (w *world) check(rng *rand.Rand) *reference.Answer {
	cat := w.catalog()
	in := reference.Input{FirstEnds: cat.first, Horizon: w.horizon.Milliseconds(), Profiles: w.dump(w.topics.Profiles), Definitions: w.dump(w.topics.Definitions)}
	in.Events = w.events(cat)
	want := reference.Compute(in)
	for p, end := range w.firstStart {
		if f, ok := cat.first[p]; ok && f.EventEnd < end {
			w.failf("first ends of %v: %d, but events up to %d stood there before any replica ran", p, f.EventEnd, end)
		}
	}
	for p, c := range want.Counts {
		got := cat.positions[p]
		if (reference.Counts{Kept: got.Kept, Duplicates: got.Duplicates, Poison: got.Poison, LogTime: got.LogTime}) != c {
			w.failf("%v: stored as %+v, want %+v", p, got, c)
		}
	}
	w.checkSegments(cat)
	w.checkDead(want)
	kept := w.floors()
	w.checkRemoved(kept, want)
	w.checkExports(rng, cat, want, kept)
	for _, o := range w.orders {
		w.checkOrder(rng, o, want, kept)
		if p := w.someone(rng); o.exists && rng.IntN(4) == 0 {
			w.remove(p, o)
		}
	}
	l := w.ledger()
	w.checkObjects(l)
	total.mu.Lock()
	total.merged += len(cat.replaced) - w.merged
	w.merged = len(cat.replaced)
	total.second += l.second
	total.repeats += l.repeats
	total.mu.Unlock()
	return want
}

// checkSegments wants every live segment's object whole.
func (w *world) checkSegments(cat storedCatalog) {
	w.bucket.mu.Lock()
	defer w.bucket.mu.Unlock()
	for _, v := range append(w.bucket.violations, w.lake.violations...) {
		w.failf("store: %s", v)
	}
	for key, s := range cat.segments {
		o, ok := w.bucket.objects[s.Object]
		if !ok {
			w.failf("%s is in the catalog and its object %s is gone (deleted: %v)", key, s.Object, w.bucket.deleted[s.Object])
			continue
		}
		if sum := sha256.Sum256(o.data); hex.EncodeToString(sum[:]) != s.SHA256 {
			w.failf("object %s has another SHA-256 than the catalog says", s.Object)
		}
	}
}

// The replicas' settings: what is merged, how old an orphaned object must be, and how often they look.
const (
	sweepAge   = time.Hour
	sweepEvery = 10 * time.Second
	mergeEvery = 100 * time.Millisecond
)

var mergeSpans = []time.Duration{500 * time.Millisecond, 4 * time.Second}

// checkSwept wants no orphaned object from before the pause, if there is a newer
// one to tell the sweeper how late it is by the store's clock.
func (w *world) checkSwept(pause time.Duration) {
	spared := make(map[string]bool)
	cat := w.catalog()
	for _, s := range cat.segments {
		spared[s.Object] = true
	}
	for object, at := range cat.replaced {
		spared[object] = time.Since(at) < sweepAge+2*sweepEvery
	}
	w.bucket.mu.Lock()
	defer w.bucket.mu.Unlock()
	var newest time.Time
	for name, o := range w.bucket.objects {
		if strings.HasPrefix(name, "segments/") && o.at.After(newest) {
			newest = o.at
		}
	}
	for name, o := range w.bucket.objects {
		if strings.HasPrefix(name, "segments/") && !spared[name] && time.Since(o.at) > pause && newest.Sub(o.at) > sweepAge {
			w.failf("the orphaned object %s is still there", name)
		}
	}
	total.mu.Lock()
	defer total.mu.Unlock()
	for name := range w.bucket.deleted {
		if strings.HasPrefix(name, "segments/") {
			total.swept++
		}
	}
}

// checkDead compares the dead letters. They do not tell of which topic of a name
// they are.
func (w *world) checkDead(want *reference.Answer) {
	letter := func(topic, partition, offset, stamp string, r reference.Record) string {
		return fmt.Sprintf("%s/%s at %s of %s: %q %q", topic, partition, offset, stamp, r.Key, r.Value)
	}
	count := make(map[string]int)
	for _, r := range w.dump(w.topics.DeadLetters) {
		h := r.Headers
		count[letter(h["lockstitch.topic"], h["lockstitch.partition"], h["lockstitch.offset"], h["lockstitch.timestamp"], r)]++
	}
	for _, r := range want.Dead {
		count[letter(topicOf(r.Topic), strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Offset, 10), strconv.FormatInt(r.Time, 10), r)]--
	}
	for what, n := range count {
		if n != 0 {
			w.failf("%d dead letters too many: %s", n, what)
		}
	}
}

func (w *world) checkExports(rng *rand.Rand, cat storedCatalog, want *reference.Answer, kept floors) {
	w.finalRequests(rng, kept.last())
	for _, k := range w.walks {
		w.finish(rng, k)
	}
	texts := make(map[*export]string)
	for _, e := range w.exports {
		if e.answer.status == http.StatusAccepted && !e.cancelled {
			if _, text, ok := w.await(rng, e); ok {
				texts[e] = text
			}
		}
	}
	l := w.ledger()
	for _, e := range w.exports {
		known := w.known(want, e.q)
		switch {
		case known:
			w.checkKept(e, kept)
		case e.answer.status == http.StatusAccepted:
			w.failf("POST %s was accepted, though it names what is not defined", e.body)
		}
		a := l.requests[e.id]
		if e.late && (a == nil || !w.lost(cat, a.barrier)) {
			w.failf("report %s ended in error, as if its barrier could not be reached: %+v", e.id, a)
		}
		text, ok := texts[e]
		if !ok {
			continue
		}
		if a == nil {
			w.failf("report %s was acknowledged and is not in the log", e.id)
			continue
		}
		e.q.After, e.q.Barrier = a.after, a.barrier
		for p := range maps.Keys(e.before) {
			if _, still := e.after[p]; !still {
				continue // made anew meanwhile
			}
			if b := e.q.Barrier[p]; b < e.before[p] || b > e.after[p] {
				w.failf("report %s: barrier of %v is %d; the end was %d before the request and %d after it", e.id, p, b, e.before[p], e.after[p])
			}
		}
		e.q.Barrier = a.through
		if wanted, _ := want.Export(e.q); text != wanted {
			w.failf("export %s (%s, %s) differs:\n%s", e.id, e.q.Account, e.body, difference(text, wanted))
		}
	}
	for _, k := range w.walks {
		w.checkWalk(k, want, w.allEnds(cat), kept)
	}
}

// finalRequests asks for everything of every account, and for something. Where not all
// is kept, somebody walks from the beginning of what is.
func (w *world) finalRequests(rng *rand.Rand, oldest floor) {
	if oldest.oldest > 0 {
		w.walks = append(w.walks, &walk{account: pick(rng, accounts), cursor: "beginning"})
	}
	for i, account := range append(append([]string{}, accounts...), "") {
		e := &export{final: true}
		e.q, e.body = w.question(rng)
		if i < len(accounts) {
			e.q = reference.Question{Account: account, Start: max(w.begun.UnixMilli()-40*24*3600*1000, oldest.oldest)}
			e.body = fmt.Sprintf(`{"start_at":%q}`, stamp(e.q.Start))
		}
		e.q.Definitions = w.definitions
		w.exports = append(w.exports, e)
		p := w.someone(rng)
		if p == nil {
			w.failf("no replica has an API")
			return
		}
		w.request(e, p)
		if s := e.answer.status; s != http.StatusAccepted && s != http.StatusBadRequest {
			w.failf("POST without faults: %d %s", s, e.answer.body)
		}
	}
}

func (w *world) known(want *reference.Answer, q reference.Question) bool {
	ok := true
	for _, id := range q.Attributes {
		ok = ok && want.Known(q.Account, "attribute", id, q.Definitions)
	}
	for _, id := range q.Tags {
		ok = ok && want.Known(q.Account, "tag", id, q.Definitions)
	}
	for _, id := range []string{q.Member, q.NotMember} {
		ok = ok && (id == "" || want.Known(q.Account, "segment", id, q.Definitions))
	}
	return ok
}

// difference shows the lines that only one of two texts has.
func difference(got, want string) string {
	count := make(map[string]int)
	for _, l := range strings.Split(want, "\n") {
		count[l]++
	}
	var out []string
	for _, l := range strings.Split(got, "\n") {
		count[l]--
	}
	for l, n := range count {
		switch {
		case n > 0:
			out = append(out, fmt.Sprintf("missing %d: %s", n, l))
		case n < 0:
			out = append(out, fmt.Sprintf("too many %d: %s", -n, l))
		}
	}
	if len(out) == 0 {
		return "the same lines in another order"
	}
	sort.Strings(out)
	return strings.Join(out[:min(len(out), 20)], "\n")
}

// checkLags waits until all lags are zero and every partition has one. A
// replica that was put out of the group may take long to find out, when it waits
// for an answer that was lost.
func (w *world) checkLags() {
	for begun := time.Now(); ; time.Sleep(time.Second) {
		wrong := w.wrongLags()
		if wrong == "" {
			return
		}
		if time.Since(begun) > settleTime {
			w.failf("lags at rest: %s", wrong)
			return
		}
	}
}

func (w *world) wrongLags() (wrong string) {
	seen, living := make(map[string]int), 0
	slowest := time.Duration(math.MaxInt64)
	for _, r := range w.replicas {
		if r.living() != nil {
			slowest = min(slowest, r.clock.off)
		}
	}
	for _, r := range w.replicas {
		p := r.living()
		if p == nil {
			continue
		}
		p.mu.Lock()
		reg, catchUp := p.reg, p.catchUp
		p.mu.Unlock()
		if catchUp == nil {
			return p.r.name + " is not open"
		}
		if err := catchUp(w.context()); err != nil {
			return fmt.Sprintf("%s cannot read the reports: %v", p.r.name, err)
		}
		living++
		families, err := reg.Gather()
		if err != nil {
			w.failf("metrics: %v", err)
		}
		for _, f := range families {
			if !strings.Contains(f.GetName(), "_lag_") {
				continue
			}
			for _, m := range f.GetMetric() {
				v := m.GetGauge().GetValue()
				// By a clock that is ahead of that of who makes the files some are due.
				if ahead := r.clock.off - slowest; ahead > 0 && (f.GetName() == "lockstitch_rolling_lag_files" ||
					f.GetName() == "lockstitch_rolling_lag_seconds" && v <= (ahead+time.Second).Seconds()) {
					v = 0
				}
				if v != 0 {
					wrong += fmt.Sprintf("%s of %v is %v; ", f.GetName(), m.GetLabel(), v)
				}
				seen[f.GetName()]++
			}
		}
	}
	for _, name := range []string{"processing_lag_records", "processing_lag_seconds", "durable_lag_records", "durable_lag_seconds"} {
		if n, all := seen["lockstitch_"+name], int(w.partitions)*(len(w.topics.Events)+1); n != all {
			wrong += fmt.Sprintf("%s has %d series, want %d; ", name, n, all)
		}
	}
	at := make(map[string]bool) // the orders that are worked on
	for _, o := range w.orders {
		if o.exists && !o.paused {
			at[o.account+"/"+o.name] = true
		}
	}
	for _, name := range []string{"rolling_lag_files", "rolling_lag_seconds"} {
		if n, all := seen["lockstitch_"+name], living*len(at); n != all {
			wrong += fmt.Sprintf("%s has %d series, want %d; ", name, n, all)
		}
	}
	return wrong
}
