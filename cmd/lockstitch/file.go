package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// What a command makes holds personal data or secrets, and nobody but its user may read
// it. A directory that is there keeps its mode, and a file that is downloaded has the one
// of the file that it takes the place of.
const (
	privateFile = 0o600
	privateDir  = 0o700
)

// replaceFile gives a file its contents, whole or not at all, a power failure
// included. It writes them to FILE.part first. Nobody else may do so at the same time: the
// caller has a lock, and a FILE.part that is there was left by one who was killed.
func replaceFile(path string, data []byte) error {
	part := path + ".part"
	err := writeSynced(part, data)
	if err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		_ = os.Remove(part) // the error says more
		return err
	}
	return syncDir(filepath.Dir(path))
}

// writeSynced writes a file, whose contents are durable when it returns. Its name is
// only after a call of syncDir.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, privateFile)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDir makes the names in a directory durable, where the file system can.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// fileSHA256 is the digest of a file, hex.
func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
