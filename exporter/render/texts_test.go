package render

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"lockstitch/internal/seed"
	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// weighed is a store that counts the bytes that are read.
type weighed struct {
	objects.Store
	read *atomic.Int64
}

func (w weighed) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	w.read.Add(n)
	return w.Store.Open(ctx, name, off, n)
}

// longTexts makes cuts of rows that each have a long text of its own, and says what they
// take in the store. apart is how much later a cut begins than the one before, where 1 is
// how long it takes.
func longTexts(t *testing.T, cuts, rows, length int, apart float64) (shelf, []catalog.SliceRef, int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	store, refs, stored := shelf{data: make(map[string][]byte)}, []catalog.SliceRef(nil), int64(0)
	stream := segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}
	const span = 1_000_000
	text := make([]byte, length)
	for cut := range cuts {
		buffer := segment.NewBuffer()
		for i := range rows {
			for j := 0; j < length; j += 8 { // 6 bits a byte
				for k, v := 0, r.Uint64(); k < 8 && j+k < length; k, v = k+1, v>>8 {
					text[j+k] = '0' + byte(v&63)
				}
			}
			ev := event.Event{Type: event.Clicked, AccountID: []byte("acme"), Section: []byte("s"), ProfileID: []byte("p"),
				ServerTime: int64(apart*float64(cut)*span) + r.Int64N(span), CorrelationID: fmt.Append(nil, cut, "-", i)}
			ev.Cells[event.LinkURL] = text
			buffer.Add(&stream, 0, int64(cut*rows+i), 1, &ev, nil)
		}
		err := segment.Seal([]*segment.Buffer{buffer}, func(o segment.Object) error {
			name := fmt.Sprint(cut, "-", len(store.data))
			store.data[name] = o.Data
			for i := range o.Slices {
				refs = append(refs, catalog.SliceRef{SegmentID: name, Object: name, Info: &o.Slices[i]})
				stored += o.Slices[i].Length
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return store, refs, stored
}

// TestLongTextsAreReadFewTimes exports what has the most text for its rows, from cuts of
// which few or all overlap in time. Each slice is needed by several pieces.
func TestLongTextsAreReadFewTimes(t *testing.T) {
	for name, c := range map[string]struct {
		rows, length int // of each cut
		apart        float64
	}{"two overlap": {1000, 2000, 0.6}, "all overlap": {1000, 2000, 0}, "very long": {100, 20_000, 0}} {
		const cuts = 8
		store, refs, stored := longTexts(t, cuts, c.rows, c.length, c.apart)
		for _, workers := range []int{2, 8} {
			var read atomic.Int64
			totals, err := Export(t.Context(), Params{Store: weighed{store, &read}, Slices: refs, Parallel: workers,
				Question: &report.Question{Barrier: []report.End{{TopicID: segment.TopicID{1}, Offset: math.MaxInt64}}}}, io.Discard)
			if err != nil || totals.Rows != int64(cuts*c.rows) {
				t.Fatal(totals, err)
			}
			if times := float64(read.Load()) / float64(stored); times > 3 {
				t.Errorf("%s, %d workers: every slice is read %.1f times", name, workers, times)
			}
		}
	}
}

// crowd is a store that knows how many of its reads are under way and counts what it was at most.
type crowd struct {
	objects.Store
	now, most atomic.Int64
}

func (c *crowd) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	now := c.now.Add(1)
	for most := c.most.Load(); now > most && !c.most.CompareAndSwap(most, now); most = c.most.Load() {
	}
	time.Sleep(10 * time.Microsecond) // the others would have their turn
	r, err := c.Store.Open(ctx, name, off, n)
	if err != nil {
		c.now.Add(-1)
		return nil, err
	}
	return left{r, c}, nil
}

type left struct {
	io.ReadCloser
	crowd *crowd
}

func (l left) Close() error {
	l.crowd.now.Add(-1)
	return l.ReadCloser.Close()
}

// TestSlicesWithoutRoomAreReadOneByOne gives eight workers no room at all: to them every
// slice is as large as one that was sealed before long texts ended it.
func TestSlicesWithoutRoomAreReadOneByOne(t *testing.T) {
	seed.Each(t, 1, func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, 80, 1000)
		store, refs := w.store(t, 8)
		c := &crowd{Store: store}
		q := everything(w)
		file, _, err := exportIt(t.Context(), Params{Store: c, Slices: refs, Question: q}, 4000, 50, 8, 0)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := w.reference(q, func(map[string]bool) bool { return true })
		if got := unzip(t, file); got != want {
			t.Error(difference(got, want))
		}
		if n := c.most.Load(); n != 1 {
			t.Errorf("%d slices are read at the same time", n)
		}
	})
}
