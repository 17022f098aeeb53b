package main

import (
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	yamlv3 "go.yaml.in/yaml/v3"

	"lockstitch/state/kafka"
)

// Settings come from four places, each over the one before:
//
//	defaults (options.go) < YAML file (--config) < LOCKSTITCH_… variables < flags
//
// All values, wherever they come from, then pass one table of types and bounds;
// every error is reported, each with the key, the value, the bound and the place.

const envPrefix = "LOCKSTITCH_"

// addFlags declares the flags of the options in scope, and --config.
func addFlags(fs *pflag.FlagSet, in scope) {
	fs.String("config", "", "YAML file with settings ("+envPrefix+"CONFIG)")
	for _, o := range options {
		if o.scope&in == 0 || fs.Lookup(o.flag()) != nil {
			continue
		}
		switch d := o.def.(type) {
		case bool:
			fs.Bool(o.flag(), d, o.help)
		case int:
			fs.Int(o.flag(), d, o.help)
		case time.Duration:
			fs.Duration(o.flag(), d, o.help)
		case []string:
			fs.StringSlice(o.flag(), d, o.help)
		case []Client, []SigningKey, []Destination:
			fs.StringSlice(o.flag(), nil, o.help)
		default:
			fs.String(o.flag(), text(d), o.help)
		}
	}
}

func text(v any) string {
	if s, ok := v.(kafka.Secret); ok {
		return string(s)
	}
	return fmt.Sprint(v)
}

// loaded is the result of reading all places, before anything is judged.
type loaded struct {
	k       *koanf.Koanf
	origin  map[string]string // key → where its value comes from
	unknown []string          // variables with our prefix that name no setting
}

// loadSettings reads and validates the options in scope; options out of scope
// may stand in file and environment, so that all commands can share them, and
// are not judged.
func loadSettings(fs *pflag.FlagSet, environ []string, in scope) (*Settings, *loaded, error) {
	l, err := read(fs, environ)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, o := range options {
		v, err := coerce(o.def, l.k.Get(o.key))
		if err == nil && o.bound != nil && o.scope&in != 0 {
			if wrong := o.bound(v); wrong != "" {
				err = errors.New(wrong)
			}
		}
		if err != nil {
			if o.scope&in != 0 {
				errs = append(errs, l.fault(o, err))
			}
			v = o.def
		}
		if err := l.k.Set(o.key, v); err != nil {
			return nil, nil, fmt.Errorf("setting %s: %w", o.key, err)
		}
	}
	s := new(Settings)
	if err := l.k.UnmarshalWithConf("", s, koanf.UnmarshalConf{Tag: "koanf", FlatPaths: false}); err != nil {
		return nil, nil, fmt.Errorf("settings: %w", err)
	}
	errs = append(errs, s.complete(in)...)
	if len(errs) > 0 {
		return nil, l, errors.Join(errs...)
	}
	return s, l, nil
}

// fault names key, value, place and bound; of a secret, not the value.
func (l *loaded) fault(o option, err error) error {
	value := fmt.Sprintf("%v", l.k.Get(o.key))
	if o.hidden {
		value = "[secret]"
	} else if len(value) > 100 {
		value = value[:100] + "…"
	}
	if l.origin[o.key] == "" && value == "" || value == "[]" {
		return fmt.Errorf("%s is not set: %w (--%s, %s, or %s in the configuration file)", o.key, err, o.flag(), o.variable(), o.key)
	}
	return fmt.Errorf("%s is %q: %w (from %s)", o.key, value, err, l.from(o.key))
}

func (l *loaded) from(key string) string {
	if w := l.origin[key]; w != "" {
		return w
	}
	return "the default"
}

func read(fs *pflag.FlagSet, environ []string) (*loaded, error) {
	l := &loaded{k: koanf.New("."), origin: make(map[string]string)}
	for _, o := range options {
		if err := l.k.Set(o.key, o.def); err != nil {
			return nil, err
		}
	}
	path := ""
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, envPrefix+"CONFIG="); ok {
			path = v
		}
	}
	if f := fs.Lookup("config"); f != nil && f.Changed {
		path = f.Value.String()
	}
	if path != "" {
		if err := l.readFile(path); err != nil {
			return nil, err
		}
	}
	envs := env.Provider(".", env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			key := strings.ToLower(strings.TrimPrefix(name, envPrefix))
			if key == "config" {
				return "", nil
			}
			if _, ok := optionByKey(key); !ok {
				// Not an error: orchestrators put variables of that kind into
				// the environment of a service of this name.
				l.unknown = append(l.unknown, name)
				return "", nil
			}
			l.origin[key] = name
			return key, value
		},
	})
	if err := l.k.Load(envs, nil); err != nil {
		return nil, fmt.Errorf("reading the environment: %w", err)
	}
	flags := posflag.ProviderWithFlag(fs, ".", l.k, func(f *pflag.Flag) (string, any) {
		key := strings.ReplaceAll(f.Name, "-", "_")
		if _, ok := optionByKey(key); !ok || !f.Changed {
			return "", nil
		}
		l.origin[key] = "--" + f.Name
		return key, posflag.FlagVal(fs, f)
	})
	if err := l.k.Load(flags, nil); err != nil {
		return nil, fmt.Errorf("reading the flags: %w", err)
	}
	return l, nil
}

func (l *loaded) readFile(path string) error {
	fk := koanf.New(".")
	if err := fk.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	var errs []error
	for key := range fk.Raw() {
		if _, ok := optionByKey(key); !ok {
			errs = append(errs, fmt.Errorf("configuration file %s: there is no setting %q%s", path, key, didYouMean(key)))
			continue
		}
		l.origin[key] = path
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return l.k.Merge(fk)
}

// didYouMean proposes the setting that is at most two edits away.
func didYouMean(key string) string {
	for _, o := range options {
		if distance(strings.ReplaceAll(key, "-", "_"), o.key) <= 2 {
			return "; did you mean " + o.key + "?"
		}
	}
	return ""
}

func distance(a, b string) int {
	if d := len(a) - len(b); d > 2 || d < -2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(prev+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// coerce makes v, as YAML, environment or a flag gives it, a value of def's type.
func coerce(def, v any) (any, error) {
	if v == nil {
		return def, nil
	}
	s, isString := v.(string)
	switch def.(type) {
	case string:
		switch v := v.(type) {
		case string:
			return v, nil
		case int, int64, bool, float64:
			return fmt.Sprint(v), nil
		}
		return nil, errors.New("must be text")
	case kafka.Secret:
		if sec, ok := v.(kafka.Secret); ok {
			return sec, nil
		}
		if isString {
			return kafka.Secret(s), nil
		}
		return nil, errors.New("must be text (put it in quotes)")
	case bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
		if b, err := strconv.ParseBool(s); isString && err == nil {
			return b, nil
		}
		return nil, errors.New("must be true or false")
	case int:
		switch v := v.(type) {
		case int:
			return v, nil
		case int64:
			return int(v), nil
		}
		if n, err := strconv.Atoi(s); isString && err == nil {
			return n, nil
		}
		return nil, errors.New("must be a whole number")
	case time.Duration:
		if d, ok := v.(time.Duration); ok {
			return d, nil
		}
		if d, err := time.ParseDuration(s); isString && err == nil {
			return d, nil
		}
		return nil, errors.New("must be a duration such as 30s, 20m or 168h")
	case Bytes:
		switch v := v.(type) {
		case Bytes:
			return v, nil
		case int:
			return Bytes(v), nil
		case int64:
			return Bytes(v), nil
		}
		if isString {
			return ParseBytes(s)
		}
		return nil, errors.New("must be a size such as 512MiB")
	case []string:
		return stringList(v)
	case []Client:
		return list(v, parseClient)
	case []SigningKey:
		return list(v, parseSigningKey)
	case []Destination:
		return list(v, parseDestination)
	}
	return nil, fmt.Errorf("has an unexpected type %T", def)
}

func stringList(v any) ([]string, error) {
	switch v := v.(type) {
	case []string:
		return v, nil
	case string:
		out := []string{}
		for _, p := range strings.Split(v, ",") {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
		return out, nil
	case []any:
		out := []string{}
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("must be a list of texts")
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, errors.New("must be a list of texts")
}

// list reads a list of objects: from YAML as maps, from flags and variables in
// the short form that parse reads.
func list[T any](v any, parse func(string) (T, error)) ([]T, error) {
	if ts, ok := v.([]T); ok {
		return ts, nil
	}
	items, ok := v.([]any)
	if !ok {
		ss, err := stringList(v)
		if err != nil {
			return nil, errors.New("must be a list")
		}
		for _, s := range ss {
			items = append(items, s)
		}
	}
	out := make([]T, 0, len(items))
	for i, it := range items {
		switch it := it.(type) {
		case string:
			t, err := parse(it)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i+1, err)
			}
			out = append(out, t)
		case map[string]any:
			var t T
			k := koanf.New(".")
			for key, value := range it {
				if err := k.Set(key, value); err != nil {
					return nil, fmt.Errorf("entry %d: %w", i+1, err)
				}
			}
			if err := strict(k, &t); err != nil {
				return nil, fmt.Errorf("entry %d: %w", i+1, err)
			}
			out = append(out, t)
		default:
			return nil, fmt.Errorf("entry %d: must be an object", i+1)
		}
	}
	return out, nil
}

// strict unmarshals k into t and refuses keys that t does not have and values
// that are no text.
func strict(k *koanf.Koanf, t any) error {
	known := make(map[string]bool)
	switch t.(type) {
	case *Client:
		for _, n := range []string{"id", "secret", "secret_file", "secret_sha256", "account"} {
			known[n] = true
		}
	case *SigningKey:
		for _, n := range []string{"kid", "key", "key_file"} {
			known[n] = true
		}
	case *Destination:
		for _, n := range []string{"name", "url", "accounts"} {
			known[n] = true
		}
	}
	for key, v := range k.All() {
		if !known[key] {
			return fmt.Errorf("there is no %q", key)
		}
		if key == "accounts" {
			if _, err := stringList(v); err != nil {
				return fmt.Errorf("accounts %w", err)
			}
			continue
		}
		if _, ok := v.(string); !ok {
			return fmt.Errorf("%s must be text (put it in quotes)", key)
		}
	}
	return k.Unmarshal("", t)
}

// readList reads a YAML file that holds nothing but a list.
func readList[T any](path string, parse func(string) (T, error)) ([]T, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var doc any
	if err := yamlv3.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out, err := list(doc, parse)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

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
	}
	if in&scopeReplica != 0 {
		errs = append(errs, checkDestinations(s.Replica.Destinations, s.Replica.StoreURL)...)
	}
	if in&scopeServe != 0 {
		errs = append(errs, s.Auth.complete()...)
	}
	return errs
}

// minKey is the least length of a signing key, bytes: HMAC-SHA-256 needs as
// many as its output has (RFC 7518, 3.2).
const minKey = 32

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
	if a.SigningKeysFile != "" {
		more, err := readList(a.SigningKeysFile, parseSigningKey)
		if err != nil {
			fail("signing_keys_file: %w", err)
		}
		a.SigningKeys = append(a.SigningKeys, more...)
	}
	ids := make(map[string]bool)
	for i := range a.Clients {
		c := &a.Clients[i]
		name := fmt.Sprintf("clients, entry %d (id %q)", i+1, c.ID)
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
		case c.SecretSHA256 != "" && (hexErr != nil || len(raw) != 32):
			fail("%s: secret_sha256 must be 64 hexadecimal digits (printf %%s SECRET | sha256sum)", name)
		}
		ids[c.ID] = true
		c.Secret, c.SecretFile = kafka.Secret(secret), ""
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
		case len(key) < minKey:
			fail("%s: the key has %d bytes; it needs at least %d", name, len(key), minKey)
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
		switch alg {
		case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA":
		default:
			fail("issuer_algorithms: %q is not an asymmetric JWS algorithm such as RS256 or ES256", alg)
		}
	}
	return errs
}
