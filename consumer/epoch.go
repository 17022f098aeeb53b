package consumer

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// A log may be cut off below what was read of it and grow again: after the election of
// a replica that was behind, or when a disk is restored from a copy. Its length does not
// show that, its epochs do (KIP-320). The client asks about them when a leader
// changes, but not before it has read a record itself. So a takeover asks, and the
// first records behind it are taken only if no later leader appended them than the one
// that answered: else it is asked again.

// proof is that a log has what was read of it before its lane was taken over.
type proof struct {
	below int64       // what was read lies below this offset
	epoch kafka.Epoch // of the last record of that; 0: unknown, and nothing can be proven
	asked kafka.Epoch // of the leader that answered; 0: none, or the client has read a record behind below
	cut   bool        // the log was cut off below, at left
	left  int64
}

// proofs are those of partitions, by topic.
type proofs map[string]map[int32]*proof

func (ps proofs) add(topic string, n int32, p *proof) {
	if ps[topic] == nil {
		ps[topic] = make(map[int32]*proof)
	}
	ps[topic][n] = p
}

// ask asks the logs for what is to be proven; an error if any of them does not answer.
func (ps proofs) ask(ctx context.Context, cl *kgo.Client) error {
	epochs := make(map[string]map[int32]kafka.Epoch)
	for t, of := range ps {
		epochs[t] = make(map[int32]kafka.Epoch)
		for n, p := range of {
			if p.epoch > 0 {
				epochs[t][n] = p.epoch
			}
		}
	}
	ends, err := kafka.EpochEnds(ctx, cl, epochs)
	for t, of := range ends {
		for n, end := range of {
			p := ps[t][n]
			if p.asked = end.Leader; end.Offset >= 0 && end.Offset < p.below {
				p.cut, p.left = true, end.Offset
			}
		}
	}
	return err
}

// covers tells whether records that come next are of the log that was asked.
func (p *proof) covers(records []*kgo.Record) bool {
	for _, r := range records {
		if p.asked == 0 {
			break
		}
		if kafka.EpochOf(r) > p.asked {
			return false
		}
		if r.Offset >= p.below {
			p.asked = 0
		}
	}
	return !p.cut
}

// doubt is about records that a proof does not cover.
type doubt struct {
	l       *lane
	topic   string
	proof   *proof
	records []*kgo.Record
	take    func()
}

// settle asks again about the logs of which records came that no proof covers. Those that
// still have what was read of them go on; the lanes of the others, or of such as do not answer,
// are taken over anew.
func (c *Consumer) settle(ctx context.Context, doubts []doubt) {
	if len(doubts) == 0 {
		return
	}
	ps := make(proofs)
	for _, d := range doubts {
		ps.add(d.topic, d.l.n, d.proof)
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	err := ps.ask(ctx, c.group)
	for _, d := range doubts {
		if d.l.lost {
			continue
		}
		if d.proof.covers(d.records) {
			d.take()
			continue
		}
		c.log.Warn("a lane is taken over anew: its log was cut off, or does not say that it was not", "topic", d.topic, "partition", d.l.n, "below", d.proof.below, "err", err)
		d.l.lost = true
		c.retakeLane(d.l)
	}
}
