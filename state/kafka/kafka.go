// Package kafka is what every part of Lockstitch needs to talk to a Kafka
// cluster: the connection settings, the names of the topics, and a Tail that
// follows a topic and knows how far it has come.
package kafka

import "slices"

// Topics are the names of the topics in use. The defaults are those of the
// contract, section 1.
type Topics struct {
	Events      []string // at least one, all with the same number of partitions as Profiles
	Profiles    string
	Definitions string
	Catalog     string // one partition, compacted: segments, positions
	Reports     string // compacted: requests, progress, results
	DeadLetters string
}

// Inputs are the topics that a lane has a partition of: events, then the profiles. The
// caller may change the list.
func (t Topics) Inputs() []string { return append(slices.Clone(t.Events), t.Profiles) }

// DefaultTopics are the topic names used when the configuration names none.
func DefaultTopics() Topics {
	return Topics{
		Events:      []string{"email-events"},
		Profiles:    "profiles",
		Definitions: "definitions",
		Catalog:     "lockstitch.catalog",
		Reports:     "lockstitch.reports",
		DeadLetters: "lockstitch.dead-letters",
	}
}
