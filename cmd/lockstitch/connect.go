package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"lockstitch/state/kafka"
)

// connection says where the API is and who asks: the flags that every command has
// that calls it.
type connection struct {
	url, id, secret, secretFile, caFile string
	token, tokenFile                    string
}

func (c *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&c.url, "url", "", "address of the API (LOCKSTITCH_URL)")
	f.StringVar(&c.id, "client-id", "", "client id (LOCKSTITCH_CLIENT_ID)")
	f.StringVar(&c.secret, "client-secret", "", "client secret (LOCKSTITCH_CLIENT_SECRET)")
	f.StringVar(&c.secretFile, "client-secret-file", "", "file that holds the client secret")
	f.StringVar(&c.tokenFile, "token-file", "", "file that holds an access token, instead of a client id and secret; read again when the token is refused")
	f.StringVar(&c.caFile, "ca-file", "", "PEM file of the authority that signed the API's certificate (default: the system's)")
}

// connect checks the flags that every call needs; missing are other flags that
// the command lacks. What no flag says it takes from the environment. Errors are of
// usage.
func (c *connection) connect(a *app, command string, missing ...string) (*exportClient, error) {
	if c.url == "" {
		c.url = a.env("URL")
	}
	// It is one that asks: whom flags name, else whom variables name, and with a
	// token nobody else.
	if c.tokenFile != "" || c.id == "" && c.secret == "" && c.secretFile == "" {
		if err := a.credential(&c.token, &c.tokenFile, "token", "TOKEN"); err != nil {
			return nil, err
		}
	}
	if c.token != "" {
		c.id, c.secret = "", ""
	} else {
		if c.id == "" {
			c.id = a.env("CLIENT_ID")
		}
		if err := a.credential(&c.secret, &c.secretFile, "client-secret", "CLIENT_SECRET"); err != nil {
			return nil, err
		}
	}
	need := func(name, value string) {
		if value == "" {
			missing = append(missing, name)
		}
	}
	need("--url", c.url)
	if c.token == "" {
		need("--client-id", c.id)
		need("--client-secret-file", c.secret)
	}
	if len(missing) > 0 {
		return nil, usage(fmt.Errorf("missing: %s (see `lockstitch %s --help`)", strings.Join(missing, ", "), command))
	}
	if bad := httpURL(c.url); bad != "" {
		return nil, usage(fmt.Errorf("--url %q: %s", withoutPassword(c.url), bad))
	}
	x := &exportClient{url: strings.TrimSuffix(c.url, "/"), id: c.id, secret: c.secret, token: c.token, tokenFile: c.tokenFile, out: a.err}
	if c.caFile != "" {
		if err := x.trust(c.caFile); err != nil {
			return nil, usage(fmt.Errorf("--ca-file: %w", err))
		}
	}
	return x, nil
}

// credential fills v, unless a flag has, from the variable or from a file that
// the flag or the variable with _FILE names, and file with its name.
func (a *app) credential(v, file *string, flag, name string) error {
	if *v != "" && *file != "" {
		return usage(fmt.Errorf("--%s and --%s-file: use one of them", flag, flag))
	}
	where := "--" + flag + "-file"
	if *v == "" && *file == "" {
		*v = a.env(name)
		*file, where = a.env(name+"_FILE"), envPrefix+name+"_FILE"
	}
	secret, err := kafka.Secret(*v).Resolve(*file)
	if err != nil {
		return usage(fmt.Errorf("%s: %w", where, err))
	}
	*v = secret
	return nil
}

// env is the variable LOCKSTITCH_<name>, empty if it is not set.
func (a *app) env(name string) string {
	for _, e := range a.environ {
		if v, ok := strings.CutPrefix(e, envPrefix+name+"="); ok {
			return v
		}
	}
	return ""
}
