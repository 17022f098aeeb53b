package model

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"golang.org/x/time/rate"
)

// cable is a replica's connection to the brokers. It can be cut (what was sent
// may or may not have arrived, nothing comes back), frozen (nothing moves until
// it thaws) and told to lose the next request of a kind, or only its reply.
type cable struct {
	net *kfake.VirtualNetwork

	mu     sync.Mutex
	conns  map[*conn]bool
	cut    bool
	away   map[string]bool // addresses that are not reached
	frozen chan struct{}   // closed when the cable thaws; nil: not frozen
	lose   []loss
}

// A client may ask again at once until it knows something new, for which time has to
// pass: that others lead, where there are several brokers; that a topic is gone, of
// which the embedded broker tells without letting the other partitions of a fetch
// wait, as Apache Kafka does. More than a burst of requests therefore takes time. No
// request does without need: without the build tag synctests the client library waits
// for some with a mutex held, and while another goroutine waits for that no virtual
// time passes.
const (
	latency = time.Millisecond
	burst   = 200
)

// loss is a request to be lost, by its key in the Kafka protocol.
type loss struct {
	key       int16
	replyOnly bool
}

// Errors as TCP has them: the client library tells by them what it may repeat.
func refused() error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

func reset(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, syscall.ECONNRESET)}
}

func newCable(w *world) *cable {
	return &cable{net: &w.net, conns: make(map[*conn]bool), away: make(map[string]bool)}
}

func (c *cable) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if c.isCut(addr) {
		return nil, refused()
	}
	inner, err := c.net.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	out := &conn{Conn: inner, cable: c, addr: addr, closed: make(chan struct{})}
	if *three || *remade {
		out.pace = rate.NewLimiter(rate.Every(latency), burst)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut || c.away[addr] {
		_ = inner.Close()
		return nil, refused()
	}
	c.conns[out] = true
	return out, nil
}

func (c *cable) isCut(addr string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut || c.away[addr]
}

// severFrom cuts off what is at one address until mendTo or mend.
func (c *cable) severFrom(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away[addr] = true
	for conn := range c.conns {
		if conn.addr == addr {
			_ = conn.Conn.Close()
			delete(c.conns, conn)
		}
	}
}

func (c *cable) mendTo(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.away, addr)
}

// sever cuts the cable until mend.
func (c *cable) sever() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.conns {
		_ = conn.Conn.Close()
	}
	c.conns = make(map[*conn]bool)
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.lose = false, nil
	clear(c.away)
	if c.frozen != nil {
		close(c.frozen)
		c.frozen = nil
	}
}

func (c *cable) freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen == nil {
		c.frozen = make(chan struct{})
	}
}

func (c *cable) loseNext(l loss) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose = append(c.lose, l)
}

// conn is one connection. Every Write of the client is one request.
type conn struct {
	net.Conn
	cable  *cable
	addr   string
	pace   *rate.Limiter // nil: no burst is expected
	once   sync.Once
	closed chan struct{}
	mu     sync.Mutex
	deaf   bool // the next reply is lost
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.cable.mu.Lock()
	delete(c.cable.conns, c)
	c.cable.mu.Unlock()
	return c.Conn.Close()
}

// wait holds what passes a frozen cable.
func (c *conn) wait() error {
	c.cable.mu.Lock()
	frozen := c.cable.frozen
	c.cable.mu.Unlock()
	if frozen == nil {
		return nil
	}
	select {
	case <-frozen:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *conn) Write(b []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	if c.pace != nil {
		if err := c.pace.Wait(context.Background()); err != nil {
			return 0, err
		}
	}
	if l, ok := c.takeLoss(b); ok {
		if !l.replyOnly {
			_ = c.Conn.Close()
			return 0, reset("write")
		}
		c.mu.Lock()
		c.deaf = true
		c.mu.Unlock()
	}
	n, err := c.Conn.Write(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = reset("write")
	}
	return n, err
}

func (c *conn) takeLoss(request []byte) (loss, bool) {
	if len(request) < 6 {
		return loss{}, false
	}
	key := int16(binary.BigEndian.Uint16(request[4:]))
	c.cable.mu.Lock()
	defer c.cable.mu.Unlock()
	for i, l := range c.cable.lose {
		if l.key == key {
			c.cable.lose = append(c.cable.lose[:i:i], c.cable.lose[i+1:]...)
			return l, true
		}
	}
	return loss{}, false
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if errors.Is(err, io.ErrClosedPipe) {
		err = reset("read")
	}
	if err != nil {
		return n, err
	}
	if err := c.wait(); err != nil {
		return 0, err
	}
	c.mu.Lock()
	deaf := c.deaf
	c.mu.Unlock()
	if deaf {
		_ = c.Conn.Close()
		return 0, io.EOF
	}
	return n, nil
}
