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
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
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
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
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
	synctest.Test(t, func(t *testing.T) {
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
