package segment

// unhex maps '0'…'9' and 'a'…'f' to their values and everything else to 0xff.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range []byte("0123456789abcdef") {
		t[c] = byte(i)
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// parseUUID reads the canonical text of a UUID (RFC 9562: 8-4-4-4-12 lower-case
// hexadecimal digits). Everything else, upper case included, is refused, so
// that appendUUID gives back the same text.
func parseUUID(p []byte) (u [16]byte, ok bool) {
	if len(p) != 36 || p[8] != '-' || p[13] != '-' || p[18] != '-' || p[23] != '-' {
		return u, false
	}
	var bad byte
	for i, at := range [16]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34} {
		hi, lo := unhex[p[at]], unhex[p[at+1]]
		bad |= hi | lo
		u[i] = hi<<4 | lo
	}
	return u, bad&0xf0 == 0
}

// appendUUID appends the canonical text.
func appendUUID(dst []byte, u []byte) []byte {
	var t [36]byte
	t[8], t[13], t[18], t[23] = '-', '-', '-', '-'
	for i, at := range [16]int{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34} {
		t[at], t[at+1] = hexDigits[u[i]>>4], hexDigits[u[i]&15]
	}
	return append(dst, t[:]...)
}
