package run

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/bubble"
	"lockstitch/state/report"
)

// stamped stands for brokers whose clock differs from this machine's: records are
// read with the times that they would have given them.
type stamped struct{ off atomic.Int64 }

func (s *stamped) set(off time.Duration) { s.off.Store(int64(off)) }

func (s *stamped) OnFetchRecordBuffered(r *kgo.Record) {
	r.Timestamp = r.Timestamp.Add(time.Duration(s.off.Load()))
}

// TestFilesExpireInKafkasTime: a replica whose clock is weeks ahead removes neither
// the file of a report nor the report, and what one runs whose clock is weeks behind
// does not expire at once.
func TestFilesExpireInKafkasTime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.commit(5)
		kafka := &stamped{}
		w.opts = append(w.opts, kgo.WithHooks(kafka))
		tab := w.table()
		w.runner(tab, w.store, func(c *Config) { c.FileLifetime, c.Retention = day, day })
		expires := func(off time.Duration) *report.Report {
			t.Helper()
			kafka.set(off)
			r := w.await(tab, w.submit(tab, 5, time.Hour).Request.ID, report.StatusCompleted, report.StatusExpired)
			if want := time.Now().Add(off + day); r.Result.Expires.Before(want.Add(-time.Minute)) || r.Result.Expires.After(want) {
				t.Errorf("a clock that is %v off: the file expires at %v, want %v", -off, r.Result.Expires, want)
			}
			return r
		}
		expires(20 * day) // the machine's clock is behind
		id := expires(-20 * day).Request.ID
		time.Sleep(90 * time.Minute) // it has expired by the machine's clock for long, and would be removed altogether
		if r, ok := tab.Get("acme", id); !ok || r.Expired {
			t.Errorf("a report whose file is kept for a day of Kafka's: %+v", r)
		}
		if n := w.files(); n != 2 {
			t.Errorf("%d files are left, want 2", n)
		}
		kafka.set(0) // the machine's clock was set right, as if 20 days had passed in Kafka
		time.Sleep(90 * time.Minute)
		if r, ok := tab.Get("acme", id); ok {
			t.Errorf("a report that is long over is there: %+v", r)
		}
		if n := w.files(); n != 1 {
			t.Errorf("%d files are left, want 1", n)
		}
	})
}
