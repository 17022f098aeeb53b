package model

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"lockstitch/cmd/lockstitch/model/reference"
)

// lakeName is the destination that all replicas know.
const lakeName = "lake"

// order is a name of a standing order (contract 6.2) and what its only client
// knows about it.
type order struct {
	account, name string
	start         string
	every         []time.Duration // to choose from

	busy bool // guarded by world.mu, as a lock on what follows

	// exists, body and paused are what the last calls that were answered have
	// made of it. unsure: a call was not answered, and may have its effect, or
	// get it later.
	exists, paused, unsure bool
	body                   string
	defined                int     // definitions there were when the body was accepted
	blamed                 []blame // for being in error at rest
	// around are the ends before the PUT of a creation that was answered and
	// after its answer, by order id.
	around map[string][2]map[reference.Partition]int64
}

// blame is what an order in error was to do, and how many definitions there were
// when that was accepted.
type blame struct {
	body  string
	since int
}

// rollingStatus is what the API says of a standing order.
type rollingStatus struct {
	ID        string          `json:"order_id"`
	State     string          `json:"state"`
	Request   json.RawMessage `json:"request"`
	Files     int64           `json:"files"`
	Delivered int64           `json:"delivered"`
	Next      struct {
		End time.Time `json:"period_end"`
	} `json:"next"`
	Lag struct {
		Files int64 `json:"files"`
	} `json:"lag"`
	Error json.RawMessage `json:"error"`
}

// smallFile is a file size limit, in bytes, that lets some ten rows into a file.
const smallFile = 600

// mostAhead is how far the clock of a replica is from Kafka's at most.
const mostAhead = 40 * time.Second

// expectOrders decides whether there will be standing orders and walks.
func (w *world) expectOrders(rng *rand.Rand) {
	for range rng.IntN(3) {
		w.walks = append(w.walks, &walk{account: pick(rng, accounts), cursor: "beginning"})
	}
	if rng.IntN(5) == 0 && len(w.walks) > 0 {
		w.maxFile = smallFile
	}
	if rng.IntN(2) == 0 {
		return
	}
	if rng.IntN(3) == 0 {
		w.maxFile = smallFile
	}
	every := [][]time.Duration{{time.Minute, 5 * time.Minute}, {2 * time.Minute, 15 * time.Minute}, {5 * time.Minute, time.Hour}}[rng.IntN(3)]
	for i := range 1 + rng.IntN(3) {
		w.orders = append(w.orders, &order{
			account: pick(rng, []string{"acme", "acme", "other"}), name: fmt.Sprintf("order-%d", i), start: pick(rng, []string{"now", "beginning"}),
			every: every, around: make(map[string][2]map[reference.Partition]int64),
		})
	}
	if rng.IntN(3) == 0 {
		for _, r := range w.replicas {
			r.clock.off = pick(rng, []time.Duration{0, -mostAhead, mostAhead})
		}
	}
}

// ahead tells whether some replica's clock is ahead of Kafka's by more than is
// waited for after a boundary.
func (w *world) ahead() bool {
	for _, r := range w.replicas {
		if r.clock.off > 0 {
			return true
		}
	}
	return false
}

func (o *order) path() string { return "/emails/rolling-exports/" + o.name }

// settings makes up the body of a PUT.
func (o *order) settings(rng *rand.Rand) (reference.Question, string) {
	q := reference.Question{Account: o.account}
	body := map[string]any{"every": iso(pick(rng, o.every)), "start": o.start}
	if rng.IntN(2) == 0 {
		columns(rng, &q, body)
	}
	if rng.IntN(8) == 0 {
		q.Member = pick(rng, audiences)
		body["segment_filter"] = map[string]any{"segment_discriminator": q.Member}
	}
	if rng.IntN(4) == 0 {
		body["empty_files"] = true
	}
	if rng.IntN(2) == 0 {
		body["destination"] = lakeName
	}
	return q, encode(body)
}

func iso(d time.Duration) string { return fmt.Sprintf("PT%dM", d/time.Minute) }

// instruct lets the client of some standing order do something, beside
// everything else.
func (w *world) instruct(rng *rand.Rand) {
	o, p := pick(rng, w.orders), w.someone(rng)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.orders {
		if !other.busy && other.body == "" { // not made yet
			o = other
		}
	}
	if o.busy || p == nil {
		return
	}
	o.busy = true
	f := func() { w.put(p, o, reference.Question{}, "") }
	switch x := rng.IntN(10); {
	case !o.exists || x < 3:
		q, body := o.settings(rng)
		q.Definitions = w.definitions
		w.asking++
		f = func() {
			w.put(p, o, q, body)
			w.mu.Lock()
			w.asking--
			w.mu.Unlock()
		}
	case x < 7: // what is made up for after a pause has its boundaries from the catalog
		f = func() { w.pause(p, o, true) }
	case x < 9:
		f = func() { w.pause(p, o, false) }
	default:
		f = func() { w.remove(p, o) }
	}
	w.bg.Go(func() {
		f()
		w.showsOrder(o)
		w.mu.Lock()
		o.busy = false
		w.mu.Unlock()
	})
}

// ask asks about an order; ok is false if nothing is known of the outcome.
func (w *world) askOrder(p *process, o *order, method, path, body string) (answer, bool) {
	token, ok := w.authorize(p, o.account)
	if !ok {
		return answer{}, false
	}
	a, ok := p.call(method, path, token, body)
	if !ok || a.status == http.StatusServiceUnavailable {
		if method != http.MethodGet {
			w.notef("%s %s at %s: not answered, or 503", method, path, p.r.name)
			o.unsure = true
		}
		return a, false
	}
	if method != http.MethodGet {
		w.notef("%s %s at %s: %d %s", method, path, p.r.name, a.status, body)
	}
	return a, true
}

func (w *world) put(p *process, o *order, q reference.Question, body string) {
	before := w.eventEnds()
	a, ok := w.askOrder(p, o, "PUT", o.path(), body)
	if !ok {
		return
	}
	e := &export{q: q, body: body, answer: a} // whether the refusal of names is right is checked with those of reports
	switch a.status {
	case http.StatusOK, http.StatusCreated:
		var st rollingStatus
		if err := a.decode(&st); err != nil || st.ID == "" {
			w.failf("PUT %s: %v in %s", o.path(), err, a.body)
		}
		if created := a.status == http.StatusCreated; created {
			o.around[st.ID] = [2]map[reference.Partition]int64{before, w.eventEnds()}
			if o.exists && !o.unsure {
				w.failf("PUT %s created what was there", o.path())
			}
			o.paused = false
		} else if !o.exists && !o.unsure {
			w.failf("PUT %s changed what was not there", o.path())
		}
		o.exists, o.body, o.defined = true, body, q.Definitions
		e.answer.status = http.StatusAccepted
		e.cancelled = true // there is no report to wait for
	case http.StatusBadRequest:
	default:
		w.failf("PUT %s %s: %d %s", o.path(), body, a.status, a.body)
	}
	w.mu.Lock()
	w.exports = append(w.exports, e)
	w.mu.Unlock()
}

func (w *world) pause(p *process, o *order, paused bool) {
	verb := "/resume"
	if paused {
		verb = "/pause"
	}
	a, ok := w.askOrder(p, o, "POST", o.path()+verb, "")
	if !ok {
		return
	}
	w.mustExist(o, a, verb)
	if a.status == http.StatusNoContent {
		o.paused = paused
	}
}

func (w *world) remove(p *process, o *order) {
	if a, ok := w.askOrder(p, o, "DELETE", o.path(), ""); ok {
		w.mustExist(o, a, "DELETE")
		o.exists = false
	}
}

// mustExist wants 204 or 404 according to what is known.
func (w *world) mustExist(o *order, a answer, what string) {
	switch {
	case a.status != http.StatusNoContent && a.status != http.StatusNotFound:
		w.failf("%s of %s: %d %s", what, o.path(), a.status, a.body)
	case !o.unsure && o.exists != (a.status == http.StatusNoContent):
		w.failf("%s of %s: %d, but exists: %v", what, o.path(), a.status, o.exists)
	}
}

// showsOrder asks every replica about what one has acknowledged.
func (w *world) showsOrder(o *order) {
	for _, r := range w.replicas {
		if p := r.living(); p != nil && !o.unsure {
			w.order(p, o)
		}
	}
}

// order is the standing order as one replica shows it; ok is false if it does not
// answer or there is none.
func (w *world) order(p *process, o *order) (st rollingStatus, ok bool) {
	a, ok := w.askOrder(p, o, "GET", o.path(), "")
	if !ok {
		return st, false
	}
	switch {
	case a.status == http.StatusNotFound:
		if o.exists && !o.unsure {
			w.failf("%s does not know %s, which was acknowledged", p.r.name, o.path())
		}
		return st, false
	case a.status != http.StatusOK:
		w.failf("GET %s: %d %s", o.path(), a.status, a.body)
		return st, false
	}
	if err := a.decode(&st); err != nil {
		w.failf("GET %s: %v in %s", o.path(), err, a.body)
	}
	if o.unsure {
		return st, true
	}
	if !o.exists {
		w.failf("%s shows %s, which was deleted", p.r.name, o.path())
	}
	if o.paused != (st.State == "paused") && st.State != "error" {
		w.failf("%s shows %s as %s; paused: %v", p.r.name, o.path(), st.State, o.paused)
	}
	if !sameJSON(string(st.Request), o.body) {
		w.failf("%s shows %s as %s, want %s", p.r.name, o.path(), st.Request, o.body)
	}
	return st, true
}

func sameJSON(x, y string) bool {
	var a, b any
	if json.Unmarshal([]byte(x), &a) != nil || json.Unmarshal([]byte(y), &b) != nil {
		return false
	}
	p, _ := json.Marshal(a)
	q, _ := json.Marshal(b)
	return string(p) == string(q)
}

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
			w.cure(rng, o, st)
		case st.Lag.Files == 0 && st.Next.End.After(last):
			return
		}
	}
}

// cure changes an order that is in error, as it must be if something that it
// names was not defined.
func (w *world) cure(rng *rand.Rand, o *order, st rollingStatus) {
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
