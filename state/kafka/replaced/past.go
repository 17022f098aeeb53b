package replaced

import (
	"context"
	"encoding/binary"
	"net"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// mark is a tagged field of requests that Kafka does not have.
const mark = 77

// markedFrom are the requests that are marked, and from which version on they have
// tagged fields.
var markedFrom = map[kmsg.Key]uint16{kmsg.Produce: 9, kmsg.Fetch: 12, kmsg.ListOffsets: 6, kmsg.Metadata: 9, kmsg.OffsetForLeaderEpoch: 4}

// Past makes connections whose requests reach the brokers as they are: for those
// clients of a test that must read the truth. A control function is not told who
// asks, which is why their requests are marked.
func Past(dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return conn{c}, nil
	}
}

// IsPast says whether a request has come through Past.
func IsPast(req kmsg.Request) bool {
	var tags *kmsg.Tags
	switch r := req.(type) {
	case *kmsg.ProduceRequest:
		tags = &r.UnknownTags
	case *kmsg.FetchRequest:
		tags = &r.UnknownTags
	case *kmsg.ListOffsetsRequest:
		tags = &r.UnknownTags
	case *kmsg.MetadataRequest:
		tags = &r.UnknownTags
	case *kmsg.OffsetForLeaderEpochRequest:
		tags = &r.UnknownTags
	default:
		return false
	}
	found := false
	tags.Each(func(key uint32, _ []byte) { found = found || key == mark })
	return found
}

type conn struct{ net.Conn }

// Write sends one request. Its last byte is the number of its tagged fields, of
// which the client library has none.
func (c conn) Write(b []byte) (int, error) {
	if len(b) < 8 {
		return c.Conn.Write(b)
	}
	from, ok := markedFrom[kmsg.Key(binary.BigEndian.Uint16(b[4:]))]
	if !ok || binary.BigEndian.Uint16(b[6:]) < from || b[len(b)-1] != 0 {
		return c.Conn.Write(b)
	}
	m := slices.Concat(b[:len(b)-1], []byte{1, mark, 0})
	binary.BigEndian.PutUint32(m, uint32(len(m)-4))
	if n, err := c.Conn.Write(m); err != nil {
		return min(n, len(b)), err
	}
	return len(b), nil
}
