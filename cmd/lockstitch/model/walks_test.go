package model

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"sort"
	"strings"

	"lockstitch/cmd/lockstitch/model/reference"
)

// walk is a client that goes from cursor to cursor: contract 6.1.
type walk struct {
	account string
	cursor  string
	pending *export // asked and not downloaded yet
	files   []*export
	texts   []string
	busy    bool // guarded by world.mu
}

// walk lets some client take its next step, beside everything else: it asks for
// a file, or looks whether the one that it asked for is there.
func (w *world) walk(rng *rand.Rand) {
	k, p := pick(rng, w.walks), w.someone(rng)
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.busy || p == nil {
		return
	}
	k.busy = true
	var e *export
	if k.pending == nil {
		e = w.next(rng, k)
	}
	w.bg.Go(func() {
		if e != nil {
			w.request(e, p)
			w.mu.Lock()
			w.asking--
			w.mu.Unlock()
			if e.answer.status == http.StatusAccepted {
				k.pending = e
			}
		} else if st, ok := w.status(p, k.pending); ok && st.Status == "completed" {
			if a, ok := p.call("GET", st.URL, "", ""); ok && a.status == http.StatusOK {
				w.take(k, st, a.body)
			}
		}
		w.mu.Lock()
		k.busy = false
		w.mu.Unlock()
	})
}

// next makes up the request for the next file of a walk; mu is held.
func (w *world) next(rng *rand.Rand, k *walk) *export {
	e := &export{walk: true, q: reference.Question{Account: k.account, Definitions: w.definitions}}
	body := map[string]any{"after": k.cursor}
	if rng.IntN(3) == 0 {
		columns(rng, &e.q, body)
	}
	e.body = encode(body)
	w.asking++
	w.exports = append(w.exports, e)
	return e
}

// take takes in a file of a walk.
func (w *world) take(k *walk, st status, file []byte) {
	text, err := unzip(file)
	if err != nil || st.Cursor == "" {
		w.failf("file of %s: %v; cursor %q", k.pending.id, err, st.Cursor)
	}
	w.notef("a walk of %s has file %d, %d rows, more: %v", k.account, len(k.files)+1, st.Rows, st.More)
	k.files, k.texts = append(k.files, k.pending), append(k.texts, text)
	k.cursor, k.pending = st.Cursor, nil
}

// finish walks to the end. The world is at rest.
func (w *world) finish(rng *rand.Rand, k *walk) {
	for last := false; !last; {
		last = k.pending == nil
		if last {
			w.mu.Lock()
			e := w.next(rng, k)
			w.asking--
			w.mu.Unlock()
			e.final = true
			p := w.someone(rng)
			if p == nil {
				w.failf("no replica has an API")
				return
			}
			if w.request(e, p); e.answer.status == http.StatusBadRequest {
				last = false // other columns, then; whether that is right is checked later
				continue
			}
			if e.answer.status != http.StatusAccepted {
				w.failf("POST without faults: %d %s", e.answer.status, e.answer.body)
				return
			}
			k.pending = e
		}
		st, text, ok := w.await(rng, k.pending)
		if !ok && k.pending.late {
			k.pending, last = nil, false
			continue
		}
		if !ok {
			return
		}
		k.files, k.texts = append(k.files, k.pending), append(k.texts, text)
		k.cursor, k.pending = st.Cursor, nil
		last = last && !st.More
	}
}

// checkWalk wants every kept event in exactly one file. Each file has been
// compared with the reference for the two positions that the log says it lies
// between.
func (w *world) checkWalk(k *walk, want *reference.Answer, ends vector, kept floors) {
	var at, from vector
	for i, e := range k.files {
		if i == 0 && kept.begin(e.q.After) {
			at, from = e.q.After, e.q.After
		}
		if !at.equal(e.q.After) {
			w.failf("file %d of a walk of %s begins at %v; the one before ended at %v", i+1, k.account, e.q.After, at)
		}
		at = e.q.Barrier
	}
	w.checkUnion("a walk", k.texts, want, reference.Question{Account: k.account, After: from, Barrier: ends})
	total.mu.Lock()
	defer total.mu.Unlock()
	total.walks++
	total.walked += len(k.files)
}

// checkUnion wants the rows of all files together to be those of an answer, once
// each.
func (w *world) checkUnion(who string, files []string, want *reference.Answer, q reference.Question) {
	var got []string
	for _, text := range files {
		rows, err := reference.Bare(text)
		if err != nil {
			w.failf("%s of %s: %v", who, q.Account, err)
		}
		got = append(got, rows...)
	}
	text, _ := want.Export(q)
	all, err := reference.Bare(text)
	if err != nil {
		w.failf("the reference: %v", err)
	}
	sort.Strings(got)
	sort.Strings(all)
	if g, a := strings.Join(got, "\n"), strings.Join(all, "\n"); g != a {
		w.failf("the %d files of %s of %s hold %d rows, want %d:\n%s", len(files), who, q.Account, len(got), len(all), difference(g, a))
	}
	total.mu.Lock()
	defer total.mu.Unlock()
	total.rows += len(got)
}

// decodeBody reads the answer's body.
func (a answer) decode(v any) error { return json.Unmarshal(a.body, v) }
