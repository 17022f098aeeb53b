package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"

	"lockstitch/cmd/lockstitch/model/reference"
)

// rollingFile is what the API lists of a file, and its manifest says of it.
type rollingFile struct {
	Number int64     `json:"number"`
	Start  time.Time `json:"period_start"`
	End    time.Time `json:"period_end"`
	Rows   int       `json:"rows"`
	Bytes  int       `json:"bytes"`
	SHA256 string    `json:"sha256"`
	Cursor struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"cursor"`
	Through   *time.Time `json:"complete_through"`
	Delivered bool       `json:"delivered"`
	URL       string     `json:"file_download_url"`
}

// orderBody is the body of a standing order as the reference understands it.
type orderBody struct {
	Every       string              `json:"every"`
	EmptyFiles  bool                `json:"empty_files"`
	Destination string              `json:"destination"`
	Attributes  []map[string]string `json:"additional_attribute_mappings"`
	Tags        []map[string]string `json:"additional_tag_mappings"`
	Filter      struct {
		Discriminator  string            `json:"segment_discriminator"`
		Discriminators map[string]string `json:"segment_discriminators"`
	} `json:"segment_filter"`
}

func (b orderBody) every() time.Duration {
	d, err := time.ParseDuration(strings.ToLower(strings.TrimPrefix(b.Every, "PT")))
	if err != nil {
		panic(err) // the test wrote it
	}
	return d
}

// orderQuestion reads the body of an order; the question is that of its files,
// without the positions.
func (w *world) orderQuestion(account, body string) (reference.Question, orderBody) {
	var b orderBody
	if err := json.Unmarshal([]byte(body), &b); err != nil {
		w.failf("body of a standing order: %v in %s", err, body)
	}
	q := reference.Question{Account: account, Member: b.Filter.Discriminator, NotMember: b.Filter.Discriminators["x"]}
	for _, m := range b.Attributes {
		q.Attributes = append(q.Attributes, m["version_id"])
	}
	for _, m := range b.Tags {
		q.Tags = append(q.Tags, m["version_id"])
	}
	return q, b
}

// checkOrder compares the files of a standing order that is up to date with the
// log of the reports, the reference and the destination.
func (w *world) checkOrder(rng *rand.Rand, o *order, want *reference.Answer, kept floors) {
	w.checkBlamed(o, want)
	if !o.exists {
		return
	}
	st, files, l, there, ok := w.still(rng, o)
	if !ok {
		return
	}
	born := l.orders[st.ID]
	if born == nil || born.account != o.account || born.name != o.name {
		w.failf("%s is order %s, which is not in the log as such: %+v", o.path(), st.ID, born)
		return
	}
	w.checkStart(o, st.ID, born)
	x := &orderCheck{w: w, steps: l.steps[st.ID], o: o, id: st.ID, born: born, want: want, at: born.from, filter: "none yet"}
	// A first step that waited until what it was to begin with had been removed ended in
	// error; with other settings since, it is tried again, from what is left.
	for len(x.steps) > 1 && x.steps[0].overtaken(kept) && x.steps[1].step.Revision != x.steps[0].step.Revision {
		x.steps = x.steps[1:]
	}
	if len(x.steps) > 0 && o.start == "beginning" && kept.begin(x.steps[0].after) {
		x.at = x.steps[0].after
	}
	from := x.at
	for _, s := range x.steps {
		var f *rollingFile
		if s.result != nil && s.result.Object != "" && int(x.files) < len(files) {
			f = files[x.files]
		}
		if !x.step(s, f) {
			return
		}
	}
	if int(x.files) != len(files) || st.Files != x.files {
		w.failf("%s lists %d files and says %d; the log has %d", o.path(), len(files), st.Files, x.files)
	}
	if end := w.eventEnds(); !x.at.reaches(end) {
		w.failf("%s has come to %v, and all events, up to %v, are from before its last boundary", o.path(), x.at, end)
	}
	if !x.changed { // else files of one filter follow those of another
		q := x.filterOf
		q.After, q.Barrier = from, x.at
		w.checkUnion(o.path(), x.texts, want, q)
	}
	w.checkDelivered(x, there)
	total.mu.Lock()
	defer total.mu.Unlock()
	if !w.counted {
		w.counted = true
		total.worlds++
	}
	total.orders++
	total.files += len(files)
	total.delivered += x.delivered
	total.parts += x.parts
	total.periods += x.periods
}

// checkBlamed wants an order to be in error exactly when a name was missing.
func (w *world) checkBlamed(o *order, want *reference.Answer) {
	for _, b := range o.blamed {
		q, _ := w.orderQuestion(o.account, b.body)
		missing := false
		for q.Definitions = b.since; q.Definitions <= w.definitions; q.Definitions++ {
			missing = missing || !w.known(want, q)
		}
		if !missing {
			w.failf("%s was in error, and all that it names was always defined: %s", o.path(), b.body)
		}
		total.mu.Lock()
		total.troubles++
		total.mu.Unlock()
	}
	o.blamed = nil
	if !o.exists {
		return
	}
	q, _ := w.orderQuestion(o.account, o.body)
	if q.Definitions = w.definitions; !w.known(want, q) {
		w.failf("%s goes on, though not all that it names is defined: %s", o.path(), o.body)
	}
}

// checkStart wants an order to begin between the ends before its PUT and those
// after the answer.
func (w *world) checkStart(o *order, id string, born *placed) {
	around, known := o.around[id]
	for p, before := range around[0] {
		after, still := around[1][p]
		if !still {
			continue // made anew meanwhile
		}
		switch at := born.from[p]; {
		case o.start == "beginning" && at != 0:
			w.failf("%s begins at %v", o.path(), born.from)
		case o.start == "now" && known && (at < before || at > after):
			w.failf("%s begins in %v at %d; the end was %d before the request and %d after it", o.path(), p, at, before, after)
		}
	}
}

// overtaken tells whether a step ended in error because what it begins with was removed.
func (a *asked) overtaken(kept floors) bool {
	return a.result != nil && strings.Contains(string(a.result.Problem), "no-longer-kept") && !a.after.reaches(kept.removed.at)
}

// orderCheck goes over the steps of an order.
type orderCheck struct {
	w    *world
	o    *order
	id   string
	born *placed
	want *reference.Answer

	steps       []*asked
	at          vector // where the step before has ended
	before      *asked
	files       int64
	definitions int // that counted for the file before, at least
	texts       []string
	listed      []*rollingFile
	raw         [][]byte
	made        []*asked // the step of each file

	filter         string
	filterOf       reference.Question
	changed        bool
	parts, periods int
	delivered      int
}

// step checks the next step and, if it has made one, its file.
func (x *orderCheck) step(s *asked, f *rollingFile) bool {
	wrong := func(format string, args ...any) bool {
		x.w.failf("%s, step %d (%v to %v, report %s): %s", x.o.path(), s.step.Seq, s.step.PeriodStart, s.step.PeriodEnd, s.id, fmt.Sprintf(format, args...))
		return false
	}
	if s.result == nil || s.result.Problem != nil {
		return wrong("its result is %+v", s.result)
	}
	set, known := x.born.revisions[s.step.Revision]
	if !known || s.body != "" {
		return wrong("it was made by the settings %q, which are not the order's, or has a body: %s", s.step.Revision, s.body)
	}
	q, body := x.w.orderQuestion(x.o.account, string(set))
	if !x.at.equal(s.after) {
		return wrong("it begins at %v; the one before ended at %v", s.after, x.at)
	}
	if !s.barrier.later(s.after).equal(s.barrier) || !s.through.reaches(s.after) || !s.barrier.reaches(s.through) {
		return wrong("from %v to %v through %v", s.after, s.barrier, s.through)
	}
	if s.result.More && (s.through.equal(s.after) || s.through.equal(s.barrier)) {
		return wrong("there is more, and it goes from %v to %v of %v", s.after, s.through, s.barrier)
	}
	if !s.result.More && !s.through.equal(s.barrier) {
		return wrong("there is no more, and it ends at %v of %v", s.through, s.barrier)
	}
	if problem := x.period(s, body); problem != "" {
		return wrong("%s", problem)
	}
	if filter := q.Member + "/" + q.NotMember; filter != x.filter {
		x.changed = x.before != nil
		x.filter = filter
		x.filterOf = reference.Question{Account: q.Account, Member: q.Member, NotMember: q.NotMember}
	}
	q.After, q.Barrier = s.after, s.through
	rows, _, last := x.want.Span(q)
	lasting := q // of a stream that is over, the last rows are stored when its lane notices
	lasting.After = x.w.withoutThoseOver(s.after, s.through)
	some, first, _ := x.want.Span(lasting)
	if start := s.step.PeriodStart.UnixMilli(); x.before != nil && some > 0 && !x.w.ahead() && first < start {
		return wrong("it holds an event of %v", time.UnixMilli(first).UTC())
	}
	if rows > 0 && last >= s.step.PeriodEnd.UnixMilli() {
		return wrong("it holds an event of %v", time.UnixMilli(last).UTC())
	}
	if made := s.result.Object != ""; made != (rows > 0 || s.step.EmptyFiles) {
		return wrong("it has %d rows, and made a file: %v", rows, made)
	}
	if s.step.Files != x.files {
		return wrong("%d files were made before, it says %d", x.files, s.step.Files)
	}
	x.at, x.before = s.through, s
	if s.result.More {
		x.parts++
	} else {
		x.periods++
	}
	if s.result.Object == "" {
		return true
	}
	if f == nil {
		return wrong("its file is not listed")
	}
	return x.file(s, f, q, rows, wrong)
}

// period says what is wrong with the period of a step.
func (x *orderCheck) period(s *asked, body orderBody) string {
	start, b := s.step.PeriodStart, x.before
	if b != nil && b.result.More {
		if !start.Equal(b.step.PeriodStart) || !s.step.PeriodEnd.Equal(b.step.PeriodEnd) || !s.barrier.equal(b.barrier) {
			return fmt.Sprintf("the one before was to be gone on with, from %v to %v, up to %v; this one has %v", b.step.PeriodStart, b.step.PeriodEnd, b.barrier, s.barrier)
		}
		return ""
	}
	switch {
	case b != nil && !start.Equal(b.step.PeriodEnd):
		return fmt.Sprintf("the period before ended at %v", b.step.PeriodEnd)
	case b == nil && x.o.start == "now" && !start.Equal(x.born.created), b == nil && x.o.start == "beginning" && !start.IsZero():
		return fmt.Sprintf("the order was made at %v to begin %s", x.born.created, x.o.start)
	case b == nil:
		start = x.born.created
	}
	every := body.every()
	day := time.Date(start.Year(), start.Month(), start.Day(), 0, 0, 0, 0, time.UTC)
	end := day
	for !end.After(start) {
		end = end.Add(every)
	}
	if !s.step.PeriodEnd.Equal(end) {
		return fmt.Sprintf("with %v it should end at %v", every, end)
	}
	return ""
}

// file checks the file of a step.
func (x *orderCheck) file(s *asked, f *rollingFile, q reference.Question, rows int, wrong func(string, ...any) bool) bool {
	x.files++
	a, ok := x.w.download(x.o, f)
	if !ok {
		return wrong("its file cannot be downloaded: %d %s", a.status, a.body)
	}
	sum := sha256.Sum256(a.body)
	if f.Number != x.files || f.Rows != rows || f.Bytes != len(a.body) || f.SHA256 != hex.EncodeToString(sum[:]) ||
		!f.Start.Equal(s.step.PeriodStart) || !f.End.Equal(s.step.PeriodEnd) {
		return wrong("file %d, %d rows, %d bytes, SHA-256 %x, is listed as %+v", x.files, rows, len(a.body), sum, f)
	}
	if (f.Through == nil) != s.result.More || f.Through != nil && !f.Through.Equal(f.End) {
		return wrong("complete_through is %v, more: %v", f.Through, s.result.More)
	}
	if n := len(x.made); n > 0 && x.made[n-1].step.Seq == s.step.Seq-1 && x.listed[n-1].Cursor.To != f.Cursor.From {
		return wrong("its cursor begins at %s, the file before ends at %s", f.Cursor.From, x.listed[n-1].Cursor.To)
	}
	text, err := unzip(a.body)
	if err != nil {
		return wrong("%v", err)
	}
	// Which definitions counted is known to within the time that a try may take.
	least, most := x.w.definedAt(s.at.Add(-31*time.Second)), min(x.w.definedAt(s.at)+1, x.w.definitions)
	wanted := ""
	for q.Definitions = max(least, x.definitions); q.Definitions <= most; q.Definitions++ {
		if !x.w.known(x.want, q) {
			continue
		}
		if wanted, _ = x.want.Export(q); wanted == text {
			break
		}
	}
	if wanted != text {
		return wrong("its file differs:\n%s", difference(text, wanted))
	}
	x.definitions = q.Definitions
	x.texts, x.raw, x.listed, x.made = append(x.texts, text), append(x.raw, a.body), append(x.listed, f), append(x.made, s)
	return true
}

// definedAt counts the definitions that were acknowledged by a time.
func (w *world) definedAt(t time.Time) (n int) {
	for _, at := range w.defined {
		if !at.After(t) {
			n++
		}
	}
	return n
}

func (w *world) download(o *order, f *rollingFile) (answer, bool) {
	for _, r := range w.replicas {
		if p := r.living(); p != nil {
			if a, ok := p.call("GET", f.URL, "", ""); ok && a.status == http.StatusOK {
				return a, true
			}
		}
	}
	return answer{}, false
}

// still reads what there is of an order: its state, its files, the log of the
// reports and the destination, while nothing is written to that log. A boundary may
// pass at any time.
func (w *world) still(rng *rand.Rand, o *order) (st rollingStatus, files []*rollingFile, l *ledger, there map[string][]byte, ok bool) {
	for range 20 {
		before := w.ends(w.topics.Reports)
		time.Sleep(time.Second) // a file that is on its way arrives
		st, files = w.files(rng, o)
		l, there = w.ledger(), w.lake.under(o.account+"/"+o.name+"/"+st.ID+"/")
		if w.t.Failed() {
			return st, files, l, there, false
		}
		if maps.Equal(before, w.ends(w.topics.Reports)) {
			return st, files, l, there, true
		}
	}
	w.failf("something is done about reports all the time")
	return st, files, l, there, false
}

// files lists the files of an order, which every replica must list alike.
func (w *world) files(rng *rand.Rand, o *order) (st rollingStatus, files []*rollingFile) {
	var as string
	for _, r := range w.replicas {
		p := r.living()
		if p == nil {
			continue
		}
		got, ok := w.order(p, o)
		if !ok {
			continue
		}
		var list []*rollingFile
		for after := int64(0); after < got.Files; {
			var page struct {
				Items []*rollingFile `json:"items"`
			}
			a, ok := w.askOrder(p, o, "GET", fmt.Sprintf("%s/files?after=%d&limit=%d", o.path(), after, 1+rng.IntN(200)), "")
			if !ok || a.status != http.StatusOK || a.decode(&page) != nil || len(page.Items) == 0 {
				w.failf("%s lists of %s, which has %d files, after %d: %d %s", p.r.name, o.path(), got.Files, after, a.status, a.body)
				return got, list
			}
			list = append(list, page.Items...)
			after = page.Items[len(page.Items)-1].Number
		}
		var b strings.Builder
		for _, f := range list {
			one := *f
			one.URL = ""
			text, err := json.Marshal(one)
			if err != nil {
				panic(err)
			}
			b.Write(text)
			b.WriteByte('\n')
		}
		if text := b.String(); as == "" {
			as, st, files = text, got, list
		} else if text != as {
			w.failf("%s lists other files of %s than another:\n%s", p.r.name, o.path(), difference(text, as))
		}
	}
	return st, files
}

// next is the step behind that of a file; nil: there is none.
func (x *orderCheck) next(file int) *asked {
	if seq := int(x.made[file].step.Seq); seq < len(x.steps) {
		return x.steps[seq]
	}
	return nil
}

// checkDelivered compares what is there, at the destination, with the files.
func (w *world) checkDelivered(x *orderCheck, there map[string][]byte) {
	prefix := fmt.Sprintf("%s/%s/%s/", x.o.account, x.o.name, x.id)
	for i, f := range x.listed {
		name := fmt.Sprintf("%s%s/%s-%d", prefix, f.End.Add(-time.Millisecond).UTC().Format("2006/01/02"), x.o.name, f.Number)
		file, text := there[name+".csv.gz"], there[name+".json"]
		wanted := x.made[i].step.Deliver
		// Whether a file is waited for is decided by the destination that the
		// order has then: if that was taken away before it was delivered, it may
		// be there or not, and once later ones are it is listed as if it were.
		left := wanted && x.next(i) != nil && !x.next(i).step.Deliver
		if !left && f.Delivered != (text != nil) || f.Delivered && !wanted {
			w.failf("file %d of %s is listed as delivered: %v, made for a destination: %v, and there: %v", f.Number, x.o.path(), f.Delivered, wanted, text != nil)
		}
		if file != nil && string(file) != string(x.raw[i]) {
			w.failf("file %d of %s is another one at the destination", f.Number, x.o.path())
		}
		delete(there, name+".csv.gz")
		delete(there, name+".json")
		if text == nil {
			continue
		}
		x.delivered++
		var m struct {
			rollingFile
			File  string `json:"file"`
			Order string `json:"order_id"`
			Name  string `json:"name"`
		}
		if err := json.Unmarshal(text, &m); err != nil || file == nil {
			w.failf("manifest of file %d of %s: %v; the file is there: %v", f.Number, x.o.path(), err, file != nil)
		}
		same := *f
		same.URL, same.Delivered = "", false
		got, _ := json.Marshal(m.rollingFile)
		wants, _ := json.Marshal(same)
		if string(got) != string(wants) || m.File != fmt.Sprintf("%s-%d.csv.gz", x.o.name, f.Number) || m.Order != x.id || m.Name != x.o.name {
			w.failf("manifest of file %d of %s: %s; want %s", f.Number, x.o.path(), text, wants)
		}
	}
	for name := range there {
		w.failf("%s is at the destination and no file of %s", name, x.o.path())
	}
}

// checkObjects wants no objects of reports that have nothing to show, and those
// of all others. Removing takes a while.
func (w *world) checkObjects(l *ledger) {
	for id, a := range l.requests {
		if !l.gone[id] && a.result != nil && a.result.Object != "" && w.bucket.get(a.result.Object) == nil {
			w.failf("the file %s of report %s is gone", a.result.Object, id)
		}
	}
	for id, a := range l.requests {
		if !l.gone[id] {
			continue
		}
		prefix := fmt.Sprintf("exports/%s/%s/", a.account, id)
		for begun := time.Now(); len(w.bucket.under(prefix)) > 0; time.Sleep(time.Second) {
			if time.Since(begun) > settleTime {
				w.failf("report %s was cancelled, void or of a deleted order, and has objects still: %v", id, slices.Sorted(maps.Keys(w.bucket.under(prefix))))
				break
			}
		}
	}
}
