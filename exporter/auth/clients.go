package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strings"
)

// Client is one who may ask for tokens.
type Client struct {
	ID         string
	SecretHash string // as HashSecret writes it
	Account    string
}

// hashPrefix names the hash. Secrets are long random strings, not passwords a
// person chose, so that one round of SHA-256 does.
const hashPrefix = "sha256:"

// HashSecret is the form in which a client's secret stands in the
// configuration: "sha256:" and 64 hexadecimal digits.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hashPrefix + hex.EncodeToString(sum[:])
}

type clientEntry struct {
	account string
	hash    [sha256.Size]byte
}

// Clients is the set of configured clients. It never changes.
type Clients struct {
	byID map[string]clientEntry
}

// NewClients checks the configuration: ids are unique, no field is empty, every
// hash is one of HashSecret.
func NewClients(list []Client) (*Clients, error) {
	c := &Clients{byID: make(map[string]clientEntry, len(list))}
	for i, cl := range list {
		if cl.ID == "" || cl.Account == "" {
			return nil, fmt.Errorf("clients[%d]: id and account must not be empty", i)
		}
		if _, ok := c.byID[cl.ID]; ok {
			return nil, fmt.Errorf("clients[%d]: id %q is named twice", i, cl.ID)
		}
		raw, err := hex.DecodeString(strings.TrimPrefix(cl.SecretHash, hashPrefix))
		if !strings.HasPrefix(cl.SecretHash, hashPrefix) || err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("clients[%d] (id %q): the secret's hash must be %q and 64 hexadecimal digits", i, cl.ID, hashPrefix)
		}
		e := clientEntry{account: cl.Account}
		copy(e.hash[:], raw)
		c.byID[cl.ID] = e
	}
	return c, nil
}

// Authenticate says for which account a client with this secret acts. An
// unknown id and a wrong secret are the same ErrInvalid; both cost one hash and
// one comparison.
func (c *Clients) Authenticate(id, secret string) (Identity, error) {
	e, known := c.byID[id] // the zero entry stands for unknown clients
	sum := sha256.Sum256([]byte(secret))
	same := subtle.ConstantTimeCompare(sum[:], e.hash[:]) == 1
	if !known || !same {
		return Identity{}, ErrInvalid
	}
	return Identity{Account: e.account, Subject: id}, nil
}

// acts says whether a client still exists and still acts for the account.
func (c *Clients) acts(id, account string) bool {
	e, ok := c.byID[id]
	return ok && e.account == account
}
