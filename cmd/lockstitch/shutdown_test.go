package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A replica that is asked to stop finishes the downloads that have begun, and
// takes on nothing else. The file is larger than what sockets hold, so that most
// of it is sent after the replica began to stop.
func TestShutdownFinishesADownload(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	cl, err := sampleClient([]kgo.Opt{kgo.SeedBrokers(y.b.addr)})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	rng, n := rand.New(rand.NewPCG(1, 2)), 0
	if err := produceAll(ctx, cl, func() *kgo.Record {
		if n++; n > 100 {
			return nil
		}
		noise := make([]byte, 150_000) // of which compression leaves half
		for i := range noise {
			noise[i] = hexDigits[rng.IntN(16)]
		}
		return &kgo.Record{Topic: y.s.Topics.Events[0], Key: profileKey(n), Value: fmt.Appendf(nil,
			`{"correlation_id":"%d","type":"SENT","account_id":"demo","section":"s","server_time":1790000000000,"subject":"%s"}`, n, noise)}
	}); err != nil {
		t.Fatal(err)
	}
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	st := completed(ctx, t, x)
	if *st.Bytes < 6<<20 {
		t.Fatalf("the file has only %d bytes", *st.Bytes)
	}

	small := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		}
		return c, err
	}}
	defer small.CloseIdleConnections()
	resp, err := (&http.Client{Transport: small}).Get(st.FileDownloadURL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	h := sha256.New()
	if _, err := io.CopyN(h, resp.Body, 1000); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		y.stop()
	}()
	<-y.r.stopping
	for { // until it takes no new connections
		c, err := net.DialTimeout("tcp", y.r.api.Addr().String(), time.Second)
		if err != nil {
			break
		}
		c.Close()
		if ctx.Err() != nil {
			t.Fatal("the API still takes connections")
		}
	}
	if status, body := y.admin("/readyz"); status != 503 || body != "shutting down\n" {
		t.Errorf("/readyz: %d %s", status, body)
	}
	y.awaitMetrics("lockstitch_ready 0")
	select {
	case <-stopped:
		t.Fatal("the replica did not wait for the download")
	default:
	}
	if _, err := io.Copy(h, resp.Body); err != nil || hex.EncodeToString(h.Sum(nil)) != st.SHA256 {
		t.Errorf("the download was cut off: %v", err)
	}
	<-stopped
}
