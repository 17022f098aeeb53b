package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// traffic makes up realistic input: definitions, profiles, and events of
// mailings, some of which are retried and some of which are broken. The same
// seed makes the same records.
type traffic struct {
	cfg     trafficConfig
	rng     *rand.Rand
	events  int      // records made so far, retries and poison included
	recent  [][]byte // values of recent events, for retries
	keys    [][]byte // their keys
	counts  trafficCounts
	subject []string // JSON texts
}

type trafficConfig struct {
	Topics   kafka.Topics
	Account  string
	Profiles int
	Seed     uint64
	Retries  float64       // share of records that repeat an earlier event
	Poison   float64       // share of records that cannot be used
	Now      time.Time     // server_time of the newest event
	Span     time.Duration // server_times lie in the Span before Now; 0: none is set, the broker's time counts
	Expect   int           // events expected in all, to spread them over Span
}

// trafficCounts says what was made.
type trafficCounts struct {
	Records, Events, Retries, Poison int
}

const (
	sampleSection   = "usercreated.sections.europe-r6tz73a27t"
	sampleAudience  = "usercreated.segments.women-rjz6b8td2n"
	emailAttribute  = "9820534"
	genderAttribute = "491874"
	birthAttribute  = "491875"
	vipTag          = "52001"
	sampleAccount   = "demo"
)

func newTraffic(cfg trafficConfig) *traffic {
	t := &traffic{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x10c257))}
	for _, s := range []string{"Spring news", "Your order, and what comes next", `The "last" chance`, "Sommarrea på allt 🎉", "=SUM(1+1)", "Ny vår\nnya priser"} {
		b, err := json.Marshal(s)
		if err != nil {
			continue // a string always marshals
		}
		t.subject = append(t.subject, string(b))
	}
	return t
}

// definitions are what exists on the sample account.
func (t *traffic) definitions() []*kgo.Record {
	var out []*kgo.Record
	add := func(kind, id, rest string) {
		out = append(out, &kgo.Record{
			Topic: t.cfg.Topics.Definitions, Key: []byte(kind + "/" + t.cfg.Account + "/" + id),
			Value: []byte(fmt.Sprintf(`{"kind":%q,"account_id":%q,%s}`, kind, t.cfg.Account, rest)),
		})
	}
	add("section", sampleSection, `"discriminator":"`+sampleSection+`","name":"Europe"`)
	add("attribute", emailAttribute, `"version_id":"`+emailAttribute+`","discriminator":"com.apsis1.attributes.email","section":"`+sampleSection+`","name":"email","type":"text"`)
	add("attribute", genderAttribute, `"version_id":"`+genderAttribute+`","discriminator":"usercreated.attributes.gender","section":"`+sampleSection+`","name":"gender","type":"text"`)
	add("attribute", birthAttribute, `"version_id":"`+birthAttribute+`","discriminator":"usercreated.attributes.birthday","section":"`+sampleSection+`","name":"birthday","type":"date"`)
	add("tag", vipTag, `"version_id":"`+vipTag+`","discriminator":"usercreated.tags.vip","section":"`+sampleSection+`","name":"vip"`)
	add("segment", sampleAudience, `"discriminator":"`+sampleAudience+`","name":"Women"`)
	return out
}

// profile is the first version of profile i.
func (t *traffic) profile(i int) *kgo.Record {
	gender, audiences := "male", "[]"
	if i%2 == 0 {
		gender, audiences = "female", `["`+sampleAudience+`"]`
	}
	tags := "[]"
	if i%5 == 0 {
		tags = `["` + vipTag + `"]`
	}
	v := fmt.Sprintf(`{"account_id":%q,"sections":{%q:{"attributes":{%q:"user%d@example.com",%q:%q,%q:"19%02d-%02d-%02d"},"tags":%s}},"segments":%s}`,
		t.cfg.Account, sampleSection, emailAttribute, i, genderAttribute, gender,
		birthAttribute, 50+i%50, 1+i%12, 1+i%28, tags, audiences)
	return &kgo.Record{Topic: t.cfg.Topics.Profiles, Key: profileKey(i), Value: []byte(v)}
}

func profileKey(i int) []byte { return strconv.AppendInt([]byte("profile-"), int64(i), 10) }

var eventTypes = []string{"SENT", "SENT", "SENT", "SENT", "DELIVERED", "DELIVERED", "DELIVERED", "DELIVERED", "OPENED", "OPENED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE"}

// event is the next record: mostly a new event, sometimes a retry or poison.
func (t *traffic) event() *kgo.Record {
	t.events++
	t.counts.Records++
	topic := t.cfg.Topics.Events[0]
	switch x := t.rng.Float64(); {
	case x < t.cfg.Poison:
		t.counts.Poison++
		broken := []string{`{"type":"SENT"`, `[]`, `{"account_id":"demo","type":"SENT"}`, `{"account_id":"demo","type":"READ","correlation_id":"x","section":"s"}`, `{"account_id":"demo","type":"SENT","correlation_id":7,"section":"s"}`}
		return &kgo.Record{Topic: topic, Key: profileKey(t.rng.IntN(t.cfg.Profiles)), Value: []byte(broken[t.rng.IntN(len(broken))])}
	case x < t.cfg.Poison+t.cfg.Retries && len(t.recent) > 0:
		t.counts.Retries++
		i := t.rng.IntN(len(t.recent))
		return &kgo.Record{Topic: topic, Key: t.keys[i], Value: t.recent[i]}
	}
	t.counts.Events++
	r := &kgo.Record{Topic: topic, Key: profileKey(t.rng.IntN(t.cfg.Profiles)), Value: t.value()}
	if t.cfg.Retries > 0 {
		if len(t.recent) < 1000 {
			t.recent, t.keys = append(t.recent, r.Value), append(t.keys, r.Key)
		} else {
			i := t.rng.IntN(len(t.recent))
			t.recent[i], t.keys[i] = r.Value, r.Key
		}
	}
	return r
}

// value is the JSON of a new event.
func (t *traffic) value() []byte {
	kind := eventTypes[t.rng.IntN(len(eventTypes))]
	mailing := t.rng.IntN(20)
	b := make([]byte, 0, 512)
	b = append(b, `{"correlation_id":"`...)
	b = t.appendUUID(b)
	b = append(b, `","type":"`...)
	b = append(b, kind...)
	b = append(b, `","account_id":"`...)
	b = append(b, t.cfg.Account...)
	b = append(b, `","section":"`+sampleSection+`","activity_id":"`...)
	b = strconv.AppendInt(b, int64(7000+mailing), 10)
	b = append(b, `","activity_name":"Mailing `...)
	b = strconv.AppendInt(b, int64(mailing), 10)
	b = append(b, `","sender":"news@example.com","subject":`...)
	b = append(b, t.subject[mailing%len(t.subject)]...)
	at := t.cfg.Now.UnixMilli()
	if t.cfg.Span > 0 {
		back := t.cfg.Span.Milliseconds()
		if t.cfg.Expect > 0 {
			back -= int64(float64(back) * float64(min(t.events, t.cfg.Expect)) / float64(t.cfg.Expect))
		}
		at -= back
		b = append(b, `,"server_time":`...)
		b = strconv.AppendInt(b, at, 10)
	} else {
		at = time.Now().UnixMilli()
	}
	b = append(b, `,"event_time":`...)
	b = strconv.AppendInt(b, at-int64(t.rng.IntN(2000)), 10)
	switch kind {
	case "OPENED", "CLICKED":
		b = append(b, `,"device":"`...)
		b = append(b, []string{"MOBILE", "DESKTOP", "TABLET"}[t.rng.IntN(3)]...)
		b = append(b, `","location":"`...)
		b = append(b, []string{"SE", "NO", "DK", "PL"}[t.rng.IntN(4)]...)
		b = append(b, '"')
		if kind == "CLICKED" {
			link := t.rng.IntN(5)
			b = fmt.Appendf(b, `,"link_id":"%d","link_url":"https://example.com/offer/%d?from=mail","link_title":"Offer %d"`, link, link, link)
		}
	case "BOUNCED":
		b = append(b, `,"bounce_code":`...)
		b = append(b, []string{"2001", "3001", "4003", "9999"}[t.rng.IntN(4)]...)
	case "UNSUBSCRIBED":
		b = append(b, `,"unsubscribe_topic":"usercreated.topics.news"`...)
	case "ABUSE":
		b = append(b, `,"abuse_section":"`+sampleSection+`"`...)
	}
	return append(b, '}')
}

const hexDigits = "0123456789abcdef"

func (t *traffic) appendUUID(b []byte) []byte {
	hi, lo := t.rng.Uint64(), t.rng.Uint64()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 1<<63
	for i := range 16 {
		x := hi
		if i >= 8 {
			x = lo
		}
		c := byte(x >> (56 - 8*(i%8)))
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

// basics produces definitions and profiles.
func (t *traffic) basics(ctx context.Context, cl *kgo.Client) error {
	defs := t.definitions()
	if err := produceAll(ctx, cl, func() (r *kgo.Record) {
		if len(defs) > 0 {
			r, defs = defs[0], defs[1:]
		}
		return r
	}); err != nil {
		return err
	}
	i := 0
	return produceAll(ctx, cl, func() *kgo.Record {
		if i++; i > t.cfg.Profiles {
			return nil
		}
		return t.profile(i - 1)
	})
}

// stream produces about perSecond records a second until ctx ends.
func (t *traffic) stream(ctx context.Context, cl *kgo.Client, perSecond int) error {
	tick := time.NewTicker(time.Second / 10)
	defer tick.Stop()
	due := 0 // tenths of records
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		due += perSecond
		n, changes := due/10, t.rng.IntN(10) == 0
		due %= 10
		if err := produceAll(ctx, cl, func() *kgo.Record {
			switch n--; {
			case n >= 0:
				return t.event()
			case changes: // a profile does, now and then
				changes = false
				return t.profile(t.rng.IntN(t.cfg.Profiles))
			}
			return nil
		}); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}
