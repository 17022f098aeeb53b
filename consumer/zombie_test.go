package consumer

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

// freezer is a Config.Hook that stands still at a step until it thaws.
type freezer struct {
	step    string
	armed   chan struct{} // closed when the next such step is meant
	reached chan struct{} // closed when it has come
	thaw    chan struct{} // closed when it may go on
	over    chan struct{} // closed when the cut has come to its end, whatever that was
	once    sync.Once
	after   sync.Once
}

func newFreezer(step string) *freezer {
	return &freezer{step: step, armed: make(chan struct{}), reached: make(chan struct{}), thaw: make(chan struct{}), over: make(chan struct{})}
}

func (f *freezer) hook(at string) {
	select {
	case <-f.thaw:
		if at == StepLocal || at == StepUpload {
			f.after.Do(func() { close(f.over) })
		}
		return
	default:
	}
	select {
	case <-f.armed:
		if at == f.step {
			f.once.Do(func() { close(f.reached) })
			<-f.thaw
		}
	default:
	}
}

// counter is a Config.Hook that tells when a step has begun so many times.
type counter struct {
	mu   sync.Mutex
	left map[string]int
	done map[string]chan struct{}
}

// count returns a channel that is closed as the step begins for the nth time.
func (c *counter) count(step string, n int) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == nil {
		c.left, c.done = make(map[string]int), make(map[string]chan struct{})
	}
	c.left[step], c.done[step] = n, make(chan struct{})
	return c.done[step]
}

func (c *counter) hook(at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left[at] == 0 {
		return
	}
	if c.left[at]--; c.left[at] == 0 {
		close(c.done[at])
	}
}

// putOut takes a replica out of the group, as the group does with one that is
// silent for too long, and lets it hear nothing of that.
func (w *world) putOut(r *replica) {
	w.t.Helper()
	member, _ := r.c.group.GroupMetadata()
	unanswered := func(of func(kmsg.Request) string) func(kmsg.Request) (kmsg.Response, error, bool) {
		return func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			return nil, nil, of(req) == member
		}
	}
	w.broker.ControlKey(kmsg.Heartbeat.Int16(), unanswered(func(r kmsg.Request) string { return r.(*kmsg.HeartbeatRequest).MemberID }))
	w.broker.ControlKey(kmsg.JoinGroup.Int16(), unanswered(func(r kmsg.Request) string { return r.(*kmsg.JoinGroupRequest).MemberID }))
	w.leave(r.c.cfg.Group, member)
}

// leave lets a member leave its group without knowing it.
func (w *world) leave(group, member string) {
	w.t.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, member
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = member
	req.Members = append(req.Members, m)
	if _, err := req.RequestWith(w.t.Context(), w.prod); err != nil {
		w.t.Error(err)
	}
}

// TestFrozenOwner lets a replica stand still at a step of a cut for so long that
// its lanes become another's, and then go on as if nothing had been: it does not
// know that it is out of the group. Its cut must not commit what the new owner
// has; a new owner that comes while the cut may still commit must wait, unless it
// can end the transaction.
func TestFrozenOwner(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		step  string
		known bool   // the position records name it as their writer, so that it can be fenced
		waits string // the new owner begins this step … and comes no further
		times int    // … so many times
	}{
		{step: StepBegin, known: true},
		{step: StepProduce, known: true},
		{step: StepOffsets, known: true, waits: StepCatalog, times: 1},
		{step: StepCommit, known: true},
		{step: StepCommit, known: false, waits: StepStable, times: 3},
	} {
		name := strings.TrimPrefix(tc.step, "cut/")
		if !tc.known {
			name += " by who never cut the lane"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newVirtualWorld(t)
				keys := make(map[int32]string) // one of each lane
				for i := range 10 {
					key := fmt.Sprintf("p%d", i)
					keys[partitionOfKey(key)] = key
					w.produce("profiles", key, profileOf("v"))
				}
				w.tick()
				ice, steps, line := newFreezer(tc.step), &counter{}, w.cable()
				b := w.start(filepath.Join(t.TempDir(), "b"), func(c *Config) {
					c.Hook = steps.hook
					c.SessionTimeout = time.Second
				})
				b.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
				w.settle(b.cat)
				a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
					c.Hook = ice.hook
					line.connect(c)
					c.SessionTimeout = 5 * time.Minute // it hears nothing of the group
					c.TransactionTimeout = 5 * time.Minute
				})
				for _, r := range []*replica{a, b} {
					r.awaitLanes(t, func(ready, all int) bool { return ready == 1 && all == 1 })
				}
				var key string
				for n := range a.c.lanes {
					key = keys[n]
				}
				want := []string{"c1 SENT v", "c2 SENT v"}
				if tc.known {
					w.event(key, "c0", "SENT")
					w.settle(a.cat)
					want = append([]string{"c0 SENT v"}, want...)
				}
				close(ice.armed)
				w.event(key, "c1", "SENT")
				await(t, "the owner's cut comes to "+tc.step, ice.reached)
				thaw := sync.OnceFunc(func() { close(ice.thaw) })
				t.Cleanup(thaw)

				waits, goesOn, taken := steps.count(tc.waits, tc.times), steps.count(StepEnds, 1), steps.count(StepTaken, 1)
				w.putOut(a)
				if tc.waits == "" {
					await(t, "the new owner takes the lane over, ends the last one's transaction if there is one", taken)
					w.settle(b.cat)
				} else {
					select {
					case <-goesOn:
					case <-waits:
					case <-time.After(20 * time.Second):
						t.Fatal("not within 20 s: the new owner begins " + tc.waits)
					}
					select {
					case <-goesOn:
						t.Error("a lane is taken over while its last owner's transaction is undecided")
					default:
					}
				}
				thaw()
				await(t, "the frozen cut comes to its end", ice.over)
				await(t, "the new owner takes the lane over", taken)
				w.event(key, "c2", "SENT")
				w.settle(b.cat)
				if got := w.rows(w.caughtUp()); !slices.Equal(got, want) {
					t.Errorf("rows %v: the frozen cut has committed beside its successor, or neither has", got)
				}
				line.sever() // who waits for the group's answers need not wait any more
			})
		})
	}
}
