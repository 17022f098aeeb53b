package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// The generation of a group fences its own members. Nothing fences two groups that
// work on one catalog from each other, and each would keep every event: a lane is
// taken over from another group only when that has no members any more, and its
// positions name the new group before it reads any event: the other one, should it come
// back, then asks.

// errOvertaken means that another group has taken over a lane.
var errOvertaken = errors.New("another consumer group works on this catalog")

// onlyGroup stops a lane while the group that has last cut it has members.
func (c *Consumer) onlyGroup(ctx context.Context, n int32) error {
	for _, t := range c.cfg.Topics.Events {
		ids := c.deps.Catalog.Adopted(t)
		if len(ids) == 0 {
			continue
		}
		pos, ok := c.deps.Catalog.Position(ids[len(ids)-1], n)
		if !ok || pos.Group == "" || pos.Group == c.cfg.Group {
			continue
		}
		groups, err := kadm.NewClient(c.deps.Catalog.Client()).DescribeGroups(ctx, pos.Group)
		if err == nil {
			err = groups.Error()
		}
		if errors.Is(err, kerr.GroupIDNotFound) { // deleted or expired, says Kafka from 4.0 on (KIP-1043)
			continue
		}
		if err != nil {
			return fmt.Errorf("whether consumer group %q, which worked on this catalog before %q, still has members: %w", pos.Group, c.cfg.Group, err)
		}
		if members := len(groups[pos.Group].Members); members > 0 {
			return &stoppedError{mute: true, why: fmt.Sprintf("consumer group %q works on this catalog and has %d members: together with %q every event would be kept twice; stop its replicas, or give these another catalog topic and another store", pos.Group, members, c.cfg.Group)}
		}
	}
	return nil
}

// overtaken says that another group has taken over a lane that is about to be cut: it
// began while this one was at work.
func (c *Consumer) overtaken(lanes []*lane) error {
	for _, l := range lanes {
		for _, in := range l.inputs {
			pos, ok := c.deps.Catalog.Position(in.stream.ID, l.n)
			// The view may not have read yet that the lane was claimed.
			taken := pos.Cut != in.from || pos.Next > in.committed.Next
			if ok && pos.Group != "" && pos.Group != c.cfg.Group && taken {
				return fmt.Errorf("cut: %w: %q has %s/%d at offset %d", errOvertaken, pos.Group, in.stream.Topic, l.n, pos.Next)
			}
		}
	}
	return nil
}
