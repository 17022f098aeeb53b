package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cenkalti/backoff/v5"

	"lockstitch/exporter/api"
)

// sink is where a download goes. Errors of its methods are of this machine:
// trying again does not cure them.
type sink interface {
	io.Writer
	size() int64          // bytes it holds
	restart() error       // forget them: they belong to another file
	sum() (string, error) // SHA-256 of them, hex
	keep() error          // they are the whole file
	drop() error          // they are damaged, or nobody can go on with them, or they are not to be kept after all
	io.Closer
}

// openSink opens FILE.part, with what an earlier call has left there, or
// standard output for "-". It does so before anything is asked of the server.
func (a *app) openSink(out string) (sink, error) {
	if out == "-" {
		return &streamSink{w: a.out, hash: sha256.New()}, nil
	}
	switch info, err := os.Stat(out); {
	case err != nil || info.Mode().IsRegular():
	case info.IsDir():
		return nil, usage(fmt.Errorf("--output %s: is a directory; name a file in it", out))
	default: // a device would be replaced by the file
		return nil, usage(fmt.Errorf("--output %s: is no regular file; \"-o -\" writes to standard output", out))
	}
	s, err := openFile(out)
	switch {
	case errors.Is(err, errInUse):
		return nil, fmt.Errorf("--output: %w", err)
	case err != nil:
		return nil, usage(fmt.Errorf("--output: the file cannot be written: %w", err))
	}
	return s, nil
}

// openFile opens FILE.part with what is there, and locks it: of two processes that
// write to it neither would have its file.
func openFile(name string) (*fileSink, error) {
	f, err := openOwn(name + ".part")
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return nil, errors.Join(fmt.Errorf("%s %w", f.Name(), errInUse), f.Close())
	case err != nil:
		return nil, errors.Join(fmt.Errorf("%s cannot be locked: %w", f.Name(), err), f.Close())
	}
	// Who had the lock until now may have taken the name away.
	have, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if named, err := os.Stat(f.Name()); err != nil || !os.SameFile(have, named) {
		return nil, errors.Join(fmt.Errorf("%s %w", f.Name(), errInUse), f.Close())
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileSink{f: f, n: have.Size(), name: name}, nil
}

// fileSink is FILE.part, which becomes FILE. It is locked while it is open.
type fileSink struct {
	f    *os.File
	n    int64
	name string
	only bool // its rows are in no other file: it takes the place of none
	gone bool // FILE.part is not its name any more, and may be another's
	kept bool // FILE is
}

func (s *fileSink) Write(p []byte) (int, error) {
	n, err := s.f.Write(p)
	s.n += int64(n)
	return n, err
}

func (s *fileSink) size() int64 { return s.n }

func (s *fileSink) restart() error {
	if err := s.f.Truncate(0); err != nil {
		return err
	}
	s.n = 0
	_, err := s.f.Seek(0, io.SeekStart)
	return err
}

// sum reads the file again: what an earlier call left counts too.
func (s *fileSink) sum() (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(s.f, 0, s.n)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (s *fileSink) keep() error {
	if err := s.f.Sync(); err != nil {
		return err
	}
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != s.n { // not everybody asks for a lock
		return errors.Join(fmt.Errorf("%s has %d bytes, of which %d were verified, and must not be used: something else writes to it", s.f.Name(), info.Size(), s.n), s.drop())
	}
	if old, err := os.Lstat(s.name); err == nil && isOwnFile(old) && old.Mode().Perm() != info.Mode().Perm() {
		if err := s.f.Chmod(old.Mode().Perm()); err != nil {
			return err
		}
	}
	if s.only {
		// Of lockstitches nobody else can give FILE its name now: they lock the part.
		if err := notThere(s.name); err != nil {
			return err
		}
	}
	if err := os.Rename(s.f.Name(), s.name); err != nil {
		return err
	}
	s.gone, s.kept = true, true
	return syncDir(filepath.Dir(s.name)) // before a cursor says that the file is there
}

func (s *fileSink) drop() error {
	if s.kept {
		have, err := s.f.Stat()
		if err != nil {
			return err
		}
		if named, err := os.Stat(s.name); err == nil && os.SameFile(have, named) {
			err = os.Remove(s.name)
			s.kept = err != nil
			return err
		}
		return nil
	}
	if s.gone {
		return nil
	}
	s.gone = true
	return os.Remove(s.f.Name())
}

// Close leaves no empty file behind.
func (s *fileSink) Close() error {
	if s.n == 0 && !s.kept {
		_ = s.drop() // while the lock is held
	}
	return s.f.Close()
}

// streamSink passes the file on while it arrives. A download that breaks off is
// resumed where it was; what has gone out cannot be taken back.
type streamSink struct {
	w    io.Writer
	n    int64
	hash hash.Hash
}

func (s *streamSink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	_, _ = s.hash.Write(p[:n]) // never fails
	return n, err
}

func (s *streamSink) size() int64 { return s.n }

func (s *streamSink) restart() error {
	if s.n > 0 {
		return fmt.Errorf("the file has changed on the server after %d bytes of it were written out", s.n)
	}
	return nil
}

func (s *streamSink) sum() (string, error) { return hex.EncodeToString(s.hash.Sum(nil)), nil }
func (s *streamSink) keep() error          { return nil }
func (s *streamSink) drop() error          { return nil }
func (s *streamSink) Close() error         { return nil }

// remoteFile is a file that the API offers.
type remoteFile struct {
	bytes  int64
	sha256 string                                                // hex
	link   func(ctx context.Context) (address string, err error) // with a fresh credential
}

// file is that of a completed report.
func (x *exportClient) file(st *api.Status) remoteFile {
	return remoteFile{*st.Bytes, st.SHA256, func(ctx context.Context) (string, error) {
		fresh, err := x.status(ctx, st.ReportID)
		if err != nil {
			return "", err
		}
		if fresh.Status != "completed" {
			return "", backoff.Permanent(&endedError{id: st.ReportID, how: "is " + fresh.Status})
		}
		return fresh.FileDownloadURL, nil
	}}
}

// errNothing is an answer as it should be, without a byte of the file.
var errNothing = errors.New("the server has answered and sent nothing of the file")

// fetch downloads a file into to, resuming what is there, and verifies it. As
// long as bytes arrive it goes on, however long that takes.
func (x *exportClient) fetch(ctx context.Context, f remoteFile, to sink, b *bar) error {
	if to.size() > f.bytes {
		if err := to.restart(); err != nil {
			return err
		}
	}
	for to.size() < f.bytes {
		_, err := again(ctx, x, cmp.Or(x.giveUp, giveUpAfter), func() (struct{}, error) {
			before := to.size()
			err := x.fetchOnce(ctx, f, to, b)
			var local *backoff.PermanentError
			switch moved := to.size() > before; {
			case err == nil && !moved:
				err = errNothing
			case moved && !errors.As(err, &local):
				err = nil // the time to give up starts anew
			}
			return struct{}{}, permanent(err)
		})
		if err != nil {
			return err
		}
	}
	got, err := to.sum()
	if err != nil {
		return err
	}
	if got != f.sha256 {
		return errors.Join(fmt.Errorf("what arrived has SHA-256 %s, not %s, and must not be used", got, f.sha256), to.drop())
	}
	return to.keep()
}

// fetchOnce downloads as much as it can.
func (x *exportClient) fetchOnce(ctx context.Context, f remoteFile, to sink, b *bar) error {
	address, err := f.link(ctx)
	if err != nil {
		return err
	}
	from := to.size()
	b.set(from, f.bytes)
	w := writerFunc(func(p []byte) (int, error) {
		n, err := to.Write(p)
		b.set(to.size(), f.bytes)
		if err != nil {
			err = backoff.Permanent(err)
		}
		return n, err
	})
	err = x.download(ctx, address, f.sha256, from, w)
	if errors.Is(err, errChanged) {
		if rerr := to.restart(); rerr != nil {
			return backoff.Permanent(rerr)
		}
	}
	return err
}
