package consumer

import (
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/event"
	"lockstitch/state/local"
	"lockstitch/state/segment"
)

// TestWhatDecoratesIsCounted: a few megabytes of events may bring a gigabyte of profiles into
// the buffers. All of them are kept in the end, over several turns.
func TestWhatDecoratesIsCounted(t *testing.T) {
	db, err := local.Open(t.TempDir(), "c", "g", local.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const memory, n, size = 8 << 20, 1000, 32_000
	c := &Consumer{cfg: Config{MemoryBytes: memory}, lanes: map[int32]*lane{}}
	l := &lane{
		buf: segment.NewBuffer(), dd: newDedup(db.Lane(0), 7*24*3600*1000, enoughForBlooms()), dec: event.Decoder{},
		misrouted: func([]byte) bool { return false },
		prof:      &profiles{lane: db.Lane(0), cache: make(map[string]*history), cacheLimit: memory / 5},
	}
	c.lanes[0] = l
	in := &input{stream: &segment.Stream{Topic: "email-events"}}
	l.inputs = []*input{in}
	var profiles, events []*kgo.Record
	for i := range n {
		key := fmt.Appendf(nil, "p%d", i)
		profiles = append(profiles, &kgo.Record{Topic: "profiles", Key: key, Offset: int64(i), Timestamp: time.UnixMilli(1000),
			Value: fmt.Appendf(nil, `{"account_id":"acme","sections":{"s":{"attributes":{"1":"%0*d"}}}}`, size, i)})
		events = append(events, &kgo.Record{Topic: "email-events", Key: key, Offset: int64(i), Timestamp: time.UnixMilli(2000),
			Value: fmt.Appendf(nil, `{"correlation_id":"%d","type":"SENT","account_id":"acme","section":"s"}`, i)})
	}
	if err := l.applyProfiles(profiles, time.Now()); err != nil {
		t.Fatal(err)
	}
	b := newBatch(in, events)
	b.profEnd = n
	l.wait(b)
	for turn := 0; len(l.waiting) > 0; turn++ {
		if turn > n*size/memory*20 {
			t.Fatalf("at offset %d after %d turns", in.pos.Next, turn)
		}
		c.shareOut()
		if err := l.run(time.Now()); err != nil {
			t.Fatal(err)
		}
		held, limit := c.bufferedBytes(), c.bufferLimit()
		if held > limit+limit/8+2*size {
			t.Fatalf("after turn %d %d bytes are held, %d are allowed", turn, held, limit)
		}
		if held >= limit { // a cut is due
			l.buf.Reset(0)
		}
	}
	if in.pos.Kept != n {
		t.Errorf("%d events are kept, want %d", in.pos.Kept, n)
	}
}

// TestOneLaneFillsTheBuffers: what one lane gets of the room is not ever less the fuller they are.
func TestOneLaneFillsTheBuffers(t *testing.T) {
	c := &Consumer{cfg: Config{MemoryBytes: 256 << 20}, lanes: map[int32]*lane{}}
	for n := range int32(64) {
		c.lanes[n] = &lane{buf: segment.NewBuffer(), dd: newDedup(nil, 1, enoughForBlooms())}
	}
	c.lanes[0].dirty = true
	turns := 0
	for ; c.bufferedBytes() < c.bufferLimit() && turns < math.MaxInt16; turns++ {
		c.shareOut()
		c.lanes[0].deadBytes += c.lanes[0].room
	}
	if turns > 64*8 {
		t.Errorf("it takes %d turns", turns)
	}
}
