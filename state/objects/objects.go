// Package objects is the object store behind one URL: file, s3, gs or azblob.
// Everything bulky (segments, finished exports, oversized dead letters) lives
// there under names that are never reused.
package objects

import (
	"context"
	"errors"
	"io"
	"time"
)

// Errors that callers tell apart; all others are failures of the store, to be
// retried with back-off and never taken for the absence of an object.
var (
	ErrNotExist = errors.New("object does not exist")
	ErrExists   = errors.New("object exists already")
)

// Info describes a stored object.
type Info struct {
	Name    string
	Size    int64
	ModTime time.Time // by the store's clock
}

// Store keeps immutable objects. Names are slash-separated, relative, without
// "." and ".." parts, UTF-8. All methods may be called concurrently.
type Store interface {
	// Put stores data under a new name. When it returns nil the object is
	// durable, a power loss included. ErrExists if the name is taken.
	Put(ctx context.Context, name string, data []byte) error
	// Create starts a streamed object, visible and durable only once Commit
	// returned nil.
	Create(ctx context.Context, name string) (Writer, error)
	// Open reads n bytes from offset off (n < 0: to the end); fewer, or none,
	// where the object ends before. The caller closes the reader. ErrNotExist if
	// there is no such object. Only io.EOF means that the object ends; no other
	// error of the reader wraps it or io.ErrUnexpectedEOF.
	Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error)
	// Stat describes one object. ErrNotExist if there is none.
	Stat(ctx context.Context, name string) (Info, error)
	// List calls fn for every object whose name starts with prefix, in no
	// particular order, until fn returns an error. A listing never says what is
	// live, only what may be swept.
	List(ctx context.Context, prefix string, fn func(Info) error) error
	// Delete removes an object; one that does not exist is no error.
	Delete(ctx context.Context, name string) error
	// Close releases connections.
	Close() error
}

// Writer streams one object. Exactly one of Commit and Abort ends it; Abort
// after Commit does nothing, so that it can be deferred.
type Writer interface {
	io.Writer
	Commit() error
	Abort()
}
