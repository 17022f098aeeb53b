package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	rungroup "github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/exporter/api"
	"lockstitch/internal/bubble"
)

// pipes is a listener without a network, so that virtual time passes.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, syscall.ECONNREFUSED
	}
}

// After a signal calls are answered until load balancers know, those that wait among
// them, while the other parts end at once.
func TestCallsAreAnsweredForShutdownDelay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		listener := newPipes()
		r := &replica{s: new(Settings), log: slog.New(slog.DiscardHandler), reg: prometheus.NewRegistry(), callers: api.NewCallers(512<<20, nil)}
		r.api = r.callers.Listen(listener)
		r.s.Replica.ShutdownDelay, r.s.Replica.ShutdownTimeout = 5*time.Second, 10*time.Second
		defer r.close()
		r.serveAPI()
		r.server.answerWith(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/wait" {
				<-r.server.ending
			}
		}))
		stop, ended := make(chan struct{}), false
		var g rungroup.Group
		g.Add(func() error { <-stop; return nil }, func(error) {})
		r.addAPI(&g)
		r.addPart(&g, "consumer", func(ctx context.Context) error {
			<-ctx.Done()
			ended = true
			return nil
		})
		stopped := make(chan error, 1)
		go func() { stopped <- g.Run() }()

		get := func(path string) error {
			resp, err := (&http.Client{Transport: &http.Transport{DialContext: listener.dial, DisableKeepAlives: true}}).Get("http://x" + path)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		}
		synctest.Wait()
		begun := time.Now()
		close(stop)
		synctest.Wait()
		if !ended {
			t.Error("the consumer has not ended")
		}
		if err := get("/"); err != nil {
			t.Errorf("a call within the delay: %v", err)
		}
		if err := get("/wait"); err != nil || time.Since(begun) != 5*time.Second {
			t.Errorf("a call that waits: %v, after %s", err, time.Since(begun))
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := get("/"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a call after the delay: %v", err)
		}
	})
}

// A call that waits for a file of a rolling export is answered when the replica takes no
// more calls: not before, as the caller would come again at once, and not so late that it
// is cut off.
func TestWhoWaitsForAFileIsAnsweredAtTheEnd(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	const delay = 2 * time.Second
	y := pullingFrom(startSystem(t, t.TempDir(), func(s *Settings) { s.Replica.ShutdownDelay, s.Replica.ShutdownTimeout = delay, 10*time.Second }))
	y.must("create", "x", "--every", "P1D", "--start", "now")
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	if err := x.authorize(ctx); err != nil {
		t.Fatal(err)
	}
	asked, answered := make(chan struct{}), make(chan error, 1)
	wrote := sync.OnceFunc(func() { close(asked) })
	go func() {
		defer wrote()
		ctx := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { wrote() }})
		var page api.RollingFileList
		err := x.send(ctx, http.MethodGet, "/emails/rolling-exports/x/files?after=0&wait=50", "", "", &page)
		if err == nil && len(page.Items) > 0 {
			err = fmt.Errorf("there are files: %+v", page)
		}
		answered <- err
	}()
	<-asked
	begun, stopped := time.Now(), make(chan struct{})
	go func() {
		defer close(stopped)
		y.stop()
	}()
	if err := <-answered; err != nil || time.Since(begun) < delay {
		t.Errorf("%s after the end began: %v", time.Since(begun), err)
	}
	<-stopped
}

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
