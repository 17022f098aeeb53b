package main

import (
	"context"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"lockstitch/exporter/rolling"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// Destination is a store that files of rolling exports may be delivered to.
type Destination struct {
	Name     string   `koanf:"name"`
	URL      string   `koanf:"url"`
	Accounts []string `koanf:"accounts"` // that may use it
}

// parseDestination reads NAME:ACCOUNT|ACCOUNT:URL.
func parseDestination(s string) (Destination, error) {
	name, rest, _ := strings.Cut(s, ":")
	accounts, address, ok := strings.Cut(rest, ":")
	if !ok {
		return Destination{}, fmt.Errorf("a destination is written NAME:ACCOUNT|ACCOUNT:URL")
	}
	return Destination{Name: name, Accounts: strings.Split(accounts, "|"), URL: address}, nil
}

// checkDestinations says what is wrong with a list. URLs may hold secrets.
func checkDestinations(list []Destination, store string) (errs []error) {
	names := make(map[string]bool)
	for i, d := range list {
		at := fmt.Sprintf("destinations, entry %d (name %q)", i+1, d.Name)
		wrong := storeURL(d.URL)
		switch {
		case !report.ValidOrderName(d.Name):
			errs = append(errs, fmt.Errorf("%s: the name must be 1 to 63 lower-case letters, digits and dashes", at))
		case names[d.Name]:
			errs = append(errs, fmt.Errorf("%s: the name is used twice", at))
		case len(d.Accounts) == 0 || slices.Contains(d.Accounts, ""):
			errs = append(errs, fmt.Errorf("%s: accounts must name those that may use it, none of them empty", at))
		case d.URL == "" || wrong != "":
			errs = append(errs, fmt.Errorf("%s: url must be file:///path, s3://bucket, gs://bucket or azblob://container", at))
		case within(d.URL, store) || within(store, d.URL):
			errs = append(errs, fmt.Errorf("%s: url is that of the store itself, or lies within or around it, where files of an account could be taken for segments and swept; give each a path of its own", at))
		}
		names[d.Name] = true
	}
	return errs
}

// within tells whether the store at URL a lies in the directory or prefix of b,
// or is the same.
func within(a, b string) bool {
	ua, err := url.Parse(a)
	ub, berr := url.Parse(b)
	if err != nil || berr != nil || a == "" || ua.Scheme != ub.Scheme || ua.Scheme != "file" && ua.Host != ub.Host {
		return false
	}
	inside := strings.TrimSuffix(path.Clean("/"+ub.Path), "/") + "/"
	return strings.HasPrefix(path.Clean("/"+ua.Path)+"/", inside)
}

// destinations are the stores of a replica that files may be delivered to.
type destinations struct {
	settings []Destination
	stores   map[string]objects.Store // by name
}

func (r *replica) openDestinations(ctx context.Context) error {
	d := &destinations{settings: r.s.Replica.Destinations, stores: make(map[string]objects.Store)}
	r.destinations = d
	for _, s := range d.settings {
		store, err := objects.Open(ctx, s.URL)
		if err != nil {
			return fmt.Errorf("destination %s: %w", s.Name, err)
		}
		r.onClose(func() { _ = store.Close() })
		d.stores[s.Name] = store
	}
	return nil
}

// allows tells whether an account may use a destination.
func (d *destinations) allows(account, name string) bool {
	i := slices.IndexFunc(d.settings, func(s Destination) bool { return s.Name == name })
	return i >= 0 && slices.Contains(d.settings[i].Accounts, account)
}

// deliver brings a file to a destination. The account was checked when the
// order was made, and is again: the settings may have changed.
func (r *replica) deliver(ctx context.Context, destination string, f rolling.File) error {
	if !r.destinations.allows(f.Account, destination) {
		return fmt.Errorf("there is no destination %q for account %q in this replica's settings", destination, f.Account)
	}
	return rolling.Deliver(ctx, r.destinations.stores[destination], r.store, f)
}
