package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The issuer of our own tokens and their two audiences.
const (
	issuer           = "lockstitch"
	accessAudience   = "lockstitch:api"
	downloadAudience = "lockstitch:download"
)

// leeway is how far the clock of an external issuer may differ.
const leeway = 30 * time.Second

// maxTokenBytes bounds what is parsed.
const maxTokenBytes = 16 << 10

// Config is everything an Authority decides by.
type Config struct {
	Clients []Client
	Keys    []Key    // the first signs; all verify
	Issuers []Issuer // external ones
	HTTP    *http.Client
	Now     func() time.Time
}

// Authority issues and verifies credentials. It is safe for concurrent use.
type Authority struct {
	clients *Clients
	signing Key
	keys    map[string][]byte
	issuers map[string]*external // by issuer name
	now     func() time.Time
}

// New checks the configuration and makes an Authority of it.
func New(cfg Config) (*Authority, error) {
	if err := validateKeys(cfg.Keys); err != nil {
		return nil, err
	}
	clients, err := NewClients(cfg.Clients)
	if err != nil {
		return nil, err
	}
	a := &Authority{
		clients: clients, signing: cfg.Keys[0],
		keys: make(map[string][]byte), issuers: make(map[string]*external),
		now: cfg.Now,
	}
	if a.now == nil {
		a.now = time.Now
	}
	for _, k := range cfg.Keys {
		a.keys[k.ID] = k.Secret
	}
	for i, is := range cfg.Issuers {
		if err := is.validate(); err != nil {
			return nil, fmt.Errorf("issuers[%d]: %w", i, err)
		}
		if _, ok := a.issuers[is.Name]; ok {
			return nil, fmt.Errorf("issuers[%d]: %q is named twice", i, is.Name)
		}
		a.issuers[is.Name] = newExternal(is, cfg.HTTP, a.now)
	}
	return a, nil
}

// Authenticate checks a client's secret; see Clients.Authenticate.
func (a *Authority) Authenticate(id, secret string) (Identity, error) {
	return a.clients.Authenticate(id, secret)
}

type claims struct {
	jwt.RegisteredClaims
	Account string `json:"account"`
}

// Issue makes an access token, valid for TokenLifetime.
func (a *Authority) Issue(id Identity) (string, error) {
	return a.sign(id, accessAudience, a.now().Add(TokenLifetime))
}

// IssueDownload makes the credential for one file: subject is what it opens,
// expires when it ends.
func (a *Authority) IssueDownload(account, subject string, expires time.Time) (string, error) {
	return a.sign(Identity{Account: account, Subject: subject}, downloadAudience, expires)
}

func (a *Authority) sign(id Identity, audience string, expires time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Audience: jwt.ClaimStrings{audience}, Subject: id.Subject,
			IssuedAt: jwt.NewNumericDate(a.now()), ExpiresAt: jwt.NewNumericDate(expires),
		},
		Account: id.Account,
	})
	t.Header["kid"] = a.signing.ID
	s, err := t.SignedString(a.signing.Secret)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return s, nil
}

// Verify checks an access token, ours or an external issuer's. ErrInvalid if it
// is not accepted, ErrUnavailable if its issuer's keys cannot be read.
func (a *Authority) Verify(ctx context.Context, token string) (Identity, error) {
	if len(token) > maxTokenBytes {
		return Identity{}, ErrInvalid
	}
	// Only to find out whose token it claims to be; nothing of it is believed.
	var c jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		return Identity{}, ErrInvalid
	}
	if ext, ok := a.issuers[c.Issuer]; ok {
		return ext.verify(ctx, token)
	}
	id, err := a.verifyOwn(token, accessAudience)
	if err != nil {
		return Identity{}, err
	}
	if !a.clients.acts(id.Subject, id.Account) {
		return Identity{}, ErrInvalid // the client was taken out of the configuration
	}
	return id, nil
}

// VerifyDownload checks a download credential and says for which account and
// subject it was made.
func (a *Authority) VerifyDownload(token string) (Identity, error) {
	if len(token) > maxTokenBytes {
		return Identity{}, ErrInvalid
	}
	return a.verifyOwn(token, downloadAudience)
}

func (a *Authority) verifyOwn(token, audience string) (Identity, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		key, ok := a.keys[kid]
		if !ok {
			return nil, errors.New("unknown kid")
		}
		return key, nil
	},
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(a.now), jwt.WithStrictDecoding(),
	)
	if err != nil || c.Account == "" || c.Subject == "" {
		return Identity{}, ErrInvalid
	}
	return Identity{Account: c.Account, Subject: c.Subject}, nil
}
