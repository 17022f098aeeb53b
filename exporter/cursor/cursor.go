// Package cursor writes positions in the input as the opaque texts that clients
// hold (contract 6.1), and reads them back.
//
// A cursor is a function of the position, the account and the signing key alone:
// not of the replica, of the time or of how many partitions there are. Clients
// keep cursors for as long as they like, so whatever was once written here must
// be read for ever.
//
// It is base64url, without padding, of
//
//	version   1 byte, 1
//	kid       uvarint length and text: the key that authenticates it
//	topics    for each, in ascending order of id:
//	            id      16 bytes
//	            count   uvarint: partitions 0 to count-1; the last is not at 0
//	            least   uvarint: the lowest offset among them
//	            width   1 byte, 1 to 8
//	            offsets count × width bytes, big endian, each less the lowest
//	mac       32 bytes, HMAC-SHA-256 over the account and all of the above
//
// Partitions of a topic are close to each other as a rule, so that an offset
// costs three or four bytes. A partition at 0 and one that is missing are the
// same.
package cursor

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"slices"

	"lockstitch/exporter/auth"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// ErrInvalid is a text that is no cursor of the account. It does not say why:
// malformed, forged, another account's and one whose key is not known are alike.
var ErrInvalid = errors.New("not a cursor of this account")

const version = 1

// purpose separates the keys of cursors from those of tokens.
const purpose = "lockstitch cursor v1"

// Codec writes and reads cursors. It is safe for concurrent use.
type Codec struct {
	signing string            // key id
	keys    map[string][]byte // by key id; derived, not the configured ones
}

// New takes the keys as auth checks them: at least one, ids unique. The first
// authenticates what is written, all are accepted.
func New(keys []auth.Key) *Codec {
	c := &Codec{signing: keys[0].ID, keys: make(map[string][]byte, len(keys))}
	for _, k := range keys {
		h := hmac.New(sha256.New, k.Secret)
		h.Write([]byte(purpose))
		c.keys[k.ID] = h.Sum(nil)
	}
	return c
}

// Encode writes a position, which names each partition at most once and no
// negative number, for an account.
func (c *Codec) Encode(account string, at []report.End) string {
	raw := []byte{version}
	raw = binary.AppendUvarint(raw, uint64(len(c.signing)))
	raw = append(raw, c.signing...)
	raw = appendPosition(raw, at)
	raw = append(raw, mac(c.keys[c.signing], account, raw)...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Decode reads what Encode wrote for the same account: the partitions that are
// not at 0, in order of topic id and partition, without names of topics. Its
// only error is ErrInvalid.
func (c *Codec) Decode(account, text string) ([]report.End, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	// The library passes over line ends and bits that stand for nothing.
	if err != nil || base64.RawURLEncoding.EncodeToString(raw) != text || len(raw) < 1+sha256.Size || raw[0] != version {
		return nil, ErrInvalid
	}
	signed, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	r := reader{rest: signed[1:]}
	kid := r.bytes(r.uvarint())
	key, known := c.keys[string(kid)]
	if r.failed || !known || !hmac.Equal(sum, mac(key, account, signed)) {
		return nil, ErrInvalid
	}
	at := r.position()
	if r.failed {
		return nil, ErrInvalid
	}
	return at, nil
}

func mac(key []byte, account string, signed []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(binary.AppendUvarint(nil, uint64(len(account))))
	h.Write([]byte(account))
	h.Write(signed)
	return h.Sum(nil)
}

func appendPosition(raw []byte, at []report.End) []byte {
	at = slices.DeleteFunc(slices.Clone(at), func(e report.End) bool { return e.Offset == 0 })
	slices.SortFunc(at, func(a, b report.End) int {
		return cmp.Or(bytes.Compare(a.TopicID[:], b.TopicID[:]), cmp.Compare(a.Partition, b.Partition))
	})
	for len(at) > 0 {
		n := 1
		for n < len(at) && at[n].TopicID == at[0].TopicID {
			n++
		}
		raw = appendTopic(raw, at[:n])
		at = at[n:]
	}
	return raw
}

// appendTopic writes the partitions of one topic, which are in order.
func appendTopic(raw []byte, at []report.End) []byte {
	count := int(at[len(at)-1].Partition) + 1
	least, most := uint64(math.MaxUint64), uint64(0)
	for _, e := range at {
		least, most = min(least, uint64(e.Offset)), max(most, uint64(e.Offset))
	}
	if len(at) < count {
		least = 0 // of one that is missing
	}
	width := max(1, (bits.Len64(most-least)+7)/8)
	raw = append(raw, at[0].TopicID[:]...)
	raw = binary.AppendUvarint(raw, uint64(count))
	raw = binary.AppendUvarint(raw, least)
	raw = append(raw, byte(width))
	var b [8]byte
	for p := range int32(count) {
		v := uint64(0)
		if at[0].Partition == p {
			v = uint64(at[0].Offset) - least
			at = at[1:]
		}
		binary.BigEndian.PutUint64(b[:], v)
		raw = append(raw, b[8-width:]...)
	}
	return raw
}

// reader takes a cursor apart. After a failure it gives zeros.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) position() (at []report.End) {
	var last segment.TopicID
	for i := 0; len(r.rest) > 0; i++ {
		var topic segment.TopicID
		copy(topic[:], r.bytes(uint64(len(topic))))
		count, least, one := r.uvarint(), r.uvarint(), r.bytes(1)
		if r.failed || one[0] < 1 || one[0] > 8 || count > math.MaxInt32 || i > 0 && bytes.Compare(last[:], topic[:]) >= 0 {
			r.failed = true
			return nil
		}
		last = topic
		width := int(one[0])
		packed := r.bytes(count * uint64(width))
		for p := 0; len(packed) > 0; p++ {
			var b [8]byte
			copy(b[8-width:], packed[:width])
			packed = packed[width:]
			offset, carry := bits.Add64(least, binary.BigEndian.Uint64(b[:]), 0)
			if carry > 0 || offset > math.MaxInt64 {
				r.failed = true
				return nil
			}
			if offset > 0 {
				at = append(at, report.End{TopicID: topic, Partition: int32(p), Offset: int64(offset)})
			}
		}
	}
	return at
}
