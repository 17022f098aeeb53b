package model

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"lockstitch/cmd/lockstitch/model/reference"
	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// streams are the event topics with what there was under their names before: one
// that is deleted and made anew is another stream behind the earlier ones (contract
// 2.7). To the reference each is a topic of its own.
type streams struct {
	at    int // the item of the traffic that makes a topic anew; < 0: none
	grows int // the item of the traffic that adds partitions; < 0: none
	rng   *rand.Rand
	names map[string]string  // by topic id
	now   map[string]string  // by topic
	gone  []reference.Record // of those that are over, also what was lost with them
	left  vector             // where those ended that were taken off the list
}

// between stands in the name of a stream between its topic and its number; it sorts
// before all that may stand in the name of a topic.
const between = "\x00"

func (w *world) expectStreams(rng *rand.Rand) {
	w.streams = streams{at: -1, grows: -1, rng: rng, names: make(map[string]string), now: make(map[string]string)}
	if rng.IntN(6) == 0 && w.three == nil && *remade {
		w.streams.at = rng.IntN(30)
	}
	if rng.IntN(6) == 0 && w.three == nil && *remade {
		w.streams.grows = rng.IntN(30)
	}
	for _, topic := range w.topics.Events {
		w.stands(topic, topic)
	}
}

// stands takes in that a topic is now a stream.
func (w *world) stands(topic, stream string) {
	infos, err := kafka.Describe(w.context(), w.client, topic)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams.names[segment.TopicID(infos[topic].ID).String()] = stream
	w.streams.now[topic] = stream
}

// stream is the name to the reference of a topic with an id.
func (w *world) stream(topic, id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, ok := w.streams.names[id]; ok {
		return name
	}
	return topic
}

// topicOf is the topic of a stream.
func topicOf(stream string) string {
	topic, _, _ := strings.Cut(stream, between)
	return topic
}

// events are the records of all streams of which replicas have read them: of one
// that is over, up to its last position.
func (w *world) events(cat storedCatalog) (out []reference.Record) {
	for _, r := range w.streams.gone {
		if r.Offset < cat.positions[reference.Partition{Topic: r.Topic, Partition: r.Partition}].Next {
			out = append(out, r)
		}
	}
	for _, topic := range w.topics.Events {
		records := w.dump(topic)
		for i := range records {
			records[i].Topic = w.streams.now[topic]
		}
		out = append(out, records...)
	}
	return out
}

// allEnds are the ends of the events, those of streams that are over too.
func (w *world) allEnds(cat storedCatalog) map[reference.Partition]int64 {
	ends := w.eventEnds()
	for p, pos := range cat.positions {
		if _, ok := ends[p]; !ok && topicOf(p.Topic) != w.topics.Profiles {
			ends[p] = pos.Next
		}
	}
	return ends
}

// withoutThoseOver is a position from which a walk to another one passes only streams
// that are not over.
func (w *world) withoutThoseOver(from, to vector) vector {
	out := maps.Clone(from)
	for p, end := range to {
		if w.streams.now[topicOf(p.Topic)] != p.Topic {
			if out == nil {
				out = make(vector)
			}
			out[p] = end
		}
	}
	return out
}

// lost tells whether a barrier can never be reached: its stream is over.
func (w *world) lost(cat storedCatalog, barrier vector) bool {
	for p, end := range barrier {
		if w.streams.now[topicOf(p.Topic)] != p.Topic && cat.positions[p].Next < end {
			return true
		}
	}
	return false
}

// takeOff takes one of several event topics off the list, of which everything was read,
// and deletes it. No replica runs.
func (t *traffic) takeOff() {
	w := t.w
	if len(w.topics.Events) < 2 || w.streams.rng.IntN(2) == 0 {
		return
	}
	i := w.streams.rng.IntN(len(w.topics.Events))
	topic := w.topics.Events[i]
	w.over(topic)
	w.topics.Events = slices.Delete(slices.Clone(w.topics.Events), i, i+1)
	w.streams.left = w.ends(topic)
	delete(w.streams.now, topic)
	t.old = slices.DeleteFunc(t.old, func(s sent) bool { return s.topic == topic })
	w.notef("%s is taken off the list and deleted", topic)
	if _, err := kadm.NewClient(w.client).DeleteTopic(w.context(), topic); err != nil {
		w.t.Fatal(err)
	}
	w.client.PurgeTopicsFromClient(topic)
	total.mu.Lock()
	defer total.mu.Unlock()
	total.left++
}

// over keeps the records of the stream that a topic is.
func (w *world) over(topic string) {
	records := w.dump(topic)
	for i := range records {
		records[i].Topic = w.streams.now[topic]
	}
	w.streams.gone = append(w.streams.gone, records...)
}

// topics lets happen to the topics what is due at an item of the traffic.
func (t *traffic) topics(item int) {
	s := &t.w.streams
	if item == s.at {
		s.at = -1
		t.anew()
	}
	if item == s.grows {
		s.grows = -1
		t.grow()
	}
}

// grow adds partitions to all input topics, one after the other.
func (t *traffic) grow() {
	w, rng := t.w, t.w.streams.rng
	w.partitions += 1 + rng.Int32N(2)
	topics := append([]string{w.topics.Profiles}, w.topics.Events...)
	rng.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
	for _, topic := range topics {
		w.notef("%s has %d partitions from now on", topic, w.partitions)
		added, err := kadm.NewClient(w.client).UpdatePartitions(w.context(), int(w.partitions), topic)
		if err == nil {
			err = added.Error()
		}
		if err != nil {
			w.t.Fatal(err)
		}
		w.client.ForceMetadataRefresh()
		for range rng.IntN(4) {
			t.one()
		}
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
	}
	total.mu.Lock()
	defer total.mu.Unlock()
	total.grown++
}

// anew deletes an event topic, makes it anew, and adopts it after a while.
func (t *traffic) anew() {
	w, rng := t.w, t.w.streams.rng
	if t.end != nil {
		t.end(rng.IntN(2) == 0)
	}
	topic := pick(rng, w.topics.Events)
	w.over(topic)
	missing, waits := time.Duration(rng.IntN(2000))*time.Millisecond, time.Duration(rng.IntN(6000))*time.Millisecond
	w.notef("%s is deleted, made anew after %v and adopted after %v", topic, missing, waits)
	adm := kadm.NewClient(w.client)
	if _, err := adm.DeleteTopic(w.context(), topic); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(missing)
	if _, err := adm.CreateTopic(w.context(), w.partitions, 1, nil, topic); err != nil {
		w.t.Fatal(err)
	}
	w.client.PurgeTopicsFromClient(topic)
	w.stands(topic, topic+between+strconv.Itoa(len(w.streams.names)))
	var adopt func()
	adopt = func() {
		changed, err := catalog.Adopt(w.context(), w.own(), w.topics, discard)
		if errors.Is(err, catalog.ErrNeverKnown) { // and no replica has started yet
			w.later(time.Second, adopt)
			return
		}
		if err != nil {
			w.t.Errorf("the test cannot adopt %s: %v", topic, err)
		}
		w.notef("adopted: %v", changed)
	}
	w.later(waits, adopt)
	total.mu.Lock()
	defer total.mu.Unlock()
	total.anew++
}
