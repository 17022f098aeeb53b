// Package replaced, which only tests use, lets one broker of an embedded cluster
// answer as a leader that was replaced and does not know it, as one does that was
// stopped beyond its session and then continued: with the leaders and epochs of
// then, and with logs that end where they did. What is produced to it is not
// acknowledged, as with min.insync.replicas above one.
//
// The embedded brokers share one log each. What that broker says is therefore made
// up here, for all requests but those that come through Past.
package replaced

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// LongestFetch is how long a fetch waits at most for records: so long after Stop
// nobody is left waiting at a broker to be told of its replacement.
const LongestFetch = time.Second

// Brokers are those of an embedded cluster. At most one at a time has been
// replaced.
type Brokers struct {
	c  *kfake.Cluster
	cl *kgo.Client

	mu  sync.Mutex
	old *broker // nil: all know who leads
}

type partition struct {
	topic string
	n     int32
}

// broker is one that has stopped, and then what it takes for true.
type broker struct {
	node      int32
	continued chan struct{} // closed when it goes on, replaced
	learned   chan struct{} // closed when it learns of that
	meta      *kmsg.MetadataResponse
	names     map[[16]byte]string // of topics
	epochs    map[partition]int32
	logs      map[partition]*log // which it leads
}

// Watch prepares a cluster. The client's connections are made by Past.
func Watch(c *kfake.Cluster, cl *kgo.Client) *Brokers {
	b := &Brokers{c: c, cl: cl}
	b.answer(kmsg.Metadata, func(o *broker, req kmsg.Request) kmsg.Response { return o.metadata(req.(*kmsg.MetadataRequest)) })
	b.answer(kmsg.ListOffsets, func(o *broker, req kmsg.Request) kmsg.Response { return o.offsets(req.(*kmsg.ListOffsetsRequest)) })
	b.answer(kmsg.OffsetForLeaderEpoch, func(o *broker, req kmsg.Request) kmsg.Response {
		return o.epochEnds(req.(*kmsg.OffsetForLeaderEpochRequest))
	})
	b.answer(kmsg.Fetch, func(o *broker, req kmsg.Request) kmsg.Response { return b.fetch(o, req.(*kmsg.FetchRequest)) })
	b.answer(kmsg.Produce, func(o *broker, req kmsg.Request) kmsg.Response { return b.produce(o, req.(*kmsg.ProduceRequest)) })
	return b
}

// answer lets f answer requests of a kind to the broker that was replaced. Without
// an answer they are answered as by the broker that it is.
func (b *Brokers) answer(key kmsg.Key, f func(*broker, kmsg.Request) kmsg.Response) {
	b.c.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		b.c.KeepControl()
		if IsPast(req) {
			return nil, nil, false
		}
		b.mu.Lock()
		o := b.old
		b.mu.Unlock()
		if o == nil || o.node != b.c.CurrentNode() {
			adapt(req)
			return nil, nil, false
		}
		b.wait(o, o.continued, time.Hour)
		select {
		case <-o.learned:
			adapt(req)
			return nil, nil, false
		default:
		}
		resp := f(o, req)
		if resp == nil {
			return nil, nil, false
		}
		resp.SetVersion(req.GetVersion())
		return resp, nil, true
	})
}

// adapt lets no fetch wait for long, and makes up for what the embedded brokers do
// not know: where an epoch ends of which the next one has no record yet. As no
// record is ever taken back, the end will do.
func adapt(req kmsg.Request) {
	switch r := req.(type) {
	case *kmsg.FetchRequest:
		r.MaxWaitMillis = min(r.MaxWaitMillis, int32(LongestFetch.Milliseconds()))
	case *kmsg.OffsetForLeaderEpochRequest:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				p := &r.Topics[i].Partitions[j]
				p.LeaderEpoch = max(p.LeaderEpoch, p.CurrentLeaderEpoch)
			}
		}
	}
}

// wait holds a request until something happens or the broker learns, at most for d.
func (b *Brokers) wait(o *broker, happens <-chan struct{}, d time.Duration) {
	select {
	case <-happens:
		return
	default:
	}
	b.c.SleepControl(func() {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-happens:
		case <-o.learned:
		case <-t.C:
		}
	})
}

// Stop lets a broker stand still.
func (b *Brokers) Stop(node int32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.old = &broker{node: node, continued: make(chan struct{}), learned: make(chan struct{})}
}

// Replace moves what the broker that stands still leads to other ones, which next
// names, and lets it go on as if nothing had happened. If it fails nothing can be
// said of the broker until Learn.
func (b *Brokers) Replace(ctx context.Context, next func(topic string, partition int32) (node int32)) error {
	b.mu.Lock()
	o := b.old
	b.mu.Unlock()
	if err := o.remember(ctx, b.cl); err != nil {
		return err
	}
	for _, t := range o.meta.Topics {
		for _, p := range t.Partitions {
			if p.Leader != o.node {
				continue
			}
			if err := b.c.MoveTopicPartition(*t.Topic, p.Partition, next(*t.Topic, p.Partition)); err != nil {
				return fmt.Errorf("moving %s/%d: %w", *t.Topic, p.Partition, err)
			}
		}
	}
	close(o.continued)
	return nil
}

// Learn tells the broker that it was replaced.
func (b *Brokers) Learn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.old != nil {
		close(b.old.learned)
		b.old = nil
	}
}

// metadata is the cluster as the broker knows it.
func (o *broker) metadata(req *kmsg.MetadataRequest) kmsg.Response {
	resp := *o.meta
	if req.Topics == nil {
		return &resp
	}
	resp.Topics = nil
	for _, rt := range req.Topics {
		t := kmsg.NewMetadataResponseTopic()
		t.Topic, t.TopicID, t.ErrorCode = rt.Topic, rt.TopicID, kerr.UnknownTopicOrPartition.Code
		if rt.TopicID != [16]byte{} {
			t.ErrorCode = kerr.UnknownTopicID.Code
		}
		for _, have := range o.meta.Topics {
			if rt.TopicID == have.TopicID || rt.TopicID == [16]byte{} && rt.Topic != nil && *rt.Topic == *have.Topic {
				t = have
			}
		}
		resp.Topics = append(resp.Topics, t)
	}
	return &resp
}

// known finds the log of a partition, or why there is no answer for it.
func (o *broker) known(p partition, epoch int32) (*log, int16) {
	own, ok := o.epochs[p]
	l := o.logs[p]
	switch {
	case !ok:
		return nil, kerr.UnknownTopicOrPartition.Code
	case epoch >= 0 && epoch < own:
		return nil, kerr.FencedLeaderEpoch.Code
	case epoch > own:
		return nil, kerr.UnknownLeaderEpoch.Code
	case l == nil:
		return nil, kerr.NotLeaderForPartition.Code
	}
	return l, 0
}

func (o *broker) offsets(req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, rt := range req.Topics {
		t := kmsg.NewListOffsetsResponseTopic()
		t.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewListOffsetsResponseTopicPartition()
			p.Partition, p.Timestamp, p.Offset = rp.Partition, -1, -1
			l, code := o.known(partition{rt.Topic, rp.Partition}, rp.CurrentLeaderEpoch)
			if p.ErrorCode = code; l != nil {
				p.Offset, p.Timestamp = l.at(rp.Timestamp, req.IsolationLevel)
				p.LeaderEpoch = l.epoch
			}
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

func (o *broker) epochEnds(req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	for _, rt := range req.Topics {
		t := kmsg.NewOffsetForLeaderEpochResponseTopic()
		t.Topic = rt.Topic
		for _, rp := range rt.Partitions {
			p := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			p.Partition = rp.Partition
			l, code := o.known(partition{rt.Topic, rp.Partition}, rp.CurrentLeaderEpoch)
			if p.ErrorCode = code; l != nil {
				p.LeaderEpoch, p.EndOffset = l.endOf(rp.LeaderEpoch)
			}
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}

// fetch answers from the logs of then, without a session. Where nothing is to be
// had it waits as long as it was asked to.
func (b *Brokers) fetch(o *broker, req *kmsg.FetchRequest) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	if req.SessionEpoch > 0 {
		resp.ErrorCode = kerr.FetchSessionIDNotFound.Code
		return resp
	}
	empty := true
	for _, rt := range req.Topics {
		t := kmsg.NewFetchResponseTopic()
		if t.Topic, t.TopicID = rt.Topic, rt.TopicID; t.Topic == "" {
			t.Topic = o.names[rt.TopicID]
		}
		for _, rp := range rt.Partitions {
			p := kmsg.NewFetchResponseTopicPartition()
			p.Partition, p.RecordBatches = rp.Partition, []byte{}
			l, code := o.known(partition{t.Topic, rp.Partition}, rp.CurrentLeaderEpoch)
			if p.ErrorCode = code; l != nil {
				l.fetch(rp.FetchOffset, req.IsolationLevel, &p)
			}
			empty = empty && p.ErrorCode == 0 && len(p.RecordBatches) == 0
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	if empty {
		b.wait(o, o.learned, time.Duration(req.MaxWaitMillis)*time.Millisecond)
	}
	return resp
}

// produce waits for replicas that do not follow any more: for the broker to learn,
// which then refuses, or until the time of the request is up.
func (b *Brokers) produce(o *broker, req *kmsg.ProduceRequest) kmsg.Response {
	b.wait(o, o.learned, time.Duration(req.TimeoutMillis)*time.Millisecond)
	select {
	case <-o.learned:
		return nil
	default:
	}
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, rt := range req.Topics {
		t := kmsg.NewProduceResponseTopic()
		t.Topic, t.TopicID = rt.Topic, rt.TopicID
		for _, rp := range rt.Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.ErrorCode = rp.Partition, kerr.RequestTimedOut.Code
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}
