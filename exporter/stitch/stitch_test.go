package stitch

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	kflate "github.com/klauspost/compress/flate"

	"lockstitch/internal/seed"
)

// deflate compresses text to a piece with the level-2 compressor that exports
// use, or with the standard library's.
func deflate(t testing.TB, text []byte, std bool) Piece {
	t.Helper()
	var out bytes.Buffer
	var w interface {
		io.Writer
		Flush() error
	}
	var err error
	if std {
		w, err = flate.NewWriter(&out, 6)
	} else {
		w, err = kflate.NewWriter(&out, 2)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return Piece{Deflate: out.Bytes(), CRC: crc32.ChecksumIEEE(text), Text: int64(len(text))}
}

func TestOneMember(t *testing.T) {
	seed.Each(t, 20, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		var text, file bytes.Buffer
		w := NewWriter(&file, 0)
		for range r.IntN(9) {
			part := make([]byte, r.IntN(1<<uint(r.IntN(18))))
			for i := range part {
				part[i] = "abcdefgh,\n"[r.IntN(10)]
			}
			text.Write(part)
			if err := w.Append(deflate(t, part, r.IntN(2) == 0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		// One member is all there is: nothing is left behind it.
		rest := bytes.NewReader(file.Bytes())
		z, err := gzip.NewReader(rest)
		if err != nil {
			t.Fatal(err)
		}
		// Neither a time nor a machine shows.
		if h := z.Header; !bytes.Equal(file.Bytes()[:10], []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}) || !h.ModTime.IsZero() || h.Name != "" || h.Comment != "" || h.Extra != nil {
			t.Fatalf("header %x, %+v", file.Bytes()[:10], h)
		}
		z.Multistream(false)
		got, err := io.ReadAll(z)
		if err != nil || rest.Len() != 0 {
			t.Fatalf("%d bytes behind the member (%v)", rest.Len(), err)
		}
		if !bytes.Equal(got, text.Bytes()) {
			t.Fatalf("%d bytes came back from %d, or others", len(got), text.Len())
		}
		sum := sha256.Sum256(file.Bytes())
		if w.SHA256() != hex.EncodeToString(sum[:]) || w.Size() != int64(file.Len()) || w.Text() != int64(text.Len()) {
			t.Fatal("SHA256, Size or Text is wrong")
		}
	})
}

// TestBeyond4GiB repeats one compressed piece until the text is longer than
// 2^32 bytes; the length in the trailer wraps around, the CRC is that of all of it.
func TestBeyond4GiB(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<22) // 64 MiB
	p := deflate(t, text, false)
	var file bytes.Buffer
	w := NewWriter(&file, 0)
	const times = 65
	for range times {
		if err := w.Append(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Append(deflate(t, []byte("end"), false)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	crc := uint32(0)
	for range times {
		crc = crc32.Update(crc, crc32.IEEETable, text)
	}
	crc = crc32.Update(crc, crc32.IEEETable, []byte("end"))
	b := file.Bytes()
	tail := b[len(b)-8:]
	if got := uint32(tail[0]) | uint32(tail[1])<<8 | uint32(tail[2])<<16 | uint32(tail[3])<<24; got != crc {
		t.Errorf("CRC %08x, want %08x", got, crc)
	}
	want := uint64(times*len(text) + 3)
	if want <= 1<<32 {
		t.Fatal("the text is too short for this test")
	}
	if got := uint32(tail[4]) | uint32(tail[5])<<8 | uint32(tail[6])<<16 | uint32(tail[7])<<24; got != uint32(want) {
		t.Errorf("length %d, want %d modulo 2^32", got, want)
	}
}

func TestCombine(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	text := make([]byte, 100_000)
	for i := range text {
		text[i] = byte(r.Uint32())
	}
	for range 200 {
		n := r.IntN(len(text) + 1)
		cut := r.IntN(n + 1)
		a, b := text[:cut], text[cut:n]
		if got, want := Combine(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), int64(len(b))), crc32.ChecksumIEEE(text[:n]); got != want {
			t.Fatalf("%d+%d bytes: %08x, want %08x", len(a), len(b), got, want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	p := deflate(t, []byte("some text"), false)
	size := int64(len(header) + len(p.Deflate) + trailerSize)
	for _, c := range []struct {
		max    int64
		append error
		close  error
	}{
		{size, nil, nil},
		{size - 1, ErrTooLarge, ErrTooLarge},
		{0, nil, nil},
	} {
		var file bytes.Buffer
		w := NewWriter(&file, c.max)
		if err := w.Append(p); !errors.Is(err, c.append) {
			t.Errorf("max %d: Append: %v", c.max, err)
		}
		if err := w.Close(); !errors.Is(err, c.close) {
			t.Errorf("max %d: Close: %v", c.max, err)
		}
		if c.max > 0 && int64(file.Len()) > c.max {
			t.Errorf("max %d: %d bytes were written", c.max, file.Len())
		}
	}
	if err := NewWriter(io.Discard, int64(len(header)+trailerSize-1)).Close(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("an empty file over the bound: %v", err)
	}
}

// failing accepts n bytes and then fails.
type failing struct{ n int }

var errFull = errors.New("full")

func (f *failing) Write(b []byte) (int, error) {
	if f.n -= len(b); f.n < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestWriteError(t *testing.T) {
	w := NewWriter(&failing{n: 5}, 0)
	if err := w.Append(deflate(t, []byte("x"), false)); err != nil {
		t.Fatal(err) // buffered
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("Close: %v", err)
	}
	if err := w.Append(Piece{}); !errors.Is(err, errFull) {
		t.Errorf("Append after an error: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	p := deflate(b, bytes.Repeat([]byte("4711,4711,Autumn,Autumn,shop@example.com,News,a@example.com\n"), 100_000), false)
	p.Deflate = bytes.Repeat(p.Deflate, 10) // about the size of a real piece
	w := NewWriter(io.Discard, 0)
	b.SetBytes(int64(len(p.Deflate)))
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Append(p); err != nil {
			b.Fatal(err)
		}
	}
}
