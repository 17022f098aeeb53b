package model

import (
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ghosts makes up for what the embedded broker lacks: it starts no session timer
// for a member whose connection dies before a join or a sync is answered. Such a
// member stays in its group for ever and keeps its lanes; Apache Kafka takes it
// out after the session timeout.
type ghosts struct {
	w    *world
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	seen map[string]time.Time // by member id
}

// ghostAge is longer than anybody waits for the answer to a join.
const ghostAge = rebalanceTimeout + 3*time.Second

// rebalanceTimeout is longer than a consumer may take to give lanes up. The
// consumers' own, 40 s, begins anew in the embedded broker with every join.
const rebalanceTimeout = 12 * time.Second

func (w *world) huntGhosts() *ghosts {
	g := &ghosts{w: w, seen: make(map[string]time.Time)}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat} {
		w.broker.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.broker.KeepControl()
			g.mu.Lock()
			defer g.mu.Unlock()
			switch r := req.(type) {
			case *kmsg.JoinGroupRequest:
				r.RebalanceTimeoutMillis = int32(rebalanceTimeout.Milliseconds())
				g.seen[r.MemberID] = time.Now()
			case *kmsg.SyncGroupRequest:
				g.seen[r.MemberID] = time.Now()
			case *kmsg.HeartbeatRequest:
				g.seen[r.MemberID] = time.Now()
			}
			return nil, nil, false
		})
	}
	g.begin()
	return g
}

// begin lets them be looked for until close, which has to come before anything lasts
// for days.
func (g *ghosts) begin() {
	g.stop = make(chan struct{})
	g.done.Go(func() {
		for {
			select {
			case <-time.After(5 * time.Second):
				if g.w.anyLives() {
					g.look()
				}
			case <-g.stop:
				return
			}
		}
	})
}

func (g *ghosts) close() {
	close(g.stop)
	g.done.Wait()
}

// look takes out the members that have not been heard of.
func (g *ghosts) look() {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = []string{"lockstitch", "lockstitch-reports"}
	for _, shard := range g.w.client.RequestSharded(g.w.context(), req) {
		resp, ok := shard.Resp.(*kmsg.DescribeGroupsResponse)
		if !ok {
			continue
		}
		for _, group := range resp.Groups {
			for _, m := range group.Members {
				g.mu.Lock()
				gone := time.Since(g.seen[m.MemberID]) > ghostAge
				g.mu.Unlock()
				if gone {
					g.w.notef("a ghost is taken out of group %s", group.Group)
					leave(g.w.client, group.Group, m.MemberID)
				}
			}
		}
	}
}

func leave(cl *kgo.Client, group, member string) {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = member
	req.Members = append(req.Members, m)
	req.MemberID = member
	ctx, cancel := contextFor(5 * time.Second)
	defer cancel()
	_, _ = req.RequestWith(ctx, cl) // it is looked for again
}
