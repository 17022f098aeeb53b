package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

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
// A variable that is empty counts as not set. All values, wherever they come from, then pass one table of types and bounds;
// every error is reported, each with the key, the value, the bound and the place.

const envPrefix = "LOCKSTITCH_"

// addFlags declares the flags of the options in scope, and --config.
func addFlags(fs *pflag.FlagSet, in scope) {
	fs.String("config", "", "YAML file with settings ("+envPrefix+"CONFIG)")
	for _, o := range options {
		o = o.in(in)
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
			// list splits it, and shows no secret when that fails.
			fs.StringArray(o.flag(), nil, o.help)
		default:
			fs.String(o.flag(), text(d), o.help)
		}
	}
}

// clientVariables are read by export, which has no settings; they are known so
// that no other command finds them strange.
var clientVariables = map[string]bool{"URL": true, "CLIENT_ID": true, "CLIENT_SECRET": true, "CLIENT_SECRET_FILE": true, "TOKEN": true, "TOKEN_FILE": true}

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

// loadSettings reads and validates the options in scope. Options out of scope
// may stand in file and environment, so that all commands can share them; they
// are not judged, and have their defaults: dev must not take the store of serve.
func loadSettings(fs *pflag.FlagSet, environ []string, in scope) (*Settings, *loaded, error) {
	l, err := read(fs, environ)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, o := range options {
		o = o.in(in)
		v := o.def
		if o.scope&in != 0 {
			if l.origin[o.key] != "" {
				v = l.k.Get(o.key)
			}
			var err error
			if v, err = o.judge(v); err != nil {
				errs = append(errs, l.fault(o, err))
				v = o.def
			}
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
	s.stated = l.state(s, in)
	return s, l, nil
}

// judge makes of v, as coerce does, a value of the option, within its bound. Text is
// UTF-8: names among it are written as JSON, which keeps no other.
func (o option) judge(v any) (any, error) {
	if text, ok := v.(string); ok && !utf8.ValidString(text) {
		return nil, errors.New("must be UTF-8")
	}
	v, err := coerce(o.def, v)
	if err == nil && o.bound != nil {
		if wrong := o.bound(v); wrong != "" {
			err = errors.New(wrong)
		}
	}
	return v, err
}

// fault names key, value, place and bound; of a secret, not the value.
func (l *loaded) fault(o option, err error) error {
	value := withoutPassword(fmt.Sprint(l.k.Get(o.key)))
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

// withoutPassword cuts user, password and parameters out of what may be an address,
// well formed or not.
func withoutPassword(s string) string {
	at := strings.LastIndex(s, "@")
	rest, _, cut := strings.Cut(s[max(at, 0):], "?")
	if cut {
		rest += "?…"
	}
	if at < 0 {
		return rest
	}
	scheme, _, ok := strings.Cut(s[:at], "://")
	if !ok {
		return "…" + rest
	}
	return scheme + "://…" + rest
}

func (l *loaded) from(key string) string {
	if w := l.origin[key]; w != "" {
		return w
	}
	return theDefault
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
				if clientVariables[strings.TrimPrefix(name, envPrefix)] {
					return "", nil
				}
				// Not an error: orchestrators put variables of that kind into
				// the environment of a service of this name.
				l.unknown = append(l.unknown, name)
				return "", nil
			}
			if value == "" {
				return "", nil // as compose and Helm write what nobody has set
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
		v := posflag.FlagVal(fs, f)
		if vs, ok := v.([]string); ok && f.Value.Type() == "stringArray" {
			v = strings.Join(vs, ",") // as in a variable
		}
		return key, v
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
		// YAML reads 00123 as the number 83: what was meant is not known any more.
		if isString {
			return s, nil
		}
		return nil, errors.New("must be text (put it in quotes)")
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
