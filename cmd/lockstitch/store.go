package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"lockstitch/state/objects"
)

// openStore opens the configured store, or the one in the data directory.
func openStore(ctx context.Context, s ReplicaSettings) (objects.Store, error) {
	addr, err := storeAddress(s)
	if err != nil {
		return nil, err
	}
	return objects.Open(ctx, addr)
}

// storeAddress is the store's URL; of the one in the data directory unless
// another is configured.
func storeAddress(s ReplicaSettings) (string, error) {
	if s.StoreURL != "" {
		return s.StoreURL, nil
	}
	dir, err := filepath.Abs(filepath.Join(s.DataDir, "objects"))
	if err != nil {
		return "", err
	}
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(dir)}).String(), nil
}

// openExisting opens the store to look at it. A directory that is not there is
// not made: it is a mistake in the address, and would look like a store that has
// lost everything. Nor is anything in it: what the user of this command makes the user
// of serve may not be able to write to, and a copy to be verified may be read-only.
func openExisting(ctx context.Context, s ReplicaSettings) (objects.Store, error) {
	addr, err := storeAddress(s)
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(addr); err == nil && u.Scheme == "file" {
		if _, err := os.Stat(u.Path); errors.Is(err, fs.ErrNotExist) {
			return nil, usage(fmt.Errorf("there is no object store at %s: name the one that serve has with --store-url", u.Path))
		}
	}
	return objects.OpenToRead(ctx, addr)
}
