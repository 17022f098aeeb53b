package kafka

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
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"lockstitch/internal/bubble"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConfigRefuses(t *testing.T) {
	empty := write(t, "empty", " \n")
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no brokers":         {Config{}, "no brokers"},
		"no port":            {Config{Brokers: []string{"a"}}, `"a"`},
		"port 0":             {Config{Brokers: []string{"a:0"}}, "1..65535"},
		"mechanism":          {Config{SASLMechanism: "GSSAPI"}, "GSSAPI"},
		"no password":        {Config{SASLMechanism: SASLPlain, Username: "u"}, "password"},
		"two passwords":      {Config{SASLMechanism: SASLPlain, Username: "u", Password: "hush", PasswordFile: empty}, "both"},
		"empty password":     {Config{SASLMechanism: SASLScram256, Username: "u", PasswordFile: empty}, "empty"},
		"no password file":   {Config{SASLMechanism: SASLScram512, Username: "u", PasswordFile: "/does/not/exist"}, "/does/not/exist"},
		"oauth without":      {Config{SASLMechanism: SASLOAuthBearer}, "either"},
		"oauth both":         {Config{SASLMechanism: SASLOAuthBearer, OAuthTokenFile: empty, OAuthTokenURL: "http://x"}, "either"},
		"oauth no client":    {Config{SASLMechanism: SASLOAuthBearer, OAuthTokenURL: "http://x"}, "client id"},
		"certificate alone":  {Config{TLSCertFile: empty}, "both"},
		"authority not PEM":  {Config{TLSCAFile: empty}, "no PEM"},
		"authority missing":  {Config{TLSCAFile: "/does/not/exist"}, "/does/not/exist"},
		"certificate broken": {Config{TLSCertFile: empty, TLSKeyFile: empty}, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "no brokers" && tc.cfg.Brokers == nil {
				tc.cfg.Brokers = []string{"localhost:9092"}
			}
			_, err := tc.cfg.Opts()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want an error with %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Fatalf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	cfg := Config{Password: "hush", OAuthClientSecret: "hush"}
	j, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(cfg), fmt.Sprintf("%+v", cfg), fmt.Sprintf("%#v", cfg), fmt.Sprintf("%q", cfg.Password), string(j)} {
		if strings.Contains(s, "hush") {
			t.Errorf("shown: %s", s)
		}
	}
}

// ping asks the cluster something; it needs a working connection.
func ping(t *testing.T, cfg Config) error {
	t.Helper()
	opts, err := cfg.Opts()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, kgo.RetryTimeout(2*time.Second))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	return cl.Ping(ctx)
}

func TestSASLAgainstABroker(t *testing.T) {
	for _, m := range []string{SASLPlain, SASLScram256, SASLScram512} {
		t.Run(m, func(t *testing.T) {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser(m, "u", "right"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			cfg := Config{Brokers: c.ListenAddrs(), SASLMechanism: strings.ToLower(m), Username: "u", PasswordFile: write(t, "password", "right\n")}
			if err := ping(t, cfg); err != nil {
				t.Fatal(err)
			}
			cfg.PasswordFile, cfg.Password = "", "wrong"
			if err := ping(t, cfg); err == nil {
				t.Fatal("a wrong password was accepted")
			}
		})
	}
}

func TestOAuthTokens(t *testing.T) {
	cfg := Config{Brokers: []string{"localhost:9092"}, SASLMechanism: SASLOAuthBearer, OAuthTokenFile: write(t, "token", "from-file\n")}
	initial := func(cfg Config) string {
		t.Helper()
		m, err := cfg.mechanism()
		if err != nil {
			t.Fatal(err)
		}
		_, first, err := m.Authenticate(t.Context(), "localhost:9092")
		if err != nil {
			t.Fatal(err)
		}
		return string(first)
	}
	if got := initial(cfg); !strings.Contains(got, "auth=Bearer from-file\x01") {
		t.Errorf("first message %q", got)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("grant_type") != "client_credentials" {
			http.Error(w, "bad grant", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"from-url","token_type":"Bearer","expires_in":3600}`)
	}))
	defer srv.Close()
	cfg.OAuthTokenFile, cfg.OAuthTokenURL, cfg.OAuthClientID, cfg.OAuthClientSecret = "", srv.URL, "id", "hush"
	if got := initial(cfg); !strings.Contains(got, "auth=Bearer from-url\x01") {
		t.Errorf("first message %q", got)
	}
}

// TestSecretsAreReadForEverySession: each file in its mechanism, by what a session
// begins with. One that cannot be read is an error that names it and that the client
// takes for one that passes.
func TestSecretsAreReadForEverySession(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"for-%s","token_type":"Bearer","expires_in":1}`, secret)
	}))
	defer srv.Close()
	file := write(t, "secret", "one\n")
	for name, cfg := range map[string]Config{
		"password":      {SASLMechanism: SASLPlain, Username: "u", PasswordFile: file},
		"token":         {SASLMechanism: SASLOAuthBearer, OAuthTokenFile: file},
		"client secret": {SASLMechanism: SASLOAuthBearer, OAuthTokenURL: srv.URL, OAuthClientID: "id", OAuthClientSecretFile: file},
	} {
		t.Run(name, func(t *testing.T) {
			put := func(content string) {
				t.Helper()
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			put("one\n")
			m, err := cfg.mechanism()
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"one", "two"} {
				put(secret + "\n")
				if _, first, err := m.Authenticate(t.Context(), "broker:9092"); err != nil || !strings.Contains(string(first), secret) {
					t.Errorf("a session begins with %q, %v; want %s", first, err, secret)
				}
			}
			put("")
			_, _, err = m.Authenticate(t.Context(), "broker:9092")
			var passes interface{ Temporary() bool }
			if err == nil || !strings.Contains(err.Error(), file) || !errors.As(err, &passes) || !passes.Temporary() {
				t.Errorf("of an empty file: %v", err)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestTokenEndpointHangs: a request for a token that is never answered holds up no
// connection for good.
func TestTokenEndpointHangs(t *testing.T) {
	hangs := true
	usual := http.DefaultTransport
	defer func() { http.DefaultTransport = usual }()
	http.DefaultTransport = roundTripper(func(r *http.Request) (*http.Response, error) {
		if hangs {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"x","token_type":"bearer","expires_in":3600}`)
		return w.Result(), nil
	})
	bubble.Test(t, func(t *testing.T) {
		m, err := Config{OAuthTokenURL: "http://tokens.example", OAuthClientID: "a", OAuthClientSecret: "b", SASLMechanism: SASLOAuthBearer}.mechanism()
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		// The client of the endpoint tries both ways to send the secret.
		if _, _, err := m.Authenticate(t.Context(), "broker"); err == nil || time.Since(began) > 2*dialTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		hangs = false
		if _, _, err := m.Authenticate(t.Context(), "broker"); err != nil {
			t.Errorf("the next connection: %v", err)
		}
	})
}

// TestTokenEndpointIsAway for a moment: the client takes that for something that passes,
// and what the endpoint says of its id and secret for an answer.
func TestTokenEndpointIsAway(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer srv.Close()
	ask := func() error {
		m, err := Config{OAuthTokenURL: srv.URL, OAuthClientID: "a", OAuthClientSecret: "b", SASLMechanism: SASLOAuthBearer}.mechanism()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = m.Authenticate(t.Context(), "broker")
		return err
	}
	passes := func(err error) bool {
		var temporary interface{ Temporary() bool }
		return errors.As(err, &temporary) && temporary.Temporary()
	}
	for code, want := range map[int]bool{http.StatusUnauthorized: false, http.StatusBadRequest: false, http.StatusTooManyRequests: true, http.StatusServiceUnavailable: true} {
		status = code
		if err := ask(); err == nil || passes(err) != want {
			t.Errorf("%d: %v", status, err)
		}
	}
	srv.Close()
	if err := ask(); !passes(err) {
		t.Errorf("out of reach: %v", err)
	}
}

// TestTokenEndpointRedirects: whoever it leads to is not shown the client's secret, be it
// in the body, which 307 sends again. That is an answer, and not something that passes.
func TestTokenEndpointRedirects(t *testing.T) {
	var sentOn atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/other" {
			sentOn.Add(1)
		}
		http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	m, err := Config{OAuthTokenURL: srv.URL, OAuthClientID: "a", OAuthClientSecret: "b", SASLMechanism: SASLOAuthBearer}.mechanism()
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = m.Authenticate(t.Context(), "broker")
	var passes interface{ Temporary() bool }
	if err == nil || !strings.Contains(err.Error(), "307") || errors.As(err, &passes) && passes.Temporary() {
		t.Errorf("%v", err)
	}
	if n := sentOn.Load(); n > 0 {
		t.Errorf("%d requests were sent on", n)
	}
}

// TestTokensWithoutAnExpiry: of one whose endpoint does not say how long it lives, its
// own time counts, and a minute where it has none. Ten seconds before, another is asked for.
func TestTokensWithoutAnExpiry(t *testing.T) {
	usual := http.DefaultTransport
	defer func() { http.DefaultTransport = usual }()
	for name, c := range map[string]struct {
		token func() string
		lives time.Duration
	}{
		"opaque":             {func() string { return "x.y.z" }, time.Minute},
		"JWT without a time": {func() string { return signed(t, jwt.RegisteredClaims{Subject: "a"}) }, time.Minute},
		"JWT": {func() string {
			return signed(t, jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour))})
		}, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			http.DefaultTransport = roundTripper(func(*http.Request) (*http.Response, error) {
				asked++
				w := httptest.NewRecorder()
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":%q,"token_type":"bearer"}`, c.token())
				return w.Result(), nil
			})
			bubble.Test(t, func(t *testing.T) {
				m, err := Config{OAuthTokenURL: "http://tokens.example", OAuthClientID: "a", OAuthClientSecret: "b", SASLMechanism: SASLOAuthBearer}.mechanism()
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				for _, at := range []struct {
					after time.Duration
					asked int
				}{{0, 1}, {c.lives - 11*time.Second, 1}, {c.lives - 9*time.Second, 2}} {
					time.Sleep(time.Until(began.Add(at.after)))
					if _, _, err := m.Authenticate(t.Context(), "broker"); err != nil || asked != at.asked {
						t.Errorf("after %v asked %d times, want %d: %v", at.after, asked, at.asked, err)
					}
				}
			})
		})
	}
}

func signed(t *testing.T, claims jwt.Claims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestMutualTLSAgainstABroker(t *testing.T) {
	ca, certFile, keyFile, cert := authority(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	caFile := write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})))
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.TLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cfg := Config{Brokers: c.ListenAddrs(), TLSCAFile: caFile, TLSCertFile: certFile, TLSKeyFile: keyFile}
	if err := ping(t, cfg); err != nil {
		t.Fatal(err)
	}
	cfg.TLSCertFile, cfg.TLSKeyFile = "", ""
	if err := ping(t, cfg); err == nil {
		t.Fatal("a client without certificate was let in")
	}
}

// attempts are those of a client to connect, from when left is set.
type attempts struct {
	left  atomic.Int32
	made  chan struct{}         // closed when none is left
	cause atomic.Pointer[error] // why the last one failed that did
}

func (a *attempts) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		a.cause.Store(&err)
	}
	if a.left.Add(-1) == 0 {
		close(a.made)
	}
}

// renewed lets a client that has connected produce, for which it connects anew. The
// broker has been renewed by then, and the file is empty until after the second
// attempt. It returns why an attempt failed.
func renewed(t *testing.T, cfg Config, broker func(), file, content string) (cause error) {
	t.Helper()
	replace := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts, err := cfg.Opts()
	if err != nil {
		t.Fatal(err)
	}
	tries := &attempts{made: make(chan struct{})}
	cl, err := kgo.NewClient(append(opts, kgo.DefaultProduceTopic("t"), kgo.WithHooks(tries))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	broker()
	replace("")
	tries.left.Store(2)
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cl.Produce(ctx, kgo.StringRecord("v"), func(_ *kgo.Record, err error) { done <- err })
	<-tries.made
	replace(content)
	if err := <-done; err != nil {
		t.Errorf("after %s was renewed: %v", file, err)
	}
	if p := tries.cause.Load(); p != nil {
		cause = *p
	}
	return cause
}

// TestRenewedFiles: authority, client certificate and password are read again for
// every connection. While one is of no use, as in the middle of its renewal, the
// client tries again.
func TestRenewedFiles(t *testing.T) {
	for _, what := range []string{"authority", "client certificate"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			_, certFile, keyFile, server := authority(t)
			_, newCertFile, newKeyFile, newServer := authority(t)
			side := func(server tls.Certificate, clients string) *tls.Config {
				pool := x509.NewCertPool()
				pool.AppendCertsFromPEM([]byte(clients))
				return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
			}
			var now atomic.Pointer[tls.Config]
			now.Store(side(server, read(t, certFile)))
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.TLS(&tls.Config{
				MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil },
			}))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			both := write(t, "pair.pem", read(t, certFile)+read(t, keyFile))
			cfg := Config{Brokers: c.ListenAddrs(), TLSCAFile: write(t, "ca.pem", read(t, certFile)), TLSCertFile: both, TLSKeyFile: both}
			file, content, then := cfg.TLSCAFile, read(t, newCertFile), side(newServer, read(t, certFile))
			if what == "client certificate" {
				file, content, then = both, read(t, newCertFile)+read(t, newKeyFile), side(server, read(t, newCertFile))
			}
			if cause := renewed(t, cfg, func() { now.Store(then) }, file, content); cause == nil || !strings.Contains(cause.Error(), file) {
				t.Errorf("an attempt failed with %v, want the file named", cause)
			}
		})
	}
	for m, kind := range map[string]kadm.ScramMechanism{SASLScram256: kadm.ScramSha256, SASLScram512: kadm.ScramSha512} {
		t.Run(m, func(t *testing.T) {
			t.Parallel()
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"), kfake.EnableSASL(), kfake.Superuser(m, "u", "old"), kfake.Superuser(SASLPlain, "admin", "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			admin, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.SASL(plain.Auth{User: "admin", Pass: "x"}.AsMechanism()))
			if err != nil {
				t.Fatal(err)
			}
			defer admin.Close()
			cfg := Config{Brokers: c.ListenAddrs(), SASLMechanism: m, Username: "u", PasswordFile: write(t, "password", "old\n")}
			cause := renewed(t, cfg, func() {
				res, err := kadm.NewClient(admin).AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "u", Mechanism: kind, Iterations: 4096, Password: "new"}})
				if err != nil || !res.Ok() {
					t.Fatal(res, err)
				}
			}, cfg.PasswordFile, "new\n")
			if cause == nil || !strings.Contains(cause.Error(), cfg.PasswordFile) {
				t.Errorf("an attempt failed with %v, want the file named", cause)
			}
		})
	}
}

// authority makes a self-signed certificate that serves as authority, server
// and client.
func authority(t *testing.T) (ca *x509.Certificate, certFile, keyFile string, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	if ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kb})
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return ca, write(t, "cert.pem", string(certPEM)), write(t, "key.pem", string(keyPEM)), pair
}

// TestBrokersThatAreBackAreFound well within the five seconds that a call waits: the
// library's own pauses are as long.
func TestBrokersThatAreBackAreFound(t *testing.T) {
	opts, err := Config{Brokers: []string{"localhost:9092"}}.Opts()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if age := cl.OptValue(kgo.MetadataMinAge).(time.Duration); age > time.Second {
		t.Errorf("a client does not ask again who leads for %v", age)
	}
	for fails := range 100 {
		if after := retryAfter(fails); after <= 0 || after > 2*time.Second {
			t.Errorf("after %d failures a client waits for %v", fails, after)
		}
	}
}

// TestABatchMayUnpackToSoMuch: the bound reaches the clients; by the library's own a small
// batch takes a replica beyond its memory.
func TestABatchMayUnpackToSoMuch(t *testing.T) {
	opts, err := Config{Brokers: []string{"localhost:9092"}}.Opts()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if got := cl.OptValue(kgo.MaxDecompressBatchBytes); got != int32(MaxBatchBytes) && got != int64(MaxBatchBytes) && got != MaxBatchBytes {
		t.Errorf("%T %v, want %d", got, got, MaxBatchBytes)
	}
	// One that does not pack is as large in an answer: the client would refuse that again and
	// again, without a word of which partition it is.
	if got := cl.OptValue(kgo.BrokerMaxReadBytes).(int32); got < MaxBatchBytes+50<<20 {
		t.Errorf("an answer may have %d bytes", got)
	}
}
