package objects

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxName is the greatest length of an object's name in bytes: below the 1024
// of S3 and Azure, with room for what their drivers escape.
const MaxName = 900

// MaxPart is the greatest length of one part of a name in bytes, so that it is
// a file name everywhere.
const MaxPart = 240

// CheckName tells whether name can name an object: 1 to MaxName bytes of valid
// UTF-8, relative, slash-separated parts of 1 to MaxPart bytes, none of them
// "." or "..", no control characters, no backslash.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("object name is empty")
	}
	if err := checkText(name); err != nil {
		return err
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return fmt.Errorf("object name %q has an empty part", name)
		case part == "." || part == "..":
			return fmt.Errorf("object name %q has a part %q", name, part)
		case len(part) > MaxPart:
			return fmt.Errorf("object name %q has a part of %d bytes, more than %d", name, len(part), MaxPart)
		}
	}
	return nil
}

// maxPartText is the longest percent-encoded text that Part gives as it is.
const maxPartText = 200

// Part makes any text one part of a name, different texts different parts: every
// byte but letters, digits, "-", "_", "~" and dots that do not stand first is
// percent-encoded. In place of a text that would become longer than 200 bytes
// stands its digest, as "%sha256-" and hexadecimal digits; no encoded text looks
// like that, nor is one empty, "." or "..".
func Part(text string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '~', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	if b.Len() == 0 || b.Len() > maxPartText {
		return fmt.Sprintf("%%sha256-%x", sha256.Sum256([]byte(text)))
	}
	return b.String()
}

// checkPrefix is CheckName for the beginning of a name, which may be empty and
// may end anywhere.
func checkPrefix(prefix string) error {
	if err := checkText(prefix); err != nil {
		return err
	}
	parts := strings.Split(prefix, "/")
	for i, part := range parts {
		last := i == len(parts)-1
		if (part == "" && !last) || part == ".." || (part == "." && !last) {
			return fmt.Errorf("object prefix %q has a part %q", prefix, part)
		}
	}
	return nil
}

func checkText(name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("object name of %d bytes, more than %d: %q…", len(name), MaxName, name[:64])
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("object name %q is not UTF-8", name)
	}
	for _, c := range name {
		if c < 0x20 || c == 0x7f || c == '\\' {
			return fmt.Errorf("object name %q holds the character %q", name, c)
		}
	}
	return nil
}

// The file store writes each part of a name as a file name, with "=XX" (two
// upper-case hexadecimal digits) for a byte that a file system could take
// amiss: a leading dot, which marks our own hidden files, the characters that
// some file systems refuse, and "=" itself. The percent sign is not among them,
// so that percent-encoded names keep their look.
const escaped = `=:*?"<>|`

func encodePart(part string) string {
	plain := part[0] != '.' && !strings.ContainsAny(part, escaped)
	if plain {
		return part
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(part) {
		c := part[i]
		if (i == 0 && c == '.') || strings.IndexByte(escaped, c) >= 0 {
			b.WriteByte('=')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// decodePart undoes encodePart; ok is false for a file name that encodePart
// never writes, which is not ours.
func decodePart(file string) (part string, ok bool) {
	if file == "" || file[0] == '.' {
		return "", false
	}
	if strings.IndexByte(file, '=') < 0 {
		return file, encodePart(file) == file
	}
	var b strings.Builder
	for i := 0; i < len(file); i++ {
		if file[i] != '=' {
			b.WriteByte(file[i])
			continue
		}
		if i+2 >= len(file) {
			return "", false
		}
		hi, lo := unhex(file[i+1]), unhex(file[i+2])
		if hi < 0 || lo < 0 {
			return "", false
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	part = b.String()
	return part, encodePart(part) == file
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
