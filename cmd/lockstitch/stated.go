package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
)

// stated is a setting as a command runs with it, without what is secret.
type stated struct{ key, value, from string }

// theDefault is where the value of a setting comes from that nobody has given.
const theDefault = "the default"

// state lists the settings in scope, in the order of options.
func (l *loaded) state(s *Settings, in scope) []stated {
	var all []stated
	for _, o := range options {
		if o.scope&in == 0 {
			continue
		}
		st := stated{o.key, shown(l.k.Get(o.key)), l.from(o.key)}
		switch o.key { // a file may have filled them
		case "clients":
			st.value, st.from = shown(s.Auth.Clients), l.fromFileToo(o.key)
		case "signing_keys":
			st.value, st.from = shown(s.Auth.SigningKeys), l.fromFileToo(o.key)
		}
		all = append(all, st)
	}
	return all
}

// fromFileToo is from for a list that the setting key_file adds to.
func (l *loaded) fromFileToo(key string) string {
	file := key + "_file"
	switch {
	case l.origin[file] == "":
		return l.from(key)
	case l.origin[key] == "":
		return file
	}
	return l.from(key) + " and " + file
}

// shown is a value for people: of what may be secret it says that it is there.
func shown(v any) string {
	switch v := v.(type) {
	case []string:
		return strings.Join(v, ",")
	case []Client:
		return each(v, func(c Client) string { return c.ID + ":[secret]:" + c.Account })
	case []SigningKey:
		return each(v, func(k SigningKey) string { return k.KID + ":[secret]" })
	case []Destination:
		return each(v, func(d Destination) string {
			return d.Name + ":" + strings.Join(d.Accounts, "|") + ":" + withoutPassword(d.URL)
		})
	case string:
		if strings.Contains(v, "://") {
			return withoutPassword(v)
		}
	}
	return fmt.Sprint(v)
}

func each[T any](list []T, text func(T) string) string {
	out := make([]string, len(list))
	for i, t := range list {
		out[i] = text(t)
	}
	return strings.Join(out, ",")
}

// agreed are the settings that all replicas must have the same values of: by them input
// is read, made rows of and kept, and calls are answered.
var agreed = []string{
	"events_topics", "profiles_topic", "definitions_topic", "catalog_topic", "reports_topic", "dead_letters_topic",
	"group", "store_url", "destinations", "default_account", "accounts", "dedup_horizon", "retention",
	"clients", "signing_keys", "issuer_jwks_url", "issuer", "issuer_audience", "issuer_account_claim", "issuer_algorithms",
	"window_months", "max_attributes", "max_tags", "max_sections", "max_pending", "max_reports_size", "max_rolling_exports", "max_file_size",
	"barrier_timeout", "file_lifetime",
}

// digest is the same for the same value as it is shown: of secrets it says nothing.
func (st stated) digest() string {
	sum := sha256.Sum256([]byte(st.value))
	return hex.EncodeToString(sum[:6])
}

// logGiven says which settings have been given, and where.
func (s *Settings) logGiven(log *slog.Logger) {
	const most = 200 // bytes of a value; lists of clients may be long
	var given []any
	for _, st := range s.stated {
		if st.from == theDefault {
			continue
		}
		if len(st.value) > most {
			st.value = strings.ToValidUTF8(st.value[:most], "") + "…"
		}
		given = append(given, slog.String(st.key, st.value+" (from "+st.from+")"))
	}
	log.Info("settings that are given; all others have their defaults", given...)
}
