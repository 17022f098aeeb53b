package model

import (
	"bytes"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/report"
)

// clock is a replica's: Kafka's, perhaps a little ahead or behind. It jumps when
// Kafka's does.
type clock struct {
	w   *world
	off time.Duration
}

// alarm is somebody who waits for a time.
type alarm struct {
	at    time.Time // by Kafka's clock
	timer *time.Timer
}

func (c clock) Now() time.Time { return c.w.now().Add(c.off) }

func (c clock) At(t time.Time) (<-chan time.Time, func()) {
	ch := make(chan time.Time, 1)
	at := t.Add(-c.off)
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	a := &alarm{at: at, timer: time.AfterFunc(at.Sub(c.w.kafkaTime()), func() {
		select {
		case ch <- t:
		default: // it rang, and the clock jumped before anybody looked
		}
	})}
	c.w.alarms[a] = true
	return ch, func() {
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		a.timer.Stop()
		delete(c.w.alarms, a)
	}
}

// kafkaTime is what Kafka's clock shows; mu is held.
func (w *world) kafkaTime() time.Time { return time.Now().Add(w.skew).Truncate(time.Millisecond) }

// now is Kafka's clock, in ms. It is ahead of the machine's by a skew that only
// grows: hours pass for deduplication and standing orders while sessions and
// back-offs do not.
func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kafkaTime()
}

func (w *world) jump(d time.Duration) {
	w.mu.Lock()
	w.jumps = append(w.jumps, jump{time.Now(), w.skew})
	w.skew += d
	for a := range w.alarms {
		a.timer.Reset(a.at.Sub(w.kafkaTime()))
	}
	w.mu.Unlock()
	w.notef("Kafka's clock jumps by %v", d)
}

// jump is one of Kafka's clock.
type jump struct {
	at     time.Time     // by the machine's clock
	before time.Duration // the skew until then
}

// kafkaTimeAt is what Kafka's clock showed at a time of the machine's.
func (w *world) kafkaTimeAt(t time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, j := range w.jumps {
		if !j.at.Before(t) {
			return t.Add(j.before)
		}
	}
	return t.Add(w.skew)
}

// stamped stands for brokers that stamp the records of the reports, as far as orders go:
// their creations are read with Kafka's time. Files expire by the machine's.
type stamped struct{ w *world }

func (s stamped) OnFetchRecordBuffered(r *kgo.Record) {
	if bytes.HasPrefix(r.Key, []byte(report.KeyOrder)) {
		r.Timestamp = s.w.kafkaTimeAt(r.Timestamp)
	}
}
