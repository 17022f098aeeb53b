package segment

// union gives one set of codes to the strings of several interners.
type union struct {
	in     []*interner
	codes  [][]uint32 // per interner: own code → common code; nil with a single one
	origin []struct{ in, code uint32 }
}

func newUnion(in []*interner) *union {
	u := &union{in: in}
	if len(in) == 1 {
		return u
	}
	total := 0
	for _, t := range in {
		total += t.len()
	}
	size := 128
	for size*3 < total*4 {
		size *= 2
	}
	table := make([]uint32, size)
	mask := uint32(size - 1)
	u.origin = make([]struct{ in, code uint32 }, 1, total)
	u.codes = make([][]uint32, len(in))
	for ti, t := range in {
		codes := make([]uint32, t.len())
		for c := 1; c < t.len(); c++ {
			h := t.hashes[c]
			i := h & mask
			for table[i] != 0 {
				o := u.origin[table[i]]
				if u.in[o.in].hashes[o.code] == h && string(u.bytes(table[i])) == string(t.bytes(uint32(c))) {
					break
				}
				i = (i + 1) & mask
			}
			if table[i] == 0 {
				table[i] = uint32(len(u.origin))
				u.origin = append(u.origin, struct{ in, code uint32 }{uint32(ti), uint32(c)})
			}
			codes[c] = table[i]
		}
		u.codes[ti] = codes
	}
	return u
}

func (u *union) len() int {
	if u.codes == nil {
		return u.in[0].len()
	}
	return len(u.origin)
}

func (u *union) code(in int, c uint32) uint32 {
	if u.codes == nil {
		return c
	}
	return u.codes[in][c]
}

func (u *union) bytes(c uint32) []byte {
	if u.codes == nil {
		return u.in[0].bytes(c)
	}
	o := u.origin[c]
	return u.in[o.in].bytes(o.code)
}

// stamps maps common codes to a slice's own without being cleared in between.
type stamps struct {
	at    []struct{ epoch, code uint32 }
	epoch uint32
}

func (s *stamps) start() {
	s.epoch++
	if s.epoch == 0 {
		clear(s.at)
		s.epoch = 1
	}
}
