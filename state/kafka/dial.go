package kafka

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	// failedDial is the least time that a dial takes that fails.
	failedDial = 100 * time.Millisecond
)

// Dial opens a connection to addr, host:port.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// FailSlowly makes a dial that fails take at least 100 ms, or until its context
// ends. The client library tries some requests again without a back-off when the
// brokers refuse connections, the adding of partitions to a transaction among
// them, which refused dials answer in microseconds.
func FailSlowly(dial Dial) Dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		least := time.NewTimer(failedDial)
		defer least.Stop()
		conn, err := dial(ctx, network, addr)
		if err != nil {
			select {
			case <-least.C:
			case <-ctx.Done():
			}
		}
		return conn, err
	}
}

// dialer dials brokers, with TLS as config says at that moment, without where it is
// nil; the name to verify is that of the address unless it has one.
func dialer(config func() (*tls.Config, error)) Dial {
	plain := &net.Dialer{Timeout: dialTimeout}
	return FailSlowly(func(ctx context.Context, network, addr string) (net.Conn, error) {
		tc, err := config()
		switch {
		case err != nil:
			return nil, fmt.Errorf("kafka TLS: %w", renewing{err})
		case tc == nil:
			return plain.DialContext(ctx, network, addr)
		}
		return (&tls.Dialer{NetDialer: plain, Config: tc}).DialContext(ctx, network, addr)
	})
}
