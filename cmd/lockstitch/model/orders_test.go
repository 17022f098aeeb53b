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
