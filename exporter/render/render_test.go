package render

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"

	"go.uber.org/goleak"

	"lockstitch/internal/seed"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exportIt runs an export with small stretches and pieces and little room for slices, so
// that few rows are enough to meet every way of dividing.
func exportIt(ctx context.Context, p Params, text, rows, workers int, room int64) ([]byte, Totals, error) {
	c, err := newColumns(p.Question, p.Slices)
	if err != nil {
		return nil, Totals{}, err
	}
	var file bytes.Buffer
	totals, err := (&export{Params: p, columns: c, workers: workers, text: text, rows: rows, keep: room / 2, room: room}).run(ctx, &file)
	return file.Bytes(), totals, err
}

// TestSameBytes compares exports of the same rows, differently cut, divided and
// rendered in parallel, with the reference.
func TestSameBytes(t *testing.T) {
	seed.Each(t, 20, func(t *testing.T, seed uint64) {
		span := []int64{1, 50, 10_000, 90_000_000}[seed%4]
		w := newWorld(t, seed, 1+int(seed*37%500), span)
		for _, cuts := range []int{1, 2 + w.r.IntN(3), 15} {
			store, refs := w.store(t, cuts)
			for range 3 {
				q, pass := w.question(span)
				want, rows := w.reference(q, pass)
				text, perPiece, workers, room := 1+w.r.IntN(1<<uint(4+w.r.IntN(16))), 1+w.r.IntN(500), 1+w.r.IntN(4), w.r.Int64N(1<<uint(12+w.r.IntN(12)))
				if w.r.IntN(4) == 0 {
					text, perPiece = maxText, 1<<20
				}
				last := 0
				file, totals, err := exportIt(t.Context(), Params{Store: store, Slices: refs, Question: q, Progress: func(done, total int, rows, bytes int64) {
					if done < last || done > total {
						t.Errorf("progress went from %d to %d of %d", last, done, total)
					}
					last = done
				}}, text, perPiece, workers, room)
				if err != nil {
					t.Error(err)
					return
				}
				sum := sha256.Sum256(file)
				if totals.Rows != rows || totals.Bytes != int64(len(file)) || totals.SHA256 != hex.EncodeToString(sum[:]) || totals.Slices != last {
					t.Errorf("%d rows, file of %d bytes, %d slices done: totals are %+v", rows, len(file), last, totals)
				}
				if got := unzip(t, file); got != want {
					t.Errorf("%d cuts, stretches of %d bytes, pieces of %d rows, %d workers, room for %d bytes: %s", cuts, text, perPiece, workers, room, difference(got, want))
					return
				}
			}
		}
	})
}

func difference(got, want string) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	from := max(0, at-100)
	return fmt.Sprintf("%d bytes instead of %d, differing at %d:\n got %.300q\nwant %.300q", len(got), len(want), at, got[from:], want[from:])
}

func TestNoRows(t *testing.T) {
	var file bytes.Buffer
	q := &report.Question{}
	totals, err := Export(t.Context(), Params{Question: q}, &file)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := (&world{}).reference(q, nil); unzip(t, file.Bytes()) != want || totals.Rows != 0 {
		t.Errorf("an export without rows is %q", unzip(t, file.Bytes()))
	}
}

// everything asks for all rows of a world.
func everything(w *world) *report.Question {
	q := &report.Question{}
	for _, s := range w.streams {
		for n := range int32(3) {
			q.Barrier = append(q.Barrier, report.End{TopicID: s.ID, Partition: n, Offset: math.MaxInt64})
		}
	}
	return q
}

func TestTooLarge(t *testing.T) {
	w := newWorld(t, 5, 500, 1000)
	store, refs := w.store(t, 3)
	p := Params{Store: store, Slices: refs, Question: everything(w), Parallel: 2}
	whole, err := Export(t.Context(), p, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	p.MaxBytes = whole.Bytes
	if _, err := Export(t.Context(), p, io.Discard); err != nil {
		t.Errorf("a file of exactly the bound: %v", err)
	}
	p.MaxBytes--
	var file bytes.Buffer
	if _, err := Export(t.Context(), p, &file); !errors.Is(err, ErrTooLarge) || int64(file.Len()) > p.MaxBytes {
		t.Errorf("a file over the bound: %v, %d bytes written of %d", err, file.Len(), p.MaxBytes)
	}
}

// broken is a store whose reads fail in some way.
type broken struct {
	objects.Store
	open func(r io.ReadCloser) (io.ReadCloser, error)
}

func (b broken) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	r, err := b.Store.Open(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	return b.open(r)
}

type reader struct {
	io.Reader
	io.Closer
}

var errStore = errors.New("the store is away")

func TestFailures(t *testing.T) {
	w := newWorld(t, 6, 800, 1000)
	store, refs := w.store(t, 4)
	p := Params{Store: store, Slices: refs, Question: everything(w)}
	export := func(p Params, out io.Writer) error {
		_, err := Export(t.Context(), p, out)
		return err
	}
	var corrupt *segment.CorruptError
	if err := export(p, writer(func() error { return errStore })); !errors.Is(err, errStore) {
		t.Errorf("a writer that fails: %v", err)
	}
	p.Store = broken{store, func(r io.ReadCloser) (io.ReadCloser, error) { return nil, errors.Join(errStore, r.Close()) }}
	if err := export(p, io.Discard); !errors.Is(err, errStore) || errors.As(err, &corrupt) {
		t.Errorf("a store that is away: %v", err)
	}
	p.Store = broken{store, func(r io.ReadCloser) (io.ReadCloser, error) { return reader{io.LimitReader(r, 50), r}, nil }}
	if err := export(p, io.Discard); !errors.As(err, &corrupt) {
		t.Errorf("an object cut short: %v", err)
	}
	p.Store = broken{store, func(r io.ReadCloser) (io.ReadCloser, error) {
		b, err := io.ReadAll(r)
		b[len(b)/2] ^= 4
		return reader{bytes.NewReader(b), r}, err
	}}
	if err := export(p, io.Discard); !errors.As(err, &corrupt) {
		t.Errorf("a damaged object: %v", err)
	}
	p.Store = store
	for _, ref := range refs {
		if err := store.Delete(t.Context(), ref.Object); err != nil {
			t.Fatal(err)
		}
	}
	if err := export(p, io.Discard); !errors.Is(err, objects.ErrNotExist) {
		t.Errorf("a missing object: %v", err)
	}
	q := *p.Question
	q.Filter = "a & ("
	p.Question = &q
	if err := export(p, io.Discard); err == nil {
		t.Error("a filter that cannot be read passes")
	}
	q.Filter = "unknown"
	if err := export(p, io.Discard); err == nil {
		t.Error("a filter with a name that stands for nothing passes")
	}
}

type writer func() error

func (w writer) Write(b []byte) (int, error) { return 0, w() }

// TestCancel ends an export in the middle; goleak sees whether anything is left.
func TestCancel(t *testing.T) {
	w := newWorld(t, 7, 3000, 100_000)
	store, refs := w.store(t, 4)
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := exportIt(ctx, Params{Store: store, Slices: refs, Question: everything(w), Progress: func(done, total int, rows, bytes int64) { cancel() }}, 1000, 50, 3, 1<<20)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
