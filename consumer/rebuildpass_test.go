package consumer

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/internal/bubble"
	"lockstitch/state/objects"
)

// watched is a store that counts what is read, and stands still at a read if told to.
type watched struct {
	objects.Store
	mu    sync.Mutex
	reads map[string]int
	stand chan struct{} // what reads waits until it is closed; nil: it does not
	here  chan struct{} // is told when something waits
}

func (s *watched) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	s.mu.Lock()
	s.reads[fmt.Sprint(name, " ", off)]++
	stand := s.stand
	s.mu.Unlock()
	if stand != nil {
		select {
		case s.here <- struct{}{}:
		default:
		}
		select {
		case <-stand:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.Store.Open(ctx, name, off, n)
}

// lostDisk is a world in which events of both lanes were cut five times, in segments that
// have rows of both, and nobody has any local state.
func lostDisk(t *testing.T) (*world, *watched) {
	w := newVirtualWorld(t)
	s := &watched{Store: w.store, reads: make(map[string]int)}
	w.store = s
	r := w.start("/first", func(c *Config) { c.FS = vfs.NewMem() })
	r.awaitReady(t)
	for cut := range 5 {
		for i := range 10 {
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%d-%d", cut, i), "SENT")
		}
		w.settle(r.cat)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	clear(s.reads)
	return w, s
}

// repeated are rows of the next owner when everything is produced again: none.
func (w *world) repeated(r *replica) int {
	w.t.Helper()
	before := len(w.rows(r.cat))
	for cut := range 5 {
		for i := range 10 {
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%d-%d", cut, i), "SENT")
		}
	}
	w.settle(r.cat)
	return len(w.rows(r.cat)) - before
}

// TestOnePassForAllLanes: however many lanes lack entries, each slice is read once.
func TestOnePassForAllLanes(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w, s := lostDisk(t)
		r := w.start("/next", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		s.mu.Lock()
		if len(s.reads) < 5 {
			t.Errorf("%d slices were read of at least 5", len(s.reads))
		}
		for at, n := range s.reads {
			if n != 1 {
				t.Errorf("%s was read %d times", at, n)
			}
		}
		s.mu.Unlock()
		if n := w.repeated(r); n != 0 {
			t.Errorf("%d events were taken again", n)
		}
	})
}

// TestALaneThatGoesLeavesThePassToOthers: a lane that is taken away while slices are read
// is given up at once, and those that stay have all they lacked.
func TestALaneThatGoesLeavesThePassToOthers(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w, s := lostDisk(t)
		stand := make(chan struct{})
		s.stand, s.here = stand, make(chan struct{}, 1)
		r := w.start("/next", func(c *Config) { c.FS = vfs.NewMem() })
		<-s.here
		const goes = 0
		gone := make(chan time.Duration, 1)
		r.c.mail.post(func(ctx context.Context) error {
			begun := time.Now()
			r.c.drop(goes)
			gone <- time.Since(begun)
			return nil
		})
		if took := <-gone; took > time.Second {
			t.Errorf("it was given up after %v", took)
		}
		s.mu.Lock()
		s.stand = nil
		s.mu.Unlock()
		close(stand)
		r.awaitLanes(t, func(ready, all int) bool { return ready == 1 && all == 1 })
		r.c.mail.post(func(ctx context.Context) error {
			r.c.begin(ctx, goes)
			return nil
		})
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		if n := w.repeated(r); n != 0 {
			t.Errorf("%d events were taken again", n)
		}
	})
}

// TestADamagedSliceStopsThoseThatNeedIt: the lanes without rows of it go on.
func TestADamagedSliceStopsThoseThatNeedIt(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w, s := lostDisk(t)
		r := w.start("/second", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitReady(t)
		before := w.stored()
		only := partitionOfKey("p1")
		w.event("p1", "alone", "SENT")
		w.settle(r.cat)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		var object string
		for _, name := range w.stored() {
			if !strings.Contains(strings.Join(before, " "), name) {
				object = name
			}
		}
		w.store = &badSector{s, object}
		log := &logged{}
		w.log = slog.New(slog.NewTextHandler(log, nil))
		r = w.start("/next", func(c *Config) { c.FS = vfs.NewMem() })
		r.await(t, "the other lane is not ready", func(c *Consumer) bool {
			l := c.lanes[1-only]
			return l != nil && l.stage == ready
		})
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "trying again") && strings.Contains(line, fmt.Sprintf("lane=%d ", 1-only)) {
				t.Errorf("the other lane could not be taken over at once: %s", line)
			}
		}
		time.Sleep(time.Minute) // virtual: it is tried again and again
		r.await(t, "a lane is ready without the entries of a slice", func(c *Consumer) bool {
			return c.lanes[only] != nil && c.lanes[only].stage == takingOver
		})
	})
}
