package stitch

import "hash/crc32"

// Combine returns the CRC-32 (IEEE) of two texts, one after the other, from the
// CRC of the first, the CRC of the second and the length of the second.
//
// A CRC is a remainder modulo the polynomial P over GF(2). Putting n bytes
// behind a text multiplies its polynomial by x^(8n), and the CRC's initial and
// final inversions cancel out, so that the CRC of both is
// first·x^(8n) + second modulo P.
func Combine(first, second uint32, n int64) uint32 {
	if n <= 0 {
		return first
	}
	// powers[k] is x^(8·2^k): the bits of n choose the factors.
	for k := 0; n != 0; k, n = k+1, n>>1 {
		if n&1 != 0 {
			first = multiply(first, powers[k])
		}
	}
	return first ^ second
}

// Polynomials are kept as CRCs are: the highest bit is the coefficient of x^0.

var powers = func() (p [63]uint32) {
	p[0] = 1 << (31 - 8) // x^8
	for k := 1; k < len(p); k++ {
		p[k] = multiply(p[k-1], p[k-1])
	}
	return p
}()

// multiply returns a·b modulo P.
func multiply(a, b uint32) uint32 {
	var product uint32
	for ; a != 0; a <<= 1 { // from x^0 upwards
		if a&(1<<31) != 0 {
			product ^= b
		}
		// b·x: what is shifted out is x^32, which is P without its highest term.
		carry := b & 1
		b >>= 1
		b ^= crc32.IEEE & -carry
	}
	return product
}
