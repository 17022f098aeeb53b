package render

import (
	"hash/crc32"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"

	"lockstitch/exporter/stitch"
)

// stretch is the text of the rows in a range of keys: for each slice a run of
// lines in order, which compress merges. Its memory is used again.
type stretch struct {
	text []byte
	rows []line
	runs []run
	heap []run
}

// line is a row that is shown; its text ends at end and begins where that of
// the line before it in its run ends.
type line struct {
	key
	end uint32
}

// run is the lines [next, last) of one slice; from is where the text of the
// line next begins.
type run struct {
	next, last int
	from       uint32
}

func (s *stretch) reset() {
	s.text, s.rows, s.runs = s.text[:0], s.rows[:0], s.runs[:0]
}

// begin starts the run of another slice.
func (s *stretch) begin() {
	s.runs = append(s.runs, run{next: len(s.rows), last: len(s.rows), from: uint32(len(s.text))})
}

// add records that the text of a line has been appended.
func (s *stretch) add(k key) {
	s.rows = append(s.rows, line{k, uint32(len(s.text))})
	s.runs[len(s.runs)-1].last = len(s.rows)
}

// below counts the lines before k.
func (s *stretch) below(k key) int {
	n := 0
	for _, r := range s.runs {
		n += s.cut(r, k)
	}
	return n
}

// cut counts the lines of a run before k.
func (s *stretch) cut(r run, k key) int {
	n, _ := slices.BinarySearchFunc(s.rows[r.next:r.last], k, func(l line, k key) int {
		if l.less(k) {
			return -1
		}
		return 1
	})
	return n
}

// median is the key in the middle; false if it is not above all the others'
// first, so that nothing would be before it.
func (s *stretch) median() (key, bool) {
	keys := make([]key, len(s.rows))
	for i := range s.rows {
		keys[i] = s.rows[i].key
	}
	slices.SortFunc(keys, func(a, b key) int {
		switch {
		case a.less(b):
			return -1
		case b.less(a):
			return 1
		}
		return 0
	})
	middle := keys[len(keys)/2]
	return middle, keys[0].less(middle)
}

// truncate removes the lines at and above k.
func (s *stretch) truncate(k key) {
	rows, size := 0, uint32(0)
	for i, r := range s.runs {
		n := s.cut(r, k)
		moved := run{next: rows, last: rows + n, from: size}
		if n > 0 {
			end := s.rows[r.next+n-1].end
			copy(s.text[size:], s.text[r.from:end])
			for _, l := range s.rows[r.next : r.next+n] {
				l.end = l.end - r.from + size
				s.rows[rows] = l
				rows++
			}
			size += end - r.from
		}
		s.runs[i] = moved
	}
	s.rows, s.text = s.rows[:rows], s.text[:size]
}

// merge passes the text on in order of keys, in as long stretches as possible.
func (s *stretch) merge(emit func(text []byte) error) error {
	s.heap = s.heap[:0]
	for _, r := range s.runs {
		if r.next < r.last {
			s.heap = append(s.heap, r)
		}
	}
	for i := len(s.heap)/2 - 1; i >= 0; i-- {
		s.sift(i)
	}
	for len(s.heap) > 0 {
		r := &s.heap[0]
		next := r.last
		if len(s.heap) > 1 {
			other := s.rows[s.heap[1].next].key
			if len(s.heap) > 2 && s.head(2).less(other) {
				other = s.head(2)
			}
			if !s.rows[r.last-1].less(other) {
				for next = r.next + 1; next < r.last && s.rows[next].less(other); {
					next++
				}
			}
		}
		to := s.rows[next-1].end
		if err := emit(s.text[r.from:to]); err != nil {
			return err
		}
		if r.next, r.from = next, to; r.next == r.last {
			n := len(s.heap) - 1
			s.heap[0] = s.heap[n]
			s.heap = s.heap[:n]
		}
		s.sift(0)
	}
	return nil
}

func (s *stretch) head(i int) key { return s.rows[s.heap[i].next].key }

func (s *stretch) sift(i int) {
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(s.heap); child++ {
			if s.head(child).less(s.head(least)) {
				least = child
			}
		}
		if least == i {
			return
		}
		s.heap[i], s.heap[least] = s.heap[least], s.heap[i]
		i = least
	}
}

// compressor makes pieces for stitching.
type compressor struct {
	flate *flate.Writer
	out   buffer
}

// level is a compromise: level 1 is hardly faster and its files are larger.
const level = 2

// compressors are used again: each has some 700 KB of tables, and most exports are small.
var compressors = sync.Pool{New: func() any {
	c := &compressor{}
	w, err := flate.NewWriter(&c.out, level)
	if err != nil {
		panic(err) // only for a level that does not exist
	}
	c.flate = w
	return c
}}

// takeCompressor takes one that nobody uses; release gives it back.
func takeCompressor() *compressor { return compressors.Get().(*compressor) }

func (c *compressor) release() { compressors.Put(c) }

// buffer is where compressed bytes go; writing to it cannot fail.
type buffer struct{ b []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.b = append(b.b, p...)
	return len(p), nil
}

// compress turns what source passes on into a piece, in the memory of into.
func (c *compressor) compress(into []byte, source func(emit func([]byte) error) error) (stitch.Piece, error) {
	var p stitch.Piece
	c.out.b = into[:0]
	c.flate.Reset(&c.out)
	err := source(func(text []byte) error {
		p.CRC = crc32.Update(p.CRC, crc32.IEEETable, text)
		p.Text += int64(len(text))
		_, err := c.flate.Write(text)
		return err
	})
	if err == nil {
		err = c.flate.Flush()
	}
	p.Deflate, c.out.b = c.out.b, nil
	return p, err
}
