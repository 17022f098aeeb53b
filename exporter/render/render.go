// Package render turns the stored slices of an account into the finished file of
// an export: a gzip member of CSV (contract section 4).
//
// The way of an export: plan divides it into pieces of time; workers render
// pieces in parallel, each slice of a piece to a run of lines (sheet), the runs
// merged by (server_time, topic, incarnation, partition, offset) and compressed
// (stretch); stitch joins what comes out, in order.
//
// The text of the file is a function of the rows below the barrier and the
// question alone: not of how rows are divided into slices, of the pieces, or of
// the number of workers. Memory is bounded by constants of this file and by the
// longest row, not by the export, nor by how many slices overlap; those that have
// no room are read again for a later piece.
package render

import (
	"context"
	"errors"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"lockstitch/exporter/plan"
	"lockstitch/exporter/stitch"
	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// ErrTooLarge says that the file would be larger than Params.MaxBytes.
var ErrTooLarge = stitch.ErrTooLarge

// TooLargeError is the ErrTooLarge of a file that could be had with fewer rows.
type TooLargeError struct {
	Fits float64 // about which part of the rows would have fitted, 0 to 1
}

func (e *TooLargeError) Error() string { return ErrTooLarge.Error() }
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

// Memory is about what one export takes at most, in bytes, while so many workers
// render it (<= 0: one for each processor): the text and the slices below, and for
// each worker the compressor and the compressed chunks waiting for their turn, with what
// garbage there is of them. BenchmarkExport measures it. Segments that were sealed
// before long texts ended a slice (segment.Seal) have larger slices, of which one is
// loaded at a time, and may take twice as much.
func Memory(workers int) int64 {
	return 48<<20 + int64(count(workers))*(5<<19)
}

// count is how many workers there are.
func count(workers int) int {
	if workers <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return workers
}

// Memory of one export in bytes.
const (
	textMemory  = 10 << 20 // of all workers: text being merged
	sliceMemory = 8 << 20  // loaded slices that a later piece needs
	loadMemory  = 8 << 20  // slices that are loaded or read, beside these; for each worker 1 MiB more
	maxText     = 5 << 20  // of one worker
	minText     = 256 << 10
)

// Params says what to export.
type Params struct {
	Store    objects.Store
	Slices   []catalog.SliceRef // at least the account's slices that overlap the window; not changed
	Question *report.Question
	Parallel int   // workers; <= 0: one for each processor
	MaxBytes int64 // of the compressed file; <= 0: no bound
	// Progress, if set, is called now and then by one goroutine at a time: slices
	// that are done and in all, rows and compressed bytes so far.
	Progress func(done, total int, rows, bytes int64)
}

// Totals describes a finished file.
type Totals struct {
	Rows   int64  // without the header line
	Bytes  int64  // of the file, compressed
	SHA256 string // of the file, hexadecimal
	Slices int    // that were read
}

// Export writes the file to w. What was written when an error is returned is
// useless. Errors: ErrTooLarge, a *TooLargeError unless the header alone is too
// large; *segment.CorruptError, *segment.VersionError; the store's, wrapped;
// those of w and of ctx. When it returns, nothing that it started still runs.
func Export(ctx context.Context, p Params, w io.Writer) (Totals, error) {
	workers := count(p.Parallel)
	c, err := newColumns(p.Question, p.Slices)
	if err != nil {
		return Totals{}, err
	}
	text := min(max(textMemory/workers, minText), maxText)
	return (&export{Params: p, columns: c, workers: workers, text: text, rows: int(int64(text) * 3 / 4 / c.rowEstimate()),
		keep: sliceMemory, room: sliceMemory + loadMemory + int64(workers)<<20}).run(ctx, w)
}

// export is one call of Export.
type export struct {
	Params
	columns *columns
	workers int
	text    int // bytes of text that a worker holds
	rows    int // wanted rows of a piece, if they are of the usual length
	keep    int64
	room    int64 // of the library
}

// order is a piece on its way from a worker to the file.
type order struct {
	piece  *plan.Piece
	chunks chan chunk // closed when the piece is done
}

func (e *export) run(ctx context.Context, w io.Writer) (Totals, error) {
	planned := plan.Make(e.Slices, e.Question, e.rows)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	library := newLibrary(ctx, e.Store, e.columns, planned.Slices, e.keep, e.room)
	defer library.close()
	if err := e.divide(&planned, library); err != nil {
		return Totals{}, err
	}

	// Every piece is put into both channels, in order. That of the file has room
	// for few, which is how far workers can be ahead of it; the worker of the
	// piece that is being written never waits for another, so neither does the
	// file for ever.
	work := make(chan order)
	file := make(chan order, e.workers)
	spare := make(chan []byte, 4*e.workers)

	group.Go(func() error {
		defer close(work)
		defer close(file)
		for i := range planned.Pieces {
			o := order{&planned.Pieces[i], make(chan chunk, 1)}
			for _, to := range []chan order{file, work} {
				select {
				case to <- o:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range e.workers {
		group.Go(func() error {
			compressor := takeCompressor()
			defer compressor.release()
			worker := &worker{library: library, plan: &planned, limit: e.text, compressor: compressor, spare: func() []byte {
				select {
				case b := <-spare:
					return b
				default:
					return nil
				}
			}}
			for o := range work {
				err := worker.render(ctx, o.piece, func(c chunk) error {
					select {
					case o.chunks <- c:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				if err != nil {
					return err // the file sees ctx, not the end of the piece
				}
				close(o.chunks)
			}
			return nil
		})
	}
	totals := Totals{Slices: len(planned.Slices)}
	group.Go(func() error {
		s := stitch.NewWriter(w, e.MaxBytes)
		if err := e.write(ctx, s, &planned, file, spare, &totals); err != nil {
			return err
		}
		if err := s.Close(); err != nil {
			return err
		}
		totals.Bytes, totals.SHA256 = s.Size(), s.SHA256()
		return nil
	})
	if err := group.Wait(); err != nil {
		return Totals{}, err
	}
	return totals, nil
}

// maxWeight bounds the number of pieces for a guess that is wrong, as short pieces
// compress badly. Where texts differ, longer ones count whole: there too long pieces have
// slices read again.
const maxWeight = 16

// divide makes the pieces by how long rows are, so that for a piece a stretch mostly
// does, and tells the library. The catalog does not know: the slice that takes most in
// the store is loaded to see, and of the others it is guessed by what they take there.
func (e *export) divide(planned *plan.Plan, l *library) error {
	rows, most, stored := 0, int32(0), int64(0)
	for i := range planned.Slices {
		in := planned.Slices[i].Info
		rows += in.Rows
		if n := beyondKeys(in); n > stored {
			most, stored = int32(i), n
		}
	}
	if stored == 0 || rows <= e.rows/8 { // they fit into a stretch unless they are very long
		l.expect(planned.Pieces)
		return nil
	}
	n := l.borrow(most)
	defer l.giveBack(n) // after the library knows who needs it
	s, err := n.wait()
	if err != nil {
		return err
	}
	itsRows := float64(planned.Slices[most].Info.Rows)
	length, usual := float64(s.rowLength()), float64(e.columns.rowEstimate())
	ratio := length * itsRows / float64(stored)
	limit := max(maxWeight, float64(s.bytes)/itsRows/usual)
	weights := make([]float64, len(planned.Slices))
	for i := range weights {
		in := planned.Slices[i].Info
		guess := min(length, ratio*float64(beyondKeys(in))/float64(in.Rows))
		weights[i] = min(max(guess/usual, 1), limit)
	}
	planned.Divide(e.rows, weights)
	l.expect(planned.Pieces)
	return nil
}

// beyondKeys is what a slice takes in the store for its texts.
func beyondKeys(in *segment.SliceInfo) int64 { return in.Length - in.KeysLength }

// write puts the header and then the chunks of all pieces into the file.
func (e *export) write(ctx context.Context, s *stitch.Writer, planned *plan.Plan, file <-chan order, spare chan<- []byte, totals *Totals) error {
	compressor := takeCompressor()
	header, err := compressor.compress(nil, func(emit func([]byte) error) error { return emit(e.columns.header(e.Question)) })
	compressor.release()
	if err != nil {
		return err
	}
	if err := s.Append(header); err != nil {
		return err
	}
	done := 0
	for {
		var o order
		var open bool
		select {
		case o, open = <-file:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !open {
			return ctx.Err() // closed early if the context is done
		}
		began := s.Size()
		for open {
			var c chunk
			select {
			case c, open = <-o.chunks:
			case <-ctx.Done():
				return ctx.Err()
			}
			if !open {
				break
			}
			if err := s.Append(c.Piece); errors.Is(err, ErrTooLarge) {
				// As if the piece ended with this chunk, which it mostly does.
				part := float64(e.MaxBytes-began) / float64(s.Size()-began+int64(len(c.Deflate)))
				return &TooLargeError{Fits: planned.Part(o.piece, part)}
			} else if err != nil {
				return err
			}
			totals.Rows += c.rows
			select {
			case spare <- c.Deflate:
			default:
			}
		}
		done += o.piece.Finished
		if e.Progress != nil {
			e.Progress(done, totals.Slices, totals.Rows, s.Size())
		}
	}
}
