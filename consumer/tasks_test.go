package consumer

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
	"lockstitch/state/task"
)

// TestTasksTellWhenTheyLastSucceeded: retention, merging and sweeping may stop for a year
// before anybody sees it by what they leave.
func TestTasksTellWhenTheyLastSucceeded(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		const often = time.Minute
		w := newVirtualWorld(t)
		var away atomic.Bool
		w.broker.ControlKey(kmsg.ListOffsets.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			if !away.Load() {
				return nil, nil, false
			}
			return noOffsets(kreq, kerr.TopicAuthorizationFailed), nil, true
		})
		r := w.start("/d", func(c *Config) {
			c.FS = vfs.NewMem()
			c.RemovalNotice, c.MergeEvery, c.SweepEvery = often, often, often
		})
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		told := func() map[string]float64 {
			t.Helper()
			families, err := r.reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			all := make(map[string]float64)
			for _, f := range families {
				for _, m := range f.GetMetric() {
					if f.GetName() == "lockstitch_task_last_success_timestamp_seconds" {
						all[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
					}
				}
			}
			return all
		}
		within := func(least, most time.Duration) {
			t.Helper()
			for _, name := range []string{task.Retention, task.Merging, task.Sweeping} {
				last := time.UnixMilli(int64(1000 * told()[name]))
				if ago := time.Since(last); ago < least || ago > most {
					t.Errorf("%s last succeeded %v ago, which is not within %v and %v", name, ago, least, most)
				}
			}
		}
		within(0, often)
		time.Sleep(5 * often) // virtual
		within(0, 2*often)
		away.Store(true)
		time.Sleep(5 * often)
		within(4*often, 7*often)
		away.Store(false)
		time.Sleep(3 * often)
		within(0, 2*often)
		r.c.metrics.forget(retainLane) // to the replica that has the lane now
		if left := told(); len(left) != 1 || left[task.Sweeping] == 0 {
			t.Errorf("told are %v, want what each replica does alone", left)
		}
	})
}
