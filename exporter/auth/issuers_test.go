package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// idp is an identity provider with the Ed25519 key "good", which answers with what
// it is told to.
type idp struct {
	jwk    string // its public key
	answer atomic.Value
	url    string
	token  string // of the account acme
}

func newIDP(t *testing.T) *idp {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &idp{jwk: fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":"good","alg":"EdDSA","use":"sig","x":%q}`, base64.RawURLEncoding.EncodeToString(public))}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, p.answer.Load())
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": "idp", "aud": "exports", "account": "acme", "exp": time.Now().Add(24 * time.Hour).Unix()})
	tok.Header["kid"] = "good"
	if p.token, err = tok.SignedString(private); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *idp) authority(t *testing.T, now func() time.Time) *Authority {
	t.Helper()
	return p.authorityBy(t, nil, now)
}

// authorityBy reads the keys with a client.
func (p *idp) authorityBy(t *testing.T, client *http.Client, now func() time.Time) *Authority {
	t.Helper()
	a, err := New(Config{
		HTTP:    client,
		Keys:    []Key{{"k", []byte(strings.Repeat("k", 32))}},
		Issuers: []Issuer{{Name: "idp", JWKSURL: p.url, Audience: "exports", AccountClaim: "account", Algorithms: []string{"EdDSA"}}},
		Now:     now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// held keeps requests back until it is told to let them go.
type held struct {
	http.RoundTripper
	hold  atomic.Bool
	asked chan struct{}
	goOn  chan struct{}
}

func (h *held) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.hold.Load() {
		h.asked <- struct{}{}
		<-h.goOn
	}
	return h.RoundTripper.RoundTrip(r)
}

// While an issuer does not answer, tokens whose key is known are verified, and who has
// to wait does so no longer than it likes.
func TestAnIssuerThatHangs(t *testing.T) {
	p, start, passed := newIDP(t), time.Now(), new(atomic.Int64)
	p.answer.Store(`{"keys":[` + p.jwk + `]}`)
	h := &held{RoundTripper: http.DefaultTransport, asked: make(chan struct{}), goOn: make(chan struct{})}
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	a := p.authorityBy(t, &http.Client{Transport: h}, func() time.Time { return start.Add(time.Duration(passed.Load())) })
	if _, err := a.Verify(t.Context(), p.token); err != nil {
		t.Fatal(err)
	}
	forged := unknown(t, "bad")
	verify := func(ctx context.Context, token string) chan error {
		out := make(chan error, 1)
		go func() {
			_, err := a.Verify(ctx, token)
			out <- err
		}()
		return out
	}
	within := func(what string, c chan error, want error) {
		t.Helper()
		late := time.NewTimer(30 * time.Second)
		defer late.Stop()
		select {
		case err := <-c:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		case <-late.C:
			t.Fatalf("%s waits for the issuer", what)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	h.hold.Store(true)
	passed.Add(int64(jwksMinAge))
	reader := verify(t.Context(), forged)
	<-h.asked
	within("a token whose key is known", verify(t.Context(), p.token), nil)
	within("who has gone", verify(gone, forged), context.Canceled)
	waiter := verify(t.Context(), forged)
	h.goOn <- struct{}{}
	// Held back for longer than reading may take, it may have failed.
	for _, c := range []chan error{reader, waiter} {
		if err := <-c; !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrUnavailable) {
			t.Errorf("an unknown key: %v", err)
		}
	}

	// The keys are old, and reading them anew has failed: they count until it succeeds.
	h.hold.Store(false)
	p.answer.Store(`no keys`)
	passed.Add(int64(jwksMaxAge))
	within("a token whose key is old", verify(t.Context(), p.token), nil)
	h.hold.Store(true)
	passed.Add(int64(jwksMinAge))
	reader = verify(t.Context(), p.token)
	<-h.asked
	within("a token whose old key cannot be had anew", verify(t.Context(), p.token), nil)
	h.goOn <- struct{}{}
	within("who has tried", reader, nil)
}

// What https protects is not given away by a redirect.
func TestNoRedirectLeavesHTTPS(t *testing.T) {
	p := newIDP(t)
	p.answer.Store(`{"keys":[` + p.jwk + `]}`)
	to := new(atomic.Value)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			_, _ = fmt.Fprint(w, p.answer.Load())
			return
		}
		http.Redirect(w, r, to.Load().(string), http.StatusFound)
	}))
	t.Cleanup(srv.Close)
	plain := p.url
	p.url = srv.URL
	for target, want := range map[string]error{plain: ErrUnavailable, srv.URL + "/keys": nil, srv.URL: ErrUnavailable} {
		to.Store(target)
		if _, err := p.authorityBy(t, srv.Client(), nil).Verify(t.Context(), p.token); !errors.Is(err, want) {
			t.Errorf("redirected to %s: %v, want %v", target, err, want)
		}
	}
}

// An issuer may have keys of kinds that are not known here, for others than us.
func TestUnknownKeysAreIgnored(t *testing.T) {
	p := newIDP(t)
	for name, other := range map[string]string{
		"type":       `{"kty":"AKP","kid":"other","alg":"ML-DSA-44","pub":"AAAA"}`,
		"curve":      `{"kty":"OKP","crv":"Ed448","kid":"other","x":"AAAA"}`,
		"EC curve":   `{"kty":"EC","crv":"secp256k1","kid":"other","x":"AAAA","y":"AAAA"}`,
		"same id":    `{"kty":"AKP","kid":"good","alg":"ML-DSA-44","pub":"AAAA"}`,
		"no id":      `{"kty":"AKP","pub":"AAAA"}`,
		"not a key":  `7`,
		"id is none": `{"kty":"OKP","kid":7}`,
	} {
		p.answer.Store(`{"keys":[` + other + `,` + p.jwk + `,` + other + `]}`)
		if who, err := p.authority(t, nil).Verify(t.Context(), p.token); err != nil || who.Account != "acme" {
			t.Errorf("unknown %s: %v, %v", name, who, err)
		}
	}
}

// What is no key set, although it came with 200, says nothing about keys: those
// that were read before stay. An empty set takes all away.
func TestAnAnswerWithoutKeys(t *testing.T) {
	p, now := newIDP(t), time.Now()
	p.answer.Store(`{}`)
	a := p.authority(t, func() time.Time { return now })
	if _, err := a.Verify(t.Context(), p.token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("before there were any: %v", err)
	}
	for _, c := range []struct {
		answer string
		want   error
	}{
		{`{"keys":[` + p.jwk + `]}`, nil},
		{`{"message":"maintenance"}`, nil},
		{`{"keys":null}`, nil},
		{`{"keys":[{"kty":"AKP"},7]}`, nil},
		{`{"keys":[]}`, ErrInvalid},
	} {
		p.answer.Store(c.answer)
		now = now.Add(jwksMaxAge)
		if _, err := a.Verify(t.Context(), p.token); !errors.Is(err, c.want) {
			t.Errorf("after %s: %v, want %v", c.answer, err, c.want)
		}
	}
}

// roundTrips is a transport made of a function.
type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answers is a client that counts its requests and gets an answer without a server.
func answers(asked *atomic.Int64, code int, body string) *http.Client {
	return &http.Client{Transport: roundTrips(func(r *http.Request) (*http.Response, error) {
		asked.Add(1)
		return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}
}

// unknown makes a token whose key the issuer does not have.
func unknown(t *testing.T, kid string) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": "idp", "aud": "exports", "account": "acme", "exp": time.Now().Add(time.Hour).Unix()})
	tok.Header["kid"] = kid
	s, err := tok.SignedString(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Who makes up key ids does not make us ask the issuer for each of them.
func TestUnknownKeyIDsAreAskedForNowAndThen(t *testing.T) {
	p, now, asked := newIDP(t), time.Now(), new(atomic.Int64)
	a := p.authorityBy(t, answers(asked, 200, `{"keys":[`+p.jwk+`]}`), func() time.Time { return now })
	for _, c := range []struct {
		after time.Duration
		kid   string
		asked int64 // by then
	}{
		{0, "one", 1}, {0, "two", 1}, {jwksMinAge - 1, "three", 1}, {1, "four", 2}, {jwksMinAge - 1, "five", 2},
	} {
		now = now.Add(c.after)
		if _, err := a.Verify(t.Context(), unknown(t, c.kid)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", c.kid, err)
		}
		if n := asked.Load(); n != c.asked {
			t.Errorf("behind key id %s the issuer was asked %d times, want %d", c.kid, n, c.asked)
		}
	}
}

// The keys are read for everybody: that the caller who brought the first token has gone
// fails neither the reading nor those who wait for it.
func TestACallerThatGoesSpoilsNoReading(t *testing.T) {
	p := newIDP(t)
	p.answer.Store(`{"keys":[` + p.jwk + `]}`)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var asked atomic.Int64
	a := p.authorityBy(t, &http.Client{Transport: roundTrips(func(r *http.Request) (*http.Response, error) {
		asked.Add(1)
		cancel() // the caller goes while the request is on its way
		return http.DefaultTransport.RoundTrip(r)
	})}, nil)
	_, _ = a.Verify(ctx, p.token) // nobody is there to hear what comes of it
	if _, err := a.Verify(t.Context(), p.token); err != nil || asked.Load() != 1 {
		t.Errorf("the next caller: %v, after %d requests", err, asked.Load())
	}
}

// What an issuer says along with an error is no key set, whatever it looks like, and
// neither is what is larger than any.
func TestAnswersThatAreNotTaken(t *testing.T) {
	p := newIDP(t)
	keys := `{"keys":[` + p.jwk + `]}`
	padded := func(n int) string { return keys + strings.Repeat(" ", n-len(keys)) }
	for _, c := range []struct {
		name, body string
		code       int
		want       error
	}{
		{"200", keys, 200, nil},
		{"203", keys, 203, ErrUnavailable},
		{"404", keys, 404, ErrUnavailable},
		{"500", keys, 500, ErrUnavailable},
		{"as large as may be", padded(jwksMaxBytes), 200, nil},
		{"too large", padded(jwksMaxBytes + 1), 200, ErrUnavailable},
		{"much too large", padded(3 * jwksMaxBytes), 200, ErrUnavailable},
	} {
		a := p.authorityBy(t, answers(new(atomic.Int64), c.code, c.body), nil)
		if _, err := a.Verify(t.Context(), p.token); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
