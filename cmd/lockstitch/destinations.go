package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

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
		case d.collides(store):
			errs = append(errs, fmt.Errorf("%s: url is that of the store itself, or of a place where files of an account and those of the store meet: they could be taken for segments and swept; give each a path of its own", at))
		}
		names[d.Name] = true
	}
	return errs
}

// storesOwn are the directories, and the object, that a replica makes in its store.
var storesOwn = []string{"segments", "exports", "dead-letters", ownerObject}

// collides tells whether the destination is the store, or something of its own in it, or
// has the store where the files of an account go.
func (d Destination) collides(store string) bool {
	if rest, ok := below(d.URL, store); ok {
		first, _, _ := strings.Cut(rest, "/")
		return rest == "" || slices.Contains(storesOwn, first)
	}
	rest, ok := below(store, d.URL)
	first, _, _ := strings.Cut(rest, "/")
	return ok && slices.ContainsFunc(d.Accounts, func(account string) bool { return objects.Part(account) == first })
}

// below is the path of the store at URL a within the directory or prefix of b; empty:
// they are the same. ok is false if it is not there.
func below(a, b string) (rest string, ok bool) {
	ua, err := url.Parse(a)
	ub, berr := url.Parse(b)
	if err != nil || berr != nil || a == "" || ua.Scheme != ub.Scheme || ua.Scheme != "file" && ua.Host != ub.Host {
		return "", false
	}
	inside := strings.TrimSuffix(path.Clean("/"+ub.Path), "/") + "/"
	rest, ok = strings.CutPrefix(path.Clean("/"+ua.Path)+"/", inside)
	return strings.Trim(rest, "/"), ok
}

// destinations are the stores of a replica that files may be delivered to. One that cannot
// be opened when the replica starts is opened when a file is to go there: it holds up its
// own deliveries, and neither a start nor an end.
type destinations struct {
	settings []Destination
	stores   map[string]*destination // by name
}

// opener opens the store that a URL names. On a mount whose server is away it does not
// return before that is back, whatever happens to ctx.
type opener func(ctx context.Context, url string) (objects.Store, error)

// destinationPatience is how long a start, and each try of a delivery, waits for a
// destination to be opened, and one that is called off for what is under way there.
const destinationPatience = 3 * time.Second

// errHangs is why a destination cannot be used that is still being opened.
var errHangs = fmt.Errorf("the destination has not answered for %s, and is waited for", destinationPatience)

type destination struct {
	url    string
	opener opener

	mu     sync.Mutex
	last   *opening // that is under way or has succeeded; nil: none
	closed bool
	left   map[string]bool // orders of which a delivery goes on, called off or not
}

// opening is one try to open a destination. There is one at a time: of a store that hangs
// no further goroutine has to wait in the kernel.
type opening struct {
	done  chan struct{}
	store objects.Store // once done is closed
	err   error
}

func openDestinations(ctx context.Context, open opener, settings []Destination, log *slog.Logger) *destinations {
	d := &destinations{settings: settings, stores: make(map[string]*destination)}
	var all sync.WaitGroup
	for _, s := range settings {
		one := &destination{url: s.URL, opener: open, left: make(map[string]bool)}
		d.stores[s.Name] = one
		all.Go(func() {
			if _, err := one.open(ctx); err != nil && ctx.Err() == nil {
				log.Warn("a destination cannot be opened; what goes there waits", "destination", s.Name, "err", err)
			}
		})
	}
	all.Wait()
	return d
}

// open waits for the store, but not for ever. What hangs goes on, and who comes next waits
// for the same.
func (d *destination) open(ctx context.Context) (objects.Store, error) {
	d.mu.Lock()
	o := d.last
	if o == nil {
		o = &opening{done: make(chan struct{})}
		d.last = o
		// Credentials are renewed with the context for as long as the store is open.
		go d.try(context.WithoutCancel(ctx), o)
	}
	d.mu.Unlock()
	limit, cancel := context.WithTimeoutCause(ctx, destinationPatience, errHangs)
	defer cancel()
	select {
	case <-o.done:
		return o.store, o.err
	case <-limit.Done():
		return nil, context.Cause(limit)
	}
}

// try opens the store. One that failed is tried again by who comes next.
func (d *destination) try(ctx context.Context, o *opening) {
	store, err := d.opener(ctx, d.url)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		d.last = nil
	case d.closed:
		err = cmp.Or(store.Close(), errors.New("the replica has ended"))
	}
	o.store, o.err = store, err
	close(o.done)
}

// close waits for no store that is still being opened: it is closed by who opens it, if
// the process lives until then.
func (d *destinations) close() {
	for _, one := range d.stores {
		one.mu.Lock()
		one.closed = true
		if o := one.last; o != nil {
			select {
			case <-o.done:
				_ = o.store.Close()
			default:
			}
		}
		one.mu.Unlock()
	}
}

// begin says that a delivery of an order begins, unless one goes on that was called off
// while its file system hung: each is a thread that waits in the kernel.
func (d *destination) begin(order string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left[order] {
		return false
	}
	d.left[order] = true
	return true
}

func (d *destination) end(order string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.left, order)
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
	err := r.deliverTo(ctx, destination, f)
	if err != nil && ctx.Err() == nil {
		r.metrics.deliveryFailed.WithLabelValues(destination).Inc()
	}
	return err
}

func (r *replica) deliverTo(ctx context.Context, destination string, f rolling.File) error {
	one := r.destinations.stores[destination]
	dest, err := one.open(ctx)
	if err != nil {
		return err
	}
	if !one.begin(f.Order) {
		return errHangs
	}
	delivered := make(chan error, 1)
	go func() {
		defer one.end(f.Order)
		delivered <- rolling.Deliver(ctx, dest, r.store, f)
	}()
	select {
	case err := <-delivered:
		return err
	case <-ctx.Done():
	}
	// A bucket ends now. A file system that hangs does not, and holds up no end: what it
	// does later is as if another replica did it, and nothing is overwritten.
	left := time.NewTimer(destinationPatience)
	defer left.Stop()
	select {
	case err := <-delivered:
		return err
	case <-left.C:
		return context.Cause(ctx)
	}
}
