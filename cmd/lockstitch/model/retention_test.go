package model

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"time"

	"lockstitch/cmd/lockstitch/model/reference"
)

// With -retention in half of the systems what is older than half a day expires, which happens when
// they have stood for days: it is refused first and removed later, while things go
// wrong.
const (
	retention     = 12 * time.Hour
	removalNotice = 30 * time.Second // longer than a replica is cut off or stands still
	removalLooks  = 2*removalNotice + 10*time.Second
)

// floors are what the catalog says of what retention has removed, contract 7.
type floors struct {
	refused []floor // each that was announced, oldest first
	removed floor
}

// floor is an edge of what is kept.
type floor struct {
	oldest int64 // server_time, ms: no row from then on is below
	at     vector
}

// floors reads them from the catalog's log.
func (w *world) floors() (f floors) {
	type floorRecord struct {
		Oldest int64 `json:"oldest_available"`
		Ends   []struct {
			TopicID   string `json:"t"`
			Partition int32  `json:"p"`
			Next      int64  `json:"n"`
		} `json:"ends"`
	}
	read := func(r floorRecord) floor {
		at := make(vector)
		for _, e := range r.Ends {
			at[reference.Partition{Topic: w.stream("", e.TopicID), Partition: e.Partition}] = e.Next
		}
		return floor{r.Oldest, at}
	}
	for _, r := range w.dump(w.topics.Catalog) {
		if string(r.Key) != "r/" || r.Value == nil {
			continue
		}
		var both struct {
			Refused floorRecord `json:"refused"`
			Removed floorRecord `json:"removed"`
		}
		if err := json.Unmarshal(r.Value, &both); err != nil {
			w.failf("catalog record at %d: %v", r.Offset, err)
		}
		refused, removed := read(both.Refused), read(both.Removed)
		if !refused.reaches(f.last()) || !removed.reaches(f.removed) || !refused.reaches(removed) {
			w.failf("catalog record at %d: a floor falls, or what is removed is not refused: %s", r.Offset, r.Value)
		}
		f.refused, f.removed = append(f.refused, refused), removed
	}
	return f
}

func (f floor) reaches(o floor) bool { return f.oldest >= o.oldest && f.at.reaches(o.at) }

// last is the floor below which requests are refused now.
func (f *floors) last() floor {
	if len(f.refused) == 0 {
		return floor{}
	}
	return f.refused[len(f.refused)-1]
}

// begin tells whether what is from the beginning may begin at a position: with all
// that there is, or at what was the oldest then.
func (f *floors) begin(at vector) bool {
	ok := at.equal(nil)
	for _, r := range f.refused {
		ok = ok || at.equal(r.at)
	}
	return ok
}

// expiring is the time in which most of what stood there before is removed. In half of
// the systems some exports that were accepted before wait behind a transaction, and
// find it removed.
func (w *world) expiring(f *faults, tr *traffic, rng *rand.Rand) {
	if rng.IntN(2) == 0 {
		tr.transaction()
		tr.hangs = true
		for range 5 {
			tr.event()
			w.ask(rng)
		}
	}
	const n, step = 30, removalLooks / 30
	w.bg.Go(func() { f.run(1+rng.IntN(6), n*step) })
	tr.run(n, step)
	w.bg.Wait()
	f.heal()
}

// expire waits until nothing more is removed, if anything is. The world is at rest.
func (w *world) expire() {
	if w.retention == 0 {
		return
	}
	before := w.floors()
	for begun := time.Now(); time.Since(begun) < settleTime; {
		time.Sleep(removalLooks)
		f := w.floors()
		if len(f.refused) == len(before.refused) && f.removed.reaches(f.last()) {
			return
		}
		before = f
	}
	w.failf("what was announced is not removed after %v without faults: %+v", settleTime, before)
}

// checkRemoved wants nothing to be removed that is not old enough, and of what stood
// there before the world paused everything that is. The time is that of the newest
// record, or the machines' where that is earlier.
func (w *world) checkRemoved(f floors, want *reference.Answer) {
	reached := int64(0)
	for _, c := range want.Counts {
		reached = max(reached, c.LogTime)
	}
	oldest := min(time.Now().UnixMilli(), reached) - w.retention.Milliseconds()
	if w.retention == 0 && !f.removed.at.equal(nil) {
		w.failf("segments were removed up to %v", f.removed)
	}
	if rows, newest := want.Between(nil, f.removed.at); rows > 0 && newest >= oldest {
		w.failf("removed is an event of %v, %v is kept", time.UnixMilli(newest).UTC(), w.retention)
	}
	rows, newest := want.Between(nil, w.paused)
	if w.retention == 0 || rows == 0 || newest >= oldest-removalLooks.Milliseconds() {
		return
	}
	if left, _ := want.Between(f.removed.at, w.paused); left > 0 {
		w.failf("%d events of before the pause are still kept", left)
	}
	total.mu.Lock()
	defer total.mu.Unlock()
	total.expired += rows
}

// checkKept wants only such requests to be refused, or to end in error, that ask for
// what is removed.
func (w *world) checkKept(e *export, f floors) {
	if e.answer.status == http.StatusBadRequest && e.q.Start >= f.last().oldest {
		w.failf("POST %s was refused: %s", e.body, e.answer.body)
	}
	if e.short && e.q.Start >= f.removed.oldest {
		w.failf("report %s ended in error, as if some of it had been removed", e.id)
	}
}
