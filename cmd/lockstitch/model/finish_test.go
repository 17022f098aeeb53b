package model

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// finishOrders lets every standing order that there is come to a boundary behind
// all events. The world is at rest.
func (w *world) finishOrders(rng *rand.Rand) {
	if len(w.orders) == 0 {
		return
	}
	time.Sleep(10 * time.Second) // what was not answered has its effect now, or never
	last := w.now()
	for _, o := range w.orders {
		if o.unsure {
			w.learn(rng, o)
		}
	}
	longest := time.Duration(0)
	for _, o := range w.orders {
		if o.exists {
			_, body := w.orderQuestion(o.account, o.body)
			longest = max(longest, body.every())
		}
	}
	before := w.ledger()
	w.jump(longest + 2*mostAhead + time.Minute)
	w.checkPaused(rng, before)
	for _, o := range w.orders {
		if o.exists {
			w.finishOrder(rng, o, last)
		}
	}
}

// slowDown lets every order make a file every twelve hours from now on.
func (w *world) slowDown(rng *rand.Rand) {
	for _, o := range w.orders {
		if !o.exists {
			continue
		}
		o.body, o.defined = o.with(map[string]any{"every": iso(12 * time.Hour)}), w.definitions
		if _, a := w.insist(rng, o, "PUT", o.path(), o.body); a.status != http.StatusOK {
			w.failf("PUT %s %s: %d %s", o.path(), o.body, a.status, a.body)
		}
	}
}

// with is the body with some members replaced; nil leaves one out.
func (o *order) with(members map[string]any) string {
	var body map[string]any
	if err := json.Unmarshal([]byte(o.body), &body); err != nil {
		panic(err) // the product has read it
	}
	for name, v := range members {
		if v == nil {
			delete(body, name)
		} else {
			body[name] = v
		}
	}
	return encode(body)
}

// insist repeats a call until it is answered.
func (w *world) insist(rng *rand.Rand, o *order, method, path, body string) (*process, answer) {
	for begun := time.Now(); time.Since(begun) < settleTime; time.Sleep(200 * time.Millisecond) {
		if p := w.someone(rng); p != nil {
			unsure := o.unsure
			if a, ok := w.askOrder(p, o, method, path, body); ok {
				return p, a
			}
			o.unsure = unsure // it is repeated until it is answered
		}
	}
	w.failf("%s %s is not answered after %v without faults", method, path, settleTime)
	return nil, answer{}
}

// learn finds out what calls that were not answered have done.
func (w *world) learn(rng *rand.Rand, o *order) {
	_, a := w.insist(rng, o, "GET", o.path(), "")
	var st rollingStatus
	switch a.status {
	case http.StatusNotFound:
		o.exists = false
	case http.StatusOK:
		if err := a.decode(&st); err != nil {
			w.failf("GET %s: %v in %s", o.path(), err, a.body)
		}
		o.exists, o.body, o.defined = true, string(st.Request), 0
		if st.State != "error" {
			o.paused = st.State == "paused"
		} else {
			// An order in error may be paused as well, which does not show.
			w.insist(rng, o, "POST", o.path()+"/resume", "")
			o.paused = false
		}
	default:
		w.failf("GET %s: %d %s", o.path(), a.status, a.body)
	}
	o.unsure = false
}

// checkPaused wants nothing to be done about orders that are paused, although a
// boundary has passed.
func (w *world) checkPaused(rng *rand.Rand, before *ledger) {
	time.Sleep(3 * time.Second)
	after := w.ledger()
	for _, o := range w.orders {
		if !o.exists || !o.paused {
			continue
		}
		p := w.someone(rng)
		st, ok := w.order(p, o)
		if !ok {
			continue
		}
		if b, a := len(before.steps[st.ID]), len(after.steps[st.ID]); b != a {
			w.failf("%s made %d steps while it was paused", o.path(), a-b)
		}
	}
}

// finishOrder waits until everything before a time is in files, delivered where
// that is wanted.
func (w *world) finishOrder(rng *rand.Rand, o *order, last time.Time) {
	if o.paused {
		w.insist(rng, o, "POST", o.path()+"/resume", "")
		o.paused = false
	}
	var st rollingStatus
	for begun := time.Now(); ; time.Sleep(time.Second) {
		if time.Since(begun) > settleTime {
			w.failf("%s is not done after %v without faults: %+v", o.path(), settleTime, st)
			return
		}
		p := w.someone(rng)
		got, ok := w.order(p, o)
		if !ok {
			if w.t.Failed() {
				return
			}
			continue
		}
		st = got
		switch {
		case st.State == "error":
			if w.cure(rng, o, st); !o.exists || w.t.Failed() {
				return
			}
		case st.Lag.Files == 0 && st.Next.End.After(last):
			return
		}
	}
}

// cure changes an order that is in error, as it must be if something that it
// names was not defined. One that had not come behind the events that expired, for its
// files are small or the first waited for a transaction, is given up.
func (w *world) cure(rng *rand.Rand, o *order, st rollingStatus) {
	if strings.Contains(string(st.Error), "no-longer-kept") {
		kept, l := w.floors(), w.ledger()
		var from vector
		if born := l.orders[st.ID]; born != nil {
			from = born.from
		}
		for _, s := range l.steps[st.ID] {
			if s.result != nil && s.result.Problem == nil {
				from = s.through
			}
		}
		if from.reaches(kept.last().at) {
			w.failf("%s is in error, as if what it goes on from had been removed: %s", o.path(), st.Error)
		}
		w.insist(rng, o, "DELETE", o.path(), "")
		o.exists = false
		return
	}
	o.blamed = append(o.blamed, blame{o.body, o.defined})
	body := o.with(map[string]any{"additional_attribute_mappings": nil, "additional_tag_mappings": nil, "segment_filter": nil})
	if sameJSON(body, o.body) {
		w.failf("%s is in error and names nothing: %s", o.path(), st.Error)
		return
	}
	w.notef("%s is in error: %s", o.path(), st.Error)
	o.body, o.defined = body, w.definitions
	if _, a := w.insist(rng, o, "PUT", o.path(), o.body); a.status != http.StatusOK {
		w.failf("PUT %s: %d %s", o.path(), a.status, a.body)
	}
}
