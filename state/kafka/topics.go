package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	day           = 24 * 60 * 60 * 1000 // ms
	minLag        = 1 * day             // contract 1: min.compaction.lag.ms of what decorates
	keepTombstone = 7 * day             // contract 1: delete.retention.ms of compacted topics
	minMessage    = 1_000_012           // bytes; the greatest records written (dead letters) stay below 1 MB
	maxMessage    = 1 << 20             // bytes; what Create asks for

	// What is obsolete in the topics of our own is read by every replica that starts.
	// A broker compacts what is behind the newest file of a log, when as much is new
	// as was left the last time, or when something is older than
	// max.compaction.lag.ms, which also ends the newest file. By Kafka's defaults that
	// is not before a GiB or 7 days. A cut replaces the positions and marks of its
	// partitions, some ten MB a day: a day's is little to read, and little work to
	// compact, which min.cleanable.dirty.ratio would only bound by what is live.
	// It is not too soon for anybody: older versions are not asked for here, and
	// tombstones stay for keepTombstone from the first compaction on.
	maxLag      = 1 * day  // max.compaction.lag.ms
	segmentSize = 64 << 20 // segment.bytes

	// With as many copies insync can be asked to have an acknowledged record while
	// one broker is away. With two copies that would stop writes.
	minInsyncFrom = 3

	// DefaultReportPartitions is what Create gives the reports topic, for good: all
	// reports of one account are in one partition. They also are the parts in which
	// rendering is dealt to the replicas, so that no more of these render. 48 can be
	// dealt evenly to most numbers of replicas, beyond those that share the events of
	// 12 partitions. One without news costs next to nothing to who tails the topic: a
	// fetch names only those that have some.
	DefaultReportPartitions = 48
)

// KeepTombstone is for how long compacted topics keep tombstones at least: who was not
// current for longer may have missed a deletion.
const KeepTombstone = keepTombstone * time.Millisecond

// insync is on how many of its replicas an acknowledged record must be: whoever asks most of
// them (leaders.go) asks one of these.
func insync(replicas int) int { return (replicas + 1) / 2 }

// setting is one topic setting: what Create sets, what Check accepts, and what
// it costs to have it otherwise.
type setting struct {
	name string
	set  string
	ok   func(have string) bool
	want string // what Check says it should be
	cost string
}

func exactly(name, value, cost string) setting {
	return setting{name: name, set: value, want: value, cost: cost, ok: func(h string) bool { return h == value }}
}

// atLeast accepts greater values, and -1 (for ever, without limit).
func atLeast(name string, least, set int64, cost string) setting {
	return setting{name: name, set: strconv.FormatInt(set, 10), want: "at least " + strconv.FormatInt(least, 10), cost: cost,
		ok: func(h string) bool {
			n, err := strconv.ParseInt(h, 10, 64)
			return err == nil && (n >= least || n == -1)
		}}
}

// atMost accepts smaller values.
func atMost(name string, most int64, cost string) setting {
	value := strconv.FormatInt(most, 10)
	return setting{name: name, set: value, want: "at most " + value, cost: cost,
		ok: func(h string) bool {
			n, err := strconv.ParseInt(h, 10, 64)
			return err == nil && n <= most
		}}
}

const (
	costTimestamp = "decoration and deduplication follow the record's time: a producer's clock could pick the wrong version of a profile, or let a duplicate through"
	costOwnTime   = "a replica whose clock is wrong writes records of that time: an hour ahead of a broker's they are refused, and neither cuts nor reports of that replica come to an end"
	costLag       = "compaction may take versions of a profile that events still waiting need: their columns would come out newer than the event, or empty"
	costLookup    = "exports do not need it, as definitions apply as they stand; the topic does not tell for a day any more what one was before"
	costTombstone = "a replica that was away for longer misses deletions, and decorates events with profiles that were erased"
	costDeleted   = "a replica that takes longer to read the topic, at a start or after brokers were away, misses deletions and goes on with what was deleted"
	costMessage   = "records of up to 1 MB are written here; the brokers would refuse them and the cut would stop"
	costReport    = "records of up to 1 MB are written here; reports and rolling exports whose records the brokers refuse are not accepted, or come to no end"
	costCompact   = "with delete records expire although nothing has replaced them: what is known of a profile, a definition, a segment or a report is lost; without compact every replica that starts reads all that was ever written"
	costObsolete  = "what has been replaced is read by every replica that starts, up to a GiB and as much again as is live by Kafka's defaults: starts take longer and longer"
	costInsync    = "a record is acknowledged when too few brokers have it: their loss loses what was acknowledged, although there are more copies, and most of the others may not know of it"
)

// layout is what one topic must look like.
type layout struct {
	topic      string
	partitions int32 // 0: as many as the option or the other topics say
	settings   []setting
}

// layouts lists all topics, events first.
func (t Topics) layouts() []layout {
	logTime := exactly("message.timestamp.type", "LogAppendTime", costTimestamp)
	ownTime := exactly("message.timestamp.type", "LogAppendTime", costOwnTime)
	compact := exactly("cleanup.policy", "compact", costCompact)
	tombstones := func(cost string) setting { return atLeast("delete.retention.ms", keepTombstone, keepTombstone, cost) }
	lag := func(cost string) setting { return atLeast("min.compaction.lag.ms", minLag, minLag, cost) }
	size := func(cost string) setting { return atLeast("max.message.bytes", minMessage, maxMessage, cost) }
	own := []setting{ownTime, atMost("max.compaction.lag.ms", maxLag, costObsolete), atMost("segment.bytes", segmentSize, costObsolete), compact, tombstones(costDeleted)}
	notCompacted := setting{name: "cleanup.policy", set: "delete", want: "delete", ok: func(h string) bool { return h == "delete" },
		cost: "compaction removes records that share a key: events that were acknowledged would vanish before they are read"}

	var all []layout
	for _, e := range t.Events {
		all = append(all, layout{topic: e, settings: []setting{
			logTime, notCompacted,
			{name: "retention.ms", want: "at least " + strconv.Itoa(minLag), cost: "events that expire before they are read are lost; the time must cover your longest outage",
				ok: func(h string) bool {
					n, err := strconv.ParseInt(h, 10, 64)
					return err == nil && (n >= minLag || n == -1)
				}},
		}})
	}
	return append(all,
		layout{topic: t.Profiles, settings: []setting{logTime, lag(costLag), compact, tombstones(costTombstone)}},
		layout{topic: t.Definitions, partitions: 1, settings: []setting{lag(costLookup), compact, tombstones(costDeleted)}},
		layout{topic: t.Catalog, partitions: 1, settings: append([]setting{size(costMessage)}, own...)},
		layout{topic: t.Reports, settings: append([]setting{size(costReport)}, own...)},
		layout{topic: t.DeadLetters, settings: []setting{ownTime, size(costMessage), {
			name: "cleanup.policy", set: "delete", want: "delete", ok: func(h string) bool { return h == "delete" },
			cost: "compaction removes dead letters that share a key: events set aside could not be found again",
		}, atLeast("retention.ms", 30*day, -1, "dead letters expire before somebody has looked at them")}},
	)
}

// CreateOptions are the choices that Create leaves to the operator.
type CreateOptions struct {
	Partitions        int32 // of every event topic and of profiles; at least 1
	ReplicationFactor int16 // -1: the cluster's default
	ReportPartitions  int32 // 0: DefaultReportPartitions
}

// Create makes the topics that do not exist, with the settings of the contract
// (section 1), and names them. Topics that exist are left as they are: Check
// says what is wrong with them. Nothing is made beside an event or profile topic
// that has another number of partitions: all of them need the same.
func Create(ctx context.Context, cl *kgo.Client, t Topics, o CreateOptions) ([]string, error) {
	if o.Partitions < 1 {
		return nil, fmt.Errorf("creating topics: %d partitions; want at least 1", o.Partitions)
	}
	if o.ReportPartitions == 0 {
		o.ReportPartitions = DefaultReportPartitions
	}
	adm := kadm.NewClient(cl)
	if err := t.sameCounts(ctx, cl, o.Partitions); err != nil {
		return nil, err
	}
	var created []string
	for _, l := range t.layouts() {
		parts := l.partitions
		switch {
		case parts > 0:
		case l.topic == t.Reports:
			parts = o.ReportPartitions
		case l.topic == t.DeadLetters:
			parts = 1
		default:
			parts = o.Partitions
		}
		configs := make(map[string]*string, len(l.settings)+1)
		for _, s := range l.settings {
			if s.set != "" {
				configs[s.name] = kadm.StringPtr(s.set)
			}
		}
		if o.ReplicationFactor >= minInsyncFrom {
			// With acks=all an acknowledged record survives the loss of a disk.
			configs["min.insync.replicas"] = kadm.StringPtr(strconv.Itoa(insync(int(o.ReplicationFactor))))
		}
		resp, err := adm.CreateTopic(ctx, parts, o.ReplicationFactor, configs, l.topic)
		if err != nil && resp.ErrMessage != "" { // which setting, for example
			err = fmt.Errorf("%w: %s", err, resp.ErrMessage)
		}
		switch {
		case errors.Is(err, kerr.TopicAlreadyExists):
		case err != nil:
			return created, fmt.Errorf("creating topic %s: %w", l.topic, err)
		default:
			created = append(created, l.topic)
		}
	}
	return created, awaitTopics(ctx, cl, created)
}

// visibleTime bounds how long brokers may take to learn of new topics.
const visibleTime = 30 * time.Second

// awaitTopics waits until every broker knows the topics and their leaders: who
// starts right after Create may ask any of them, and a broker learns of a topic
// some time after the controller has answered that it is there.
func awaitTopics(ctx context.Context, cl *kgo.Client, topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		for _, b := range cl.DiscoveredBrokers() {
			if err := knows(ctx, b, topics); err != nil {
				return struct{}{}, err
			}
		}
		return struct{}{}, nil
	}, backoff.WithMaxElapsedTime(visibleTime))
	if err != nil {
		return fmt.Errorf("the topics were created, but not every broker knows them yet: %w", err)
	}
	if _, err := Describe(ctx, cl, topics...); err != nil {
		return fmt.Errorf("the topics were created, but cannot be used: %w", err)
	}
	return nil
}

// knows says by its error whether a broker lacks one of the topics or a leader.
// A broker that does not answer misleads nobody.
func knows(ctx context.Context, b *kgo.Broker, topics []string) error {
	req := metadataOf(topics)
	resp, err := b.Request(ctx, req)
	if err != nil {
		return ctx.Err()
	}
	for _, t := range resp.(*kmsg.MetadataResponse).Topics {
		err := kerr.ErrorForCode(t.ErrorCode)
		for _, p := range t.Partitions {
			err = errors.Join(err, kerr.ErrorForCode(p.ErrorCode))
		}
		if err != nil {
			return fmt.Errorf("topic %s: %w", *t.Topic, err)
		}
	}
	return nil
}

// fetchByID is the version of Fetch that names topics by their ids.
const fetchByID = 13

// fetchesByID is an error if a broker only fetches by name: the records of a topic made
// anew would be taken for those of the one before.
func fetchesByID(ctx context.Context, cl *kgo.Client) error {
	resp, err := kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	for _, k := range resp.ApiKeys {
		if k.ApiKey == kmsg.Fetch.Int16() && k.MaxVersion < fetchByID {
			return errNoIDs
		}
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// metadata asks for topics, which need not exist, and how many brokers there are.
// It asks directly: the admin client would answer from its cache. Brokers that are too
// old are an error.
func metadata(ctx context.Context, cl *kgo.Client, names []string) (topics map[string]*kmsg.MetadataResponseTopic, brokers int, err error) {
	if err := fetchesByID(ctx, cl); err != nil {
		return nil, 0, err
	}
	req := metadataOf(names)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, 0, err
	}
	topics = make(map[string]*kmsg.MetadataResponseTopic, len(names))
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if t.Topic == nil {
			continue
		}
		if t.ErrorCode == 0 && t.TopicID == ([16]byte{}) {
			return nil, 0, fmt.Errorf("topic %s: %w", *t.Topic, errNoIDs)
		}
		topics[*t.Topic] = t
	}
	return topics, len(resp.Brokers), nil
}

// sameCounts refuses to make event or profile topics with n partitions beside
// ones that have another number.
func (t Topics) sameCounts(ctx context.Context, cl *kgo.Client, n int32) error {
	names := t.Inputs()
	have, _, err := metadata(ctx, cl, names)
	if err != nil {
		return fmt.Errorf("creating topics: %w", err)
	}
	var missing, other []string
	for _, name := range names {
		d := have[name]
		if d == nil {
			return fmt.Errorf("creating topics: the brokers did not answer for %s", name)
		}
		err := kerr.ErrorForCode(d.ErrorCode)
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			missing = append(missing, name)
		case err != nil:
			return fmt.Errorf("creating topics: topic %s: %w", name, err)
		case int32(len(d.Partitions)) != n:
			other = append(other, fmt.Sprintf("%s has %d partitions", name, len(d.Partitions)))
		}
	}
	if len(missing) == 0 || len(other) == 0 {
		return nil
	}
	return fmt.Errorf("nothing was made: %s would get %d partitions, but %s; all need the same, as an event finds its profile in the partition of its own number",
		strings.Join(missing, ", "), n, strings.Join(other, ", "))
}

// Finding is one thing that Check found wrong.
type Finding struct {
	Topic   string
	Setting string // "partitions", "exists", "replication", "routing", "permission" or the name of a topic setting
	Have    string
	Want    string
	Cost    string // what goes wrong if it stays
	Fatal   bool   // serve cannot work with it
}

// String is the finding in one line.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s is %s, should be %s: %s", f.Topic, f.Setting, f.Have, f.Want, f.Cost)
}

// Check compares the topics of a cluster with the contract, section 1. It
// changes nothing. No findings: all is well. The error is one of asking.
func Check(ctx context.Context, cl *kgo.Client, t Topics) ([]Finding, error) {
	adm := kadm.NewClient(cl)
	layouts := t.layouts()
	names := make([]string, 0, len(layouts))
	for _, l := range layouts {
		names = append(names, l.topic)
	}
	described, brokers, err := metadata(ctx, cl, names)
	if err != nil {
		return nil, fmt.Errorf("checking topics: %w", err)
	}
	var found []Finding
	var existing []string
	counts := make(map[string]int32)
	replicas := make(map[string]int)
	for _, l := range layouts {
		d := described[l.topic]
		if d == nil {
			return nil, fmt.Errorf("checking topic %s: the brokers did not answer for it", l.topic)
		}
		err := kerr.ErrorForCode(d.ErrorCode)
		switch {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			found = append(found, Finding{Topic: l.topic, Setting: "exists", Have: "missing", Want: "there",
				Cost: "serve does not start without it; `lockstitch topics create` makes it, unless the name is wrong", Fatal: true})
			continue
		case err != nil:
			return nil, fmt.Errorf("checking topic %s: %w", l.topic, err)
		}
		existing = append(existing, l.topic)
		counts[l.topic] = int32(len(d.Partitions))
		if len(d.Partitions) > 0 {
			replicas[l.topic] = len(d.Partitions[0].Replicas)
		}
		if l.partitions > 0 && int(l.partitions) != len(d.Partitions) {
			cost := "what is said of one key in two partitions has no order; as none can be taken away, name another topic and produce the definitions to it"
			if l.topic == t.Catalog {
				cost = "a cut becomes visible whole only in one partition; serve does not start"
			}
			found = append(found, Finding{Topic: l.topic, Setting: "partitions", Have: strconv.Itoa(len(d.Partitions)),
				Want: strconv.Itoa(int(l.partitions)), Cost: cost, Fatal: true})
		}
		if brokers > 1 && len(d.Partitions) > 0 && len(d.Partitions[0].Replicas) == 1 {
			found = append(found, Finding{Topic: l.topic, Setting: "replication", Have: "1", Want: strconv.Itoa(min(brokers, minInsyncFrom)),
				Cost: "one lost disk loses what was acknowledged"})
		}
	}
	found = append(found, differingCounts(t, counts)...)
	settings, err := checkSettings(ctx, adm, layouts, existing, replicas)
	if err != nil {
		return nil, err
	}
	found = append(found, settings...)
	sort.SliceStable(found, func(i, j int) bool { return found[i].Fatal && !found[j].Fatal })
	return found, nil
}

// differingCounts finds the input topics with fewer partitions than another one: none
// can be taken away from that.
func differingCounts(t Topics, counts map[string]int32) []Finding {
	most := t.Profiles
	for _, topic := range t.Inputs() {
		if counts[topic] > counts[most] {
			most = topic
		}
	}
	var found []Finding
	for _, topic := range t.Inputs() {
		if n, ok := counts[topic]; ok && n != counts[most] {
			found = append(found, Finding{Topic: topic, Setting: "partitions", Have: strconv.Itoa(int(n)),
				Want: fmt.Sprintf("%d, as %s has", counts[most], most), Fatal: true,
				Cost: "an event finds its profile in the partition of its own number: partitions beyond the smaller count are not consumed; once partitions were added to the profiles, all of them must be produced again"})
		}
	}
	return found
}

// checkSettings compares the settings of the topics that exist; replicas says how
// many copies each has.
func checkSettings(ctx context.Context, adm *kadm.Client, layouts []layout, existing []string, replicas map[string]int) ([]Finding, error) {
	var found []Finding
	have := make(map[string]map[string]string)
	for _, topic := range existing { // one by one: refused for one, the client shows none
		configs, err := adm.DescribeTopicConfigs(ctx, topic)
		if errors.Is(err, kerr.TopicAuthorizationFailed) {
			found = append(found, Finding{Topic: topic, Setting: "permission", Have: "refused", Want: "DescribeConfigs on the topic",
				Cost: "its settings were not checked, and wrong ones lose or misplace data unnoticed"})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading topic settings: %w", err)
		}
		for _, rc := range configs {
			if rc.Err != nil {
				return nil, fmt.Errorf("reading the settings of topic %s: %w", rc.Name, rc.Err)
			}
			m := make(map[string]string, len(rc.Configs))
			for _, c := range rc.Configs {
				m[c.Key] = strings.ReplaceAll(c.MaybeValue(), " ", "")
			}
			have[rc.Name] = m
		}
	}
	for _, l := range layouts {
		m, ok := have[l.topic]
		if !ok {
			continue
		}
		settings := l.settings
		if n := replicas[l.topic]; n >= minInsyncFrom {
			least := int64(insync(n))
			settings = append(slices.Clip(settings), atLeast("min.insync.replicas", least, least, costInsync))
		}
		for _, s := range settings {
			v, ok := m[s.name]
			if !ok {
				v = "not set"
			}
			if !s.ok(v) {
				found = append(found, Finding{Topic: l.topic, Setting: s.name, Have: v, Want: s.want, Cost: s.cost})
			}
		}
	}
	return found, nil
}
