package consumer

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/internal/bubble"
	"lockstitch/state/objects"
)

// TestAStoreThatIsAwayIsAskedNowAndThen: each attempt at a cut seals and uploads all that is held.
func TestAStoreThatIsAwayIsAskedNowAndThen(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		flaky := &flakyStore{Store: w.store}
		w.store = flaky
		r := w.start("/d", func(c *Config) { c.FS, c.FlushInterval = vfs.NewMem(), time.Second })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		flaky.fail(true)
		w.event("p1", "c1", "SENT")
		time.Sleep(10 * time.Minute) // virtual
		// Every 5 s or so in the end.
		failing := r.c.metrics.cutFailing.WithLabelValues(stageUpload)
		if testutil.ToFloat64(failing) != 1 {
			t.Error("it is not told that cuts fail")
		}
		if n := flaky.failures(); n < 60 || n > 300 {
			t.Errorf("%d uploads were tried in ten minutes", n)
		}
		flaky.fail(false)
		w.settle(r.cat)
		if got := w.rows(r.cat); len(got) != 1 {
			t.Errorf("rows %v", got)
		}
		r.await(t, "it is told that cuts fail, and none does", func(*Consumer) bool { return testutil.ToFloat64(failing) == 0 })
		flaky.fail(true)
		w.event("p1", "c2", "SENT")
		r.await(t, "no cut fails", func(*Consumer) bool { return testutil.ToFloat64(failing) == 1 })
		// When its lanes are another replica's nothing is there for a cut.
		r.await(t, "it is told that cuts fail, and there are none", func(c *Consumer) bool {
			for n := range int32(lanes) {
				c.drop(n)
			}
			c.publish()
			return testutil.ToFloat64(failing) == 0
		})
	})
}

// slowStore takes its first object for longer than a cut may take.
type slowStore struct {
	objects.Store
	first atomic.Pointer[string]
}

func (s *slowStore) Put(ctx context.Context, name string, data []byte) error {
	if s.first.CompareAndSwap(nil, &name) {
		time.Sleep(uploadLimit + time.Minute) // virtual
	}
	return s.Store.Put(ctx, name, data)
}

// TestAnUploadThatLayTooLongIsMadeAnew: what no record names may be swept, so it must be
// young when its record is committed.
func TestAnUploadThatLayTooLongIsMadeAnew(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		slow := &slowStore{Store: w.store}
		w.store = slow
		r := w.start("/d", func(c *Config) { c.FS = vfs.NewMem() })
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		w.event("p1", "c1", "SENT")
		time.Sleep(uploadLimit + 2*time.Minute) // virtual
		w.settle(r.cat)
		for _, s := range r.cat.Segments() {
			if s.Object == *slow.first.Load() {
				t.Errorf("%s was committed, the upload of which lay for more than %v", s.Object, uploadLimit)
			}
		}
		if got := w.rows(r.cat); len(got) != 1 {
			t.Errorf("rows %v", got)
		}
		r.await(t, "it is not counted", func(c *Consumer) bool {
			return testutil.ToFloat64(c.metrics.cutFailures.WithLabelValues("upload")) == 1
		})
	})
}
