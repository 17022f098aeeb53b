package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What a command makes holds personal data or secrets, and nobody but its user may read
// it. A directory that is there keeps its mode, and a file that is downloaded has the one
// of the file that it takes the place of, if that is its user's own.
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

// errNotOwn says that what is there under a name was made by somebody else, or leads
// elsewhere: others could read what is written to it, or change that later.
var errNotOwn = errors.New("is a link, has another name too, or is no regular file of your own, so that others might read or change what is written to it; remove it or choose another place")

var errInUse = errors.New("is in use by another process")

// isOwn tells whether a file or directory belongs to who runs this.
func isOwn(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// isOwnFile tells whether it is a file of who runs this, under one name.
func isOwnFile(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && isOwn(info) && stat.Nlink == 1
}

// openOwn opens a file for reading and writing with what is there, or makes it. In a
// directory that others may write to, what is there may be theirs: that is errNotOwn.
func openOwn(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, privateFile)
	if !errors.Is(err, fs.ErrExist) {
		return f, err
	}
	f, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%s %w", path, errNotOwn)
	case errors.Is(err, fs.ErrNotExist): // who had it has taken it away since
		return nil, fmt.Errorf("%s %w", path, errInUse)
	case err != nil:
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !isOwnFile(info) {
		err = fmt.Errorf("%s %w", path, errNotOwn)
	}
	if err == nil {
		err = f.Chmod(privateFile)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writeSynced writes a file, whose contents are durable when it returns. Its name is
// only after a call of syncDir. What is there goes, and is not written to: it may be a
// link, or another user's.
func writeSynced(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, privateFile)
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
