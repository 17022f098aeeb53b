package replaced

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// log is a partition as the broker has it.
type log struct {
	epoch              int32
	start, end, stable int64
	batches            []batch
	aborted            []kmsg.FetchResponseTopicPartitionAbortedTransaction
	name               partition
}

type batch struct {
	first, last int64 // offsets
	epoch       int32
	producer    int64
	control     bool // it holds the marker that ends a transaction
	raw         []byte
}

// most is more than any test's log has.
const most = 1 << 30

// remember takes in the cluster and the logs that the broker leads.
func (o *broker) remember(ctx context.Context, cl *kgo.Client) error {
	meta, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, cl) // of all topics
	if err != nil {
		return err
	}
	o.meta, o.names = meta, make(map[[16]byte]string)
	o.epochs, o.logs = make(map[partition]int32), make(map[partition]*log)
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes = most
	for _, t := range meta.Topics {
		o.names[t.TopicID] = *t.Topic
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic, rt.TopicID = *t.Topic, t.TopicID
		for _, p := range t.Partitions {
			o.epochs[partition{*t.Topic, p.Partition}] = p.LeaderEpoch
			if p.Leader != o.node {
				continue
			}
			rp := kmsg.NewFetchRequestTopicPartition()
			rp.Partition, rp.PartitionMaxBytes = p.Partition, most
			rt.Partitions = append(rt.Partitions, rp)
		}
		if len(rt.Partitions) > 0 {
			req.Topics = append(req.Topics, rt)
		}
	}
	if len(req.Topics) == 0 {
		return nil
	}
	for iso := range int8(2) { // the second time tells of aborted transactions
		req.IsolationLevel = iso
		kresp, err := cl.Broker(int(o.node)).RetriableRequest(ctx, req)
		if err != nil {
			return err
		}
		for _, t := range kresp.(*kmsg.FetchResponse).Topics {
			for _, p := range t.Partitions {
				name := partition{o.names[t.TopicID], p.Partition}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("reading %s/%d: %w", name.topic, name.n, err)
				}
				if iso == 0 {
					o.logs[name] = &log{epoch: o.epochs[name], start: p.LogStartOffset, end: p.HighWatermark, stable: p.LastStableOffset, batches: split(p.RecordBatches), name: name}
				} else {
					o.logs[name].aborted = p.AbortedTransactions
				}
			}
		}
	}
	return nil
}

// split divides what was fetched into its batches, by the fixed places in their
// heads.
func split(b []byte) (out []batch) {
	for len(b) >= 61 {
		n := 12 + int(binary.BigEndian.Uint32(b[8:]))
		first := int64(binary.BigEndian.Uint64(b))
		out = append(out, batch{
			first: first, last: first + int64(binary.BigEndian.Uint32(b[23:])), epoch: int32(binary.BigEndian.Uint32(b[12:])),
			producer: int64(binary.BigEndian.Uint64(b[43:])), control: b[22]&0x20 != 0, raw: b[:n],
		})
		b = b[n:]
	}
	return out
}

// limit is the end of what is shown.
func (l *log) limit(isolation int8) int64 {
	if isolation == 1 {
		return l.stable
	}
	return l.end
}

// at is the offset, and its time, that ListOffsets asks for.
func (l *log) at(timestamp int64, isolation int8) (offset, at int64) {
	switch timestamp {
	case -1:
		return l.limit(isolation), -1
	case -2:
		return l.start, -1
	}
	p := kmsg.NewFetchResponseTopicPartition()
	l.fetch(l.start, isolation, &p)
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Offset: l.start, Topic: l.name.topic, Partition: l.name.n}, &p, kgo.DefaultDecompressor(), nil)
	for _, r := range fp.Records {
		if at := r.Timestamp.UnixMilli(); at >= timestamp {
			return r.Offset, at
		}
	}
	return -1, -1
}

// endOf is where the records of an epoch, or of the last one before it, end.
func (l *log) endOf(epoch int32) (last int32, end int64) {
	if epoch == l.epoch {
		return epoch, l.end
	}
	last, end = -1, -1
	for _, b := range l.batches {
		if b.epoch <= epoch {
			last, end = b.epoch, b.last+1
		}
	}
	return last, end
}

// fetch puts what lies at and behind an offset into an answer.
func (l *log) fetch(from int64, isolation int8, p *kmsg.FetchResponseTopicPartition) {
	p.HighWatermark, p.LastStableOffset, p.LogStartOffset = l.end, l.stable, l.start
	if from < l.start || from > l.end {
		p.ErrorCode = kerr.OffsetOutOfRange.Code
		return
	}
	for _, b := range l.batches {
		if b.last >= from && b.first < l.limit(isolation) {
			p.RecordBatches = append(p.RecordBatches, b.raw...)
		}
	}
	if isolation != 1 {
		return
	}
	for _, a := range l.aborted {
		if l.over(a) >= from {
			p.AbortedTransactions = append(p.AbortedTransactions, a)
		}
	}
}

// over is the offset of the marker that ends an aborted transaction. Whoever is told
// of one that was over before what is read takes the producer's next one for it.
func (l *log) over(a kmsg.FetchResponseTopicPartitionAbortedTransaction) int64 {
	for _, b := range l.batches {
		if b.control && b.producer == a.ProducerID && b.first > a.FirstOffset {
			return b.first
		}
	}
	return l.end
}
