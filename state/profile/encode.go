package profile

import "encoding/binary"

// The layout of a Snapshot. text is a length and that many bytes, lengths and
// counts are uvarints in their shortest form; the three lists and their inner
// lists are sorted (shorter texts first, then by bytes) without repeats, and no
// section is empty.
//
//	version    1 byte, formatVersion
//	account    text
//	sections   count, then each: discriminator text, size in bytes of the rest,
//	           attributes, tags
//	attributes count, then each: version id text, ValueKind byte, and for Text
//	           and Number the value as text
//	tags       count, then each: version id text
//	segments   count, then each: discriminator text
const formatVersion = 1

func encode(m *model) Snapshot {
	b := make([]byte, 1, 128)
	b[0] = formatVersion
	b = appendText(b, m.account)
	b = binary.AppendUvarint(b, uint64(len(m.sections)))
	var body []byte
	for i := range m.sections {
		s := &m.sections[i]
		body = binary.AppendUvarint(body[:0], uint64(len(s.attributes)))
		for _, a := range s.attributes {
			body = append(appendText(body, a.id), byte(a.value.Kind))
			if a.value.Kind == Text || a.value.Kind == Number {
				body = appendText(body, a.value.Raw)
			}
		}
		body = appendTexts(body, s.tags)
		b = appendText(appendText(b, s.name), body)
	}
	b = appendTexts(b, m.segments)
	return b[:len(b):len(b)]
}

func appendText(b, text []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendTexts(b []byte, texts [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(texts)))
	for _, t := range texts {
		b = appendText(b, t)
	}
	return b
}
