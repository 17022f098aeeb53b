package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
)

// tempDir holds files that are being written; no name of an object begins with
// a dot on disk.
const tempDir = ".lockstitch-tmp"

// staleTemp is how long ago a temporary file was last written to until a store takes
// it for left behind by a crash. Another process may be writing to younger ones. A store
// looks when it is opened, and again as often as that while it is written to: what a crash
// has left is young when the process is back.
const staleTemp = time.Hour

// fileStore keeps objects as files of a directory. An object is written to a
// temporary file, synced, linked to its name (which fails if the name is
// taken), and the directories above it are synced: what has a name is whole,
// and what a write has reported survives a loss of power.
type fileStore struct {
	root  string
	url   string
	modes modes
	// sync is os.File.Sync; tests replace it to see the order of events.
	sync func(*os.File) error
	// known is what is there as long as the directory of the store is.
	known string
	// readOnly is of a store that was opened to be read.
	readOnly bool
	// swept is when temporary files were looked at last, in ns since the Unix epoch.
	swept atomic.Int64
}

// modes are the permissions of what a store makes, before the umask.
type modes struct{ dir, file os.FileMode }

var (
	private = modes{0o700, 0o600}
	shared  = modes{0o755, 0o644}
)

// fileRoot is the directory that a URL names.
func fileRoot(u *url.URL) (string, error) {
	if u.Host != "" && u.Host != "localhost" {
		return "", fmt.Errorf("a file URL has three slashes (file:///directory), this one names the host %q", u.Host)
	}
	if !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("directory %q is not absolute", u.Path)
	}
	if u.RawQuery != "" {
		return "", errors.New("a file URL takes no parameters")
	}
	return filepath.Clean(u.Path), nil
}

// newFile looks at nothing.
func newFile(u *url.URL, m modes) (*fileStore, error) {
	root, err := fileRoot(u)
	if err != nil {
		return nil, err
	}
	return &fileStore{root: root, url: "file://" + u.Path, modes: m, sync: (*os.File).Sync, known: filepath.Join(root, tempDir)}, nil
}

// openFileToRead makes nothing. A copy of a store need not have the directory of
// temporary files.
func openFileToRead(u *url.URL) (*fileStore, error) {
	s, err := newFile(u, private)
	if err != nil {
		return nil, err
	}
	s.readOnly = true
	if _, err := os.Stat(s.known); missing(err) {
		s.known = s.root
	}
	return s, nil
}

// openFile makes the directory, so that who is to write finds out at once if it cannot.
func openFile(u *url.URL, m modes) (*fileStore, error) {
	s, err := newFile(u, m)
	if err != nil {
		return nil, err
	}
	above := filepath.Dir(s.root) // others may have something there
	if err := s.makeDirs(above, "/", shared.dir); err != nil {
		return nil, err
	}
	if err := s.makeDirs(filepath.Join(s.root, tempDir), above, m.dir); err != nil {
		return nil, err
	}
	now := time.Now()
	s.swept.Store(now.UnixNano())
	return s, s.sweepTemp(now.Add(-staleTemp))
}

// sweepAgain looks at the temporary files if that was long ago. No write fails by it.
func (s *fileStore) sweepAgain(now time.Time) {
	last := s.swept.Load()
	if now.Sub(time.Unix(0, last)) >= staleTemp && s.swept.CompareAndSwap(last, now.UnixNano()) {
		_ = s.sweepTemp(now.Add(-staleTemp))
	}
}

// sweepTemp removes temporary files last written before limit.
func (s *fileStore) sweepTemp(limit time.Time) error {
	dir := filepath.Join(s.root, tempDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if info.ModTime().Before(limit) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// path is the file of an object.
func (s *fileStore) path(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = encodePart(p)
		if len(parts[i]) > 255 {
			return "", fmt.Errorf("object name %q has a part that is too long for a file name", name)
		}
	}
	return filepath.Join(s.root, filepath.Join(parts...)), nil
}

// missing tells whether there is no file of the name that was asked for.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// there is an error if the store's own directory is gone, a volume that is not
// mounted for example: then nothing is known about its objects.
func (s *fileStore) there() error {
	if _, err := os.Stat(s.known); err != nil {
		return errors.New("the directory of the store is not there")
	}
	return nil
}

func (s *fileStore) err(op, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case missing(err):
		if err = s.there(); err == nil {
			err = fmt.Errorf("%w", ErrNotExist)
		}
	case errors.Is(err, fs.ErrExist):
		err = fmt.Errorf("%w", ErrExists)
	}
	return &storeError{op: op, store: s.url, name: name, cause: err}
}

func (s *fileStore) Put(ctx context.Context, name string, data []byte) error {
	w, err := s.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}

func (s *fileStore) Create(ctx context.Context, name string) (Writer, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, s.err("writing", name, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, s.err("writing", name, err)
	}
	if s.readOnly {
		return nil, s.err("writing", name, errors.New("it was opened to be read"))
	}
	s.sweepAgain(time.Now())
	temp := filepath.Join(s.root, tempDir, ulid.Make().String())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, s.modes.file)
	if err != nil {
		// A missing directory here is the store's failure, not an object's absence.
		return nil, &storeError{op: "writing", store: s.url, name: name, cause: err}
	}
	return &fileWriter{ctx: ctx, s: s, f: f, name: name, path: path}, nil
}

type fileWriter struct {
	ctx        context.Context
	s          *fileStore
	f          *os.File
	name, path string
	ended      bool
}

func (w *fileWriter) fail(err error) error {
	if err == nil || errors.Is(err, fs.ErrExist) {
		return w.s.err("writing", w.name, err)
	}
	return &storeError{op: "writing", store: w.s.url, name: w.name, cause: err}
}

func (w *fileWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, w.fail(err)
	}
	n, err := w.f.Write(p)
	return n, w.fail(err)
}

func (w *fileWriter) Commit() error {
	if w.ended {
		return w.fail(errors.New("already ended"))
	}
	defer w.Abort()
	if err := w.ctx.Err(); err != nil {
		return w.fail(err)
	}
	if err := w.s.sync(w.f); err != nil {
		return w.fail(err)
	}
	dir := filepath.Dir(w.path)
	for try := 0; ; try++ {
		if err := os.MkdirAll(dir, w.s.modes.dir); err != nil {
			return w.fail(notTaken(err))
		}
		err := os.Link(w.f.Name(), w.path)
		if err == nil {
			break
		}
		// A Delete may have removed the directory as it became empty.
		if !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return w.fail(err)
		}
	}
	// All directories up to the root: whoever made one of them may not have
	// synced the one above it yet.
	for d := dir; ; d = filepath.Dir(d) {
		if err := w.s.syncDir(d); err != nil {
			return w.fail(err)
		}
		if d == w.s.root {
			return nil
		}
	}
}

// notTaken keeps a directory that cannot be made because a file is in its
// place from looking like an object that exists.
func notTaken(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return errors.New(err.Error())
	}
	return err
}

func (w *fileWriter) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	w.f.Close()
	os.Remove(w.f.Name())
}

// makeDirs makes dir and what is missing above it, with a mode, and syncs every directory
// from dir up to, without, base.
func (s *fileStore) makeDirs(dir, base string, mode os.FileMode) error {
	var missing []string
	for d := dir; d != base; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, d)
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	for _, d := range missing {
		if err := s.syncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

func (s *fileStore) syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.sync(f)
}

func (s *fileStore) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, s.err("reading", name, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, s.err("reading", name, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, s.err("reading", name, err)
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		f.Close()
		if err == nil {
			err = ErrNotExist
		}
		return nil, s.err("reading", name, err)
	}
	if off < 0 {
		f.Close()
		return nil, s.err("reading", name, fmt.Errorf("offset %d is negative", off))
	}
	if off > 0 {
		if _, err := f.Seek(off, io.SeekStart); err != nil {
			f.Close()
			return nil, s.err("reading", name, err)
		}
	}
	if n < 0 {
		return f, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, n), f}, nil
}

func (s *fileStore) Stat(ctx context.Context, name string) (Info, error) {
	path, err := s.path(name)
	if err != nil {
		return Info{}, s.err("looking at", name, err)
	}
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		err = ErrNotExist
	}
	if err != nil {
		return Info{}, s.err("looking at", name, err)
	}
	return Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}, nil
}

func (s *fileStore) Delete(ctx context.Context, name string) error {
	path, err := s.path(name)
	if err != nil {
		return s.err("deleting", name, err)
	}
	if s.readOnly {
		return s.err("deleting", name, errors.New("it was opened to be read"))
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	err = os.Remove(path)
	if missing(err) {
		if err = s.there(); err == nil {
			return nil
		}
	}
	if err != nil {
		return s.err("deleting", name, err)
	}
	// Directories that became empty go too; one that is not empty refuses.
	for dir := filepath.Dir(path); dir != s.root; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break
		}
	}
	return nil
}

func (s *fileStore) List(ctx context.Context, prefix string, fn func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return s.err("listing", prefix, err)
	}
	base, dir := "", s.root
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		base = prefix[:i+1]
		for part := range strings.SplitSeq(prefix[:i], "/") {
			dir = filepath.Join(dir, encodePart(part))
		}
	}
	return s.walk(ctx, dir, base, prefix, fn)
}

// walk lists dir, whose objects' names begin with base.
func (s *fileStore) walk(ctx context.Context, dir, base, prefix string, fn func(Info) error) error {
	f, err := os.Open(dir)
	if missing(err) {
		if err = s.there(); err == nil {
			return nil
		}
	}
	if err != nil {
		return s.err("listing", prefix, err)
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(1000)
		if err != nil && err != io.EOF {
			if missing(err) && s.there() == nil { // no directory, or deleted meanwhile with all in it
				return nil
			}
			return s.err("listing", prefix, err)
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return s.err("listing", prefix, err)
			}
			part, ok := decodePart(e.Name())
			if !ok {
				continue
			}
			name := base + part
			if e.IsDir() {
				if strings.HasPrefix(name+"/", prefix) || strings.HasPrefix(prefix, name+"/") {
					if err := s.walk(ctx, filepath.Join(dir, e.Name()), name+"/", prefix, fn); err != nil {
						return err
					}
				}
				continue
			}
			if !strings.HasPrefix(name, prefix) {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return s.err("listing", prefix, err)
			}
			if err := fn(Info{Name: name, Size: info.Size(), ModTime: info.ModTime()}); err != nil {
				return err
			}
		}
		if err == io.EOF || len(entries) == 0 {
			return nil
		}
	}
}

func (s *fileStore) Close() error { return nil }
