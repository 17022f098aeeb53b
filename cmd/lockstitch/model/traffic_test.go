package model

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	accounts  = []string{"acme", "other"}
	sections  = []string{"s1", "s2"}
	audiences = []string{"women", "men"}
	kinds     = []string{"SENT", "DELIVERED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE"}
	texts     = []string{"plain", "", "a,b", `say "hi"`, "two\nlines", "žluť 🐎", "=1+1"}
	versions  = []string{"7", "12", "1200"} // of attributes and tags
)

const emailName = "com.apsis1.attributes.email"

// traffic is what upstream systems send.
type traffic struct {
	w     *world
	rng   *rand.Rand
	n     int         // of correlation ids
	old   []sent      // events that may be repeated
	txn   *kgo.Client // the open transaction, if any
	end   func(bool)  // ends it
	hangs bool        // it goes on until all is sent
}

type sent struct {
	topic, key string
	value      []byte
}

func pick[T any](rng *rand.Rand, from []T) T { return from[rng.IntN(len(from))] }

// run sends n things, at times about the given step apart.
func (t *traffic) run(n int, step time.Duration) {
	for i := range n {
		t.topics(i)
		t.one()
		time.Sleep(2*time.Millisecond + time.Duration(t.rng.Int64N(int64(2*step))))
	}
	if t.end != nil {
		t.end(t.rng.IntN(2) == 0)
	}
}

func (t *traffic) one() {
	n := 100
	if len(t.w.orders) > 0 {
		n = 125
	}
	switch x := t.rng.IntN(n); {
	case x < 35:
		t.event()
	case x < 45:
		for range t.rng.IntN(12) { // a burst
			t.event()
		}
	case x < 60:
		t.repeat()
	case x < 75:
		t.profile()
	case x < 80:
		t.poison()
	case x < 84:
		t.define()
	case x < 90:
		t.transaction()
	case x < 93:
		t.w.jump(pick(t.rng, []time.Duration{time.Minute, 20 * time.Minute, 59 * time.Minute, time.Hour, 61 * time.Minute, 3 * time.Hour}))
	case x < 100:
		t.w.ask(t.rng)
	case x < 112: // so that few events lie between two boundaries
		t.w.jump(pick(t.rng, []time.Duration{10 * time.Second, 20 * time.Second, time.Minute, 3 * time.Minute}))
	case x < 118:
		t.w.instruct(t.rng)
	default: // what orders name vanishes and comes back
		t.define()
	}
	if len(t.w.walks) > 0 && t.rng.IntN(8) == 0 {
		t.w.walk(t.rng)
	}
}

// put produces a record. Two records of different topics never have the same
// millisecond: whether a version of a profile that is of the event's own
// millisecond counts for it depends on when it is read.
func (t *traffic) put(r *kgo.Record) {
	cl := t.w.client
	if t.txn != nil && r.Topic != t.w.topics.Definitions && t.rng.IntN(3) > 0 {
		cl = t.txn
	}
	time.Sleep(2 * time.Millisecond)
	r.Timestamp = t.w.now()
	if err := cl.ProduceSync(t.w.context(), r).FirstErr(); err != nil {
		t.w.t.Errorf("the test cannot produce: %v", err)
	}
}

func (t *traffic) profileID() string { return fmt.Sprintf("p%d", t.rng.IntN(8)) }

func (t *traffic) event() {
	t.n++
	now := t.w.now().UnixMilli()
	id := t.profileID()
	e := map[string]any{
		"correlation_id": fmt.Sprintf("c%d", t.n), "type": pick(t.rng, kinds), "account_id": pick(t.rng, []string{"acme", "acme", "acme", "other"}),
		"section": pick(t.rng, sections), "activity_id": pick(t.rng, []any{"a1", 17, "a,2"}), "subject": pick(t.rng, texts),
		"device": "phone", "link_id": 5, "bounce_code": "b1", "unsubscribe_topic": "news", "abuse_section": "s", "event_time": t.rng.Int64N(now),
	}
	switch t.rng.IntN(4) {
	case 0: // absent: the record's Kafka time
	case 1:
		e["server_time"] = now - t.rng.Int64N(20*24*3600*1000) // late
	case 2:
		e["server_time"] = now - now%60_000 // ties
	default:
		e["server_time"] = now
	}
	if t.rng.IntN(10) == 0 {
		e["profile_id"] = t.profileID() // perhaps another partition's
	}
	if t.rng.IntN(10) == 0 {
		e["split_id"] = 3
	}
	v, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	s := sent{topic: pick(t.rng, t.w.topics.Events), key: id, value: v}
	t.old = append(t.old, s)
	t.send(s)
}

func (t *traffic) send(s sent) {
	t.put(&kgo.Record{Topic: s.topic, Key: []byte(s.key), Value: s.value})
}

// repeat sends a retry of something recent or of anything.
func (t *traffic) repeat() {
	if len(t.old) == 0 {
		return
	}
	for range 1 + t.rng.IntN(3) {
		i := t.rng.IntN(len(t.old))
		if t.rng.IntN(2) == 0 {
			i = max(0, len(t.old)-1-t.rng.IntN(5))
		}
		t.send(t.old[i])
	}
}

func (t *traffic) profile() {
	id := t.profileID()
	r := &kgo.Record{Topic: t.w.topics.Profiles, Key: []byte(id)}
	switch x := t.rng.IntN(10); {
	case x < 2: // deleted
	case x < 3:
		r.Value = []byte(pick(t.rng, []string{"[]", "{broken", `{"sections":{}}`, `{"account_id":"acme","profile_id":"someone"}`, `{"account_id":7}`}))
	default:
		sec := make(map[string]any)
		for _, s := range sections {
			attrs := make(map[string]any)
			for _, v := range versions {
				if t.rng.IntN(3) > 0 {
					attrs[v] = fmt.Sprintf("%s %d", pick(t.rng, texts), t.rng.IntN(1000))
				}
			}
			if t.rng.IntN(8) == 0 {
				attrs["99"] = []int{1} // left out
			}
			tags := []string{}
			for _, v := range versions {
				if t.rng.IntN(2) == 0 {
					tags = append(tags, v)
				}
			}
			sec[s] = map[string]any{"attributes": attrs, "tags": tags}
		}
		member := []string{}
		for _, a := range audiences {
			if t.rng.IntN(2) == 0 {
				member = append(member, a)
			}
		}
		v, err := json.Marshal(map[string]any{"account_id": pick(t.rng, []string{"acme", "acme", "acme", "other"}), "sections": sec, "segments": member})
		if err != nil {
			panic(err)
		}
		r.Value = v
	}
	t.put(r)
}

func (t *traffic) poison() {
	value := pick(t.rng, []string{
		"{broken", "[]", "", `{"type":"SENT","account_id":"acme","section":"s1"}`, `{"correlation_id":"x","type":"SEEN","account_id":"acme","section":"s1"}`,
		`{"correlation_id":7,"type":"SENT","account_id":"acme","section":"s1"}`, `{"correlation_id":"x","type":"SENT","section":"s1"}`,
		`{"correlation_id":"x","type":"SENT","account_id":"acme","section":"s1","server_time":-1}`, `{"correlation_id":"x","type":"SENT","account_id":"acme","section":"s1","server_time":1.5}`,
	})
	r := &kgo.Record{Topic: pick(t.rng, t.w.topics.Events), Key: []byte(t.profileID()), Value: []byte(value)}
	if value == "" {
		r.Value = nil
	}
	t.put(r)
}

// define changes or deletes a definition.
func (t *traffic) define() {
	account := pick(t.rng, accounts)
	if !t.w.defining(func() {
		switch t.rng.IntN(3) {
		case 0:
			t.definition(account, "attribute", pick(t.rng, versions))
		case 1:
			t.definition(account, "tag", pick(t.rng, versions))
		default:
			t.definition(account, "segment", pick(t.rng, audiences))
		}
	}) {
		t.event()
	}
}

func (t *traffic) definition(account, kind, id string) {
	d := map[string]any{"kind": kind, "account_id": account, "name": fmt.Sprintf("%s %d", pick(t.rng, texts), t.rng.IntN(100))}
	if kind == "segment" || kind == "section" {
		d["discriminator"] = id
	} else {
		d["version_id"], d["section"], d["discriminator"] = id, pick(t.rng, sections), "d"+id
		if kind == "attribute" && t.rng.IntN(2) == 0 {
			d["discriminator"] = emailName
		}
	}
	r := &kgo.Record{Topic: t.w.topics.Definitions, Key: []byte(kind + "/" + account + "/" + id)}
	if t.rng.IntN(5) > 0 {
		v, err := json.Marshal(d)
		if err != nil {
			panic(err)
		}
		r.Value = v
	}
	t.put(r)
	t.w.mu.Lock()
	t.w.definitions++
	t.w.defined = append(t.w.defined, time.Now())
	t.w.mu.Unlock()
}

// transaction begins one, of which what follows is mostly a part, or ends it.
func (t *traffic) transaction() {
	if t.end != nil {
		if !t.hangs {
			t.end(t.rng.IntN(2) == 0)
		}
		return
	}
	cl, err := kgo.NewClient(append(t.w.own(), kgo.ProducerLinger(0),
		kgo.TransactionalID(fmt.Sprintf("upstream-%d", t.n)), kgo.TransactionTimeout(5*time.Minute))...)
	if err != nil {
		panic(err)
	}
	if err := cl.BeginTransaction(); err != nil {
		panic(err)
	}
	t.w.notef("upstream begins a transaction")
	t.txn = cl
	t.end = func(commit bool) {
		t.w.notef("upstream ends its transaction, commit %v", commit)
		if err := cl.EndTransaction(context.Background(), kgo.TransactionEndTry(commit)); err != nil {
			t.w.t.Errorf("the test cannot end a transaction: %v", err)
		}
		cl.Close()
		t.txn, t.end = nil, nil
	}
}
