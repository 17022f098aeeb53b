package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// maxSliceLength is far more than a slice can have; a longer one is a damaged
// directory.
const maxSliceLength = 1 << 30

// Read reads the first n bytes of the slice, all of them with Info.Length, and
// allocates no more than these. Errors: *segment.CorruptError if the object ends before, or
// if the catalog gives lengths that no slice has; others are failures of the store,
// objects.ErrNotExist among them.
func (r *SliceRef) Read(ctx context.Context, store objects.Store, n int64) ([]byte, error) {
	in := r.Info
	if in.Length <= 0 || in.Length > maxSliceLength || n < 0 || n > in.Length {
		return nil, &segment.CorruptError{Object: r.Object, Offset: in.Offset, Cause: fmt.Sprintf("the catalog gives a slice %d bytes, of which %d are to be read", in.Length, n)}
	}
	body, err := store.Open(ctx, r.Object, in.Offset, n)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r.Object, err)
	}
	data := make([]byte, n)
	got, err := io.ReadFull(body, data)
	if closed := body.Close(); err == nil {
		err = closed
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, &segment.CorruptError{Object: r.Object, Offset: in.Offset + int64(got), Cause: "the object ends within a slice"}
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", r.Object, err)
	}
	return data, nil
}

// Read reads the object whole. Errors: *segment.CorruptError if its size or SHA-256 is not
// what the record says; others are failures of the store, objects.ErrNotExist among them.
func (s *Segment) Read(ctx context.Context, store objects.Store) ([]byte, error) {
	body, err := store.Open(ctx, s.Object, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.Object, err)
	}
	data, err := io.ReadAll(io.LimitReader(body, s.Bytes+1))
	if closed := body.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.Object, err)
	}
	corrupt := func(at int64, cause string) error {
		return &segment.CorruptError{Object: s.Object, Offset: at, Cause: cause}
	}
	switch n := int64(len(data)); {
	case n < s.Bytes:
		return nil, corrupt(n, fmt.Sprintf("the object ends, and has %d bytes by the catalog", s.Bytes))
	case n > s.Bytes:
		return nil, corrupt(s.Bytes, "the object goes on, and ends here by the catalog")
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != s.SHA256 {
		return nil, corrupt(0, "its SHA-256 is not what the catalog says")
	}
	return data, nil
}
