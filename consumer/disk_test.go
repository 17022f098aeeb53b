package consumer

import (
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/internal/bubble"
)

// A replica that is told to end while its disk is full does so: not by a panic, which
// would cut off the calls that the API still answers, nor never.
func TestAFullDiskHoldsUpNoEnd(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		var full atomic.Bool
		refused := make(chan struct{}, 1)
		disk := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind != errorfs.OpFileWrite && op.Kind != errorfs.OpCreate || !full.Load() {
				return nil
			}
			select {
			case refused <- struct{}{}:
			default:
			}
			return syscall.ENOSPC
		}))
		small := func(c *Config) { c.FS, c.MemoryBytes = disk, 4<<20 }
		r := w.start("/d", small)
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		full.Store(true)
		w.event("p1", "c1", "SENT")
		for i := range 20 { // more than a memtable takes
			w.produce("profiles", fmt.Sprint("p", i), profileOf(strings.Repeat("v", 64<<10)))
		}
		<-refused
		if testutil.ToFloat64(r.c.metrics.diskFull) != 1 {
			t.Error("nothing tells that the disk is full")
		}
		w.event("p1", "c2", "SENT") // is read again, if it is not in the last cut
		begun := time.Now()
		if err := r.stop(); err != nil || time.Since(begun) > 2*revokeGrace {
			t.Errorf("the end took %s: %v", time.Since(begun), err)
		}
		full.Store(false)
		time.Sleep(fullEnds) // virtual: what was left ends when there is room
		if testutil.ToFloat64(r.c.metrics.diskFull) != 0 {
			t.Error("there is room, and the disk is told to be full")
		}
		b := w.start("/d", small)
		w.settle(b.cat)
		if rows := w.rows(b.cat); len(rows) != 2 {
			t.Errorf("rows %v", rows)
		}
	})
}

// fullEnds is longer than what a replica does that finds room again.
const fullEnds = 2 * revokeGrace
