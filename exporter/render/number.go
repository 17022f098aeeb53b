package render

// maxPlainNumber is the length in characters up to which a number is written
// in plain decimal (contract section 4).
const maxPlainNumber = 128

// exponentBound is far beyond any exponent that digits could make up for: a
// literal is shorter than 2^31 bytes.
const exponentBound = 1 << 40

// appendPlainNumber appends the value of a JSON number literal in plain
// decimal: the same digits, no exponent, no needless zeros, "-0" as "0". A
// number that would be longer than maxPlainNumber, which is found without
// writing it out, and anything that is no JSON number is appended as it stands.
func appendPlainNumber(dst, literal []byte) []byte {
	n, ok := parseNumber(literal)
	if !ok {
		return append(dst, literal...)
	}
	// The value is 0.d1d2…dk · 10^point without zeros around the digits.
	k := int64(n.digits)
	if k == 0 {
		return append(dst, '0')
	}
	length := n.point // all digits and zeros before the point
	switch {
	case n.point <= 0:
		length = 2 - n.point + k
	case n.point < k:
		length = k + 1
	}
	if n.negative {
		length++
	}
	if length > maxPlainNumber {
		return append(dst, literal...)
	}
	if n.negative {
		dst = append(dst, '-')
	}
	if n.point <= 0 {
		dst = append(dst, '0', '.')
		for range -n.point {
			dst = append(dst, '0')
		}
	}
	written := int64(0)
	for _, c := range n.mantissa {
		if c == '.' {
			continue
		}
		if written == n.point && n.point > 0 {
			dst = append(dst, '.')
		}
		dst = append(dst, c)
		if written++; written == k {
			break
		}
	}
	for ; written < n.point; written++ {
		dst = append(dst, '0')
	}
	return dst
}

type number struct {
	negative bool
	mantissa []byte // begins with the first digit that is not 0; may hold a '.'
	digits   int    // of the mantissa, without zeros at the end
	point    int64  // position of the decimal point relative to the first digit
}

// parseNumber reads a literal by the grammar of RFC 8259, section 6.
func parseNumber(s []byte) (n number, ok bool) {
	i := 0
	digits := func() int {
		from := i
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		return i - from
	}
	if i < len(s) && s[i] == '-' {
		n.negative = true
		i++
	}
	from := i
	whole := digits()
	if whole == 0 || (whole > 1 && s[from] == '0') {
		return n, false
	}
	if i < len(s) && s[i] == '.' {
		i++
		if digits() == 0 {
			return n, false
		}
	}
	n.mantissa = s[from:i]
	exponent := int64(0)
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		minus := false
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			minus = s[i] == '-'
			i++
		}
		from := i
		if digits() == 0 {
			return n, false
		}
		for _, c := range s[from:i] {
			exponent = min(exponent*10+int64(c-'0'), exponentBound)
		}
		if minus {
			exponent = -exponent
		}
	}
	if i != len(s) {
		return n, false
	}
	n.point = int64(whole) + exponent
	// Leading zeros move the point.
	for len(n.mantissa) > 0 && (n.mantissa[0] == '0' || n.mantissa[0] == '.') {
		if n.mantissa[0] == '0' {
			n.point--
		}
		n.mantissa = n.mantissa[1:]
	}
	seen := 0
	for _, c := range n.mantissa {
		if c == '.' {
			continue
		}
		if seen++; c != '0' {
			n.digits = seen
		}
	}
	return n, true
}
