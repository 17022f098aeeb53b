package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	endTxn   = 26
	maxFrame = 200 << 20
)

// kafkaProxy passes the frames of one broker's connections on.
type kafkaProxy struct {
	*faults
	name     string // target of "hold", which is told for each broker
	upstream string
	prefix   string
}

func (k *kafkaProxy) serve(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go k.connection(c)
	}
}

func (k *kafkaProxy) connection(client net.Conn) {
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	broker, err := new(net.Dialer).DialContext(ctx, "tcp", k.upstream)
	if err != nil {
		return
	}
	defer broker.Close()
	commits := &awaited{ids: make(map[int32]int16)}
	done := make(chan struct{}, 2)
	go func() { k.requests(broker, client, commits); done <- struct{}{} }()
	go func() { k.replies(client, broker, commits); done <- struct{}{} }()
	<-done
}

// awaited are the commits of a connection whose replies are due, by correlation
// id, with their version.
type awaited struct {
	mu  sync.Mutex
	ids map[int32]int16
}

func (k *kafkaProxy) requests(to io.Writer, from io.Reader, commits *awaited) {
	pass(to, from, func(frame []byte) bool {
		k.wait()
		if len(frame) >= 8 && binary.BigEndian.Uint16(frame) == endTxn && k.ours(frame) {
			commits.mu.Lock()
			commits.ids[int32(binary.BigEndian.Uint32(frame[4:]))] = int16(binary.BigEndian.Uint16(frame[2:]))
			commits.mu.Unlock()
		}
		return true
	})
}

// ours says whether an EndTxn request commits a transaction of whom we may hurt.
func (k *kafkaProxy) ours(frame []byte) bool {
	version := int16(binary.BigEndian.Uint16(frame[2:]))
	body := frame[8:]
	if len(body) < 2 {
		return false
	}
	if n := int16(binary.BigEndian.Uint16(body)); n >= 0 { // the client id
		if len(body) < 2+int(n) {
			return false
		}
		body = body[n:]
	}
	body = body[2:]
	req := kmsg.NewPtrEndTxnRequest()
	req.SetVersion(version)
	if req.IsFlexible() && len(body) > 0 {
		body = body[1:] // no tags
	}
	return req.ReadFrom(body) == nil && req.Commit && strings.HasPrefix(req.TransactionalID, k.prefix)
}

func (k *kafkaProxy) replies(to io.Writer, from io.Reader, commits *awaited) {
	pass(to, from, func(frame []byte) bool {
		k.wait()
		if len(frame) < 10 {
			return true
		}
		id := int32(binary.BigEndian.Uint32(frame))
		commits.mu.Lock()
		version, due := commits.ids[id]
		delete(commits.ids, id)
		commits.mu.Unlock()
		if !due {
			return true
		}
		resp := kmsg.NewPtrEndTxnResponse()
		resp.SetVersion(version)
		body := frame[4:]
		if resp.IsFlexible() {
			body = body[1:]
		}
		if resp.ReadFrom(body) != nil || resp.ErrorCode != 0 {
			return true
		}
		_, cut := k.strike("kafka", "", "endtxn")
		return !cut
	})
}

// wait lets nothing pass while the broker is held.
func (k *kafkaProxy) wait() {
	if !k.holding(k.name, "hold") {
		return
	}
	k.count(k.name + " hold")
	for k.holding(k.name, "hold") {
		time.Sleep(20 * time.Millisecond)
	}
}

// pass hands on whole frames until look refuses one or a side has ended.
func pass(to io.Writer, from io.Reader, look func(frame []byte) bool) {
	var size [4]byte
	for {
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > maxFrame {
			fmt.Println("a frame of", n, "bytes")
			return
		}
		frame := make([]byte, 4+int(n))
		copy(frame, size[:])
		if _, err := io.ReadFull(from, frame[4:]); err != nil {
			return
		}
		if !look(frame[4:]) {
			return
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}
