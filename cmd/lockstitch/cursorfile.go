package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/state/local"
)

// beginning is the cursor of who has none yet.
const beginning = "beginning"

// lockCursor takes the file of a cursor for this process, from before it is read
// until after it is written: two at a time would bring the same rows twice.
func lockCursor(path string) (io.Closer, error) {
	lock, err := local.Lock(vfs.Default, filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"))
	if err != nil {
		return nil, fmt.Errorf("--cursor-file: %s %w", path, err)
	}
	return lock, nil
}

// readCursor is the cursor that a file keeps; without the file, the beginning.
func readCursor(path string) (string, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return beginning, nil
	case err != nil:
		return "", fmt.Errorf("--cursor-file: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		// Never the beginning by accident: that would repeat everything.
		return "", fmt.Errorf("--cursor-file: %s is empty; remove it to start from the beginning", path)
	}
	return text, nil
}

// writeCursor replaces the file. Who calls it has its lock.
func writeCursor(path, cursor string) error {
	if err := replaceFile(path, []byte(cursor+"\n")); err != nil {
		return fmt.Errorf("--cursor-file: %w", err)
	}
	return nil
}
