package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"lockstitch/state/segment"
)

// command is what the group tells the turn loop: lanes that came or go. The
// group waits until done is closed.
type command struct {
	assigned []int32
	revoked  []int32 // still ours until done: a last cut may commit them
	lost     []int32 // another's already: nothing may be committed
	as       membership
	done     chan struct{}
}

// membership is who we are to the group. A member that takes part in a
// rebalance keeps its id and comes to the next generation.
type membership struct {
	member     string
	generation int32
}

func membershipOf(group *kgo.Client) membership {
	member, generation := group.GroupMetadata()
	return membership{member, generation}
}

// follows says whether nothing can have been given to others between prev and m.
// Where it does not, the group went on without us, and a lane that we hold may
// have been another's, whatever the group says of it now.
func (m membership) follows(prev membership) bool {
	return m.member == prev.member && (m.generation == prev.generation || m.generation == prev.generation+1)
}

// revokeGrace is how long a cut under way may hold up a rebalance. It stays
// well below the rebalance timeout.
const revokeGrace = 10 * time.Second

func (c *Consumer) openClients(catalogID segment.TopicID) error {
	conn := func(more ...kgo.Opt) (*kgo.Client, error) {
		return kgo.NewClient(append(append([]kgo.Opt{}, c.cfg.Kafka...), more...)...)
	}
	fetch := []kgo.Opt{
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		// An offset that the broker does not have stops the lane; it is never
		// taken for a wish to start elsewhere.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(int32(min(c.cfg.MemoryBytes/64, 8<<20))),
		kgo.FetchMaxPartitionBytes(1 << 20),
		// A partition added is fetched when the fetch under way has ended.
		kgo.FetchMaxWait(250 * time.Millisecond),
		kgo.MaxConcurrentFetches(4),
		// A partition added is read after the next look at the metadata.
		kgo.MetadataMinAge(50 * time.Millisecond),
	}
	var err error
	if c.events, err = conn(fetch...); err != nil {
		return err
	}
	if c.profiles, err = conn(fetch...); err != nil {
		return err
	}
	if c.producer, err = c.newProducer(); err != nil {
		return err
	}
	c.balancer = &laneBalancer{catalog: catalogID, inputs: c.inputs(), local: c.localLanes, log: c.log}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(c.cfg.Group),
		kgo.ConsumeTopics(c.inputs()...),
		kgo.Balancers(c.balancer),
		kgo.DisableAutoCommit(),
		kgo.SessionTimeout(c.cfg.SessionTimeout),
		kgo.HeartbeatInterval(c.cfg.SessionTimeout / 4),
		// A cut that has begun to commit when lanes are taken away is waited for.
		kgo.RebalanceTimeout(max(4*revokeGrace, revokeGrace+3*c.cfg.TransactionTimeout, c.cfg.SessionTimeout)),
		// Offsets are never followed; the client must merely not fail on them.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.OnPartitionsAssigned(func(ctx context.Context, cl *kgo.Client, m map[string][]int32) {
			whole, part := c.given.add(m)
			if len(part) > 0 {
				c.log.Warn("the group gave parts of lanes; they are not run before the rest comes", "lanes", part)
				c.balancer.again.Store(true)
			}
			c.tell(ctx, command{assigned: whole, as: membershipOf(cl)})
		}),
		kgo.OnPartitionsRevoked(func(ctx context.Context, cl *kgo.Client, m map[string][]int32) {
			c.tell(ctx, command{revoked: c.given.remove(m), as: membershipOf(cl)})
		}),
		kgo.OnPartitionsLost(func(ctx context.Context, _ *kgo.Client, m map[string][]int32) {
			c.tell(ctx, command{lost: c.given.remove(m)})
		}),
	}
	if c.cfg.InstanceID != "" {
		opts = append(opts, kgo.InstanceID(c.cfg.InstanceID))
	}
	if c.group, err = conn(opts...); err != nil {
		return err
	}
	c.group.PauseFetchTopics(c.inputs()...)
	return nil
}

// newProducer makes a transactional client. TxnOffsetCommit stays at a version
// that names topics, and whose offsets were added to the transaction before.
func (c *Consumer) newProducer() (*kgo.Client, error) {
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(28, 4) // TxnOffsetCommit
	return kgo.NewClient(append(append([]kgo.Opt{}, c.cfg.Kafka...),
		kgo.TransactionalID(c.writer),
		kgo.TransactionTimeout(c.cfg.TransactionTimeout),
		kgo.RecordPartitioner(byTopic(c.cfg.Topics.Catalog)),
		kgo.ProducerBatchMaxBytes(1_000_000),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(c.cfg.TransactionTimeout),
		kgo.MaxVersions(versions),
	)...)
}

// byTopic puts catalog records where they say (partition 0) and lets keys
// choose for the others.
func byTopic(catalog string) kgo.Partitioner {
	manual, keyed := kgo.ManualPartitioner(), kgo.StickyKeyPartitioner(nil)
	return topicPartitioner(func(topic string) kgo.TopicPartitioner {
		if topic == catalog {
			return manual.ForTopic(topic)
		}
		return keyed.ForTopic(topic)
	})
}

type topicPartitioner func(string) kgo.TopicPartitioner

func (f topicPartitioner) ForTopic(t string) kgo.TopicPartitioner { return f(t) }

// tell hands a command to the turn loop and waits until it is carried out. One
// that changes no lane still says as whom the next cut has to be made.
func (c *Consumer) tell(ctx context.Context, cmd command) {
	if len(cmd.assigned)+len(cmd.revoked)+len(cmd.lost) == 0 && cmd.as == (membership{}) {
		return
	}
	cmd.done = make(chan struct{})
	var grace time.Duration
	if len(cmd.lost) == 0 {
		grace = revokeGrace
	}
	defer c.cutting.interruptAfter(grace)()
	c.mail.post(func(ctx context.Context) error {
		defer close(cmd.done)
		return c.carryOut(ctx, cmd)
	})
	select {
	case <-cmd.done:
	case <-ctx.Done():
	case <-c.quit:
	}
}

// drainGroup takes from the group client what it has to say besides records, of
// which it gets none. A replica whose instance id another process has taken never
// gets a lane again, and ends.
func (c *Consumer) drainGroup(ctx context.Context) {
	for ctx.Err() == nil {
		c.group.PollFetches(ctx).EachError(func(topic string, p int32, err error) {
			if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
				c.log.Warn("consumer group", "topic", topic, "partition", p, "err", err)
			}
			if errors.Is(err, kerr.FencedInstanceID) {
				c.mail.post(func(context.Context) error {
					return fmt.Errorf("another process has joined the group %s with the instance id %q: every replica needs one of its own: %w", c.cfg.Group, c.cfg.InstanceID, err)
				})
			}
		})
	}
}

func (c *Consumer) localLanes() []int32 {
	c.owned.Lock()
	defer c.owned.Unlock()
	return append([]int32(nil), c.owned.lanes...)
}

// rememberLane notes that the lane's state lies on this disk.
func (c *Consumer) rememberLane(n int32) {
	c.owned.Lock()
	defer c.owned.Unlock()
	for _, o := range c.owned.lanes {
		if o == n {
			return
		}
	}
	c.owned.lanes = append(c.owned.lanes, n)
	sort.Slice(c.owned.lanes, func(i, j int) bool { return c.owned.lanes[i] < c.owned.lanes[j] })
}

// forgetLanes notes that nothing of the lanes lies on this disk any more.
func (c *Consumer) forgetLanes(gone []int32) {
	c.owned.Lock()
	defer c.owned.Unlock()
	c.owned.lanes = slices.DeleteFunc(c.owned.lanes, func(n int32) bool { return slices.Contains(gone, n) })
}
