package model

import (
	"math/rand/v2"
	"time"

	"lockstitch/state/kafka"
	"lockstitch/state/kafka/replaced"
)

// brokers are three that replicate everything, and what goes wrong with them and
// between them.
type brokers struct {
	*replaced.Brokers
	w    *world
	rng  *rand.Rand
	old  int32 // the one that does not know that it was replaced; -1: none
	list []led
}

// led is a partition, which some broker leads.
type led struct {
	topic string
	n     int32
}

func newBrokers(w *world, rng *rand.Rand) *brokers {
	b := &brokers{Brokers: replaced.Watch(w.broker, w.client), w: w, rng: rng, old: -1}
	t := w.topics
	for _, topic := range append(append([]string{}, t.Events...), t.Profiles, t.Definitions, t.Catalog, t.Reports, t.DeadLetters) {
		infos, err := kafka.Describe(w.context(), w.client, topic)
		if err != nil {
			w.t.Fatal(err)
		}
		for n := range infos[topic].Partitions {
			b.list = append(b.list, led{topic, n})
		}
	}
	b.move(100)
	total.mu.Lock()
	defer total.mu.Unlock()
	total.three++
	return b
}

// run lets things go wrong one after the other until the given time is over. When it
// returns all is well again.
func (b *brokers) run(within time.Duration) {
	for begun := time.Now(); time.Since(begun) < within; {
		time.Sleep(time.Duration(b.rng.Int64N(int64(within/2) + 1)))
		switch b.rng.IntN(6) {
		case 0:
			b.w.notef("%d partitions get other leaders", b.move(30))
		case 1:
			b.w.notef("groups and transactions get other coordinators")
			b.w.broker.RehashCoordinators()
		case 2:
			b.unreachable()
		default:
			b.replace()
		}
	}
}

// other is a broker that is neither of the two.
func (b *brokers) other(node int32) int32 {
	for {
		if n := b.rng.Int32N(3); n != node && n != b.old {
			return n
		}
	}
}

// move gives some of a hundred partitions new leaders.
func (b *brokers) move(percent int) (moved int) {
	for _, p := range b.list {
		if b.rng.IntN(100) < percent {
			b.lead(p, b.other(-1))
			moved++
		}
	}
	return moved
}

func (b *brokers) lead(p led, node int32) {
	if err := b.w.broker.MoveTopicPartition(p.topic, p.n, node); err != nil {
		b.w.t.Errorf("the test cannot move %s/%d: %v", p.topic, p.n, err)
	}
}

// unreachable takes one broker away from all replicas; after a while others lead.
func (b *brokers) unreachable() {
	node := b.rng.Int32N(3)
	still, away := time.Duration(b.rng.IntN(3000))*time.Millisecond, time.Duration(b.rng.IntN(3000))*time.Millisecond
	b.w.notef("broker %d is not reached for %v; after %v others lead", node, still+away, still)
	addr := b.w.broker.ListenAddrs()[node]
	each := func(f func(*cable)) {
		for _, r := range b.w.replicas {
			if p := r.living(); p != nil {
				f(p.cable)
			}
		}
	}
	each(func(c *cable) { c.severFrom(addr) })
	time.Sleep(still)
	for _, p := range b.list {
		if b.w.broker.LeaderFor(p.topic, p.n) == node {
			b.lead(p, b.other(node))
		}
	}
	time.Sleep(away)
	each(func(c *cable) { c.mendTo(addr) })
}

// replace lets a broker stand still until others lead what it led, and then go on
// without knowing it.
func (b *brokers) replace() {
	p := pick(b.rng, b.list)
	b.old = b.w.broker.LeaderFor(p.topic, p.n)
	blind := 200*time.Millisecond + time.Duration(b.rng.IntN(6000))*time.Millisecond
	b.w.notef("broker %d stands still", b.old)
	b.Stop(b.old)
	time.Sleep(replaced.LongestFetch)
	err := b.Replace(b.w.context(), func(string, int32) int32 { return b.other(-1) })
	if err != nil {
		b.w.t.Errorf("the test cannot replace a broker: %v", err)
	}
	b.w.notef("broker %d goes on; it was replaced and does not know it for %v", b.old, blind)
	time.Sleep(blind)
	b.w.notef("broker %d learns that it was replaced", b.old)
	b.Learn()
	b.old = -1
	total.mu.Lock()
	defer total.mu.Unlock()
	total.replaced++
}
