package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/segment"
)

// The generation of a group fences its own members. Nothing fences two groups that
// work on one catalog from each other, and each would keep every event: a lane is
// taken over from another group only when that has no members any more, and its
// positions name the new group before it reads any event: the other one, should it come
// back, then asks.

// Two catalogs in one group share the lanes, and each lacks those that the other has:
// while staging runs, a part of production stands still. So a replica does not join a
// group in which another one runs the lanes (OtherSystem), and of such as came together no
// lanes are given to (laneBalancer).

// OtherSystem names a member of a group whose catalog is another one than that with the
// topic id own, and runs more of the group's lanes than own does: its client's id and host.
// It is "" where there is none: what has no lanes gets none, and keeps nobody from coming
// back. Members that do not say count as own. It is an error also while the group is being
// joined: what its members say of themselves Kafka tells only behind that.
func OtherSystem(ctx context.Context, cl *kgo.Client, group string, own segment.TopicID) (string, error) {
	groups, err := kadm.NewClient(cl).DescribeGroups(ctx, group)
	if err == nil {
		err = groups.Error()
	}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("who is in consumer group %q: %w", group, err)
	}
	runs, names := make(map[segment.TopicID]int), make(map[segment.TopicID]string)
	for _, m := range groups[group].Members {
		of := own
		if meta, ok := m.Join.AsConsumer(); ok {
			if said, _ := readUserData(meta.UserData); said != (segment.TopicID{}) {
				of = said
			}
		}
		names[of] = fmt.Sprintf("%s at %s, whose catalog has the topic id %s", m.ClientID, m.ClientHost, of)
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range assigned.Topics {
				runs[of] += len(t.Partitions)
			}
		}
	}
	if of := runsMost(runs, own); of != own {
		return names[of], nil
	}
	switch g := groups[group]; g.State {
	case "Stable", "Empty", "Dead":
		return "", nil
	default:
		return "", fmt.Errorf("consumer group %q is being joined, its state is %s", group, g.State)
	}
}

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
