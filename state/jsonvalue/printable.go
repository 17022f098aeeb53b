package jsonvalue

import (
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"
)

// controls are what encoding/json leaves as it is of the characters that a terminal obeys:
// DEL and the C1 controls, of which U+009B begins a sequence as ESC [ does.
var controls = regexp.MustCompile("[\u007f-\u009f]")

// Printable is a writer for a json.Encoder, which writes each value at once. It passes on to
// w the same JSON with escapes in the place of characters that a terminal would obey.
func Printable(w io.Writer) io.Writer { return printable{w} }

type printable struct{ w io.Writer }

func (p printable) Write(text []byte) (int, error) {
	_, err := p.w.Write(controls.ReplaceAllFunc(text, func(c []byte) []byte {
		r, _ := utf8.DecodeRune(c)
		return fmt.Appendf(nil, `\u%04x`, r)
	}))
	return len(text), err
}
