package consumer

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

// While partitions are being added the old lanes go on; a new one begins when
// every topic has it.
func TestPartitionsAddedUnderARunningReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) { c.SessionTimeout = 6 * time.Second })
	r.awaitReady(t)
	adm := kadm.NewClient(w.prod)
	key := "p0"
	for i := 0; router(lanes+1)([]byte(key)) != lanes; i++ {
		key = fmt.Sprint("p", i)
	}
	for i, topic := range []string{"email-events", "profiles"} {
		added, err := adm.UpdatePartitions(t.Context(), lanes+1, topic)
		if err == nil {
			err = added.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
		w.prod = w.client(kgo.DisableIdempotentWrite())
		w.event(key, fmt.Sprint("new", i), "SENT")
		if i == 0 {
			r.awaitLag(t, "events that nobody reads have no lag", shows(map[string]float64{fmt.Sprintf("processing_lag_records email-events/%d", lanes): 1}))
		}
		r.await(t, "the lanes are not as they should be", func(c *Consumer) bool {
			if i == 0 {
				if len(c.unread) != 1 {
					return false
				}
				return len(c.lanes) == lanes && c.lanes[0].stage == ready && c.lanes[1].stage == ready
			}
			return len(c.lanes) == lanes+1 && c.lanes[lanes].stage == ready
		})
	}
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 2 {
		t.Errorf("rows %v", rows)
	}
	// By the new number of partitions nothing is in a wrong one.
	r.await(t, "it is still told that nobody reads it", func(c *Consumer) bool { return len(c.unread) == 0 })
	for i := range 3 * (lanes + 1) {
		w.event(fmt.Sprint("q", i), fmt.Sprint("routed", i), "SENT")
	}
	w.settle(r.cat)
	if n, err := w.counter(r, "lockstitch_misrouted_total"); n != 0 || err != nil {
		t.Errorf("%v events count as misrouted, %v", n, err)
	}
}

// A static member that starts again is given what it had before (KIP-345), also if it
// leads the group and partitions were added meanwhile.
func TestPartitionsAddedWhileAStaticMemberIsAway(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		line := w.cable()
		start := func(dir string, tweak func(*Config)) *replica {
			return w.start(dir, func(c *Config) {
				c.FS, c.InstanceID, c.SessionTimeout = vfs.NewMem(), "a", time.Minute
				tweak(c)
			})
		}
		r := start("/a", line.connect)
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		line.sever() // it cannot leave the group
		if err := r.stop(); err != nil {
			t.Log("it ended with:", err)
		}
		added, err := kadm.NewClient(w.prod).UpdatePartitions(t.Context(), lanes+1, "email-events", "profiles")
		if err == nil {
			err = added.Error()
		}
		if err != nil {
			t.Fatal(err)
		}
		r = start("/b", func(*Config) {})
		r.awaitLanes(t, func(ready, all int) bool { return ready == lanes+1 })
	})
}

// TestATopicAddedAtAStaticMember: who comes back with a topic more than it had gets what it
// had, parts of lanes, and nobody has a reason to assign them anew. It asks for that itself.
func TestATopicAddedAtAStaticMember(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		line := w.cable()
		start := func(name, dir string, tweak func(*Config)) *replica {
			return w.start(dir, func(c *Config) {
				c.FS, c.InstanceID, c.SessionTimeout = vfs.NewMem(), name, time.Minute
				tweak(c)
			})
		}
		// Apache Kafka does not look at what has changed in the subscription of a static
		// member that comes back; the embedded broker does.
		var mu sync.Mutex
		var had, back []byte // how b has joined, and shall seem to
		w.broker.ControlKey(kmsg.JoinGroup.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			mu.Lock()
			defer mu.Unlock()
			req := kreq.(*kmsg.JoinGroupRequest)
			if *req.InstanceID != "b" {
				return nil, nil, false
			}
			if back != nil && req.MemberID == "" {
				req.Protocols[0].Metadata, back = back, nil
			}
			had = req.Protocols[0].Metadata
			return nil, nil, false
		})
		a := start("a", "/a", func(*Config) {}) // leads the group
		a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		b := start("b", "/b", line.connect)
		b.awaitLanes(t, func(ready, all int) bool { return ready > 0 && ready == all })
		if _, err := kadm.NewClient(w.prod).CreateTopic(t.Context(), lanes, 1, nil, "more-events"); err != nil {
			t.Fatal(err)
		}
		line.sever() // it cannot leave the group
		if err := b.stop(); err != nil {
			t.Log("it ended with:", err)
		}
		mu.Lock()
		back = had
		mu.Unlock()
		log := &logged{}
		w.log = slog.New(slog.NewTextHandler(log, nil))
		b = start("b", "/c", func(c *Config) { c.Topics.Events = append(slices.Clip(c.Topics.Events), "more-events") })
		b.awaitLanes(t, func(ready, all int) bool { return ready > 0 && ready == all })
		log.await(t, "the group gave parts of lanes")
	})
}

// meanwhile is a file system that calls a function before it is used.
type meanwhile struct {
	vfs.FS
	f func()
}

func (m *meanwhile) MkdirAll(dir string, perm os.FileMode) error {
	m.f()
	return m.FS.MkdirAll(dir, perm)
}

// A topic that is not there as a replica joins the group, because it is made anew
// just then, makes no lanes: the others' partitions alone are of no use. As soon as
// it is there the lanes come.
func TestLanesComeWithTheLastTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	adm := kadm.NewClient(w.prod)
	gone := sync.OnceFunc(func() {
		if _, err := adm.DeleteTopic(t.Context(), "email-events"); err != nil {
			t.Error(err)
		}
	})
	r := w.start("/d", func(c *Config) { c.FS = &meanwhile{vfs.NewMem(), gone} })
	r.await(t, "the replica is in no group", func(c *Consumer) bool {
		if c.group == nil {
			return false
		}
		member, generation := c.group.GroupMetadata()
		return member != "" && generation > 0
	})
	if _, err := adm.CreateTopic(t.Context(), lanes, 1, nil, "email-events"); err != nil {
		t.Fatal(err)
	}
	w.prod = w.client(kgo.DisableIdempotentWrite())
	w.adopt()
	w.event("p1", "c1", "SENT")
	r.await(t, "the lanes do not come", func(c *Consumer) bool {
		c.group.ForceMetadataRefresh()
		return len(c.lanes) == lanes && c.lanes[0].stage == ready && c.lanes[1].stage == ready
	})
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 1 {
		t.Errorf("rows %v", rows)
	}
}

// A lane that is given in parts, by a replica of an older version that leads the
// group, runs once it is whole.
func TestLanesInParts(t *testing.T) {
	t.Parallel()
	h := newHeld([]string{"e", "p"})
	add := func(m map[string][]int32) string {
		whole, part := h.add(m)
		return fmt.Sprint("whole ", whole, " part ", part)
	}
	remove := func(m map[string][]int32) string { return fmt.Sprint("gone ", h.remove(m)) }
	for i, step := range []struct{ got, want string }{
		{add(map[string][]int32{"e": {0, 1}, "p": {0}}), "whole [0] part [1]"},
		{add(map[string][]int32{"p": {1, 2}, "another's": {1, 2, 3}}), "whole [1] part [2]"},
		{remove(map[string][]int32{"e": {0}}), "gone [0]"},
		{add(map[string][]int32{"e": {0, 2}}), "whole [0 2] part []"},
		{remove(map[string][]int32{"e": {0, 1, 2}, "p": {0, 1}}), "gone [0 1 2]"},
		{remove(map[string][]int32{"another's": {1, 2, 3}}), "gone []"},
		{add(map[string][]int32{"e": {0, 2}}), "whole [2] part [0]"},
		{remove(map[string][]int32{"e": {0, 2}, "p": {2}}), "gone [0 2]"},
	} {
		if step.got != step.want {
			t.Errorf("step %d: %s, want %s", i, step.got, step.want)
		}
	}
	if len(h.lanes) != 0 {
		t.Errorf("still held: %v", h.lanes)
	}
}
