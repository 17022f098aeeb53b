package rolling

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"lockstitch/state/objects"
)

// File is a finished file of a standing order, to be delivered.
type File struct {
	Account string
	Name    string // of the order
	Order   string // its id
	Number  int64  // from 1, without gaps
	Object  string // the file's name in the store of the exports

	PeriodStart     time.Time // zero: from the oldest data on
	PeriodEnd       time.Time
	From, To        string // cursors; From is empty where the file begins with the oldest data
	Rows            int64
	Bytes           int64
	SHA256          string    // of the file, hexadecimal
	CompleteThrough time.Time // zero: the period goes on in the next file
}

// manifest is the object beside a delivered file. That it exists means that the
// file is whole.
type manifest struct {
	Version         int    `json:"version"`
	Number          int64  `json:"number"`
	File            string `json:"file"`
	OrderID         string `json:"order_id"`
	Name            string `json:"name"`
	PeriodStart     string `json:"period_start,omitempty"`
	PeriodEnd       string `json:"period_end"`
	Cursor          span   `json:"cursor"`
	Rows            int64  `json:"rows"`
	Bytes           int64  `json:"bytes"`
	SHA256          string `json:"sha256"`
	CompleteThrough string `json:"complete_through,omitempty"`
}

type span struct {
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// OccupiedError says that a destination has another object than ours under the
// name of a file or its manifest. It is never overwritten.
type OccupiedError struct{ Object string }

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("the destination holds another object under the name %s, which is not overwritten: remove it, if it may go", e.Object)
}

// DamagedError says that a finished file is gone or not what was written down of it.
type DamagedError struct {
	Object string // in the store of the exports
	Cause  string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the finished file %s is damaged: %s", e.Object, e.Cause)
}

// Deliver brings a file from src, the store of the exports, to dest: first
//
//	<account, percent-encoded>/<name>/<order id>/<YYYY>/<MM>/<DD>/<name>-<number>.csv.gz
//
// then, beside it, a manifest with the ending .json. The day is the UTC day that
// the period lies in; the number has no leading zeros. The file is streamed, and
// visible only once its digest was found to be right. Nothing is overwritten: a
// file that is there with the same bytes, or a manifest of the same file, counts
// as delivered, so that Deliver can be repeated after any interruption; anything
// else is an *OccupiedError. A file that is not what it should be is a
// *DamagedError.
func Deliver(ctx context.Context, dest, src objects.Store, f File) error {
	name := f.path()
	m, err := f.manifest()
	if err != nil {
		return err
	}
	// Once the manifest is there the file may have been taken away again.
	there, err := hasManifest(ctx, dest, name+".json", f)
	if err != nil || there {
		return err
	}
	if err := deliverFile(ctx, dest, src, f, name+".csv.gz"); err != nil {
		return err
	}
	// Finding that it is whole takes long as well: where another has delivered it meanwhile
	// and both were taken away, a manifest would be left that no file belongs to.
	if _, err := dest.Stat(ctx, name+".csv.gz"); err != nil {
		if there, merr := hasManifest(ctx, dest, name+".json", f); there || merr != nil {
			return merr
		}
		return fmt.Errorf("before its manifest was written: %w", err)
	}
	err = dest.Put(ctx, name+".json", m)
	if errors.Is(err, objects.ErrExists) {
		_, err = hasManifest(ctx, dest, name+".json", f)
	}
	return err
}

// path is the name of the file and of its manifest, without their endings.
func (f File) path() string {
	// The last instant of the period, since the first period of an order may
	// have no beginning. Periods do not cross midnight.
	day := f.PeriodEnd.UTC().Add(-time.Nanosecond)
	name := objects.Part(f.Name)
	return fmt.Sprintf("%s/%s/%s/%s/%s-%d", objects.Part(f.Account), name, f.Order, day.Format("2006/01/02"), name, f.Number)
}

// manifest is the manifest's bytes: the same for the same file.
func (f File) manifest() ([]byte, error) {
	m := manifest{
		Version: manifestVersion, Number: f.Number, File: fmt.Sprintf("%s-%d.csv.gz", objects.Part(f.Name), f.Number), OrderID: f.Order, Name: f.Name,
		PeriodStart: stamp(f.PeriodStart), PeriodEnd: stamp(f.PeriodEnd), Cursor: span{f.From, f.To},
		Rows: f.Rows, Bytes: f.Bytes, SHA256: f.SHA256, CompleteThrough: stamp(f.CompleteThrough),
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		return nil, fmt.Errorf("manifest of file %d: %w", f.Number, err)
	}
	return b.Bytes(), nil
}

// stamp writes a time as the API does; the zero time as nothing.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// manifestVersion is the version of the manifests.
const manifestVersion = 1

// maxManifest bounds what is read of a manifest; ours are smaller by far.
const maxManifest = 1 << 20

// hasManifest tells whether dest has the file's manifest. It need not be the
// same text: another version or another key for cursors may have written it.
func hasManifest(ctx context.Context, dest objects.Store, name string, f File) (bool, error) {
	r, err := dest.Open(ctx, name, 0, maxManifest)
	if errors.Is(err, objects.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return false, err
	}
	var m manifest
	err = json.Unmarshal(text, &m)
	if err == nil && m.Version > manifestVersion {
		return false, fmt.Errorf("manifest %s has version %d, this program knows %d", name, m.Version, manifestVersion)
	}
	if err != nil || m.OrderID != f.Order || m.Number != f.Number || m.Bytes != f.Bytes || m.SHA256 != f.SHA256 {
		return false, &OccupiedError{name}
	}
	return true, nil
}

// deliverFile copies the file, unless it is there or was.
func deliverFile(ctx context.Context, dest, src objects.Store, f File, name string) error {
	_, err := dest.Stat(ctx, name)
	if errors.Is(err, objects.ErrNotExist) {
		err = copyFile(ctx, dest, src, f, name)
		if !errors.Is(err, objects.ErrExists) {
			return err
		}
	} else if err != nil {
		return err
	}
	// There already, from an attempt before or from elsewhere.
	r, err := dest.Open(ctx, name, 0, f.Bytes+1)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := newCounted()
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if sum.differs(f) != "" {
		return &OccupiedError{name}
	}
	return nil
}

func copyFile(ctx context.Context, dest, src objects.Store, f File, name string) error {
	r, err := src.Open(ctx, f.Object, 0, -1)
	if errors.Is(err, objects.ErrNotExist) {
		return &DamagedError{f.Object, "it is gone"}
	}
	if err != nil {
		return fmt.Errorf("reading the finished file: %w", err)
	}
	defer r.Close()
	w, err := dest.Create(ctx, name)
	if err != nil {
		return err
	}
	defer w.Abort()
	sum := newCounted()
	if _, err := io.Copy(io.MultiWriter(sum, w), io.LimitReader(r, f.Bytes+1)); err != nil {
		return err
	}
	if why := sum.differs(f); why != "" {
		return &DamagedError{f.Object, why}
	}
	// Copying takes long, or this process stood still: another may have delivered the
	// file meanwhile, and whoever loads it taken it away. What comes back nevertheless
	// is what stands still from here on until the destination has done the rest.
	there, err := hasManifest(ctx, dest, f.path()+".json", f)
	if err != nil || there {
		return err
	}
	return w.Commit()
}

// counted is the digest and the length of what was written to it.
type counted struct {
	hash.Hash
	n int64
}

func newCounted() *counted { return &counted{Hash: sha256.New()} }

func (c *counted) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash.Write(p)
}

// differs says how it differs from the file; "" if it does not.
func (c *counted) differs(f File) string {
	if c.n != f.Bytes {
		return fmt.Sprintf("it has not %d bytes", f.Bytes)
	}
	if sum := hex.EncodeToString(c.Sum(nil)); sum != f.SHA256 {
		return fmt.Sprintf("its SHA-256 is %s, not %s", sum, f.SHA256)
	}
	return ""
}
