package consumer

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// cable is a replica's connection to the brokers. Cut, everything that was sent
// may or may not have arrived, and nothing reaches the replica any more. It can
// also lose a single request or the reply to it.
type cable struct {
	wall  dialer
	mu    sync.Mutex
	conns []net.Conn
	cut   bool
	lose  map[int16]loss // by the request's key
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// cable lays one; connect gives it to a replica.
func (w *world) cable() *cable { return &cable{wall: w.dial} }

func (c *cable) connect(cfg *Config) {
	cfg.Kafka = append(append([]kgo.Opt{}, cfg.Kafka...), kgo.Dialer(c.dial))
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.wall(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		_ = conn.Close()
		return nil, errors.New("the cable is cut")
	}
	c.conns = append(c.conns, conn)
	return &plug{Conn: conn, cable: c}, nil
}

func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// loss is what is to be lost.
type loss struct {
	request bool          // it does not arrive; else it does, without a reply
	sent    chan struct{} // closed when it is sent
}

// loseReply lets the next request of a kind arrive, and no reply to it, nor to
// anything else on its connection. The channel is closed when it is sent.
func (c *cable) loseReply(key kmsg.Key) (sent <-chan struct{}) { return c.loseNext(key, false) }

// loseRequest lets not even the request arrive.
func (c *cable) loseRequest(key kmsg.Key) (sent <-chan struct{}) { return c.loseNext(key, true) }

func (c *cable) loseNext(key kmsg.Key, request bool) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lose == nil {
		c.lose = make(map[int16]loss)
	}
	l := loss{request, make(chan struct{})}
	c.lose[key.Int16()] = l
	return l.sent
}

// plug is one connection. Every Write of the client is one request.
type plug struct {
	net.Conn
	cable *cable
	deaf  bool // under the cable's mutex
}

func (p *plug) Write(request []byte) (int, error) {
	if len(request) < 6 {
		return p.Conn.Write(request)
	}
	key := int16(binary.BigEndian.Uint16(request[4:]))
	p.cable.mu.Lock()
	l, lost := p.cable.lose[key]
	if lost {
		p.deaf = true
		delete(p.cable.lose, key)
	}
	p.cable.mu.Unlock()
	if lost {
		defer close(l.sent)
	}
	if l.request {
		return len(request), nil
	}
	return p.Conn.Write(request)
}

func (p *plug) Read(b []byte) (int, error) {
	for {
		n, err := p.Conn.Read(b)
		p.cable.mu.Lock()
		deaf := p.deaf
		p.cable.mu.Unlock()
		if err != nil || !deaf {
			return n, err
		}
	}
}

// await waits for what must happen soon.
func await(t *testing.T, what string, happened <-chan struct{}) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(20 * time.Second):
		t.Fatal("not within 20 s: " + what)
	}
}
