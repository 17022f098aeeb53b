package consumer

import (
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
)

// packed is a batch that says it has one record, and unpacks to n bytes.
func packed(n uint32) []byte {
	z := []byte{0x28, 0xB5, 0x2F, 0xFD, 0x80, 0x50} // zstd: size of the content in 4 bytes, window of 1 MiB
	z = binary.LittleEndian.AppendUint32(z, n)
	for left := n; left > 0; {
		b := min(left, 128<<10)
		left -= b
		header := uint32(1)<<1 | b<<3 // a block of one byte, repeated
		if left == 0 {
			header |= 1
		}
		z = append(z, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	now := time.Now().UnixMilli()
	rb := kmsg.RecordBatch{Magic: 2, PartitionLeaderEpoch: -1, Attributes: 4, FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Records: z}
	rb.Length = int32(49 + len(z))
	raw := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// TestABatchThatUnpacksToTooMuch stops its lane, loudly, until it is given up.
func TestABatchThatUnpacksToTooMuch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := &logged{}
	w.log = slog.New(slog.NewTextHandler(log, nil))
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.event("p1", "c1", "SENT")
	w.settle(r.cat)
	p := partitionOfKey("p1")
	infos, err := kafka.Describe(t.Context(), w.prod, "email-events")
	if err != nil {
		t.Fatal(err)
	}
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 5000
	topic, part := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = p, packed(512<<20)
	topic.Topic, topic.TopicID, topic.Partitions = "email-events", infos["email-events"].ID, append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(t.Context(), w.prod)
	if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal(resp, err)
	}
	w.event("p1", "c2", "SENT")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	past, err := kafka.Probe(t.Context(), w.prod, w.prod, kafka.Question{Topic: "email-events", TopicID: infos["email-events"].ID, Partition: p, Next: 1})
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; past != 1 || err != nil || grown > 400<<20 {
		t.Errorf("probed up to %d, %v, with %d bytes of memory", past, err, grown)
	}
	r.await(t, "the lane is not stopped", func(c *Consumer) bool { return c.lanes[p] != nil && c.lanes[p].stage == stopped })
	log.await(t, "lane is stopped", "the batch at offset 1 of email-events", "128 MiB", "below offset 2")
	given := make(kadm.Offsets)
	given.AddOffset("email-events", p, 2, -1)
	if res, err := kadm.NewClient(w.prod).DeleteRecords(t.Context(), given); err != nil || res.Error() != nil {
		t.Fatal(err, res.Error())
	}
	w.adopt()
	w.settle(r.cat)
	if got := strings.Join(w.rows(r.cat), ", "); got != "c1 SENT -, c2 SENT -" {
		t.Errorf("rows %s", got)
	}
}
