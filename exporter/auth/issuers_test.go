package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
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
	a, err := New(Config{
		Keys:    []Key{{"k", []byte(strings.Repeat("k", 32))}},
		Issuers: []Issuer{{Name: "idp", JWKSURL: p.url, Audience: "exports", AccountClaim: "account", Algorithms: []string{"EdDSA"}}},
		Now:     now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
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
