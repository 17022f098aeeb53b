package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// beginning is the cursor of who has none yet.
const beginning = "beginning"

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

// writeCursor replaces the file, whole or not at all, a power failure included.
func writeCursor(path, cursor string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return fmt.Errorf("--cursor-file: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("--cursor-file: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.WriteString(cursor + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
