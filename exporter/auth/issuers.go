package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// Issuer is an external identity provider whose tokens are accepted.
type Issuer struct {
	Name         string   // what "iss" must be
	JWKSURL      string   // where its public keys are (RFC 7517)
	Audience     string   // what "aud" must contain
	AccountClaim string   // the top-level claim that names the account
	Algorithms   []string // allowed ones; asymmetric only
}

// Algorithms that an issuer may be configured with. Symmetric ones are not
// among them: the keys in a JWKS are public.
var asymmetric = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
	"ES256", "ES384", "ES512", "EdDSA",
}

// IsAsymmetric says whether an issuer may be configured with an algorithm, named as in
// a token's "alg" (RFC 7518, 3.1).
func IsAsymmetric(algorithm string) bool { return slices.Contains(asymmetric, algorithm) }

func (is Issuer) validate() error {
	switch {
	case is.Name == "":
		return errors.New("issuer is empty")
	case is.Name == issuer:
		return fmt.Errorf("issuer %q is the name of Lockstitch's own tokens", is.Name)
	case is.Audience == "":
		return fmt.Errorf("issuer %q: audience is empty", is.Name)
	case is.AccountClaim == "":
		return fmt.Errorf("issuer %q: account_claim is empty", is.Name)
	case len(is.Algorithms) == 0:
		return fmt.Errorf("issuer %q: algorithms is empty", is.Name)
	}
	u, err := url.Parse(is.JWKSURL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return fmt.Errorf("issuer %q: jwks_url %q is not an http or https URL", is.Name, is.JWKSURL)
	}
	for _, alg := range is.Algorithms {
		if !IsAsymmetric(alg) {
			return fmt.Errorf("issuer %q: algorithm %q is none of %s", is.Name, alg, strings.Join(asymmetric, ", "))
		}
	}
	return nil
}

const (
	jwksMaxAge   = 15 * time.Minute // then the keys are read again
	jwksMinAge   = 30 * time.Second // an unknown key id makes them read again, but not more often than this
	jwksMaxStale = 24 * time.Hour   // keys that cannot be read again are used this long
	jwksTimeout  = 5 * time.Second
	jwksMaxBytes = 1 << 20
	maxRedirects = 10
)

// external verifies the tokens of one issuer. Keys are read when a token needs
// them, by the request that brings it; there is no background goroutine.
type external struct {
	cfg  Issuer
	http *http.Client
	now  func() time.Time

	mu      sync.Mutex
	keys    map[string]keyfunc.Keyfunc // by key id; nil: none were read yet
	read    time.Time                  // when the keys were read
	tried   time.Time                  // when reading was last tried
	err     error                      // what came of it the last time
	reading chan struct{}              // closed when the reading under way is over; nil: there is none
}

func newExternal(cfg Issuer, client *http.Client, now func() time.Time) *external {
	c := http.Client{}
	if client != nil {
		c = *client
	}
	c.CheckRedirect = staySecure
	return &external{cfg: cfg, http: &c, now: now}
}

// staySecure refuses a redirect by which anybody on the way could say what the keys
// are.
func staySecure(req *http.Request, via []*http.Request) error {
	switch {
	case via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("redirected from https to %s", req.URL.Scheme)
	case len(via) >= maxRedirects:
		return fmt.Errorf("redirected %d times", maxRedirects)
	}
	return nil
}

func (e *external) verify(ctx context.Context, token string) (Identity, error) {
	c := jwt.MapClaims{}
	var unavailable error
	_, err := jwt.ParseWithClaims(token, c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if kid == "" {
			return nil, errors.New("no kid")
		}
		key, err := e.keyOf(ctx, kid)
		if err != nil {
			unavailable = err
			return nil, err
		}
		if key == nil {
			return nil, errors.New("unknown kid")
		}
		return key.KeyfuncCtx(ctx)(t)
	},
		jwt.WithValidMethods(e.cfg.Algorithms),
		jwt.WithIssuer(e.cfg.Name), jwt.WithAudience(e.cfg.Audience),
		jwt.WithExpirationRequired(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(e.now),
		jwt.WithStrictDecoding(),
	)
	if unavailable != nil {
		return Identity{}, fmt.Errorf("%w: issuer %s: %w", ErrUnavailable, e.cfg.Name, unavailable)
	}
	if err != nil {
		return Identity{}, ErrInvalid
	}
	account, _ := c[e.cfg.AccountClaim].(string)
	if account == "" {
		return Identity{}, ErrInvalid
	}
	sub, _ := c.GetSubject()
	return Identity{Account: account, Subject: sub}, nil
}

// keyOf gives the issuer's key of an id, nil if it has none. The keys are read anew
// when they are old or do not hold the id. An error if nothing can be said of the
// id: there are no keys, or it is not among old ones and new ones cannot be read.
//
// One caller at a time reads. Others wait for that, unless they have a key that is
// not old, or one that could not be had anew the last time either.
func (e *external) keyOf(ctx context.Context, kid string) (keyfunc.Keyfunc, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	known := e.keys[kid] != nil
	switch wanted := !known || now.Sub(e.read) >= jwksMaxAge; {
	case !wanted:
	case e.reading != nil:
		if known && e.err != nil {
			break
		}
		reading := e.reading
		e.mu.Unlock()
		select {
		case <-reading:
		case <-ctx.Done():
		}
		e.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	case e.tried.IsZero() || now.Sub(e.tried) >= jwksMinAge:
		e.renew(ctx, now)
	}
	if e.keys == nil || now.Sub(e.read) >= jwksMaxStale || (e.err != nil && e.keys[kid] == nil) {
		return nil, e.err
	}
	return e.keys[kid], nil
}

// renew reads the keys, with the mutex held before and after, not meanwhile.
func (e *external) renew(ctx context.Context, now time.Time) {
	e.tried, e.reading = now, make(chan struct{})
	keys, err := map[string]keyfunc.Keyfunc(nil), errors.New("reading the keys broke off")
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		if e.err = err; err == nil {
			e.keys, e.read = keys, now
		}
		close(e.reading)
		e.reading = nil
	}()
	keys, err = e.fetch(ctx)
}

func (e *external) fetch(ctx context.Context) (map[string]keyfunc.Keyfunc, error) {
	// Not the request's context: a caller that goes away must not spoil the
	// attempt for everybody else.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), jwksTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.cfg.JWKSURL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, jwksMaxBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", e.cfg.JWKSURL, err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("reading %s: status %d", e.cfg.JWKSURL, resp.StatusCode)
	case len(raw) > jwksMaxBytes:
		return nil, fmt.Errorf("reading %s: more than %d bytes", e.cfg.JWKSURL, jwksMaxBytes)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("reading %s: %w", e.cfg.JWKSURL, err)
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("reading %s: it holds no keys", e.cfg.JWKSURL)
	}
	// Each alone: one of a kind that is not known here is to be ignored (RFC 7517,
	// section 5) and must not spoil the others.
	keys := make(map[string]keyfunc.Keyfunc, len(set.Keys))
	for _, k := range set.Keys {
		var named struct {
			ID string `json:"kid"`
		}
		if json.Unmarshal(k, &named) != nil {
			continue
		}
		if key, err := keyfunc.NewJWKSetJSON(fmt.Appendf(nil, `{"keys":[%s]}`, k)); err == nil {
			keys[named.ID] = key
		}
	}
	if len(keys) == 0 && len(set.Keys) > 0 {
		return nil, fmt.Errorf("reading %s: none of its %d keys can be read", e.cfg.JWKSURL, len(set.Keys))
	}
	return keys, nil
}
