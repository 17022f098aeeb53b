package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/oklog/ulid/v2"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // the scheme azblob
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"
)

const (
	// attemptTime bounds one attempt at a small operation, the beginning of a
	// read included.
	attemptTime = 30 * time.Second
	// putTime and a second for each MiB bound one attempt at storing an object that is in memory.
	putTime = 2 * time.Minute
	// readStall is how long a read within an object may bring nothing.
	readStall = 2 * time.Minute
	// writeStall is how long a streamed upload may take for what is under way of it, and
	// for its end: a slow line gets two parts through.
	writeStall = 10 * time.Minute
	// attempts is how often an operation is tried before its error is returned;
	// the services' clients retry below that as well.
	attempts = 3
	// tokenKey is the metadata that tells our own write from another's.
	tokenKey = "lockstitch_write"
	// partSize and partsAtOnce bound the memory of a streamed upload.
	partSize    = 8 << 20
	partsAtOnce = 2
)

// bucketStore is a bucket of a cloud service.
//
// Every write is conditional on the name being free, and carries a token of its
// own: when a write was done but its reply was lost, the repetition is refused
// because the name is taken, and the token says by whom. That makes it safe to
// repeat writes.
type bucketStore struct {
	b   *blob.Bucket
	url string
	// lookFirst: the service may ignore the condition on a write.
	lookFirst bool
	// tests shorten these
	readStall, writeStall time.Duration
}

func openBucket(ctx context.Context, u *url.URL) (*bucketStore, error) {
	if u.Host == "" {
		return nil, errors.New("the URL names no bucket")
	}
	s := &bucketStore{url: u.Scheme + "://" + u.Host + u.Path, readStall: readStall, writeStall: writeStall}
	at := *u
	at.Path, at.User = "", nil
	var err error
	switch u.Scheme {
	case "s3":
		s.b, err = new(s3blob.URLOpener).OpenBucketURL(ctx, &at)
	case "gs":
		s.b, err = openGoogle(ctx, &at)
		s.lookFirst = true
	case "azblob":
		// The registered opener takes the account and its credentials from the
		// environment, and sends a SAS token to no other host.
		s.b, err = blob.OpenBucket(ctx, at.String())
	}
	if err != nil {
		return nil, err
	}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		if err := CheckName(prefix); err != nil {
			return nil, errors.Join(err, s.b.Close())
		}
		s.b = blob.PrefixedBucket(s.b, prefix+"/")
	}
	return s, nil
}

// code is gcerrors.Code, but azureblob says NotFound of a host that has no address, too.
// A name server that knows none for a moment says nothing about an object.
func code(err error) gcerrors.ErrorCode {
	c := gcerrors.Code(err)
	if c == gcerrors.NotFound && strings.Contains(err.Error(), "no such host") {
		return gcerrors.Unknown
	}
	return c
}

func (s *bucketStore) err(op, name string, err error) error {
	switch code(err) {
	case gcerrors.OK:
		return nil
	case gcerrors.NotFound:
		if name != "" && !strings.Contains(err.Error(), "NoSuchBucket") && !strings.Contains(err.Error(), "ContainerNotFound") {
			err = fmt.Errorf("%w", ErrNotExist)
		}
	case gcerrors.FailedPrecondition, gcerrors.AlreadyExists:
		err = fmt.Errorf("%w", ErrExists)
	}
	return &storeError{op: op, store: s.url, name: name, cause: err}
}

// retry tries op until it succeeds, fails for good, or was tried often enough.
// op gets a context that ends after limit.
func (s *bucketStore) retry(ctx context.Context, limit time.Duration, op func(context.Context) error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		octx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := op(octx)
		if err != nil && (ctx.Err() != nil || final(err)) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxTries(attempts), backoff.WithMaxElapsedTime(0))
	var p *backoff.PermanentError
	if errors.As(err, &p) {
		return p.Unwrap()
	}
	return err
}

// final tells whether an error will be the same next time.
func final(err error) bool {
	if errors.Is(err, ErrExists) {
		return true
	}
	// S3 refuses a look at an object without a reason. When this machine's clock has been set
	// the client learns by how much from the answer, which it takes for a refusal all the same
	// unless the reason stands there.
	if strings.Contains(err.Error(), "api error Forbidden") {
		return false
	}
	switch code(err) {
	case gcerrors.NotFound, gcerrors.AlreadyExists, gcerrors.FailedPrecondition,
		gcerrors.InvalidArgument, gcerrors.PermissionDenied, gcerrors.Unimplemented:
		return true
	}
	return false
}

func writerOptions(token string) *blob.WriterOptions {
	return &blob.WriterOptions{
		BufferSize:     partSize,
		MaxConcurrency: partsAtOnce,
		ContentType:    "application/octet-stream",
		IfNotExist:     true,
		Metadata:       map[string]string{tokenKey: token},
	}
}

func (s *bucketStore) Put(ctx context.Context, name string, data []byte) error {
	if err := CheckName(name); err != nil {
		return s.err("writing", name, err)
	}
	token := ulid.Make().String()
	err := s.retry(ctx, putTime+time.Duration(len(data)>>20)*time.Second, func(ctx context.Context) error {
		if s.lookFirst {
			if err := s.free(ctx, name, token); err != nil {
				return err
			}
		}
		err := s.b.Upload(ctx, name, bytes.NewReader(data), writerOptions(token))
		return s.settle(ctx, name, token, err)
	})
	return s.err("writing", name, err)
}

// settle decides what a refused write means: nil if the object that took the
// name is the one that was written under token.
func (s *bucketStore) settle(ctx context.Context, name, token string, err error) error {
	if c := code(err); c != gcerrors.FailedPrecondition && c != gcerrors.AlreadyExists {
		return err
	}
	a, aerr := s.b.Attributes(ctx, name)
	if aerr != nil {
		if code(aerr) == gcerrors.NotFound {
			return err
		}
		return aerr
	}
	if a.Metadata[tokenKey] == token {
		return nil
	}
	return err
}

// free fails with ErrExists if name is taken by another write than token's.
func (s *bucketStore) free(ctx context.Context, name, token string) error {
	a, err := s.b.Attributes(ctx, name)
	switch {
	case code(err) == gcerrors.NotFound:
		return nil
	case err != nil:
		return err
	case a.Metadata[tokenKey] == token:
		return nil
	}
	return ErrExists
}

func (s *bucketStore) Create(ctx context.Context, name string) (Writer, error) {
	if err := CheckName(name); err != nil {
		return nil, s.err("writing", name, err)
	}
	token := ulid.Make().String()
	if s.lookFirst {
		if err := s.retry(ctx, attemptTime, func(ctx context.Context) error { return s.free(ctx, name, token) }); err != nil {
			return nil, s.err("writing", name, err)
		}
	}
	wctx, cancel := context.WithCancel(ctx)
	w, err := s.b.NewWriter(wctx, name, writerOptions(token))
	if err != nil {
		cancel()
		return nil, s.err("writing", name, err)
	}
	stall := time.AfterFunc(s.writeStall, cancel)
	stall.Stop()
	return &bucketWriter{s: s, ctx: ctx, cancel: cancel, w: w, name: name, token: token, stall: stall}, nil
}

type bucketWriter struct {
	s           *bucketStore
	ctx         context.Context
	cancel      context.CancelFunc
	w           *blob.Writer
	name, token string
	ended       bool
	stall       *time.Timer // cancels; runs while the store is waited for
	stalled     bool
}

func (w *bucketWriter) Write(p []byte) (int, error) {
	var n int
	err := w.within(func() (err error) { n, err = w.w.Write(p); return err })
	return n, w.s.err("writing", w.name, err)
}

// within does what waits for the store. An upload that stands still is ended.
func (w *bucketWriter) within(f func() error) error {
	w.stall.Reset(w.s.writeStall)
	err := f()
	w.stalled = !w.stall.Stop() || w.stalled
	if err != nil && w.stalled { // nobody has told the caller to stop, as the error would say
		return errUploadStalled
	}
	return err
}

func (w *bucketWriter) Commit() error {
	if w.ended {
		return w.s.err("writing", w.name, errors.New("already ended"))
	}
	w.ended = true
	defer w.cancel()
	err := w.within(w.w.Close)
	err = w.s.retry(w.ctx, attemptTime, func(ctx context.Context) error { return w.s.settle(ctx, w.name, w.token, err) })
	return w.s.err("writing", w.name, err)
}

func (w *bucketWriter) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	// A writer that is closed after its context has ended stores nothing.
	w.cancel()
	w.w.Close()
}

func (s *bucketStore) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := CheckName(name); err != nil {
		return nil, s.err("reading", name, err)
	}
	if off < 0 {
		return nil, s.err("reading", name, fmt.Errorf("offset %d is negative", off))
	}
	var r io.ReadCloser
	err := s.retry(ctx, attemptTime, func(context.Context) error {
		// The reader lives on its context, so only the beginning is bounded; see Read.
		rctx, cancel := context.WithCancel(ctx)
		timer := time.AfterFunc(attemptTime, cancel)
		body, err := s.b.NewRangeReader(rctx, name, off, n, nil)
		if err != nil || !timer.Stop() {
			if err == nil {
				err = errors.Join(context.DeadlineExceeded, body.Close())
			} else if s.endsAt(rctx, name, off) {
				// The services refuse such a range; there is nothing in it.
				r, err = io.NopCloser(strings.NewReader("")), nil
			}
			cancel()
			return err
		}
		stall := time.AfterFunc(s.readStall, cancel)
		stall.Stop()
		r = &bucketReader{s: s, name: name, body: body, cancel: cancel, stall: stall}
		return nil
	})
	if err != nil {
		return nil, s.err("reading", name, err)
	}
	return r, nil
}

// endsAt tells whether an object has no byte at off or above.
func (s *bucketStore) endsAt(ctx context.Context, name string, off int64) bool {
	a, err := s.b.Attributes(ctx, name)
	return err == nil && a.Size <= off
}

type bucketReader struct {
	s      *bucketStore
	name   string
	body   *blob.Reader
	cancel context.CancelFunc

	stall   *time.Timer // cancels; runs while a byte is waited for, not while the caller takes its time
	stalled bool
}

func (r *bucketReader) Read(p []byte) (int, error) {
	r.stall.Reset(r.s.readStall)
	n, err := r.body.Read(p)
	r.stalled = !r.stall.Stop() || r.stalled
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case r.stalled: // and nobody has told the caller to stop, as the error would say
		err = errStalled
	case errors.Is(err, io.ErrUnexpectedEOF):
		// The answer ended early, not the object: a caller that asks for an exact
		// length must not take it for one that is too short.
		err = errConnectionEnded
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.s.err("reading", r.name, err)
	}
	return n, err
}

var (
	errConnectionEnded = errors.New("the connection ended within the object")
	errStalled         = errors.New("nothing came any more within the object")
	errUploadStalled   = errors.New("the store takes no more of the object")
)

func (r *bucketReader) Close() error {
	defer r.cancel()
	return r.body.Close()
}

func (s *bucketStore) Stat(ctx context.Context, name string) (Info, error) {
	if err := CheckName(name); err != nil {
		return Info{}, s.err("looking at", name, err)
	}
	var info Info
	err := s.retry(ctx, attemptTime, func(ctx context.Context) error {
		a, err := s.b.Attributes(ctx, name)
		if err == nil {
			info = Info{Name: name, Size: a.Size, ModTime: a.ModTime}
		}
		return err
	})
	return info, s.err("looking at", name, err)
}

func (s *bucketStore) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return s.err("deleting", name, err)
	}
	err := s.retry(ctx, attemptTime, func(ctx context.Context) error { return s.b.Delete(ctx, name) })
	if err = s.err("deleting", name, err); errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

func (s *bucketStore) List(ctx context.Context, prefix string, fn func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return s.err("listing", "", err)
	}
	token := blob.FirstPageToken
	for {
		var page []*blob.ListObject
		var next []byte
		err := s.retry(ctx, attemptTime, func(ctx context.Context) (err error) {
			page, next, err = s.b.ListPage(ctx, token, 1000, &blob.ListOptions{Prefix: prefix})
			return err
		})
		if err != nil {
			return s.err("listing", "", err)
		}
		for _, o := range page {
			if o.IsDir {
				continue
			}
			if err := fn(Info{Name: o.Key, Size: o.Size, ModTime: o.ModTime}); err != nil {
				return err
			}
		}
		if len(next) == 0 {
			return nil
		}
		token = next
	}
}

func (s *bucketStore) Close() error { return s.b.Close() }
