package consumer

import (
	"encoding/binary"
	"log/slog"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/segment"
)

// userDataVersion is the first byte of a member's user data, before the topic id of its
// catalog and the lanes whose state lies on its disk, as uvarints. What is of another
// version is passed over, so that replicas of two versions can be in one group.
const userDataVersion = 2

// protocolName is what the group's members must have in common.
const protocolName = "lockstitch-lanes"

// laneBalancer assigns lanes: partition n of every input topic goes to the same
// member. It is cooperative (KIP-429: a lane is given up before it is given
// away) and keeps a lane where it is running or, failing that, where its local
// state lies.
type laneBalancer struct {
	catalog segment.TopicID // of the replica; members of another one get no lanes
	inputs  []string        // the topics of which a lane has a partition each
	local   func() []int32  // lanes whose state lies on this replica's disk
	log     *slog.Logger

	// Of the join under way: whether this replica leads the group, and has
	// assigned the lanes.
	leads, assigned bool
	// again says that the lanes are to be assigned anew. A static member that starts again
	// gets what it had, whatever has become of the topics or of the settings since: a
	// leader is told not to assign (KIP-814), another one may get parts of lanes.
	again atomic.Bool
}

func (b *laneBalancer) ProtocolName() string { return protocolName }
func (b *laneBalancer) IsCooperative() bool  { return true }

func (b *laneBalancer) JoinGroupMetadata(interests []string, current map[string][]int32, generation int32) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = 3
	meta.Topics = interests
	topics := make([]string, 0, len(current))
	for t := range current {
		topics = append(topics, t)
	}
	sort.Strings(topics)
	for _, t := range topics {
		owned := kmsg.NewConsumerMemberMetadataOwnedPartition()
		owned.Topic, owned.Partitions = t, current[t]
		meta.OwnedPartitions = append(meta.OwnedPartitions, owned)
	}
	meta.Generation = generation
	meta.UserData = append([]byte{userDataVersion}, b.catalog[:]...)
	for _, n := range b.local() {
		meta.UserData = binary.AppendUvarint(meta.UserData, uint64(n))
	}
	return meta.AppendTo(nil)
}

// ParseSyncAssignment ends a join.
func (b *laneBalancer) ParseSyncAssignment(assignment []byte) (map[string][]int32, error) {
	if b.leads && !b.assigned {
		b.again.Store(true)
	}
	b.leads, b.assigned = false, false
	return kgo.ParseConsumerSyncAssignment(assignment)
}

// MemberBalancer is called on the group's leader.
func (b *laneBalancer) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	b.leads = true
	cb, err := kgo.NewConsumerBalancer(b, members)
	if err != nil {
		return nil, nil, err
	}
	return cb, cb.MemberTopics(), nil
}

// Balance is called on the group's leader if it is to assign the lanes.
func (b *laneBalancer) Balance(cb *kgo.ConsumerBalancer, topics map[string]int32) kgo.IntoSyncAssignment {
	b.assigned = true
	lanes := laneCount(topics)
	for _, t := range b.inputs {
		lanes = min(lanes, topics[t]) // of one that is not there members tell nothing
	}
	var wants []laneWants
	cb.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		w := laneWants{member: m, owned: make(map[int32]bool), generation: meta.Generation}
		w.catalog, w.local = readUserData(meta.UserData)
		for _, o := range meta.OwnedPartitions {
			for _, n := range o.Partitions {
				w.owned[n] = true
			}
		}
		wants = append(wants, w)
	})
	wants = b.ofOneCatalog(wants)
	plan := cb.NewPlan()
	for n, m := range assignLanes(lanes, wants) {
		for t := range topics {
			plan.AddPartition(wants[m].member, t, int32(n))
		}
	}
	plan.AdjustCooperative(cb)
	return plan
}

// ofOneCatalog leaves out the members of other catalogs than the one that runs the most
// lanes: what those read is kept for their own, and lacks here. Where none runs any, it is
// this replica's.
func (b *laneBalancer) ofOneCatalog(wants []laneWants) []laneWants {
	runs := make(map[segment.TopicID]int)
	for _, w := range wants {
		runs[w.catalog] += len(w.owned)
	}
	delete(runs, segment.TopicID{})
	first := runsMost(runs, b.catalog)
	return slices.DeleteFunc(wants, func(w laneWants) bool {
		other := w.catalog != first && w.catalog != (segment.TopicID{})
		if other {
			b.log.Error("a member of the group is of another system and gets no partitions: give each system a group of its own",
				"member", w.member.MemberID, "catalog", w.catalog, "catalog_of_the_others", first)
		}
		return other
	})
}

// runsMost is the catalog whose members run the most lanes; own, unless another runs more.
func runsMost(runs map[segment.TopicID]int, own segment.TopicID) segment.TopicID {
	most := own
	for id, n := range runs {
		if n > runs[most] {
			most = id
		}
	}
	return most
}

// readUserData reads a member's user data. The catalog is zero where it is not known.
func readUserData(data []byte) (of segment.TopicID, local map[int32]bool) {
	local = make(map[int32]bool)
	if len(data) < 1+len(of) || data[0] != userDataVersion {
		return of, local
	}
	for data = data[1+copy(of[:], data[1:]):]; len(data) > 0; {
		n, size := binary.Uvarint(data)
		if size <= 0 {
			break
		}
		local[int32(n)] = true
		data = data[size:]
	}
	return of, local
}

// laneCount is the number of lanes that every topic has. While partitions are
// being added, a new lane waits until the last topic has it.
func laneCount(topics map[string]int32) int32 {
	lanes := int32(-1)
	for _, n := range topics {
		if lanes < 0 || n < lanes {
			lanes = n
		}
	}
	return max(lanes, 0)
}

// laneWants is what one member brings along.
type laneWants struct {
	member     *kmsg.JoinGroupResponseMember
	catalog    segment.TopicID // zero: not known
	owned      map[int32]bool
	local      map[int32]bool
	generation int32
}

// assignLanes gives each lane a member (an index into wants): evenly, first to
// who runs it, then to who has its state, then to who has the fewest.
func assignLanes(lanes int32, wants []laneWants) []int {
	if len(wants) == 0 {
		return nil
	}
	quota, extra := int(lanes)/len(wants), int(lanes)%len(wants)
	out := make([]int, lanes)
	for n := range out {
		out[n] = -1
	}
	load := make([]int, len(wants))
	full := 0 // members that already have one more than the quota
	room := func(m int) bool {
		return load[m] < quota || load[m] == quota && full < extra
	}
	give := func(n, m int) {
		out[n] = m
		load[m]++
		if load[m] == quota+1 {
			full++
		}
	}
	claim := func(has func(m int, n int32) bool) {
		for n := range out {
			if out[n] >= 0 {
				continue
			}
			best := -1
			for m := range wants {
				if has(m, int32(n)) && room(m) && (best < 0 || wants[m].generation > wants[best].generation) {
					best = m
				}
			}
			if best >= 0 {
				give(n, best)
			}
		}
	}
	claim(func(m int, n int32) bool { return wants[m].owned[n] })
	claim(func(m int, n int32) bool { return wants[m].local[n] })
	for n := range out {
		if out[n] >= 0 {
			continue
		}
		best := -1
		for m := range wants {
			if room(m) && (best < 0 || load[m] < load[best]) {
				best = m
			}
		}
		give(n, best)
	}
	return out
}
