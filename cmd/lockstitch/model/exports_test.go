package model

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"lockstitch/cmd/lockstitch/model/reference"
)

// export is a request and what is known about it.
type export struct {
	q             reference.Question
	body          string
	key           string // its Idempotency-Key; empty: none
	answer        answer
	id            string
	before, after map[reference.Partition]int64 // ends of the events around the POST
	cancelled     bool
	final         bool // asked when nothing moved any more
	walk          bool // one file of a walk: after a cursor
	late          bool // its barrier was not reached in time
	short         bool // some of it was removed before it was made
}

// defining runs f unless an export request is under way: which definitions
// count for it must be known.
func (w *world) defining(f func()) bool {
	w.mu.Lock()
	busy := w.asking > 0
	w.mu.Unlock()
	if !busy {
		f()
	}
	return !busy
}

// someone is a process that has an API.
func (w *world) someone(rng *rand.Rand) *process {
	n := rng.IntN(len(w.replicas))
	for i := range w.replicas {
		if p := w.replicas[(n+i)%len(w.replicas)].living(); p != nil {
			p.mu.Lock()
			ok := p.handler != nil
			p.mu.Unlock()
			if ok {
				return p
			}
		}
	}
	return nil
}

// question makes up a request.
func (w *world) question(rng *rand.Rand) (reference.Question, string) {
	now := time.Now().UnixMilli()
	q := reference.Question{Account: pick(rng, accounts), Start: now - rng.Int64N(25*24*3600*1000)}
	body := map[string]any{"start_at": stamp(q.Start)}
	if rng.IntN(3) == 0 {
		q.End = q.Start + 1 + rng.Int64N(30*24*3600*1000)
		body["end_at"] = stamp(q.End)
	}
	columns(rng, &q, body)
	switch rng.IntN(6) {
	case 0:
		q.Member = pick(rng, audiences)
		body["segment_filter"] = map[string]any{"segment_discriminator": q.Member}
	case 1:
		q.NotMember = pick(rng, audiences)
		body["segment_filter"] = map[string]any{"segment_discriminators": map[string]string{"x": q.NotMember}, "filter": "!x"}
	}
	return q, encode(body)
}

func encode(body map[string]any) string {
	b, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// columns makes up some mappings.
func columns(rng *rand.Rand, q *reference.Question, body map[string]any) {
	choose := func(from []string, member string) (out []string) {
		var list []map[string]string
		for i, v := range from {
			if rng.IntN(3) == 0 && (i < 2 || rng.IntN(4) == 0) { // the third is seldom defined
				out = append(out, v)
				list = append(list, map[string]string{"version_id": v})
			}
		}
		if list != nil {
			body[member] = list
		}
		return out
	}
	q.Attributes = choose(versions, "additional_attribute_mappings")
	q.Tags = choose(versions, "additional_tag_mappings")
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// ask requests an export from some replica, beside everything else. One request in
// three has an Idempotency-Key: it is sent to two replicas at once, perhaps the same,
// and once more when it has been answered.
func (w *world) ask(rng *rand.Rand) {
	p := w.someone(rng)
	if p == nil {
		return
	}
	e := &export{}
	e.q, e.body = w.question(rng)
	ps := []*process{p}
	if w.keys.IntN(3) == 0 {
		e.key = fmt.Sprintf("key-%d", w.keys.Uint32())
		if other := w.someone(w.keys); other != nil {
			ps = append(ps, other)
		}
	}
	cancel := rng.IntN(5) == 0
	w.mu.Lock()
	w.asking++
	e.q.Definitions = w.definitions
	w.exports = append(w.exports, e)
	w.mu.Unlock()
	w.bg.Go(func() {
		w.request(e, ps...)
		w.mu.Lock()
		w.asking--
		w.mu.Unlock()
		if e.answer.status != http.StatusAccepted {
			return
		}
		w.visible(e)
		if cancel {
			w.cancel(p, e)
		}
		if e.key != "" {
			w.repeat(e, p)
		}
	})
}

// request sends the POST, to several replicas at once. That one has accepted it
// counts, whatever the others say.
func (w *world) request(e *export, ps ...*process) {
	answers := make([]answer, len(ps))
	e.before = w.eventEnds()
	var sent sync.WaitGroup
	for i, p := range ps {
		sent.Go(func() { answers[i] = w.post(p, e) })
	}
	sent.Wait()
	e.after = w.eventEnds()
	for _, a := range answers {
		if a.status != 0 && e.answer.status != http.StatusAccepted {
			e.answer = a
		}
		if a.status != http.StatusAccepted {
			continue
		}
		id := w.acceptedAs(a)
		if e.id == "" {
			e.id = id
			w.notef("export %s of %s requested: %s", e.id, e.q.Account, e.body)
		}
		if id != e.id {
			w.failf("key %s stands for report %s and for %s", e.key, e.id, id)
		}
	}
	for _, a := range answers {
		// What is removed next may have been announced between two answers.
		if a.status == http.StatusBadRequest && e.answer.status == http.StatusAccepted && !strings.Contains(string(a.body), `"oldest_available"`) {
			w.failf("POST %s was accepted and refused: %s", e.body, a.body)
		}
	}
}

// post sends the POST to one replica; the answer is none if it died: nobody has seen
// what it said.
func (w *world) post(p *process, e *export) answer {
	token, ok := w.authorize(p, e.q.Account)
	if !ok {
		return answer{}
	}
	a, ok := p.call("POST", "/emails/reports", token, e.body, "Idempotency-Key", e.key)
	if !ok {
		return answer{}
	}
	switch a.status {
	case http.StatusAccepted, http.StatusServiceUnavailable, http.StatusBadRequest:
	default:
		w.failf("POST %s: %d %s", e.body, a.status, a.body)
	}
	return a
}

func (w *world) acceptedAs(a answer) string {
	var st struct {
		ID string `json:"report_id"`
	}
	if err := a.decode(&st); err != nil || st.ID == "" {
		w.failf("POST: %v in %s", err, a.body)
	}
	return st.ID
}

// repeat sends the POST once more, whatever has become of the report.
func (w *world) repeat(e *export, p *process) {
	switch a := w.post(p, e); a.status {
	case http.StatusAccepted:
		if id := w.acceptedAs(a); id != e.id {
			w.failf("key %s stands for report %s and, once more, for %s", e.key, e.id, id)
		}
	case http.StatusBadRequest:
		w.failf("POST %s was accepted and, once more, refused: %s", e.body, a.body)
	}
}

func (w *world) authorize(p *process, account string) (string, bool) {
	w.mu.Lock()
	token := w.token[account]
	w.mu.Unlock()
	if token != "" {
		return token, true
	}
	a, ok := p.call("POST", "/oauth/token", "", fmt.Sprintf(`{"grant_type":"client_credentials","client_id":%q,"client_secret":"secret"}`, account))
	var got struct {
		Token string `json:"access_token"`
	}
	if !ok || a.status != 200 || json.Unmarshal(a.body, &got) != nil {
		return "", false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.token[account] = got.Token
	return got.Token, true
}

func (w *world) tokenOf(account string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.token[account]
}

type status struct {
	Status string          `json:"status"`
	URL    string          `json:"file_download_url"`
	Rows   int             `json:"rows"`
	Cursor string          `json:"cursor"`
	More   bool            `json:"more"`
	Error  json.RawMessage `json:"error"`
	Wait   json.RawMessage `json:"waiting"`
}

// status asks one process; ok is false if it could not answer.
func (w *world) status(p *process, e *export) (status, bool) {
	var st status
	a, ok := p.call("GET", "/emails/reports/"+e.id, w.tokenOf(e.q.Account), "")
	if !ok || a.status == http.StatusServiceUnavailable {
		return st, false
	}
	if a.status != 200 {
		w.failf("%s answers %d about report %s, which was acknowledged: %s", p.r.name, a.status, e.id, a.body)
		return st, false
	}
	if err := json.Unmarshal(a.body, &st); err != nil {
		w.failf("status: %v in %s", err, a.body)
		return st, false
	}
	return st, true
}

// visible asks every replica about what one has acknowledged.
func (w *world) visible(e *export) {
	for _, r := range w.replicas {
		if p := r.living(); p != nil {
			w.status(p, e)
		}
	}
}

// cancel cancels; whatever its answer was, every replica shows the same.
func (w *world) cancel(p *process, e *export) {
	w.mu.Lock()
	e.cancelled = true // or perhaps: nothing is known about it any more
	w.mu.Unlock()
	a, ok := p.call("DELETE", "/emails/reports/"+e.id, w.tokenOf(e.q.Account), "")
	if !ok || a.status == http.StatusServiceUnavailable {
		return
	}
	if a.status != http.StatusNoContent {
		w.failf("DELETE of %s: %d %s", e.id, a.status, a.body)
		return
	}
	w.notef("export %s cancelled", e.id)
	for _, r := range w.replicas {
		if p := r.living(); p != nil {
			if st, ok := w.status(p, e); ok && st.Status != "cancelled" && st.Status != "expired" && st.Status != "error" {
				w.failf("%s shows %q for report %s after its DELETE was acknowledged", p.r.name, st.Status, e.id)
			}
		}
	}
}

// await waits for the file of an export and returns its text. A file over the
// limit, where there is one, gives nothing and is no failure.
func (w *world) await(rng *rand.Rand, e *export) (st status, text string, ok bool) {
	for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		if time.Since(begun) > settleTime {
			w.failf("report %s is not finished after %v without faults: %s %s", e.id, settleTime, st.Status, st.Wait)
			return st, "", false
		}
		p := w.someone(rng)
		if p == nil {
			continue
		}
		w.authorize(p, e.q.Account)
		got, ok := w.status(p, e)
		if !ok {
			if w.t.Failed() {
				return st, "", false
			}
			continue
		}
		st = got
		switch st.Status {
		case "requested", "processing":
			continue
		case "completed":
		default:
			if e.late = strings.Contains(string(st.Error), "barrier-timeout"); e.late {
				return st, "", false // checked later
			}
			if e.short = strings.Contains(string(st.Error), "no-longer-kept"); e.short && !e.walk {
				return st, "", false // the same
			}
			if w.maxFile == 0 || e.walk || !strings.Contains(string(st.Error), "file-too-large") {
				w.failf("report %s ended as %s %s", e.id, st.Status, st.Error)
			}
			return st, "", false
		}
		a, ok := p.call("GET", st.URL, "", "")
		if !ok || a.status != 200 {
			w.failf("download of %s: %d %s", e.id, a.status, a.body)
			return st, "", false
		}
		text, err := unzip(a.body)
		if err != nil {
			w.failf("file of %s: %v", e.id, err)
			return st, "", false
		}
		if n := strings.Count(text, "\n"); n < 1 {
			w.failf("file of %s has no header", e.id)
		}
		return st, text, true
	}
}

func unzip(b []byte) (string, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(z)
	return string(text), err
}
