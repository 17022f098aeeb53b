package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lockstitch/exporter/auth"
)

func TestTokenCall(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) { c.Limits.TokensPerMinute = 1000 })
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"a"}, "client_secret": {"secret-a"}}
	a := r.do("POST", "/oauth/token", "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	var tok map[string]any
	a.json(t, &tok)
	if a.StatusCode != 200 || len(tok) != 3 || tok["expires_in"] != 86400.0 || tok["token_type"] != "Bearer" || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	if a := r.do("GET", "/emails/reports", "", "", "Authorization", "bearer "+tok["access_token"].(string)); a.StatusCode != 200 {
		t.Fatalf("the token of a form: %d", a.StatusCode)
	}
	wrong := r.do("POST", "/oauth/token", "", `{"grant_type":"client_credentials","client_id":"a","client_secret":"no"}`)
	unknown := r.do("POST", "/oauth/token", "", `{"grant_type":"client_credentials","client_id":"nobody","client_secret":"no"}`)
	r.problem(wrong, 401, "unauthorized")
	if string(wrong.body) != string(unknown.body) || wrong.Header.Get("WWW-Authenticate") != unknown.Header.Get("WWW-Authenticate") {
		t.Fatalf("%s tells from %s", wrong.body, unknown.body)
	}
	for name, c := range map[string][3]string{
		"grant":      {`{"grant_type":"password","client_id":"a","client_secret":"x"}`, "application/json", "/grant_type"},
		"no secret":  {`{"grant_type":"client_credentials","client_id":"a"}`, "application/json", "/client_secret"},
		"number":     {`{"grant_type":"client_credentials","client_id":1,"client_secret":"x"}`, "application/json", "/client_id"},
		"more":       {`{"grant_type":"client_credentials","client_id":"a","client_secret":"x","scope":"y"}`, "application/json", "/scope"},
		"form more":  {form.Encode() + "&scope=y", "application/x-www-form-urlencoded", "/scope"},
		"form twice": {form.Encode() + "&client_id=b", "application/x-www-form-urlencoded", "/client_id"},
		"form bad":   {"%zz", "application/x-www-form-urlencoded", ""},
	} {
		p := r.problem(r.do("POST", "/oauth/token", "", c[0], "Content-Type", c[1]), 400, "invalid-request")
		if p.Errors[0].Pointer != c[2] {
			t.Errorf("%s: %v", name, p.Errors)
		}
	}
	// The longest credentials, each byte of them escaped, and no more.
	long := url.Values{"grant_type": {"client_credentials"}, "client_id": {strings.Repeat("🎉", 1024)}, "client_secret": {strings.Repeat("🎉", 1024)}}.Encode()
	for body, want := range map[string][2]any{
		long: {401, "unauthorized"}, long + strings.Repeat("&", 32_000-len(long)): {401, "unauthorized"}, long + strings.Repeat("&", 32_001-len(long)): {413, "body-too-large"},
	} {
		r.problem(r.do("POST", "/oauth/token", "", body, "Content-Type", "application/x-www-form-urlencoded"), want[0].(int), want[1].(string))
	}
	r.problem(r.do("POST", "/oauth/token", "", "x", "Content-Type", "multipart/form-data; boundary=x"), 415, "unsupported-media-type")
}

// Who does not have a client's secret cannot keep the client from its tokens.
func TestWrongSecretsLockNobodyOut(t *testing.T) {
	r := newRig(t, func(c *Config, d *Deps) {
		frozen("")(c, d)
		c.Limits.TokensPerMinute = 2
	})
	ask := func(secret string) answer {
		return r.do("POST", "/oauth/token", "", fmt.Sprintf(`{"grant_type":"client_credentials","client_id":"a","client_secret":%q}`, secret))
	}
	for range 2 {
		r.problem(ask("guess"), 401, "unauthorized")
	}
	r.problem(ask("guess"), 429, "rate-limit")
	for range 2 {
		if a := ask("secret-a"); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	r.problem(ask("secret-a"), 429, "rate-limit")
}

func TestCallLimits(t *testing.T) {
	r := newRig(t, func(c *Config, _ *Deps) {
		c.Limits.TokensPerMinute, c.Limits.ExportsPerMinute = 3, 3
	})
	r.token("a")
	r.token("b")
	credentials := `{"grant_type":"client_credentials","client_id":"a","client_secret":"secret-a"}`
	for range 2 {
		if a := r.do("POST", "/oauth/token", "", credentials); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	a := r.do("POST", "/oauth/token", "", credentials)
	r.problem(a, 429, "rate-limit")
	if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || s < 1 || s > 20 {
		t.Errorf("Retry-After %d, %v; three a minute come back every 20 s", s, err)
	}
	for range 3 {
		r.request("a", recently())
	}
	r.problem(r.do("POST", "/emails/reports", "a", recently()), 429, "rate-limit")
	r.request("b", recently()) // another account
	r.ahead.Store(int64(21 * time.Second))
	r.request("a", recently())
}

// Who waits as long as it was told is not refused again: what is left of a second
// counts as a whole one.
func TestRetryAfterIsLongEnough(t *testing.T) {
	var r *rig
	r = newRig(t, func(c *Config, d *Deps) {
		begin := time.Now()
		d.Now = func() time.Time { return begin.Add(time.Duration(r.ahead.Load())) }
		c.Limits.ExportsPerMinute = 7 // one comes back every 8.57 s
	})
	body := recently()
	for range 7 {
		r.request("a", body)
	}
	a := r.do("POST", "/emails/reports", "a", body)
	r.problem(a, 429, "rate-limit")
	s, err := strconv.Atoi(a.Header.Get("Retry-After"))
	if err != nil {
		t.Fatal(err)
	}
	r.ahead.Store(int64(time.Duration(s-1) * time.Second))
	r.problem(r.do("POST", "/emails/reports", "a", body), 429, "rate-limit") // not told to wait for long
	r.ahead.Store(int64(time.Duration(s) * time.Second))
	r.request("a", body)
}

// forge makes a token that is right but for what change does to it.
func forge(t *testing.T, method jwt.SigningMethod, key any, change func(header map[string]any, claims jwt.MapClaims)) string {
	t.Helper()
	c := jwt.MapClaims{"iss": "lockstitch", "aud": "lockstitch:api", "sub": "a", "account": "acme", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	tok := jwt.NewWithClaims(method, c)
	tok.Header["kid"] = testKey.ID
	if change != nil {
		change(tok.Header, c)
	}
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// issuer is an external identity provider with one key, "e1".
type issuer struct {
	key       *ecdsa.PrivateKey
	srv       *httptest.Server
	reachable atomic.Bool
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	is := &issuer{key: key}
	is.reachable.Store(true)
	is.srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !is.reachable.Load() {
			w.WriteHeader(500)
			return
		}
		b64 := base64.RawURLEncoding.EncodeToString
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{
			"kty": "EC", "crv": "P-256", "kid": "e1", "alg": "ES256", "use": "sig", "x": b64(point[1:33]), "y": b64(point[33:]),
		}}})
	}))
	t.Cleanup(is.srv.Close)
	return is
}

func (is *issuer) accept(c *Config) {
	c.Issuers = []auth.Issuer{{Name: "https://id.example", JWKSURL: is.srv.URL, Audience: "exports", AccountClaim: "https://example/account", Algorithms: []string{"ES256"}}}
	c.IssuerHTTP = is.srv.Client()
}

// claims makes what is right for a token of the issuer, but for a change.
func (is *issuer) claims(change func(h map[string]any, c jwt.MapClaims)) func(map[string]any, jwt.MapClaims) {
	return func(h map[string]any, c jwt.MapClaims) {
		clear(c)
		c["iss"], c["aud"], c["sub"], c["exp"], c["https://example/account"] = "https://id.example", "exports", "someone", time.Now().Add(time.Hour).Unix(), "acme"
		h["kid"] = "e1"
		if change != nil {
			change(h, c)
		}
	}
}

func TestAccessTokens(t *testing.T) {
	previous := auth.Key{ID: "k0", Secret: []byte(strings.Repeat("p", 32))}
	is := newIssuer(t)
	ec, ext := is.key, is.claims
	r := newRig(t, func(c *Config, _ *Deps) {
		c.SigningKeys = append(c.SigningKeys, previous)
		is.accept(c)
	})
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	hs, k := jwt.SigningMethodHS256, testKey.Secret
	set := func(name string, v any) func(map[string]any, jwt.MapClaims) {
		return func(_ map[string]any, c jwt.MapClaims) { c[name] = v }
	}
	head := func(name string, v any) func(map[string]any, jwt.MapClaims) {
		return func(h map[string]any, _ jwt.MapClaims) { h[name] = v }
	}
	es := jwt.SigningMethodES256
	none := forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil)
	good := forge(t, hs, k, nil)
	for _, c := range []struct {
		name, token string
		code        int
	}{
		{"good", good, 200},
		{"signed with the previous key", forge(t, hs, previous.Secret, head("kid", "k0")), 200},
		{"expired", forge(t, hs, k, set("exp", time.Now().Add(-time.Second).Unix())), 401},
		{"not yet valid", forge(t, hs, k, set("nbf", time.Now().Add(time.Hour).Unix())), 401},
		{"no issuer", forge(t, hs, k, func(_ map[string]any, c jwt.MapClaims) { delete(c, "iss") }), 401},
		{"no audience", forge(t, hs, k, func(_ map[string]any, c jwt.MapClaims) { delete(c, "aud") }), 401},
		{"no exp", forge(t, hs, k, func(_ map[string]any, c jwt.MapClaims) { delete(c, "exp") }), 401},
		{"forged", forge(t, hs, []byte(strings.Repeat("z", 32)), nil), 401},
		{"previous key under the current kid", forge(t, hs, previous.Secret, nil), 401},
		{"unknown kid", forge(t, hs, k, head("kid", "k9")), 401},
		{"no kid", forge(t, hs, k, func(h map[string]any, _ jwt.MapClaims) { delete(h, "kid") }), 401},
		{"kid a number", forge(t, hs, k, head("kid", 1)), 401},
		{"HS512", forge(t, jwt.SigningMethodHS512, k, nil), 401},
		{"alg none", none, 401},
		{"alg None", strings.Replace(none, strings.Split(none, ".")[0], base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"None","kid":"k1"}`)), 1), 401},
		{"no account", forge(t, hs, k, set("account", "")), 401},
		{"account a list", forge(t, hs, k, set("account", []string{"acme"})), 401},
		{"another audience", forge(t, hs, k, set("aud", "lockstitch:download")), 401},
		{"another issuer", forge(t, hs, k, set("iss", "https://evil.example")), 401},
		{"a client that is gone", forge(t, hs, k, set("sub", "gone")), 401},
		{"a client of another account", forge(t, hs, k, set("account", "other")), 401},
		{"signature cut", good[:len(good)-3], 401},
		{"not a token", "x.y.z", 401},
		{"long", forge(t, hs, k, set("x", strings.Repeat("a", 11_000))), 200},
		{"huge", forge(t, hs, k, set("x", strings.Repeat("a", 13_000))), 401},
		{"external", forge(t, es, ec, ext(nil)), 200},
		{"external expired", forge(t, es, ec, ext(set("exp", time.Now().Add(-time.Minute).Unix()))), 401},
		{"external without exp", forge(t, es, ec, ext(func(_ map[string]any, c jwt.MapClaims) { delete(c, "exp") })), 401},
		{"external not yet valid", forge(t, es, ec, ext(set("nbf", time.Now().Add(time.Hour).Unix()))), 401},
		{"external without kid", forge(t, es, ec, ext(func(h map[string]any, _ jwt.MapClaims) { delete(h, "kid") })), 401},
		{"external, alg none", forge(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, ext(nil)), 401},
		{"external, an algorithm that is not allowed", forge(t, jwt.SigningMethodES384, p384, ext(nil)), 401},
		{"external with our account claim only", forge(t, es, ec, ext(func(_ map[string]any, c jwt.MapClaims) {
			delete(c, "https://example/account")
			c["account"] = "acme"
		})), 401},
		{"external, account a number", forge(t, es, ec, ext(set("https://example/account", 7))), 401},
		{"external without aud", forge(t, es, ec, ext(func(_ map[string]any, c jwt.MapClaims) { delete(c, "aud") })), 401},
		{"external, another aud", forge(t, es, ec, ext(set("aud", "other"))), 401},
		{"external without account", forge(t, es, ec, ext(func(_ map[string]any, c jwt.MapClaims) { delete(c, "https://example/account") })), 401},
		{"external, unknown kid", forge(t, es, ec, ext(head("kid", "e2"))), 401},
		{"external with our key", forge(t, hs, k, ext(head("kid", "k1"))), 401},
		{"external with its public key as secret", forge(t, hs, func() []byte { b, _ := ec.PublicKey.Bytes(); return b }(), ext(nil)), 401},
		{"our issuer with its key", forge(t, es, ec, head("kid", "e1")), 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := *r
			r.t = t
			a := r.do("GET", "/emails/reports", "", "", "Authorization", "Bearer "+c.token)
			if c.code == 401 {
				r.problem(a, 401, "unauthorized")
			} else if a.StatusCode != c.code {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	for _, h := range []string{"", "Basic YTpi", "Bearer", "Bearer  ", good} {
		r.problem(r.do("GET", "/emails/reports", "", "", "Authorization", h), 401, "unauthorized")
	}
	r.problem(r.do("GET", "/emails/reports", "", ""), 401, "unauthorized")

	// Keys that cannot be read again are used on, for a day.
	is.reachable.Store(false)
	long := forge(t, es, ec, ext(set("exp", time.Now().Add(100*time.Hour).Unix())))
	r.ahead.Store(int64(time.Hour))
	if a := r.do("GET", "/emails/reports", "", "", "Authorization", "Bearer "+long); a.StatusCode != 200 {
		t.Fatalf("%d", a.StatusCode)
	}
	r.ahead.Store(int64(25 * time.Hour))
	r.problem(r.do("GET", "/emails/reports", "", "", "Authorization", "Bearer "+long), 503, "unavailable")
}

// A token that cannot be decided on is not refused: its owner would throw it away.
func TestIssuerAway(t *testing.T) {
	is := newIssuer(t)
	r := newRig(t, func(c *Config, _ *Deps) { is.accept(c) })
	list := func(token string) answer {
		return r.do("GET", "/emails/reports", "", "", "Authorization", "Bearer "+token)
	}
	good := forge(t, jwt.SigningMethodES256, is.key, is.claims(nil))
	rotated := forge(t, jwt.SigningMethodES256, is.key, is.claims(func(h map[string]any, _ jwt.MapClaims) { h["kid"] = "e2" }))
	is.reachable.Store(false)
	for range 2 { // asked, and remembered
		r.problem(list(good), 503, "unavailable")
	}
	if a := r.do("GET", "/emails/reports", "a", ""); a.StatusCode != 200 {
		t.Fatalf("our own token: %d", a.StatusCode)
	}
	is.reachable.Store(true)
	r.ahead.Store(int64(time.Minute))
	if a := list(good); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	r.problem(list(rotated), 401, "unauthorized")
	// A key id that is not among the keys may be a new one.
	is.reachable.Store(false)
	r.ahead.Store(int64(2 * time.Minute))
	for range 2 {
		r.problem(list(rotated), 503, "unavailable")
		if a := list(good); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := Config{PublicURL: "https://exports.example", SigningKeys: []auth.Key{testKey}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	is := auth.Issuer{Name: "i", JWKSURL: "https://i/jwks", Audience: "a", AccountClaim: "c", Algorithms: []string{"RS256"}}
	for want, change := range map[string]func(*Config){
		"public_url is missing":                 func(c *Config) { c.PublicURL = "" },
		"not an http or https URL":              func(c *Config) { c.PublicURL = "exports.example" },
		"slash at the end":                      func(c *Config) { c.PublicURL = "https://exports.example/" },
		"at least one key":                      func(c *Config) { c.SigningKeys = nil },
		"has 31 bytes, at least 32":             func(c *Config) { c.SigningKeys = []auth.Key{{ID: "x", Secret: make([]byte, 31)}} },
		`kid "k1" is named twice`:               func(c *Config) { c.SigningKeys = []auth.Key{testKey, testKey} },
		"kid is empty":                          func(c *Config) { c.SigningKeys = []auth.Key{{Secret: make([]byte, 32)}} },
		"the secret's hash must be":             func(c *Config) { c.Clients = []auth.Client{{ID: "a", Account: "b", SecretHash: "plain"}} },
		"id and account must not be empty":      func(c *Config) { c.Clients = []auth.Client{{ID: "a"}} },
		`algorithm "HS256" is none of`:          func(c *Config) { i := is; i.Algorithms = []string{"HS256"}; c.Issuers = []auth.Issuer{i} },
		`algorithm "none" is none of`:           func(c *Config) { i := is; i.Algorithms = []string{"none"}; c.Issuers = []auth.Issuer{i} },
		"account_claim is empty":                func(c *Config) { i := is; i.AccountClaim = ""; c.Issuers = []auth.Issuer{i} },
		"limits.pending is -1; it must be 1 to": func(c *Config) { c.Limits.Pending = -1 },
		"download_lifetime is 48h0m0s":          func(c *Config) { c.DownloadLifetime = 48 * time.Hour },
	} {
		c := good
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := New(good, Deps{}); err == nil || !strings.Contains(fmt.Sprint(err), "Deps.Reports") {
		t.Error(err)
	}
}
