package model

import (
	"encoding/json"
	"maps"
	"strings"
	"time"

	"lockstitch/cmd/lockstitch/model/reference"
)

// vector is a position in the input; a partition that is missing counts as 0.
type vector map[reference.Partition]int64

// equal tells whether two vectors are the same position.
func (v vector) equal(o vector) bool {
	trim := func(v vector) vector {
		v = maps.Clone(v)
		maps.DeleteFunc(v, func(_ reference.Partition, at int64) bool { return at == 0 })
		return v
	}
	return maps.Equal(trim(v), trim(o))
}

// reaches tells whether the position is nowhere below another.
func (v vector) reaches(o vector) bool {
	for p, at := range o {
		if v[p] < at {
			return false
		}
	}
	return true
}

// later is in every partition the later one of two.
func (v vector) later(o vector) vector {
	out := maps.Clone(o)
	if out == nil {
		out = make(vector)
	}
	for p, at := range v {
		out[p] = max(out[p], at)
	}
	return out
}

// ledger is the topic of the reports as its records say, read without the
// product's code.
type ledger struct {
	requests map[string]*asked   // by report id
	steps    map[string][]*asked // by order id, those that count, in order
	orders   map[string]*placed
	second   int             // requests for steps that had been asked for
	repeats  int             // requests under the Idempotency-Key of one that counts
	gone     map[string]bool // reports that have nothing to show: void, cancelled, of deleted orders
}

// asked is a request of a report with its outcome.
type asked struct {
	id, account, body string
	repeated          bool      // under its Idempotency-Key: it cannot be withdrawn any more
	at                time.Time // when it was written, by the machine's clock
	after, barrier    vector
	step              *stepRecord
	result            *resultRecord
	through           vector // where its file ends
}

// placed is the creation of a standing order.
type placed struct {
	account, name string
	created       time.Time
	from          vector
	revisions     map[string]json.RawMessage // settings by revision
}

type stepRecord struct {
	Order       string    `json:"order"`
	Revision    string    `json:"revision"`
	Seq         int64     `json:"seq"`
	Files       int64     `json:"files"`
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	EmptyFiles  bool      `json:"empty_files"`
	Deliver     bool      `json:"deliver"`
}

type resultRecord struct {
	Problem json.RawMessage `json:"problem"`
	Object  string          `json:"object"`
	Rows    int             `json:"rows"`
	More    bool            `json:"more"`
	Through []endRecord     `json:"through"`
}

type endRecord struct {
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// settingsRecord is a part of the records of a creation and of a change.
type settingsRecord struct {
	Revision string `json:"revision"`
	Body     []byte `json:"body"`
}

func (w *world) ledger() *ledger {
	l := &ledger{
		requests: make(map[string]*asked), steps: make(map[string][]*asked), orders: make(map[string]*placed), gone: make(map[string]bool),
	}
	topics := make(map[string]string) // by id
	at := func(ends []endRecord) vector {
		v := make(vector)
		for _, e := range ends {
			if e.Topic != "" {
				topics[e.TopicID] = e.Topic
			}
			v[reference.Partition{Topic: w.stream(topics[e.TopicID], e.TopicID), Partition: e.Partition}] = e.Offset
		}
		return v
	}
	ended := make(map[string]bool) // orders
	withdrawn := make(map[string]bool)
	keys := make(map[string]string) // the request that an account's Idempotency-Key stands for
	for _, r := range w.dump(w.topics.Reports) {
		if r.Value == nil {
			continue // nothing is compacted: what was swept can still be read
		}
		kind, id, _ := strings.Cut(string(r.Key), "/")
		id, _, _ = strings.Cut(id, "/")
		read := func(v any) {
			if err := json.Unmarshal(r.Value, v); err != nil {
				w.failf("report record %s: %v", r.Key, err)
			}
		}
		switch kind {
		case "q":
			var q struct {
				Account  string      `json:"account"`
				Key      string      `json:"idempotency_key"`
				Body     []byte      `json:"body"`
				Step     *stepRecord `json:"step"`
				Question struct {
					Barrier []endRecord `json:"barrier"`
					After   []endRecord `json:"after"`
				} `json:"question"`
			}
			read(&q)
			a := &asked{id: id, account: q.Account, body: string(q.Body), at: time.UnixMilli(r.Time), step: q.Step}
			a.barrier = at(q.Question.Barrier) // it names the topics
			a.after = at(q.Question.After)
			a.through = a.barrier.later(a.after)
			if _, twice := l.requests[id]; twice {
				w.failf("report %s was requested twice", id)
			}
			l.requests[id] = a
			if key := q.Account + "/" + q.Key; q.Key != "" {
				if first := keys[key]; first == "" || withdrawn[first] {
					keys[key] = id
				} else {
					l.requests[first].repeated = true
					l.gone[id] = true
					l.repeats++
				}
			}
			if q.Step == nil {
				continue
			}
			// Of two requests for one step the first counts.
			o := q.Step.Order
			if n := len(l.steps[o]); ended[o] || l.orders[o] == nil || n > 0 && q.Step.Seq <= l.steps[o][n-1].step.Seq {
				l.gone[id] = true
				l.second++
				continue
			}
			l.steps[o] = append(l.steps[o], a)
		case "r":
			if a := l.requests[id]; a != nil && a.result == nil {
				a.result = new(resultRecord)
				read(a.result)
				if a.result.Through != nil {
					a.through = at(a.result.Through).later(a.after)
				}
			}
		case "c":
			var c struct {
				Withdrawn bool `json:"withdrawn"`
			}
			read(&c)
			if a := l.requests[id]; c.Withdrawn && a != nil {
				if a.repeated {
					continue
				}
				withdrawn[id] = true
			}
			l.gone[id] = true
		case "o":
			var o struct {
				Account  string         `json:"account"`
				Name     string         `json:"name"`
				Created  time.Time      `json:"created_at"`
				From     []endRecord    `json:"from"`
				Settings settingsRecord `json:"settings"`
			}
			read(&o)
			if at := w.kafkaTimeAt(time.UnixMilli(r.Time)); at.Before(o.Created) { // the replica's clock was ahead
				o.Created = at
			}
			l.orders[id] = &placed{o.Account, o.Name, o.Created, at(o.From), map[string]json.RawMessage{o.Settings.Revision: o.Settings.Body}}
		case "u":
			var u struct {
				Settings settingsRecord `json:"settings"`
			}
			read(&u)
			if o := l.orders[id]; o != nil {
				o.revisions[u.Settings.Revision] = u.Settings.Body
			}
		case "d":
			if !ended[id] {
				ended[id] = true
				for _, s := range l.steps[id] {
					l.gone[s.id] = true
				}
			}
		}
	}
	return l
}
