package segment

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// How a vector of codes is written (FORMAT.md, "Code vectors").
const (
	codesZero     = 0    // every code is 0
	codesCount    = 1    // 0, 1, 2 …
	codesFresh    = 2    // a bit per row: a code never seen before, or one of the packed ones
	codesSame     = 3    // the same vector as an earlier column's
	codesFollow   = 4    // as predicted from the profile column, but for exceptions
	codesPacked   = 0x40 // plus the width: bit-packed
	maxCodesWidth = 32
)

var (
	errShort  = errors.New("it ends too early")
	errLong   = errors.New("bytes are left over")
	errCode   = errors.New("a code is out of range")
	errNumber = errors.New("a number is out of range")
	errMode   = errors.New("unknown encoding")
)

// widthOf is the number of bits that the codes below n need. Up to 8 bits it is
// a power of two, so that a compressor still sees the repetition.
func widthOf(n uint32) int {
	if n <= 1 {
		return 0
	}
	w := bits.Len32(n - 1)
	switch {
	case w == 3:
		return 4
	case w >= 5 && w <= 8:
		return 8
	}
	return w
}

func packedLen(n, width int) int { return (n*width + 7) / 8 }

func appendPacked(dst []byte, codes []uint32, width int) []byte {
	var acc uint64
	var have int
	for _, c := range codes {
		acc |= uint64(c) << have
		have += width
		for have >= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
			have -= 8
		}
	}
	if have > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}

// unpack reads len(codes) codes. p has exactly the bytes that they take.
func unpack(codes []uint32, p []byte, width int) {
	switch width {
	case 0:
		clear(codes)
		return
	case 8:
		for i := range codes {
			codes[i] = uint32(p[i])
		}
		return
	}
	mask := uint64(1)<<width - 1
	i, bit := 0, 0
	for ; i < len(codes) && bit>>3+8 <= len(p); i++ {
		codes[i] = uint32(binary.LittleEndian.Uint64(p[bit>>3:]) >> (bit & 7) & mask)
		bit += width
	}
	for ; i < len(codes); i++ {
		var tail [8]byte
		copy(tail[:], p[bit>>3:])
		codes[i] = uint32(binary.LittleEndian.Uint64(tail[:]) >> (bit & 7) & mask)
		bit += width
	}
}

func appendBits(dst []byte, n int, set func(i int) bool) []byte {
	for i := 0; i < n; i += 8 {
		var b byte
		for j := i; j < min(i+8, n); j++ {
			if set(j) {
				b |= 1 << (j - i)
			}
		}
		dst = append(dst, b)
	}
	return dst
}

func bit(p []byte, i int) bool { return p[i>>3]>>(i&7)&1 != 0 }

// appendCodes writes codes, which are below limit, in the shortest way. first
// is the first code that counts as fresh when it appears in order.
func appendCodes(dst []byte, codes []uint32, first, limit uint32) []byte {
	zero, count := true, true
	next, fresh := first, 0
	inOrder := true
	for i, c := range codes {
		zero = zero && c == 0
		count = count && c == uint32(i)
		switch {
		case c == next:
			next++
			fresh++
		case c > next:
			inOrder = false
		}
	}
	if zero {
		return append(dst, codesZero)
	}
	if count {
		return append(dst, codesCount)
	}
	w := widthOf(limit)
	if packedLen(len(codes), 1)+1+packedLen(len(codes)-fresh, w) >= packedLen(len(codes), w) || !inOrder || w <= 8 {
		dst = append(dst, codesPacked|byte(w))
		return appendPacked(dst, codes, w)
	}
	dst = append(dst, codesFresh, byte(w))
	old := make([]uint32, 0, len(codes)-fresh)
	next = first
	isFresh := make([]bool, len(codes))
	for i, c := range codes {
		if c == next {
			isFresh[i] = true
			next++
		} else {
			old = append(old, c)
		}
	}
	dst = appendBits(dst, len(codes), func(i int) bool { return isFresh[i] })
	return appendPacked(dst, old, w)
}

// takeCodes reads n codes below limit and returns what follows them.
func takeCodes(p []byte, n int, first, limit uint32) (codes []uint32, rest []byte, err error) {
	if len(p) == 0 {
		return nil, nil, errShort
	}
	mode, p := p[0], p[1:]
	codes = make([]uint32, n)
	switch {
	case mode == codesZero:
		return codes, p, nil
	case mode == codesCount:
		if uint64(n) > uint64(limit) {
			return nil, nil, errCode
		}
		for i := range codes {
			codes[i] = uint32(i)
		}
		return codes, p, nil
	case mode == codesFresh:
		return takeFresh(p, codes, first, limit)
	case mode&codesPacked != 0 && mode&^codesPacked <= maxCodesWidth:
		w := int(mode &^ codesPacked)
		size := packedLen(n, w)
		if len(p) < size {
			return nil, nil, errShort
		}
		unpack(codes, p[:size], w)
		if !below(codes, limit) {
			return nil, nil, errCode
		}
		return codes, p[size:], nil
	}
	return nil, nil, errMode
}

func takeFresh(p []byte, codes []uint32, first, limit uint32) ([]uint32, []byte, error) {
	size := packedLen(len(codes), 1)
	if len(p) < 1+size || p[0] > maxCodesWidth {
		return nil, nil, errShort
	}
	w, fresh, p := int(p[0]), p[1:1+size], p[1+size:]
	old := 0
	for i := range codes {
		if !bit(fresh, i) {
			old++
		}
	}
	size = packedLen(old, w)
	if len(p) < size {
		return nil, nil, errShort
	}
	// The old codes are unpacked into the tail and moved forward: there are
	// never more of them left than places.
	tail := codes[len(codes)-old:]
	unpack(tail, p[:size], w)
	next := first
	for i := range codes {
		if bit(fresh, i) {
			codes[i] = next
			next++
		} else {
			codes[i] = tail[0]
			tail = tail[1:]
		}
	}
	if !below(codes, limit) {
		return nil, nil, errCode
	}
	return codes, p[size:], nil
}

func below(codes []uint32, limit uint32) bool {
	var top uint32
	for _, c := range codes {
		top = max(top, c)
	}
	return len(codes) == 0 || top < limit
}

// appendFollow writes the snapshot codes of rows as exceptions from what the
// profile column predicts: the snapshot that the profile had last, and for a
// profile not seen before a snapshot not seen before.
func appendFollow(dst []byte, codes, profiles []uint32, limit uint32) []byte {
	var except []uint32
	odd := make([]bool, len(codes))
	predict(codes, profiles, func(i int, guess uint32) uint32 {
		if codes[i] != guess {
			odd[i] = true
			except = append(except, codes[i])
		}
		return codes[i]
	})
	w := widthOf(limit)
	dst = append(dst, codesFollow, byte(w))
	dst = appendBits(dst, len(codes), func(i int) bool { return odd[i] })
	return appendPacked(dst, except, w)
}

func takeFollow(p []byte, profiles []uint32, limit uint32) ([]uint32, error) {
	n := len(profiles)
	size := packedLen(n, 1)
	if len(p) < 2+size || p[1] > maxCodesWidth {
		return nil, errShort
	}
	w, odd, p := int(p[1]), p[2:2+size], p[2+size:]
	count := 0
	for i := range n {
		if bit(odd, i) {
			count++
		}
	}
	if len(p) != packedLen(count, w) {
		return nil, errShort
	}
	except := make([]uint32, count)
	unpack(except, p, w)
	codes := make([]uint32, n)
	predict(codes, profiles, func(i int, guess uint32) uint32 {
		if bit(odd, i) {
			guess, except = except[0], except[1:]
		}
		codes[i] = guess
		return guess
	})
	if !below(codes, limit) {
		return nil, errCode
	}
	return codes, nil
}

// predict walks the rows, telling for each the code that is to be expected and
// learning the one that is.
func predict(codes, profiles []uint32, step func(i int, guess uint32) uint32) {
	var top uint32
	for _, p := range profiles {
		top = max(top, p)
	}
	last := make([]uint32, top+1) // 1 + the code, 0: profile not seen
	next := uint32(1)
	for i := range codes {
		guess := next
		if l := last[profiles[i]]; l != 0 {
			guess = l - 1
		}
		c := step(i, guess)
		last[profiles[i]] = c + 1
		if c == next {
			next++
		}
	}
}

// appendStrings writes a list of byte strings: their number, their lengths,
// their bytes.
func appendStrings(dst []byte, n int, get func(i int) []byte) []byte {
	same, total := true, 0
	for i := range n {
		l := len(get(i))
		same = same && l == len(get(0))
		total += l
	}
	if same && n > 1 {
		dst = binary.AppendUvarint(dst, uint64(n)<<1|1)
		dst = binary.AppendUvarint(dst, uint64(len(get(0))))
	} else {
		dst = binary.AppendUvarint(dst, uint64(n)<<1)
		for i := range n {
			dst = binary.AppendUvarint(dst, uint64(len(get(i))))
		}
	}
	for i := range n {
		dst = append(dst, get(i)...)
	}
	return dst
}

// takeStrings reads at most limit strings, which alias p, and what follows.
func takeStrings(p []byte, limit int) (list [][]byte, rest []byte, err error) {
	head, p, err := takeUvarint(p)
	if err != nil {
		return nil, nil, err
	}
	count, same := head>>1, head&1 != 0
	if count > uint64(limit) || !same && count > uint64(len(p)) {
		return nil, nil, errNumber
	}
	list = make([][]byte, count)
	if same {
		l, p, err := takeUvarint(p)
		if err != nil {
			return nil, nil, err
		}
		// Two factors that are bounded by data and limit cannot overflow.
		if l > uint64(len(p)) || count*l > uint64(len(p)) {
			return nil, nil, errShort
		}
		for i := range list {
			list[i], p = p[:l:l], p[l:]
		}
		return list, p, nil
	}
	lengths := p
	for range list {
		if _, p, err = takeUvarint(p); err != nil {
			return nil, nil, err
		}
	}
	for i := range list {
		var l uint64
		l, lengths, _ = takeUvarint(lengths)
		if l > uint64(len(p)) {
			return nil, nil, errShort
		}
		list[i], p = p[:l:l], p[l:]
	}
	return list, p, nil
}

func takeUvarint(p []byte) (v uint64, rest []byte, err error) {
	if len(p) > 0 && p[0] < 0x80 {
		return uint64(p[0]), p[1:], nil
	}
	v, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, nil, errShort
	}
	return v, p[n:], nil
}

func takeString(p []byte) (s, rest []byte, err error) {
	n, p, err := takeUvarint(p)
	if err != nil {
		return nil, nil, err
	}
	if n > uint64(len(p)) {
		return nil, nil, errShort
	}
	return p[:n:n], p[n:], nil
}

func appendString(dst, s []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func zigzag(v int64) uint64   { return uint64(v)<<1 ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }
