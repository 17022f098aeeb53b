package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// The SASL mechanisms that can be configured.
const (
	SASLPlain       = "PLAIN"
	SASLScram256    = "SCRAM-SHA-256"
	SASLScram512    = "SCRAM-SHA-512"
	SASLOAuthBearer = "OAUTHBEARER"
)

// Secret is a string that never prints itself: not with fmt, not with slog, not
// as JSON. Convert it to string where it is used.
type Secret string

const redacted = "[secret]"

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the value from slog and encoding/json.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Resolve returns the secret itself, or what stands in file where the secret is
// empty; surrounding white space of a file is dropped. Naming both is an error,
// as nobody could tell which of the two counts.
func (s Secret) Resolve(file string) (string, error) {
	if file == "" {
		return string(s), nil
	}
	if s != "" {
		return "", errors.New("a secret and a file for it are both set; set one of them")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "", fmt.Errorf("the secret file %s is empty", file)
	}
	return string(b), nil
}

// Config says how to reach a Kafka cluster. The zero value of everything but
// Brokers is a connection without TLS and without authentication. All files are
// read again for every connection, so that what is renewed needs no restart.
type Config struct {
	Brokers  []string // host:port, at least one
	ClientID string   // shown in the brokers' logs and quotas; default "lockstitch"

	TLS           bool   // implied by any of the files
	TLSCAFile     string // PEM; default: the system's roots
	TLSCertFile   string // PEM; with TLSKeyFile: mutual TLS
	TLSKeyFile    string
	TLSServerName string // default: the host of each broker's address

	SASLMechanism string // one of the SASL constants; empty: none
	Username      string
	Password      Secret
	PasswordFile  string

	// OAUTHBEARER takes its token from a file or from a token endpoint by the
	// client-credentials grant (RFC 6749, 4.4).
	OAuthTokenFile        string
	OAuthTokenURL         string
	OAuthClientID         string
	OAuthClientSecret     Secret
	OAuthClientSecretFile string
	OAuthScopes           []string
}

// renewing is why a file or a token endpoint cannot be used for a connection, although it
// could when the client was made. Somebody may just renew it: clients try again, as they
// do where connections are refused.
type renewing struct{ error }

func (r renewing) Unwrap() error { return r.error }

// Temporary is what the client library asks errors of connections.
func (renewing) Temporary() bool { return true }

// MaxBatchBytes bounds what a batch that is fetched may unpack to: brokers bound it as
// it is packed alone, and of a text that repeats itself some kB are a GiB. Zstandard's
// window is bounded with it, and has 128 MiB at its highest level, whatever is in it.
const MaxBatchBytes = 128 << 20

// Opts turns the configuration into client options. Files are read here too, so
// that a missing one is found before anything starts. Errors name the file or
// the setting, never a secret.
func (c Config) Opts() ([]kgo.Opt, error) {
	if len(c.Brokers) == 0 {
		return nil, errors.New("kafka: no brokers are configured")
	}
	for _, b := range c.Brokers {
		if err := checkAddress(b); err != nil {
			return nil, fmt.Errorf("kafka: broker %q: %w", b, err)
		}
	}
	id := c.ClientID
	if id == "" {
		id = "lockstitch"
	}
	opts := []kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID(id),
		// The library's metrics for brokers (KIP-714) were seen to ask for their
		// subscription again and again without a pause, after a time away.
		kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(retryAfter),
		// For so long after a look at the metadata the library does not look again,
		// also when a broker says that it leads a partition no more. Its own 5 s are
		// those that a call waits for.
		kgo.MetadataMinAge(500 * time.Millisecond),
		kgo.MaxDecompressBatchBytes(MaxBatchBytes),
		// An answer brings a batch whole, however large it is, and others beside it.
		kgo.BrokerMaxReadBytes(MaxBatchBytes + 64<<20),
		kgo.RequestRetries(1000), // the library's limit of 30 s decides
	}
	if _, err := c.tlsConfig(); err != nil {
		return nil, fmt.Errorf("kafka TLS: %w", err)
	}
	opts = append(opts, kgo.Dialer(dialer(c.tlsConfig)))
	m, err := c.mechanism()
	if err != nil {
		return nil, fmt.Errorf("kafka SASL: %w", err)
	}
	if m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

// retryAfter is how long a client waits after so many failures in a row, about
// 250 ms, 500 ms and then 1 s. The library's own way goes up to 5 s, and for so
// long brokers that are back would be known to some clients of a replica and not
// to others: a call whose end is known, but not reached, would be refused.
func retryAfter(fails int) time.Duration {
	after := 250 * time.Millisecond << min(max(fails-1, 0), 2)
	return time.Duration(float64(after) * (0.8 + 0.4*rand.Float64()))
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("want host:port")
	}
	if n, err := strconv.Atoi(port); host == "" || err != nil || n < 1 || n > 65535 {
		return errors.New("want host:port with a port of 1..65535")
	}
	return nil
}

// Encrypted tells whether TLS is spoken with the brokers.
func (c Config) Encrypted() bool {
	return c.TLS || c.TLSCAFile != "" || c.TLSCertFile != "" || c.TLSKeyFile != ""
}

// tlsConfig is nil where TLS is not wanted.
func (c Config) tlsConfig() (*tls.Config, error) {
	if !c.Encrypted() {
		return nil, nil
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.TLSCAFile != "" {
		pem, err := os.ReadFile(c.TLSCAFile)
		if err != nil {
			return nil, err
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", c.TLSCAFile)
		}
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		return nil, errors.New("a client certificate needs both its certificate and its key file")
	}
	if c.TLSCertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", c.TLSCertFile, c.TLSKeyFile, err)
		}
		// Whatever authorities the broker names.
		tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return tc, nil
}

func (c Config) mechanism() (sasl.Mechanism, error) {
	switch strings.ToUpper(c.SASLMechanism) {
	case "":
		return nil, nil
	case SASLPlain, SASLScram256, SASLScram512:
	case SASLOAuthBearer:
		return c.oauth()
	default:
		return nil, fmt.Errorf("mechanism %q is not one of %s, %s, %s, %s",
			c.SASLMechanism, SASLPlain, SASLScram256, SASLScram512, SASLOAuthBearer)
	}
	pass, err := c.Password.Resolve(c.PasswordFile)
	if err != nil {
		return nil, err
	}
	if c.Username == "" || pass == "" {
		return nil, fmt.Errorf("%s needs a user name and a password", c.SASLMechanism)
	}
	switch strings.ToUpper(c.SASLMechanism) {
	case SASLPlain:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := secretNow(c.Password, c.PasswordFile)
			return plain.Auth{User: c.Username, Pass: pass}, err
		}), nil
	case SASLScram256:
		return scram.Sha256(c.scram), nil
	default:
		return scram.Sha512(c.scram), nil
	}
}

func (c Config) scram(context.Context) (scram.Auth, error) {
	pass, err := secretNow(c.Password, c.PasswordFile)
	return scram.Auth{User: c.Username, Pass: pass}, err
}

// secretNow resolves a secret for a connection.
func secretNow(s Secret, file string) (string, error) {
	value, err := s.Resolve(file)
	if err != nil {
		return "", renewing{err}
	}
	return value, nil
}

func (c Config) oauth() (sasl.Mechanism, error) {
	if (c.OAuthTokenFile == "") == (c.OAuthTokenURL == "") {
		return nil, fmt.Errorf("%s needs either a token file or a token URL", SASLOAuthBearer)
	}
	if c.OAuthTokenFile != "" {
		read := func(context.Context) (oauth.Auth, error) {
			token, err := secretNow("", c.OAuthTokenFile)
			return oauth.Auth{Token: token}, err
		}
		if _, err := read(context.Background()); err != nil {
			return nil, err
		}
		return oauth.Oauth(read), nil
	}
	secret, err := c.OAuthClientSecret.Resolve(c.OAuthClientSecretFile)
	if err != nil {
		return nil, err
	}
	if c.OAuthClientID == "" || secret == "" {
		return nil, errors.New("a token URL needs a client id and a client secret")
	}
	// The source caches the token and renews it shortly before it expires. All new
	// connections wait for that.
	src := oauth2.ReuseTokenSource(nil, &tokens{c, clientcredentials.Config{
		ClientID: c.OAuthClientID, TokenURL: c.OAuthTokenURL, Scopes: c.OAuthScopes,
	}})
	return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
		t, err := src.Token()
		if err != nil {
			return oauth.Auth{}, passing(fmt.Errorf("asking %s for a token: %w", c.OAuthTokenURL, err))
		}
		return oauth.Auth{Token: t.AccessToken}, nil
	}), nil
}

// passing marks what a token endpoint is not to blame for for long: that it cannot be
// reached, 5xx and 429. What it says of the client stays an answer.
func passing(err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response != nil && refused.Response.StatusCode < 500 && refused.Response.StatusCode != http.StatusTooManyRequests {
		return err
	}
	return renewing{err}
}

// tokens asks the token endpoint. One caller at a time.
type tokens struct {
	c   Config
	ask clientcredentials.Config // remembers how the endpoint wants the secret sent
}

func (t *tokens) Token() (_ *oauth2.Token, err error) {
	if t.ask.ClientSecret, err = secretNow(t.c.OAuthClientSecret, t.c.OAuthClientSecretFile); err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: dialTimeout, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the secret is for the endpoint that was named
	}}
	token, err := t.ask.Token(context.WithValue(context.Background(), oauth2.HTTPClient, client))
	if err == nil && token.Expiry.IsZero() {
		token.Expiry = expiry(token.AccessToken)
	}
	return token, err
}

// expiry is when to ask for another token if the endpoint did not say how long this
// one lives, which RFC 6749 (5.1) only recommends: it would be used for ever.
func expiry(token string) time.Time {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err == nil && claims.ExpiresAt != nil {
		return claims.ExpiresAt.Time
	}
	return time.Now().Add(time.Minute)
}
