package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/catalog"
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// left has an event kept by a replica of the usual group, which then stops.
func (w *world) left() {
	w.t.Helper()
	a := w.start(filepath.Join(w.t.TempDir(), "a"), nil)
	w.event("p1", "c1", "SENT")
	w.settle(a.cat)
	if err := a.stop(); err != nil {
		w.t.Fatal(err)
	}
}

// Replicas of another group leave a catalog alone while the one that works on it has
// members, and go on where it stood when it has none.
func TestAnotherGroupKeepsNothingTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	a := w.start(filepath.Join(t.TempDir(), "a"), nil)
	w.event("p1", "c1", "SENT")
	w.settle(a.cat)
	b := w.start(filepath.Join(t.TempDir(), "b"), func(c *Config) { c.Group = "another" })
	b.awaitStopped(t)
	log.await(t, "lane is stopped", "lockstitch", "another", "kept twice")
	w.event("p1", "c2", "SENT")
	w.settle(a.cat)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	w.event("p1", "c1", "SENT")
	w.event("p1", "c3", "SENT")
	w.settle(b.cat)
	if got := strings.Join(w.rows(b.cat), ", "); got != "c1 SENT -, c2 SENT -, c3 SENT -" {
		t.Errorf("rows %s", got)
	}
}

// TestAClaimIsNotTakenForAnotherGroup by a view that has not read of it yet.
func TestAClaimIsNotTakenForAnotherGroup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.left()
	got, looked := make(chan *replica, 1), make(chan struct{})
	var once sync.Once
	b := w.start(filepath.Join(t.TempDir(), "b"), func(c *Config) {
		c.Group = "another"
		c.Hook = func(step string) {
			if step != StepUpload { // in the loop; the claim is not committed yet
				return
			}
			once.Do(func() {
				c := (<-got).c
				for _, l := range c.lanes {
					if claimed := l.claim; claimed {
						l.claim = false // as behind the commit
						if err := c.overtaken([]*lane{l}); err != nil {
							t.Error(err)
						}
						l.claim = claimed
					}
				}
				close(looked)
			})
		}
	})
	got <- b
	b.awaitReady(t)
	<-looked
}

// A lane that was taken over from another group is marked before any event comes: the
// other one, when it starts again, finds out.
func TestALaneTakenOverWhileNothingArrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.left()
	b := w.start(filepath.Join(t.TempDir(), "b"), func(c *Config) { c.Group = "another" })
	b.awaitReady(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	w.start(filepath.Join(t.TempDir(), "a2"), nil)
	log.await(t, "lane is stopped", "lockstitch", "another", "kept twice")
	w.event("p1", "c2", "SENT")
	w.settle(b.cat)
	if got := strings.Join(w.rows(b.cat), ", "); got != "c1 SENT -, c2 SENT -" {
		t.Errorf("rows %s", got)
	}
}

// Of two groups that have both begun, the one that finds that the other has cut its
// events drops what it holds.
func TestWhatAnotherGroupHasCutIsNotCutAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	n := partitionOfKey("p1")
	var in *input
	r.await(t, "the lane is not ready", func(c *Consumer) bool {
		l := c.lanes[n]
		if l == nil || l.stage != ready {
			return false
		}
		c.cfg.FlushInterval = time.Hour // nothing is cut while the test looks
		in = l.inputs[0]
		return true
	})
	w.event("p1", "c1", "SENT")
	r.await(t, "the event is not processed", func(*Consumer) bool { return in.pos.Next == 1 })
	other := catalog.Position{Topic: "email-events", TopicID: in.stream.ID, Partition: n, Next: 1, Kept: 1, Cut: "theirs", Writer: "another-1", Group: "another"}
	rec, err := other.Record(w.topics.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.prod.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := r.cat.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cat := w.caughtUp()
	if pos, _ := cat.Position(in.stream.ID, n); pos.Cut != "theirs" || len(w.rows(cat)) > 0 {
		t.Errorf("position %+v, rows %v", pos, w.rows(cat))
	}
}

// TestAGroupThatWasDeletedWorksNoMore: its successor need not find it empty.
func TestAGroupThatWasDeletedWorksNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.left()
	if gone, err := kadm.NewClient(w.prod).DeleteGroups(t.Context(), "lockstitch"); err != nil || gone.Error() != nil {
		t.Fatal(err, gone.Error())
	}
	b := w.start(filepath.Join(t.TempDir(), "b"), func(c *Config) { c.Group = "another" })
	w.event("p1", "c2", "SENT")
	w.settle(b.cat)
}

// Two systems in one group would share the lanes, and both lack events. Who runs lanes
// goes on, whichever of them leads the group.
func TestAnotherSystemInTheGroupGetsNoLanes(t *testing.T) {
	t.Parallel()
	ours, theirs := segment.TopicID{1}, segment.TopicID{2}
	member := func(of segment.TopicID, owned ...int32) kmsg.JoinGroupResponseMember {
		b := &laneBalancer{catalog: of, local: func() []int32 { return nil }}
		m := kmsg.NewJoinGroupResponseMember()
		m.MemberID = fmt.Sprint(of[0], owned)
		m.ProtocolMetadata = b.JoinGroupMetadata([]string{"x"}, map[string][]int32{"x": owned}, 1)
		return m
	}
	old := member(ours)
	var meta kmsg.ConsumerMemberMetadata
	if err := meta.ReadFrom(old.ProtocolMetadata); err != nil {
		t.Fatal(err)
	}
	meta.UserData = []byte{1, 3}
	old.MemberID, old.ProtocolMetadata = "old", meta.AppendTo(nil)
	for _, c := range []struct {
		name    string
		members []kmsg.JoinGroupResponseMember
		leads   segment.TopicID
		want    string // members with lanes
	}{
		{"alone", []kmsg.JoinGroupResponseMember{member(ours, 0, 1), member(ours)}, ours, "1 [0 1] 1 []"},
		{"theirs comes", []kmsg.JoinGroupResponseMember{member(ours, 0, 1, 2), member(theirs)}, ours, "1 [0 1 2]"},
		{"theirs comes and leads", []kmsg.JoinGroupResponseMember{member(theirs), member(ours, 0, 1, 2)}, theirs, "1 [0 1 2]"},
		{"both are new", []kmsg.JoinGroupResponseMember{member(theirs), member(ours)}, ours, "1 []"},
		{"one of an earlier version", []kmsg.JoinGroupResponseMember{member(ours, 0), old}, ours, "1 [0] old"},
		{"only one of an earlier version", []kmsg.JoinGroupResponseMember{old}, ours, "old"},
	} {
		log := &logged{}
		b := &laneBalancer{catalog: c.leads, log: slog.New(slog.NewTextHandler(log, nil))}
		cb, err := kgo.NewConsumerBalancer(b, c.members)
		if err != nil {
			t.Fatal(err)
		}
		with := make(map[string]bool)
		for _, a := range b.Balance(cb, map[string]int32{"x": 6}).IntoSyncAssignment() {
			var got kmsg.ConsumerMemberAssignment
			if err := got.ReadFrom(a.MemberAssignment); err != nil {
				t.Fatal(err)
			}
			if len(got.Topics) > 0 {
				with[a.MemberID] = true
			}
		}
		if got := strings.Join(slices.Sorted(maps.Keys(with)), " "); got != c.want {
			t.Errorf("%s: %q get lanes, want %q", c.name, got, c.want)
		}
		if told := strings.Contains(log.String(), "another system"); told != (len(with) < len(c.members)) {
			t.Errorf("%s: told: %v", c.name, told)
		}
	}
}

// What came into the group of another system and got no lanes does not keep that one's
// replicas from starting again.
func TestAMemberWithoutLanesIsNoOtherSystem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.start(filepath.Join(t.TempDir(), "a"), nil)
	a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
	infos, err := kafka.Describe(t.Context(), w.prod, w.topics.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := infos[w.topics.Catalog].ID, segment.TopicID{2}
	joined := make(chan struct{})
	w.client(kgo.ConsumerGroup("lockstitch"), kgo.ConsumeTopics(a.c.inputs()...), kgo.DisableAutoCommit(),
		kgo.Balancers(&laneBalancer{catalog: theirs, inputs: a.c.inputs(), local: func() []int32 { return nil }, log: slog.New(slog.DiscardHandler)}),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			if len(m) > 0 {
				t.Errorf("it was given %v", m)
			}
			close(joined)
		}))
	<-joined
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		other, err := OtherSystem(t.Context(), w.prod, "lockstitch", ours)
		if other != "" {
			t.Fatalf("ours may not start: %s", other)
		}
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if other, err := OtherSystem(t.Context(), w.prod, "lockstitch", theirs); other == "" {
		t.Errorf("theirs may start: %v", err)
	}
}
