package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	"lockstitch/state/event"
)

// Limits of what is read. Seal stays far below them; a reader refuses what is
// beyond before it allocates anything.
const (
	maxBlockBytes = 64 << 20  // one block, unpacked
	maxSliceBytes = 256 << 20 // all blocks of a slice, unpacked
	maxRatio      = 64 << 10  // unpacked over stored
	maxBlocks     = 1 << 16
	maxSources    = 4096            // of one slice
	maxTime       = 253402300799999 // 9999-12-31T23:59:59.999Z
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The blocks of a slice, in this order. The first keyBlocks are what OpenKeys
// needs. Snapshot pages follow the last one.
const (
	blockActivities = iota
	blockTypes
	blockSources
	blockOffsets
	blockServerTimes
	blockLogTimes
	blockUUIDs
	blockCorrelations
	blockEventTimes
	blockColumns // two for each of the columns: dictionary, codes
	keyBlocks    = blockEventTimes
)

// The columns with a dictionary: section, profile id, then the cells.
const (
	columnSection = iota
	columnProfile
	columnCells
	numColumns = columnCells + int(event.NumCells)

	blockSnapshotCodes     = blockColumns + 2*numColumns
	blockSnapshotDirectory = blockSnapshotCodes + 1
	blockPages             = blockSnapshotDirectory + 1
)

// How a block is stored.
const (
	codecRaw  = 0
	codecZstd = 1
)

// block is a block's entry in the slice's directory.
type block struct {
	codec  uint8
	stored uint32
	raw    uint32 // unpacked; stored for codecRaw
	crc    uint32 // CRC-32C of the stored bytes
	off    uint32 // from the start of the slice; not stored
}

func (b block) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(b.stored)<<1|uint64(b.codec))
	if b.stored == 0 {
		return dst
	}
	if b.codec == codecZstd {
		dst = binary.AppendUvarint(dst, uint64(b.raw))
	}
	return binary.LittleEndian.AppendUint32(dst, b.crc)
}

func takeBlock(p []byte) (b block, rest []byte, err error) {
	head, p, err := takeUvarint(p)
	if err != nil {
		return b, nil, err
	}
	if head>>1 > maxBlockBytes {
		return b, nil, errNumber
	}
	b.codec, b.stored = uint8(head&1), uint32(head>>1)
	b.raw = b.stored
	if b.stored == 0 {
		if b.codec != codecRaw {
			return b, nil, errMode
		}
		return b, p, nil
	}
	if b.codec == codecZstd {
		raw, rest, err := takeUvarint(p)
		if err != nil {
			return b, nil, err
		}
		if raw > maxBlockBytes || raw > uint64(b.stored)*maxRatio {
			return b, nil, errNumber
		}
		b.raw, p = uint32(raw), rest
	}
	if len(p) < 4 {
		return b, nil, errShort
	}
	b.crc = binary.LittleEndian.Uint32(p)
	return b, p[4:], nil
}

// zstdDecoder unpacks blocks; DecodeAll may be called concurrently. A block
// that unpacks to more than the capacity given fails.
var zstdDecoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxMemory(maxBlockBytes), zstd.WithDecoderMaxWindow(maxBlockBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // constant options
	}
	return d
}()

// unpackBlock returns the block's content; for codecRaw it aliases stored.
func unpackBlock(b block, stored []byte) ([]byte, error) {
	if b.codec == codecRaw {
		return stored, nil
	}
	out, err := zstdDecoder.DecodeAll(stored, make([]byte, 0, b.raw))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	if len(out) != int(b.raw) {
		return nil, fmt.Errorf("it unpacks to %d bytes instead of %d", len(out), b.raw)
	}
	return out, nil
}

// packer compresses blocks; one goroutine.
type packer struct {
	enc     *zstd.Encoder
	scratch []byte
}

func newPacker() (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithAllLitEntropyCompression(true), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &packer{enc: enc}, nil
}

// pack appends raw to dst, compressed when that saves at least an eighth, and
// returns the directory entry. Small blocks are not worth a frame.
func (k *packer) pack(dst, raw []byte, try bool) ([]byte, block, error) {
	if len(raw) > maxBlockBytes {
		return nil, block{}, fmt.Errorf("segment: a block of %d bytes exceeds the %d of the format", len(raw), maxBlockBytes)
	}
	b := block{stored: uint32(len(raw)), raw: uint32(len(raw))}
	stored := raw
	if try && len(raw) >= 64 {
		k.scratch = k.enc.EncodeAll(raw, k.scratch[:0])
		if len(k.scratch) <= len(raw)-len(raw)/8 {
			b.codec, b.stored = codecZstd, uint32(len(k.scratch))
			stored = k.scratch
		}
	}
	b.crc = crc32.Checksum(stored, castagnoli)
	return append(dst, stored...), b, nil
}
