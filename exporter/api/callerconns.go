package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/netutil"
)

// Listen bounds the connections that are taken from l.
func (cs *Callers) Listen(l net.Listener) net.Listener {
	return &listener{netutil.LimitListener(l, cs.connections), cs}
}

type listener struct {
	net.Listener
	callers *Callers
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, callers: l.callers, header: true, fresh: true}, nil
}

// conn is a connection that takes room for its header as it comes. net/http tells nobody
// of a header of HTTP/1.1 before it is whole, and makes many times as much of it.
type conn struct {
	net.Conn
	callers *Callers

	mu     sync.Mutex
	fresh  bool // nothing has come yet
	tls    bool
	http2  bool  // a header over HTTP/2 is within connectionBytes
	header bool  // what comes is of one that is not whole
	come   int64 // bytes, without those of calls that are over
	uses   int64 // of these, the call that is under way
	taken  int64
}

var errNoRoomForHeader = errors.New("headers that are not whole take all the memory for them")

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.http2 = c.http2 || c.fresh && bytes.HasPrefix(p[:n], []byte("PRI * HTTP/2.0"))
	c.fresh = false
	c.come += int64(n)
	if !c.take() {
		return 0, errNoRoomForHeader
	}
	return n, err
}

// take ends the connection if there is no room for what has come of its header.
func (c *conn) take() bool {
	if c.http2 || !c.header {
		return true
	}
	more := headerFactor*(min(c.come, maxHeaderBytes+4096)-freeHeaderBytes) - c.taken
	if more <= 0 {
		return true
	}
	if !c.callers.headers.take(more) {
		c.callers.refused.Inc()
		_ = c.Conn.Close() // net/http would answer half a line with 400
		return false
	}
	c.taken += more
	return true
}

func (c *conn) give() {
	c.callers.headers.give(c.taken)
	c.taken = 0
}

// passes says how much of what comes is a call's, at least, if the connection outlives that.
func (c *conn) passes(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses = n
	if c.tls { // records
		c.uses += min(n/32, 4<<10)
	}
}

// idles looks at what has come beside the call that is over. It may be of the next one's
// header, which a client may send ahead, and counts then; but there is always something that
// passes has not counted (blanks, Host, chunks, records), which must not add up.
func (c *conn) idles() {
	c.header, c.come, c.uses = true, max(0, c.come-c.uses), 0
	if c.come <= freeHeaderBytes {
		c.come = 0
	}
	c.take()
}

// multiplexes says that it speaks HTTP/2.
func (c *conn) multiplexes() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.http2 = true
	c.give()
}

// greeted notes that what has come of a connection with TLS was no header.
func greeted(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if c := connOf(hello.Conn); c != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.come = 0
		c.give()
	}
	return nil, nil
}

// connState follows a connection from call to call.
func (cs *Callers) connState(nc net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		cs.open.Inc()
	case http.StateClosed, http.StateHijacked:
		cs.open.Dec()
	}
	c := connOf(nc)
	if c == nil {
		return
	}
	var negotiated string
	t, secure := nc.(*tls.Conn)
	if secure && state == http.StateActive {
		negotiated = t.ConnectionState().NegotiatedProtocol
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tls, c.http2 = secure, c.http2 || negotiated == "h2"
	switch state {
	case http.StateIdle:
		c.idles()
	default:
		c.header = state == http.StateNew
		c.give()
	}
}

type connKey struct{}

func connContext(ctx context.Context, nc net.Conn) context.Context {
	if c := connOf(nc); c != nil {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, _ := nc.(*conn)
	return c
}
