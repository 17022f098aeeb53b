package consumer

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A replica that the group puts out while it joins again, as one does that was
// stopped for too long, comes back as a new member of the new generation, and is
// asked as that to give up lanes that have long been another's. It must not cut
// what it still holds of them.
func TestMemberThatWasPutOutCutsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce("profiles", "p1", profileOf("v"))
	w.tick()
	a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) { c.FlushInterval = time.Hour })
	a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
	w.event("p1", "c1", "SENT")
	w.produce("profiles", "p2", "[]")
	w.produce("email-events", "p1", "[]")
	p1, p2 := a.c.lanes[partitionOfKey("p1")], a.c.lanes[partitionOfKey("p2")]
	a.await(t, "the records are not processed", func(*Consumer) bool { return p1.buf.Rows() == 1 && len(p1.dead)+len(p2.dead) >= 2 })

	back := make(chan struct{})
	w.broker.ControlKey(int16(kmsg.JoinGroup), func(req kmsg.Request) (kmsg.Response, error, bool) {
		join := req.(*kmsg.JoinGroupRequest)
		if join.MemberID == "" {
			return nil, nil, false
		}
		if member, _ := a.c.group.GroupMetadata(); member != join.MemberID {
			return nil, nil, false
		}
		w.broker.SleepControl(func() {
			w.leave("lockstitch", join.MemberID)
			<-back
		})
		resp := join.ResponseKind().(*kmsg.JoinGroupResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	b := w.start(filepath.Join(t.TempDir(), "b"), nil)
	b.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
	w.settle(b.cat)
	close(back)
	b.awaitLanes(t, func(ready, all int) bool { return all < lanes }) // a is in the group again
	a.awaitLanes(t, func(ready, all int) bool { return all == 1 && ready == 1 })
	w.event("p1", "c2", "SENT")
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	w.settle(b.cat)
	if dead := w.deadLetters(); len(dead) != 2 {
		t.Errorf("%d dead letters for two malformed records", len(dead))
	}
	if got := w.rows(b.cat); len(got) != 2 || got[0] != "c1 SENT v" || got[1] != "c2 SENT v" {
		t.Errorf("rows %v", got)
	}
}
