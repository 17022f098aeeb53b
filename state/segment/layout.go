package segment

import (
	"encoding/binary"
	"hash/crc32"
)

// The fixed parts of an object and of a slice.
const (
	version      = 1
	objectHead   = 8
	objectTail   = 16
	sliceHead    = 16
	objectMagic  = "LSOB"
	trailerMagic = "LSOE"
	sliceMagic   = "LSSL"
)

func appendHeader(dst []byte) []byte {
	return append(append(dst, objectMagic...), version, 0, 0, 0)
}

func appendSliceHead(dst, dir []byte) []byte {
	start := len(dst)
	dst = append(append(dst, sliceMagic...), version, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(dir)))
	return binary.LittleEndian.AppendUint32(dst, sliceChecksum(dst[start:], dir))
}

// sliceChecksum is the checksum of a slice that begins with head and has a directory,
// as this version writes it, whatever version head names.
func sliceChecksum(head, dir []byte) uint32 {
	crc := crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, []byte{version})
	return crc32.Update(crc32.Update(crc, castagnoli, head[5:12]), castagnoli, dir)
}

// appendInfo writes what a slice's own directory and the object's have in
// common.
func appendInfo(dst []byte, info *SliceInfo) []byte {
	dst = appendString(dst, []byte(info.Account))
	dst = binary.AppendUvarint(dst, uint64(info.Rows))
	dst = binary.AppendUvarint(dst, uint64(info.MinTime))
	dst = binary.AppendUvarint(dst, uint64(info.MaxTime-info.MinTime))
	dst = binary.AppendUvarint(dst, uint64(len(info.Sources)))
	for _, r := range info.Sources {
		s := r.Source()
		dst = appendString(dst, []byte(s.Topic))
		dst = binary.AppendUvarint(dst, uint64(s.Incarnation))
		dst = append(dst, s.ID[:]...)
		dst = binary.AppendUvarint(dst, uint64(s.Partition))
		dst = binary.AppendUvarint(dst, uint64(r.Min))
		dst = binary.AppendUvarint(dst, uint64(r.Next-r.Min))
	}
	return dst
}

// snapShape is how much there is to the snapshots of a slice: a reader must
// know before it unpacks them what they will hold.
type snapShape struct {
	snapshots int // distinct ones
	columns   int // attributes, tags and audiences that any of them has
	values    int // entries of the attributes' dictionaries together
}

func appendSliceDirectory(dst []byte, info *SliceInfo, shape snapShape, blocks []block) []byte {
	dst = appendInfo(dst, info)
	dst = binary.AppendUvarint(dst, uint64(shape.snapshots))
	dst = binary.AppendUvarint(dst, uint64(shape.columns))
	dst = binary.AppendUvarint(dst, uint64(shape.values))
	dst = binary.AppendUvarint(dst, uint64(len(blocks)))
	for _, b := range blocks {
		dst = b.append(dst)
	}
	return dst
}

// appendFooter writes the object's directory and trailer behind its slices.
func appendFooter(dst []byte, slices []SliceInfo) []byte {
	start := len(dst)
	dst = binary.AppendUvarint(dst, uint64(len(slices)))
	for i := range slices {
		dst = appendInfo(dst, &slices[i])
		dst = binary.AppendUvarint(dst, uint64(slices[i].Offset))
		dst = binary.AppendUvarint(dst, uint64(slices[i].Length))
		dst = binary.AppendUvarint(dst, uint64(slices[i].KeysLength))
	}
	n := len(dst) - start
	dst = append(dst, version, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(n))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
	return append(dst, trailerMagic...)
}
