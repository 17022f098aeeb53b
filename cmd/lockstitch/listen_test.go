package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	rungroup "github.com/oklog/run"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/net/http2"

	"lockstitch/exporter/api"
	"lockstitch/internal/bubble"
)

// certificate writes a self-signed one for localhost and its key to the paths.
func certificate(t *testing.T, serial int64, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The API speaks HTTPS, export trusts it by --ca-file, and a renewed certificate
// counts without a restart; half a renewal does no harm.
func TestHTTPSWithARenewedCertificate(t *testing.T) {
	t.Parallel()
	ctx, dir := testContext(t), t.TempDir()
	cert, key := filepath.Join(dir, "c.pem"), filepath.Join(dir, "c.key")
	certificate(t, 1, cert, key)
	y := startSystem(t, t.TempDir(), func(s *Settings) { s.HTTP.TLSCertFile, s.HTTP.TLSKeyFile = cert, key })
	counts := y.produce(ctx, 16, 200)
	base := strings.Replace(y.r.localURL(), "127.0.0.1", "localhost", 1)
	text, _ := y.export(ctx, base, append([]string{"--ca-file", cert}, anything...)...)
	if strings.Count(text, "\n") < counts.Events {
		t.Errorf("%d lines of %d events", strings.Count(text, "\n"), counts.Events)
	}
	serial := func() int64 {
		t.Helper()
		c, err := tls.Dial("tcp", y.r.api.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if n := serial(); n != 1 {
		t.Errorf("certificate %d", n)
	}
	certificate(t, 2, cert, key)
	if n := serial(); n != 2 {
		t.Errorf("certificate %d after it was renewed", n)
	}
	certificate(t, 3, cert, filepath.Join(dir, "other.key"))
	if n := serial(); n != 2 {
		t.Errorf("certificate %d while it is renewed", n)
	}
	// What is older than TLS 1.2 is broken, and not spoken.
	for version, spoken := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		c, err := tls.Dial("tcp", y.r.api.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != spoken {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			c.Close()
		}
	}
}

// A replica that still starts is alive and not ready, and says so.
func TestAdminAnswersWhileStarting(t *testing.T) {
	r := &replica{s: &Settings{HTTP: HTTPSettings{Listen: "localhost:0", AdminListen: "localhost:0"}}, log: slog.New(slog.DiscardHandler),
		reg: prometheus.NewRegistry(), stopping: make(chan struct{}), ready: make(chan struct{})}
	defer r.close()
	if err := r.listen(); err != nil {
		t.Fatal(err)
	}
	r.serveAdmin()
	r.tellReady()
	y := &system{t: t, r: r}
	y.awaitMetrics("lockstitch_ready 0")
	if status, body := y.admin("/healthz"); status != 200 {
		t.Errorf("/healthz: %d %s", status, body)
	}
	if status, body := y.admin("/readyz"); status != 503 || !strings.Contains(body, "starting") {
		t.Errorf("/readyz: %d %s", status, body)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Who calls while a replica starts, which may take minutes, is told to come again, and
// answered on the same connection once it has started.
func TestAPIAnswersWhileStarting(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	silent, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := systemSettings(t, t.TempDir())
	s.Kafka.Brokers = []string{silent.Addr().String()}
	reached := make(chan string, 1) // the API's address, once a broker was asked
	go func() {
		c, err := silent.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 1))
		reached <- s.HTTP.PublicURL
		_, _ = io.Copy(io.Discard, c) // until the replica has given up
	}()
	failed := make(chan error, 1)
	go func() {
		_, err := openReplica(ctx, s, slog.New(slog.DiscardHandler))
		failed <- err
	}()
	comeAgain(t, <-reached)
	stop()
	if err := <-failed; err == nil {
		t.Error("it has started")
	}

	r := &replica{s: &Settings{HTTP: HTTPSettings{Listen: "localhost:0", AdminListen: "localhost:0"}}, log: slog.New(slog.DiscardHandler), reg: prometheus.NewRegistry()}
	r.s.Replica.MemoryLimit = 512 << 10 // one connection
	defer r.close()
	if err := r.listen(); err != nil {
		t.Fatal(err)
	}
	r.serveAPI()
	comeAgain(t, r.localURL())
	r.server.answerWith(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") }))
	resp, err := http.Get(r.localURL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(resp.Body); err != nil || string(said) != "here" {
		t.Errorf("%s, %v", said, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// comeAgain is answered as every call is that cannot be answered now.
func comeAgain(t *testing.T, address string) {
	t.Helper()
	resp, err := http.Get(address + "/emails/reports")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var p api.Problem
	if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Type != "/problems/unavailable" || p.Status != 503 || !strings.Contains(p.Detail, "starting") {
		t.Errorf("%+v, %v", p, err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	h := resp.Header
	if resp.StatusCode != 503 || h.Get("Retry-After") == "" || h.Get("Content-Type") != "application/problem+json" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %v", resp.StatusCode, h)
	}
}

// Of all connections that the API may have, each can be held by who has shown no
// credential. Who comes then waits for one to end, and the admin listener says so.
func TestConnectionsAreBounded(t *testing.T) {
	r := &replica{s: &Settings{HTTP: HTTPSettings{Listen: "localhost:0", AdminListen: "localhost:0"}}, log: slog.New(slog.DiscardHandler),
		reg: prometheus.NewRegistry(), stopping: make(chan struct{}), ready: make(chan struct{})}
	r.s.Replica.MemoryLimit, r.s.Replica.ShutdownTimeout = 1<<20, 10*time.Second // two connections
	defer r.close()
	if err := r.listen(); err != nil {
		t.Fatal(err)
	}
	r.serveAdmin()
	r.serveAPI()
	stop := make(chan struct{})
	var g rungroup.Group
	g.Add(func() error { <-stop; return nil }, func(error) {})
	r.addAPI(&g)
	stopped := make(chan error, 1)
	go func() { stopped <- g.Run() }()

	ask := func(request string) net.Conn {
		c, err := net.Dial("tcp", r.api.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprint(c, request); err != nil {
			t.Fatal(err)
		}
		return c
	}
	answered := func(c net.Conn, within time.Duration) error {
		if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Read(make([]byte, 4096))
		return err
	}
	const http1 = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	held := []net.Conn{ask(http1), ask(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")}
	for _, c := range held {
		if err := answered(c, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	third := ask(http1)
	if err := answered(third, 500*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one too many: %v", err)
	}
	y := &system{t: t, r: r}
	y.awaitMetrics("lockstitch_http_connections 2", "lockstitch_http_connections_limit 2")
	for _, c := range held {
		c.Close()
	}
	if err := answered(third, 30*time.Second); err != nil {
		t.Errorf("one of all has ended: %v", err)
	}
	y.awaitMetrics("lockstitch_http_connections 1")
	// A stop waits for nobody who was not let in.
	ask(http1)
	waiting := ask(http1)
	close(stop)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	waiting.Close()
	http.DefaultClient.CloseIdleConnections()
}

func TestReadyzWhenKafkaIsAway(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	listen := "--admin-listen=" + y.r.admin.Addr().String()
	<-y.r.ready
	if status, out, errs := command(ctx, nil, "healthcheck", listen); status != 0 || out != "ready\n" {
		t.Errorf("healthcheck: exit %d: %s%s", status, out, errs)
	}
	y.awaitMetrics("lockstitch_lane_ready") // without brokers the consumer would not have started
	y.b.cluster.Close()
	if status, body := y.admin("/readyz"); status != 503 || !strings.Contains(body, "catalog cannot be read") || !strings.Contains(body, y.b.addr) {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _, errs := command(ctx, nil, "healthcheck", listen); status != 1 || !strings.Contains(errs, "not ready: the catalog cannot be read") {
		t.Errorf("healthcheck: exit %d: %s", status, errs)
	}
	if status, _ := y.admin("/healthz"); status != 200 {
		t.Errorf("/healthz: %d", status)
	}
}

// The gauge follows what /readyz says, at once where a replica starts or stops.
func TestReadyIsTold(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ready := prometheus.NewGauge(prometheus.GaugeOpts{Name: "ready"})
		var why atomic.Value
		started, stopping := make(chan struct{}), make(chan struct{})
		why.Store("starting")
		var bg sync.WaitGroup
		bg.Go(func() {
			watchReady(ctx, ready, func(context.Context) string { return why.Load().(string) }, started, stopping)
		})
		told := func(when string, want float64) {
			t.Helper()
			synctest.Wait()
			if got := testutil.ToFloat64(ready); got != want {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
		}
		told("while it starts", 0)
		why.Store("")
		close(started)
		told("when it has started", 1)
		for _, c := range []struct {
			why  string
			want float64
		}{{"the reports cannot be read", 0}, {"", 1}} {
			why.Store(c.why)
			time.Sleep(readyEvery)
			told(fmt.Sprintf("%q", c.why), c.want)
		}
		why.Store("shutting down")
		close(stopping)
		told("when it stops", 0)
		cancel()
		bg.Wait()
	})
}

// offline has the brokers say that a partition is, to who asks for the end of the topic,
// until online is called.
func (y *system) offline(topic string, partition int32) (online func()) {
	var over atomic.Bool
	y.b.cluster.ControlKey(kmsg.ListOffsets.Int16(), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		y.b.cluster.KeepControl()
		req := kreq.(*kmsg.ListOffsetsRequest)
		if over.Load() || !slices.ContainsFunc(req.Topics, func(rt kmsg.ListOffsetsRequestTopic) bool { return rt.Topic == topic }) {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.Topics {
			st := kmsg.NewListOffsetsResponseTopic()
			st.Topic = rt.Topic
			for _, rp := range rt.Partitions {
				sp := kmsg.NewListOffsetsResponseTopicPartition() // all others are empty
				sp.Partition, sp.Timestamp, sp.LeaderEpoch, sp.Offset = rp.Partition, -1, 0, 0
				if rt.Topic == topic && rp.Partition == partition {
					sp.ErrorCode = kerr.KafkaStorageError.Code
				}
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	return func() { over.Store(true) }
}

// Every call may need the definitions and the reports: while either cannot be read up to
// its end a replica is not ready, and says which it is.
func TestReadyzWhileATopicOfOurOwnIsOffline(t *testing.T) {
	t.Parallel()
	y := startSystem(t, t.TempDir())
	<-y.r.ready
	y.awaitMetrics("lockstitch_lane_ready") // while it begins the consumer would end without the catalog
	for _, c := range []struct{ topic, says string }{
		{y.s.Topics.Catalog, "the catalog cannot be read"},
		{y.s.Topics.Definitions, "the definitions cannot be read"},
		{y.s.Topics.Reports, "the reports cannot be read"},
	} {
		online := y.offline(c.topic, 0)
		if status, body := y.admin("/readyz"); status != 503 || !strings.Contains(body, c.says) {
			t.Errorf("%s is offline: %d %s", c.topic, status, body)
		}
		online()
		if status, body := y.admin("/readyz"); status != 200 {
			t.Errorf("%s is back: %d %s", c.topic, status, body)
		}
	}
}

// While one partition of the events is offline no export can be requested, of any
// replica. They stay ready, as all other calls are answered.
func TestReadyzWhileAnEventPartitionIsOffline(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	events := y.s.Topics.Events[0]
	y.offline(events, 1)
	<-y.r.ready
	y.awaitMetrics("lockstitch_ready 1")
	if status, body := y.admin("/readyz"); status != 200 {
		t.Errorf("/readyz: %d %s", status, body)
	}
	x := &exportClient{url: y.r.localURL(), id: "demo", secret: "demo-secret"}
	if err := x.authorize(ctx); err != nil {
		t.Fatal(err)
	}
	for call, want := range map[string]int{"GET": 200, "POST": 503} {
		req, err := http.NewRequestWithContext(ctx, call, x.url+"/emails/reports", strings.NewReader(`{"after":"beginning"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+x.token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s /emails/reports: %d", call, resp.StatusCode)
		}
	}
}

func TestHealthcheckOfNobody(t *testing.T) {
	if status, _, errs := command(context.Background(), nil, "healthcheck", "--admin-listen", ":1"); status != 1 || !strings.Contains(errs, "refused") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if status, _, errs := command(context.Background(), []string{"LOCKSTITCH_ADMIN_LISTEN=nonsense"}, "healthcheck"); status != 2 || !strings.Contains(errs, "admin_listen") {
		t.Errorf("exit %d: %s", status, errs)
	}
}

// What is valid and rarely meant is said; what the URLs of stores get wrong is
// found without a connection; no secret shows anywhere.
func TestCheckConfigAdvisesAndLooksAtTheStore(t *testing.T) {
	const secret = "hush-0123456789abcdef0123456789abcdef"
	check := func(store string, more ...string) (int, string) {
		args := append([]string{"serve", "--check-config", "--brokers", "localhost:1", "--signing-keys", "k1:" + secret, "--store-url", store, "--data-dir", t.TempDir()}, more...)
		env := []string{"LOCKSTITCH_KAFKA_PASSWORD=" + secret, "LOCKSTITCH_KAFKA_USERNAME=u", "LOCKSTITCH_KAFKA_SASL_MECHANISM=SCRAM-SHA-512"}
		status, out, errs := command(t.Context(), env, args...)
		if strings.Contains(out+errs, "hush") {
			t.Errorf("a secret shows: %s%s", out, errs)
		}
		return status, out + errs
	}
	status, said := check("")
	for _, want := range []string{"store_url is not set", "public_url is not set", "nobody can call the API", "is valid"} {
		if status != 0 || !strings.Contains(said, want) {
			t.Errorf("exit %d: %q lacks %q", status, said, want)
		}
	}
	if status, said := check("s3://bucket?region=eu-north-1", "--public-url=https://x.example.com", "--clients=a:"+secret+":c"); status != 0 || said != "the configuration is valid\n" {
		t.Errorf("exit %d: %s", status, said)
	}
	status, said = check("s3://bucket?region=eu-north-1", "--public-url=http://x.example.com", "--issuer-jwks-url=http://id.example.com/keys", "--issuer=id", "--issuer-audience=x")
	for _, want := range []string{"issuer_jwks_url is plain http", "public_url is plain http", "is valid"} {
		if status != 0 || !strings.Contains(said, want) {
			t.Errorf("exit %d: %q lacks %q", status, said, want)
		}
	}
	// Of clients, those whose secret is short, wherever it comes from.
	clients := writeFile(t, "clients.yaml", "- {id: c4, secret_file: "+writeFile(t, "short", "hush\n")+", account: c}\n- {id: c5, secret_sha256: "+strings.Repeat("ab", 32)+", account: c}\n")
	status, said = check("s3://bucket?region=eu-north-1", "--public-url=https://x.example.com", "--clients=c1:hush-67890123456:c,c2:hush-6789éééé:c,c3:hush-6789012345:c", "--clients-file="+clients)
	if want := []string{"client=c2", "client=c3", "client=c4"}; status != 0 || !slices.Equal(regexp.MustCompile(`client=\S+`).FindAllString(said, -1), want) || strings.Count(said, "fewer than 16") != len(want) {
		t.Errorf("exit %d: %s; want %s", status, said, want)
	}
	dir := filepath.Join(t.TempDir(), "objects")
	if status, said := check("file://" + dir); status != 0 {
		t.Errorf("exit %d: %s", status, said)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("checking made the store's directory")
	}
	for _, url := range []string{"s3://bucket?regoin=hush", "s3://?region=hush", "s3://u:hush@bucket?use_path_style=maybe&x=hush",
		"file:relative", "file://host/directory", "file:///directory?x=hush"} {
		if status, said := check(url); status != 2 || !strings.Contains(said, "store_url") {
			t.Errorf("%s: exit %d: %s", url, status, said)
		}
		if status, said := check("", "--destinations=lake:acme:"+url); status != 2 || !strings.Contains(said, "lake") {
			t.Errorf("%s: exit %d: %s", url, status, said)
		}
	}
}

// So are settings for Kafka that protect nothing.
func TestCheckConfigAdvisesOnKafka(t *testing.T) {
	const none, plain, server = "nobody is authenticated", "password or token is sent", "kafka_tls_server_name does nothing"
	token := writeFile(t, "token", "hush")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	certificate(t, 1, ca, filepath.Join(t.TempDir(), "key.pem"))
	for _, c := range []struct {
		settings string
		want     []string
	}{
		{"", nil},
		{"kafka_username=u", []string{none}},
		{"kafka_password=hush", []string{none}},
		{"kafka_password_file=" + token, []string{none}},
		{"kafka_oauth_token_file=" + token, []string{none}},
		{"kafka_oauth_token_url=https://id.example.com", []string{none}},
		{"kafka_oauth_client_id=a", []string{none}},
		{"kafka_oauth_client_secret=hush", []string{none}},
		{"kafka_oauth_client_secret_file=" + token, []string{none}},
		{"kafka_oauth_scopes=a", []string{none}},
		{"kafka_sasl_mechanism=SCRAM-SHA-256 kafka_username=u kafka_password=hush", nil},
		{"kafka_sasl_mechanism=plain kafka_username=u kafka_password=hush", []string{plain}},
		{"kafka_sasl_mechanism=PLAIN kafka_username=u kafka_password=hush kafka_tls=true", nil},
		{"kafka_sasl_mechanism=PLAIN kafka_username=u kafka_password=hush kafka_tls_ca_file=" + ca, nil},
		{"kafka_sasl_mechanism=OAUTHBEARER kafka_oauth_token_file=" + token, []string{plain}},
		{"kafka_tls_server_name=kafka.internal", []string{server}},
		{"kafka_tls_server_name=kafka.internal kafka_tls=true", nil},
		{"kafka_username=u kafka_tls_server_name=kafka.internal", []string{none, server}},
	} {
		args := []string{"serve", "--check-config", "--brokers=kafka-1:9092", "--signing-keys=k1:0123456789abcdef0123456789abcdef", "--store-url=s3://bucket?region=eu-north-1",
			"--data-dir=" + t.TempDir(), "--public-url=https://x.example.com", "--clients=a:0123456789abcdef0123456789abcdef:c"}
		var env []string
		for _, s := range strings.Fields(c.settings) {
			name, value, _ := strings.Cut(s, "=")
			env = append(env, "LOCKSTITCH_"+strings.ToUpper(name)+"="+value)
		}
		status, out, errs := command(t.Context(), env, args...)
		if status != 0 || strings.Count(errs, "\n") != len(c.want) || strings.Contains(out+errs, "hush") {
			t.Errorf("%s: exit %d: %s%s", c.settings, status, out, errs)
		}
		for _, want := range c.want {
			if !strings.Contains(errs, want) {
				t.Errorf("%s: %q lacks %q", c.settings, errs, want)
			}
		}
	}
}

func TestShellWord(t *testing.T) {
	for word, want := range map[string]string{"a-b_c.csv": "a-b_c.csv", "": "''", "p w&d$x": "'p w&d$x'", "it's": `'it'\''s'`, "a\nb": "'a\nb'", "~": "'~'", "*": "'*'"} {
		if got := shellWord(word); got != want {
			t.Errorf("%q is written %s, want %s", word, got, want)
		}
	}
}

func TestWhatDevPrintsCanBePasted(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	ctx, stop := context.WithCancel(ctx)
	out := newWatch("or all of it in one command", stop)
	status := run(ctx, &app{out: out, err: newWatch("", nil)}, []string{"dev", "--data-dir", t.TempDir(), "--kafka-listen", "localhost:0", "--http-listen", "localhost:0",
		"--admin-listen", "localhost:0", "--client", "a b:it's $5:acme", "--client", "b:sha256:" + strings.Repeat("ab", 32) + ":acme"})
	want := fmt.Sprintf("--data-urlencode client_id=%s --data-urlencode client_secret=%s", `'a b'`, `'it'\''s $5'`)
	if status != 0 || !strings.Contains(out.text(), want) || !strings.Contains(out.text(), `--client-secret 'it'\''s $5'`) {
		t.Errorf("exit %d: %s", status, out.text())
	}
}
