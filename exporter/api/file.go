package api

import (
	"context"
	"errors"
	"io"

	"lockstitch/state/objects"
)

// reopens is how often in a row a stored file is opened again at the same byte
// after reading failed there.
const reopens = 3

// file reads a stored object as an io.ReadSeeker. Seeking costs nothing; the
// object is opened at the first Read after it, once, to the end, so that a
// transfer that has begun needs the object's name no more.
type file struct {
	ctx   context.Context
	store objects.Store
	name  string
	size  int64

	pos  int64
	body io.ReadCloser // open at pos; nil: not open
	err  error         // why the last Read failed
}

func openFile(ctx context.Context, store objects.Store, name string, size int64) *file {
	return &file{ctx: ctx, store: store, name: name, size: size}
}

func (f *file) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of a file")
	}
	if offset != f.pos {
		f.Close()
	}
	f.pos = offset
	return offset, nil
}

func (f *file) Read(p []byte) (int, error) {
	if f.pos >= f.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	f.err = nil
	for try := 0; ; try++ {
		n, err := f.readOnce(p)
		if n > 0 {
			f.pos += int64(n)
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // the size is known: there is more
		}
		f.Close()
		if try == reopens || f.ctx.Err() != nil || errors.Is(err, objects.ErrNotExist) {
			f.err = err
			return 0, err
		}
	}
}

func (f *file) readOnce(p []byte) (int, error) {
	if f.body == nil {
		body, err := f.store.Open(f.ctx, f.name, f.pos, -1)
		if err != nil {
			return 0, err
		}
		f.body = body
	}
	if rest := f.size - f.pos; int64(len(p)) > rest {
		p = p[:rest]
	}
	return f.body.Read(p)
}

// Close ends the transfer from the store.
func (f *file) Close() error {
	if f.body == nil {
		return nil
	}
	err := f.body.Close()
	f.body = nil
	return err
}
