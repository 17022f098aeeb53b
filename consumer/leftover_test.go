package consumer

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/internal/bubble"
	"lockstitch/state/local"
	"lockstitch/state/segment"
)

// TestALaneGivenAwayLeavesTheDisk of the replica that had it, some time after it was
// last current there; what comes back then is rebuilt as on an empty disk.
func TestALaneGivenAwayLeavesTheDisk(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		const profiles = 10
		tweak := func(c *Config) {
			c.FS, c.ProfileStale, c.DedupHorizon = vfs.NewMem(), 8*time.Second, 10*time.Second
		}
		stored := func(r *replica) (on, told []int32) {
			r.await(t, "", func(c *Consumer) bool {
				var err error
				if on, err = c.db.Stored(); err != nil {
					t.Fatal(err)
				}
				told = c.localLanes()
				return true
			})
			return on, told
		}
		a := w.start("/a", tweak)
		for i := range profiles {
			w.produce("profiles", fmt.Sprintf("p%d", i), profileOf("old"))
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("a%d", i), "SENT")
		}
		w.settle(a.cat)
		b := w.start("/b", tweak)
		b.awaitReady(t)
		a.awaitLanes(t, func(ready, all int) bool { return ready == 1 && all == 1 })
		if on, told := stored(a); len(on) != lanes || len(told) != lanes {
			t.Errorf("of two lanes, one of them given away a moment ago, %v are on disk and %v told to the group", on, told)
		}
		a.await(t, "the lane given away is still on the disk", func(c *Consumer) bool {
			on, err := c.db.Stored()
			return err == nil && len(on) == 1 && c.lanes[on[0]] != nil && slices.Equal(c.localLanes(), on)
		})
		if on, told := stored(b); len(on) != 1 || len(told) != 1 {
			t.Errorf("the other replica has %v on disk and tells %v", on, told)
		}

		w.produce("profiles", "p0", "")
		w.produce("profiles", "p1", "")
		for i := range profiles {
			if i > 1 {
				w.produce("profiles", fmt.Sprintf("p%d", i), profileOf("new"))
			}
		}
		w.tick()
		for i := range profiles {
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("b%d", i), "SENT")
		}
		w.settle(b.cat)
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		for i := range profiles {
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("b%d", i), "SENT") // a retry
			w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%d", i), "SENT")
		}
		w.settle(a.cat)
		if on, told := stored(a); len(on) != lanes || len(told) != lanes {
			t.Errorf("%v are on disk and %v told to the group", on, told)
		}
		var want []string
		for i := range profiles {
			now := "new"
			if i < 2 {
				now = "-"
			}
			want = append(want, fmt.Sprintf("a%d SENT old", i), fmt.Sprintf("b%d SENT %s", i, now), fmt.Sprintf("c%d SENT %s", i, now))
		}
		slices.Sort(want)
		if got := w.rows(a.cat); !slices.Equal(got, want) {
			t.Errorf("rows:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestLeftovers are lanes of others alone, and what is old of these by either clock.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "d")
	tweak := func(c *Config) { c.ProfileStale, c.DedupHorizon = 2*day, 3*day }
	r := w.start(dir, tweak)
	r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
	now := time.Now()
	w.produceAt(now, "email-events", "p1", strings.ReplaceAll(lagEvent, "c1", "first"))
	w.settle(r.cat)
	put := func(n int32, at, logTime time.Time) {
		t.Helper()
		m := local.ProfileMarker{At: at}
		if !logTime.IsZero() {
			m.LogTime = logTime.UnixMilli()
		}
		b := r.c.db.Lane(n).NewProfileBatch()
		err := b.Put([]byte("p1"), local.Version{}, math.MinInt64)
		if err == nil {
			err = b.Commit(m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int32{0, 1} { // they are ours, however old
		put(n, now.Add(-10*day), time.Time{})
	}
	put(10, now.Add(-71*time.Hour), now.Add(-71*time.Hour)) // of use to tell duplicates
	put(11, now.Add(-73*time.Hour), now)
	put(12, now, now.Add(-73*time.Hour)) // a clock that was ahead, or is behind
	put(13, now.Add(-73*time.Hour), time.Time{})
	if err := r.c.db.Lane(14).WriteDedup([]local.DedupEntry{{}}, 1, map[segment.TopicID]local.DedupMarker{{}: {}}); err != nil {
		t.Fatal(err)
	}
	var told, stored []int32
	r.await(t, "", func(c *Consumer) bool {
		var err error
		if told, err = c.usefulLanes(now); err == nil {
			c.leftoverAt = now.Add(time.Second)
			if err = c.dropLeftovers(now); err == nil { // not due
				stored, err = c.db.Stored()
			}
		}
		if err != nil {
			t.Error(err)
		}
		return true
	})
	if !slices.Equal(told, []int32{0, 1, 10}) || !slices.Equal(stored, []int32{0, 1, 10, 11, 12, 13, 14}) {
		t.Errorf("told are %v, stored before the look %v", told, stored)
	}
	r.await(t, "", func(c *Consumer) bool {
		c.leftoverAt = now
		err := c.dropLeftovers(now)
		if err == nil {
			stored, err = c.db.Stored()
		}
		if err != nil {
			t.Error(err)
		}
		return true
	})
	if !slices.Equal(stored, []int32{0, 1, 10}) {
		t.Errorf("%v are left on the disk", stored)
	}
	put(13, now.Add(-73*time.Hour), time.Time{})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	// A replica that starts does not tell of them. While a takeover is under way nothing
	// is removed of its lane.
	held, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	r = w.start(dir, func(c *Config) {
		tweak(c)
		c.Hook = func(step string) {
			if step == StepRebuild && once.CompareAndSwap(false, true) {
				close(held)
				<-goOn
			}
		}
	})
	<-held
	r.await(t, "", func(c *Consumer) bool {
		told = c.localLanes()
		c.leftoverAt = now
		err := c.dropLeftovers(now.Add(100 * day))
		if err == nil {
			stored, err = c.db.Stored()
		}
		if err != nil {
			t.Error(err)
		}
		return true
	})
	close(goOn)
	if slices.Contains(told, 13) || !slices.Contains(told, 10) || !slices.Equal(stored, []int32{0, 1}) {
		t.Errorf("told are %v, and stored %v", told, stored)
	}
	w.produceAt(now.Add(time.Second), "email-events", "p1", strings.ReplaceAll(lagEvent, "c1", "first"))
	w.produceAt(now.Add(time.Second), "email-events", "p1", strings.ReplaceAll(lagEvent, "c1", "second"))
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 2 {
		t.Errorf("rows %v", rows)
	}
}
