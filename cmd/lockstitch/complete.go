package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"lockstitch/exporter/auth"
	"lockstitch/state/kafka"
)

// complete fills in defaults that depend on other settings, reads the files of
// secrets, and checks what one setting alone cannot show.
func (s *Settings) complete(in scope) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if in&scopeKafka != 0 && len(s.Kafka.Brokers) > 0 {
		if _, err := s.Kafka.Config().Opts(); err != nil {
			errs = append(errs, err)
		}
	}
	if in&scopeTopics != 0 {
		seen := make(map[string]string)
		t := s.Topics
		names := map[string][]string{"events_topics": t.Events, "profiles_topic": {t.Profiles}, "definitions_topic": {t.Definitions},
			"catalog_topic": {t.Catalog}, "reports_topic": {t.Reports}, "dead_letters_topic": {t.DeadLetters}}
		for _, o := range options {
			for _, n := range names[o.key] {
				if other, ok := seen[n]; ok && other != o.key {
					fail("%s and %s both name the topic %q: each needs a topic of its own", other, o.key, n)
				}
				seen[n] = o.key
			}
		}
	}
	if in&scopeReplica != 0 {
		if (s.HTTP.TLSCertFile == "") != (s.HTTP.TLSKeyFile == "") {
			fail("http_tls_cert_file and http_tls_key_file: HTTPS needs both, or neither")
		} else if s.HTTP.TLSCertFile != "" {
			if _, err := tls.LoadX509KeyPair(s.HTTP.TLSCertFile, s.HTTP.TLSKeyFile); err != nil {
				fail("http_tls_cert_file and http_tls_key_file: %w", err)
			}
		}
		if s.HTTP.Listen == s.HTTP.AdminListen && !strings.HasSuffix(s.HTTP.Listen, ":0") {
			fail("http_listen and admin_listen are both %q: metrics must not be on the API's address", s.HTTP.Listen)
		}
		if a := s.Replica.Accounts; len(a) > 0 && s.Replica.DefaultAccount != "" && !slices.Contains(a, s.Replica.DefaultAccount) {
			fail("default_account is %q, which is not among the accounts: its events would all be set aside", s.Replica.DefaultAccount)
		}
		// A window of months is at most so many times 31 days long.
		if least := time.Duration(s.Limits.WindowMonths)*31*24*time.Hour + s.Replica.DedupHorizon; s.Replica.Retention < least {
			fail("retention is %s; it must be at least %s: window_months (%d, of 31 days) and dedup_horizon (%s) together, or exports would ask for what is gone and a lost disk would let duplicates through",
				s.Replica.Retention, least, s.Limits.WindowMonths, s.Replica.DedupHorizon)
		}
		store, err := storeAddress(s.Replica)
		if err != nil {
			fail("data_dir: %w", err)
		}
		errs = append(errs, checkDestinations(s.Replica.Destinations, store)...)
		s.HTTP.PublicURL = strings.TrimSuffix(s.HTTP.PublicURL, "/")
	}
	if in&scopeServe != 0 {
		wrong := s.Auth.complete()
		errs = append(errs, wrong...)
		if len(wrong) == 0 { // else it would say the same once more
			c := s.apiConfig()
			c.PublicURL = cmp.Or(c.PublicURL, "http://localhost") // the port is known when it listens
			if err := c.Validate(); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// complete reads the files of clients, keys and secrets, and says what is wrong by the
// names of the settings, all of it at once. auth refuses the same, but knows no settings.
func (a *AuthSettings) complete() []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if a.ClientsFile != "" {
		more, err := readList(a.ClientsFile, parseClient)
		if err != nil {
			fail("clients_file: %w", err)
		}
		a.Clients = append(a.Clients, more...)
	}
	errs = append(errs, a.completeClients("clients")...)
	if a.SigningKeysFile != "" {
		more, err := readList(a.SigningKeysFile, parseSigningKey)
		if err != nil {
			fail("signing_keys_file: %w", err)
		}
		a.SigningKeys = append(a.SigningKeys, more...)
	}
	if len(a.SigningKeys) == 0 {
		fail("signing_keys is not set: tokens could not be signed; make a key with `openssl rand -hex 32`, give it to all replicas, and name it in signing_keys or signing_keys_file")
	}
	kids := make(map[string]bool)
	for i := range a.SigningKeys {
		k := &a.SigningKeys[i]
		name := fmt.Sprintf("signing_keys, entry %d (kid %q)", i+1, k.KID)
		key, err := k.Key.Resolve(k.KeyFile)
		switch {
		case k.KID == "":
			fail("%s: kid must not be empty", name)
		case kids[k.KID]:
			fail("%s: the kid is used twice", name)
		case err != nil:
			fail("%s: %w", name, err)
		case len(key) < auth.MinKeyBytes:
			fail("%s: the key has %d bytes; it needs at least %d", name, len(key), auth.MinKeyBytes)
		}
		kids[k.KID] = true
		k.Key, k.KeyFile = kafka.Secret(key), ""
	}
	if a.IssuerJWKSURL != "" && (a.Issuer == "" || a.IssuerAudience == "") {
		fail("issuer_jwks_url is set: issuer and issuer_audience must be set too, or tokens meant for others would be accepted")
	}
	if a.IssuerJWKSURL == "" && (a.Issuer != "" || a.IssuerAudience != "") {
		fail("issuer or issuer_audience is set, but issuer_jwks_url is not: there is nothing to verify its tokens with")
	}
	for _, alg := range a.IssuerAlgorithms {
		if !auth.IsAsymmetric(alg) {
			fail("issuer_algorithms: %q is not an asymmetric JWS algorithm such as RS256 or ES256", alg)
		}
	}
	return errs
}

// completeClients reads the files of their secrets and checks them; key is what
// errors call the list.
func (a *AuthSettings) completeClients(key string) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	ids := make(map[string]bool)
	for i := range a.Clients {
		c := &a.Clients[i]
		name := fmt.Sprintf("%s, entry %d (id %q)", key, i+1, c.ID)
		secret, err := c.Secret.Resolve(c.SecretFile)
		raw, hexErr := hex.DecodeString(c.SecretSHA256)
		switch {
		case c.ID == "" || c.Account == "":
			fail("%s: id and account must not be empty", name)
		case ids[c.ID]:
			fail("%s: the id is used twice", name)
		case err != nil:
			fail("%s: %w", name, err)
		case (secret == "") == (c.SecretSHA256 == ""):
			fail("%s: exactly one of secret, secret_file and secret_sha256 must be set", name)
		case c.SecretSHA256 != "" && (hexErr != nil || len(raw) != sha256.Size):
			fail("%s: secret_sha256 must be 64 hexadecimal digits (printf %%s SECRET | sha256sum)", name)
		}
		ids[c.ID] = true
		c.Secret, c.SecretFile = kafka.Secret(secret), ""
	}
	return errs
}
