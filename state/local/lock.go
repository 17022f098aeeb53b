package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Lock takes a directory for this process by a file in it, until it is closed.
// The error goes on behind the directory's name: it "is in use", or "cannot be
// written", which nobody should take for another process.
func Lock(in vfs.FS, file string) (io.Closer, error) {
	lock, err := in.Lock(file)
	var unopened *fs.PathError
	switch {
	case errors.As(err, &unopened):
		return nil, fmt.Errorf("cannot be written: %w", err)
	case err != nil:
		return nil, fmt.Errorf("is in use: %w", err)
	}
	return lock, nil
}
