package consumer

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lockstitch/state/local"
)

// TestProfilesAreStaleByEitherClock: a replica that was away for days, and whose
// clock is behind by as much when it comes back or was ahead when it left, must not
// go on with profiles whose deletions may be gone from the topic.
func TestProfilesAreStaleByEitherClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var log bytes.Buffer // of one replica at a time
	w.log = slog.New(slog.NewTextHandler(&log, nil))
	dir, now := filepath.Join(t.TempDir(), "d"), time.Now().Truncate(time.Millisecond)
	tweak := func(c *Config) { c.ProfileStale = 100 * time.Hour }
	run := func(dir string, at time.Time, corr string) {
		t.Helper()
		r := w.start(dir, tweak)
		w.produce("profiles", "p1", profileOf("v"))
		w.produceAt(at, "email-events", "p1", strings.ReplaceAll(lagEvent, "c1", corr))
		w.settle(r.cat)
		p := partitionOfKey("p1")
		r.await(t, "the lane is not ready", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == ready })
		r.await(t, "the profiles are not current", func(c *Consumer) bool {
			l := c.lanes[p]
			return c.lag.reached(l.prof.topic, p, l.prof.next) && l.prof.touch(time.Now(), c.deps.Catalog.LogTime()) == nil
		})
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	run(dir, now.Add(-200*time.Hour), "first")
	run(dir, now.Add(-199*time.Hour), "second")
	if strings.Contains(log.String(), "reading the profiles anew") {
		t.Fatal("profiles that were current an hour ago are read anew")
	}
	run(filepath.Join(t.TempDir(), "another"), now, "third") // a week passes, as Kafka tells
	run(dir, now.Add(time.Second), "fourth")
	if !strings.Contains(log.String(), "stale=true") {
		t.Error("profiles that were last current a week ago are taken for current ones")
	}
}

// TestStaleProfilesWithoutEvents: without a time of Kafka's, as in what was written before
// there was one, the machine's clock decides.
func TestStaleProfilesWithoutEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.ProfileStale = time.Hour })
	r.awaitReady(t)
	now := time.Now()
	for age, want := range map[time.Duration]bool{time.Minute: false, 2 * time.Hour: true} {
		if got := r.c.staleProfiles(local.ProfileMarker{At: now.Add(-age)}, now); got != want {
			t.Errorf("profiles current %v ago: stale %v", age, got)
		}
	}
}
