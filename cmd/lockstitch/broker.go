package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/state/kafka"
	"lockstitch/state/local"
)

// broker is the embedded broker of dev and demo: it speaks the Kafka protocol,
// keeps its topics on disk and syncs every write. It differs from Apache Kafka
// in what matters here:
//
//   - It does not know message.timestamp.type=LogAppendTime; stamp gives every
//     record the broker's time instead (its type is still shown as CreateTime).
//   - It does not know min.compaction.lag.ms and compacts by the clock. A
//     compaction could take versions of a profile that are younger than a day,
//     so that compaction is switched off: nothing is compacted, nothing expires.
type broker struct {
	cluster *kfake.Cluster
	addr    string
	lock    io.Closer // on the directory: two brokers in it would damage it
}

// never is a compaction interval that does not pass, in ms.
const never = 100 * 365 * 24 * 60 * 60 * 1000

// startBroker listens on host:port (port 0: any free one) and continues with
// what dir holds.
func startBroker(dir, listen string) (*broker, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, usage(fmt.Errorf("--kafka-listen %q: %w", listen, err))
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		// The address is what clients are told to connect to.
		return nil, usage(fmt.Errorf("--kafka-listen %q: name the host under which clients reach the broker, for example localhost:%s", listen, port))
	}
	if err := os.MkdirAll(dir, privateDir); err != nil {
		return nil, fmt.Errorf("the data directory cannot be made: %w; choose another --data-dir", err)
	}
	lock, err := local.Lock(vfs.Default, filepath.Join(dir, "LOCK"))
	if err != nil {
		return nil, fmt.Errorf("the data directory %s %w; choose another --data-dir", filepath.Dir(dir), err)
	}
	c, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return net.Listen(network, net.JoinHostPort(host, port))
		}),
		kfake.DataDir(dir),
		kfake.SyncWrites(),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms": strconv.FormatInt(never, 10),
			"message.max.bytes":      strconv.Itoa(16 << 20), // so that oversized events can be tried
		}),
	)
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("starting the embedded broker on %s: %w; if the address is taken, choose another with --kafka-listen", listen, err)
	}
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if p, ok := req.(*kmsg.ProduceRequest); ok {
			stamp(p, time.Now().UnixMilli())
		}
		return nil, nil, false
	})
	return &broker{cluster: c, addr: c.ListenAddrs()[0], lock: lock}, nil
}

// createTopics makes the topics that are missing.
func (b *broker) createTopics(ctx context.Context, topics kafka.Topics, partitions int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kafka.Create(ctx, cl, topics, kafka.CreateOptions{Partitions: int32(partitions), ReplicationFactor: 1})
	return err
}

// Close writes what is left to disk and stops.
func (b *broker) Close() {
	b.cluster.Close()
	_ = b.lock.Close()
}

// Positions in a record batch of format 2.
const (
	batchCRC        = 17
	batchAttributes = 21
	batchFirstTime  = 27
	batchMaxTime    = 35
	batchCount      = 57
	batchHeader     = 61
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamp gives all records of a produce request the time now (ms).
func stamp(req *kmsg.ProduceRequest, now int64) {
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			p := &req.Topics[i].Partitions[j]
			if b, ok := stampBatch(p.Records, now); ok {
				p.Records = b
			}
		}
	}
}

// stampBatch returns the batch with the time now in its header and no
// differences to it in its records. A batch that is not one, or that is
// damaged, is left for the broker to refuse.
func stampBatch(raw []byte, now int64) ([]byte, bool) {
	if len(raw) < batchHeader || crc32.Checksum(raw[batchAttributes:], castagnoli) != binary.BigEndian.Uint32(raw[batchCRC:]) {
		return nil, false
	}
	codec := kgo.CompressionCodecType(raw[batchAttributes+1] & 7)
	count := int(int32(binary.BigEndian.Uint32(raw[batchCount:])))
	records, err := kgo.DefaultDecompressor().Decompress(raw[batchHeader:], codec)
	if err != nil {
		return nil, false
	}
	out := append(make([]byte, 0, batchHeader+len(records)), raw[:batchHeader]...)
	for range count {
		length, n := binary.Varint(records)
		if n <= 0 || length < 1 || length > int64(len(records)-n) {
			return nil, false
		}
		body := records[n : n+int(length)]
		records = records[n+int(length):]
		// A record is: attributes (1 byte), time difference (varint), the rest.
		_, d := binary.Varint(body[1:])
		if d <= 0 {
			return nil, false
		}
		rest := body[1+d:]
		out = binary.AppendVarint(out, int64(2+len(rest)))
		out = append(out, body[0], 0)
		out = append(out, rest...)
	}
	if len(records) != 0 {
		return nil, false
	}
	out[batchAttributes+1] &^= 7 // not compressed any more
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-12))
	binary.BigEndian.PutUint64(out[batchFirstTime:], uint64(now))
	binary.BigEndian.PutUint64(out[batchMaxTime:], uint64(now))
	binary.BigEndian.PutUint32(out[batchCRC:], crc32.Checksum(out[batchAttributes:], castagnoli))
	return out, true
}
