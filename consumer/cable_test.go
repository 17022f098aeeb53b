package consumer

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// cable is a replica's connection to the brokers. Cut, everything that was sent
// may or may not have arrived, and nothing reaches the replica any more. It can
// also lose the reply to a single request.
type cable struct {
	mu    sync.Mutex
	conns []net.Conn
	cut   bool
	lose  map[int16]chan struct{} // by the request's key; closed when it is sent
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
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

// loseReply lets the next request of a kind arrive, and no reply to it, nor to
// anything else on its connection. The channel is closed when it is sent.
func (c *cable) loseReply(key kmsg.Key) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lose == nil {
		c.lose = make(map[int16]chan struct{})
	}
	sent := make(chan struct{})
	c.lose[key.Int16()] = sent
	return sent
}

// plug is one connection. Every Write of the client is one request.
type plug struct {
	net.Conn
	cable *cable
	deaf  bool // under the cable's mutex
}

func (p *plug) Write(request []byte) (int, error) {
	if len(request) >= 6 {
		key := int16(binary.BigEndian.Uint16(request[4:]))
		p.cable.mu.Lock()
		if sent := p.cable.lose[key]; sent != nil {
			p.deaf = true
			delete(p.cable.lose, key)
			defer close(sent)
		}
		p.cable.mu.Unlock()
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
