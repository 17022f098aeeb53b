// Package stitch joins independently compressed pieces into one gzip member
// (RFC 1952) without compressing anything again.
//
// A piece is raw DEFLATE (RFC 1951) without a final block, ended by a sync
// flush so that it fills whole bytes, and its blocks refer to nothing before
// the piece. Such pieces can stand one after another; the file's CRC-32 is
// combined from those of the pieces. The header is fixed (no name, no time), so
// that equal pieces give equal files.
package stitch

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
)

// ErrTooLarge says that the file would be larger than it may be.
var ErrTooLarge = errors.New("the file would be larger than allowed")

// Piece is a stretch of text, compressed.
type Piece struct {
	Deflate []byte // see the package comment
	CRC     uint32 // CRC-32 (IEEE) of the text
	Text    int64  // length of the text in bytes
}

var (
	// header: magic, method DEFLATE, no flags, no time, no extra flags, unknown
	// operating system (RFC 1952, 2.3).
	header = [10]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	// lastBlock is an empty final block with fixed codes.
	lastBlock = [2]byte{0x03, 0x00}
)

const trailerSize = len(lastBlock) + 8 // and CRC-32, length modulo 2^32

// Writer writes one gzip member. It is used by one goroutine. After an error
// nothing more can be written.
type Writer struct {
	out  *bufio.Writer
	hash hash.Hash
	max  int64
	size int64 // bytes of the file so far, without the trailer
	text int64
	crc  uint32
	err  error
}

// NewWriter returns a Writer that writes to w a file of at most max bytes
// (max <= 0: no bound).
func NewWriter(w io.Writer, max int64) *Writer {
	s := &Writer{hash: sha256.New(), max: max}
	s.out = bufio.NewWriterSize(io.MultiWriter(w, s.hash), 256<<10)
	s.write(header[:])
	return s
}

// Append adds a piece. ErrTooLarge if the file could then no longer be ended
// within the bound; all other errors are those of the underlying writer. The
// piece's memory is the caller's again when Append returns.
func (s *Writer) Append(p Piece) error {
	if s.err == nil && s.max > 0 && s.size+int64(len(p.Deflate))+int64(trailerSize) > s.max {
		s.err = ErrTooLarge
	}
	s.write(p.Deflate)
	if s.err != nil {
		return s.err
	}
	s.crc = Combine(s.crc, p.CRC, p.Text)
	s.text += p.Text
	return nil
}

// Close ends the member and flushes it to the underlying writer, which stays
// open. A file that was not closed without an error is not whole.
func (s *Writer) Close() error {
	if s.err == nil && s.max > 0 && s.size+int64(trailerSize) > s.max {
		s.err = ErrTooLarge
	}
	var trailer [trailerSize]byte
	n := copy(trailer[:], lastBlock[:])
	binary.LittleEndian.PutUint32(trailer[n:], s.crc)
	binary.LittleEndian.PutUint32(trailer[n+4:], uint32(s.text)) // modulo 2^32, RFC 1952
	s.write(trailer[:])
	if s.err != nil {
		return s.err
	}
	if s.err = s.out.Flush(); s.err != nil {
		return s.err
	}
	s.err = errors.New("the file has been closed")
	return nil
}

func (s *Writer) write(b []byte) {
	if s.err != nil {
		return
	}
	_, s.err = s.out.Write(b)
	s.size += int64(len(b))
}

// Size is the number of bytes of the file so far; after Close that of the file.
func (s *Writer) Size() int64 { return s.size }

// Text is the number of bytes of text appended so far.
func (s *Writer) Text() int64 { return s.text }

// SHA256 is the hash of the file, in hexadecimal, once Close has returned nil.
func (s *Writer) SHA256() string { return hex.EncodeToString(s.hash.Sum(nil)) }
