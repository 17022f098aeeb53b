package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

// say writes what a person reads. The texts of a server among it may hold control
// characters, which a terminal obeys: what is shown in their place is U+FFFD.
func say(w io.Writer, format string, args ...any) {
	fmt.Fprint(w, printable(fmt.Sprintf(format, args...)))
}

// printable is a text without control characters but those that lay it out.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}
