package segment

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"

	"lockstitch/state/event"
)

// KeyOf is the deduplication key of an event: XXH3-128 over the topic id, the
// type and the length-prefixed account and correlation id, so that different
// events never spell the same input. It is stored nowhere in segments but
// computed from their rows; changing it would make retried events of the
// horizon look new. It allocates nothing up to 512 bytes of input.
func KeyOf(topicID TopicID, account []byte, t event.Type, correlation []byte) (hi, lo uint64) {
	var room [512]byte
	b := append(room[:0], topicID[:]...)
	b = append(b, byte(t))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(account)))
	b = append(b, account...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(correlation)))
	b = append(b, correlation...)
	h := xxh3.Hash128(b)
	return h.Hi, h.Lo
}
