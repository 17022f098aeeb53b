// Package auth decides who a caller is: it knows the configured clients, issues
// and verifies access tokens, verifies those of external issuers, and makes and
// checks the short-lived credentials of download URLs (contract 3).
//
// Invariants:
//   - A token carries exactly one account; without one it is refused.
//   - What verifies a token is chosen by its key id alone and accepts only that
//     key's algorithm. "none" is never accepted.
//   - An access token is no download credential and the other way round: they
//     differ in audience, and each verifier demands its own.
//   - Nothing here says why a credential was refused in a way that helps to
//     guess one: unknown client and wrong secret are one error, found in the
//     same time.
package auth

import (
	"errors"
	"fmt"
	"time"
)

// Errors that callers tell apart.
var (
	// ErrInvalid is a credential that is not accepted.
	ErrInvalid = errors.New("credential is not valid")
	// ErrUnavailable is a token that cannot be decided on now, because the keys
	// of its issuer cannot be read.
	ErrUnavailable = errors.New("the issuer's keys cannot be read")
)

// MinKeyBytes is the least length of a signing key: that of the HMAC's output
// (RFC 7518, 3.2).
const MinKeyBytes = 32

// TokenLifetime is how long an access token is valid (contract 3).
const TokenLifetime = 24 * time.Hour

// Identity is who a verified token speaks for.
type Identity struct {
	Account string
	Subject string // the client id, or the subject of an external token
}

// Key is a signing key with the id that tokens name it by (JWT header "kid").
type Key struct {
	ID     string
	Secret []byte // at least MinKeyBytes, random
}

func validateKeys(keys []Key) error {
	if len(keys) == 0 {
		return errors.New("signing_keys: at least one key is needed")
	}
	seen := make(map[string]bool, len(keys))
	for i, k := range keys {
		switch {
		case k.ID == "":
			return fmt.Errorf("signing_keys[%d]: kid is empty", i)
		case seen[k.ID]:
			return fmt.Errorf("signing_keys[%d]: kid %q is named twice", i, k.ID)
		case len(k.Secret) < MinKeyBytes:
			return fmt.Errorf("signing_keys[%d] (kid %q): the key has %d bytes, at least %d are needed", i, k.ID, len(k.Secret), MinKeyBytes)
		}
		seen[k.ID] = true
	}
	return nil
}
