package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Lock takes a directory for this process by a file in it, until it is closed.
// The error goes on behind the directory's name: it "is in use", or "cannot be
// written", which nobody should take for another process.
func Lock(in vfs.FS, file string) (io.Closer, error) {
	lock, err := in.Lock(file)
	var unopened *fs.PathError
	switch {
	case err == nil:
		return lock, nil
	case errors.As(err, &unopened):
		return nil, fmt.Errorf("cannot be written: %w", err)
	case errors.Is(err, syscall.ENOLCK):
		return nil, fmt.Errorf("is where files cannot be locked: %w", err)
	}
	return nil, fmt.Errorf("is in use by another process: %w", err)
}
