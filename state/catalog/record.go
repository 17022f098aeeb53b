// Package catalog is the truth about what has been committed: which segments
// are live, how far each event partition has been consumed, and where the
// minutes of its log time begin. It is a compacted Kafka topic with one
// partition, so that every cut becomes visible whole; a View is its local copy.
package catalog

import (
	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

// Version is the version of the records: their JSON and their checksum. A record
// of another version is refused, never misread; which kinds that are not known are
// passed over stands in state/kafka/own.go.
const Version = 2

// Segment is the record of one live segment object, under the key
// "s/<segment id>", "g/<segment id>" if it takes the place of others: a replica that
// knows nothing of that must not read it as if it did not. Below 512 KiB.
type Segment struct {
	Version int                 `json:"v"`
	ID      string              `json:"id"`     // a ULID, never reused
	Object  string              `json:"object"` // name in the object store
	Bytes   int64               `json:"bytes"`
	SHA256  string              `json:"sha256"`             // of the whole object, hex
	Cut     string              `json:"cut"`                // the cut that committed it
	LogTime int64               `json:"log_time,omitempty"` // the greatest log time (ms) of its rows; 0: see Newest
	Slices  []segment.SliceInfo `json:"slices"`
	// Replaces are the ids of the segments whose rows it has: who reads the record
	// drops them in the same moment. Their tombstones follow in the same
	// transaction; they let the log forget them. A View does not keep the list.
	Replaces []string `json:"replaces,omitempty"`
	merged   bool     // it took the place of others
}

// MaxReplaced is how many segments one takes the place of, at the most.
const MaxReplaced = 64

// Position is where a lane's partition stands: everything below Next has been
// consumed, under the key "p/<topic id>/<partition>". It is the only truth
// about that; the consumer group's offset is not.
type Position struct {
	Version    int             `json:"v"`
	Topic      string          `json:"topic"`
	TopicID    segment.TopicID `json:"topic_id"`
	Partition  int32           `json:"partition"`
	Next       int64           `json:"next"`     // the next input offset to consume
	Epoch      kafka.Epoch     `json:"epoch"`    // of the last record below Next
	LogTime    int64           `json:"log_time"` // greatest Kafka time (ms) of the data records below Next
	Kept       int64           `json:"kept"`
	Duplicates int64           `json:"duplicates"`
	Poison     int64           `json:"poison"`
	Misrouted  int64           `json:"misrouted"`
	Cut        string          `json:"cut"`    // the cut that wrote it
	Writer     string          `json:"writer"` // transactional id of the replica that wrote it
	Group      string          `json:"group"`  // consumer group of that replica
}

// FirstEnds are the ends of an event partition and of its profile partition as
// they were before its first event was ever processed (contract 2.3, first
// deployment), under the key "f/<topic id>/<partition>".
type FirstEnds struct {
	Version    int             `json:"v"`
	Topic      string          `json:"topic"`
	TopicID    segment.TopicID `json:"topic_id"`
	Partition  int32           `json:"partition"`
	EventEnd   int64           `json:"event_end"`
	ProfileID  segment.TopicID `json:"profile_topic_id"`
	ProfileEnd int64           `json:"profile_end"`
}

// Adopted lists the topic ids that stand or stood under a topic's name, oldest
// first. The last one is in use; a topic with another id stops its lanes until it
// is adopted (contract 2.7). A replica that meets a topic for the first time
// registers its id, under the key "t/<topic>"; an operator who adopts one writes
// under "a/<topic>", and from then on that alone counts: a registration may be on
// its way for as long as the brokers are away, and land behind the adoption.
type Adopted struct {
	Version int               `json:"v"`
	Topic   string            `json:"topic"`
	IDs     []segment.TopicID `json:"ids"`
	// GivenUp holds for partitions of the topic in use the offset below which
	// events that the log has lost before they were read are given up.
	GivenUp map[int32]int64 `json:"given_up,omitempty"`
}
