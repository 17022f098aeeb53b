// Package report is the table of export requests and what became of them: a
// compacted Kafka topic, of which every replica keeps a View.
//
// All records of one account are in one partition, hash(account), so that
// their offsets order them: which of two requests with one idempotency key came
// first, which were pending before, whether a cancel came before a result.
// Every write of a result or a cancel has a key of its own and the lowest offset
// counts, so that a replica that was thought dead can do no harm by finishing
// late, and compaction, which keeps the newest record of a key, changes no
// order.
//
// What a request is worth is decided when it is applied, from the records below
// it in its partition alone: it is void if it repeats an idempotency key of the
// 24 h before, or if as many requests as it allows were pending. Every replica
// decides alike, without asking anybody.
package report

import (
	"encoding/json"
	"fmt"
	"time"

	"lockstitch/state/segment"
)

// Version is the version of the records: their JSON and their checksum. A record
// of another version is refused, never misread; which kinds that are not known are
// passed over stands in state/kafka/own.go.
const Version = 2

// Record keys; <id> is the report id, <write> a ULID made for each write.
//
//	q/<id>          Request
//	g/<id>          Progress (the newest counts; only for show)
//	r/<id>/<write>  Result (the lowest offset counts)
//	c/<id>/<write>  Cancel (the lowest offset counts)
//	x/<id>          Expired: the files are gone
//
// Those of standing orders are in order.go.
const (
	KeyRequest  = "q/"
	KeyProgress = "g/"
	KeyResult   = "r/"
	KeyCancel   = "c/"
	KeyExpired  = "x/"
)

// Request is an accepted export: the question, frozen.
type Request struct {
	Version         int       `json:"v"`
	ID              string    `json:"id"`
	Account         string    `json:"account"`
	CreatedAt       time.Time `json:"created_at"`
	IdempotencyKey  string    `json:"idempotency_key,omitempty"`
	BodyHash        string    `json:"body_hash,omitempty"` // of the canonical body, to tell a repeat from a clash
	Body            []byte    `json:"body,omitempty"`      // the request's JSON as accepted, echoed in the status; a step has none
	Question        Question  `json:"question"`
	BarrierDeadline time.Time `json:"barrier_deadline,omitzero"` // then the report ends in error; steps of standing orders wait
	// MaxPending is how many requests of the account, this one included, may be
	// pending; the request is void if there were as many before it. 0: no limit.
	// Submit sets it.
	MaxPending int `json:"max_pending,omitempty"`
	// Step is set if the request is a step of a standing order. Such requests
	// are not listed, do not count as pending and have no BarrierDeadline.
	Step *Step `json:"step,omitempty"`
}

// Encode is the request as it is stored. ErrTooLarge if it has more than MaxRequest
// bytes.
func (q *Request) Encode() ([]byte, error) {
	data, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("encoding report %s: %w", q.ID, err)
	}
	if len(data) > MaxRequest {
		return nil, fmt.Errorf("report %s: %w: %d bytes, at most %d", q.ID, ErrTooLarge, len(data), MaxRequest)
	}
	return data, nil
}

// TooLarge says what to do about a question that is ErrTooLarge.
func (q *Question) TooLarge() string {
	what := fmt.Sprintf("the request, with the names of all that it asks for and the positions that it lies between, would be larger than the %d bytes that can be stored", MaxRequest)
	if positions, err := json.Marshal([][]End{q.After, q.Barrier}); err == nil && len(positions) > MaxRequest/2 {
		return fmt.Sprintf("%s; of these the positions in %d partitions of the event topics take %d: there are too many partitions", what, len(q.Barrier), len(positions))
	}
	return what + "; ask for fewer attributes, tags and segments"
}

// End is a position in one event partition, in a barrier the end as read when
// a request was accepted. A list of them, with each partition at most once, is a
// position in the whole input.
type End struct {
	Topic     string          `json:"topic,omitempty"` // for people; empty in what came out of a cursor
	TopicID   segment.TopicID `json:"topic_id"`
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"` // the export holds rows with lower offsets
}

// At is the partition that the position is in.
func (e End) At() segment.Partition { return segment.Partition{Topic: e.TopicID, N: e.Partition} }

// Question is everything that shapes the bytes of an export, resolved: no
// later definition changes it.
type Question struct {
	StartAt         int64     `json:"start_at"`         // server_time, ms, included
	EndAt           *int64    `json:"end_at,omitempty"` // server_time, ms, excluded; nil: none
	Barrier         []End     `json:"barrier"`
	CompleteThrough time.Time `json:"complete_through"` // when the ends were read
	// After: only rows at or above these offsets; a partition that is missing
	// counts as 0, and one that the barrier does not name has no rows to show.
	After []End `json:"after,omitempty"`
	// Rolling: the file is one of a walk over the input and may end at a position
	// below the barrier instead of being too large. See Result.Through.
	Rolling    bool              `json:"rolling,omitempty"`
	Attributes []AttributeColumn `json:"attributes,omitempty"`
	Tags       []TagColumn       `json:"tags,omitempty"`
	// Email lists for each section the version ids of the attribute
	// com.apsis1.attributes.email, numerically greatest first, with their types.
	Email           map[string][]EmailVersion `json:"email,omitempty"`
	Filter          string                    `json:"filter,omitempty"`    // audience expression; empty: all rows
	Audiences       map[string]string         `json:"audiences,omitempty"` // name in Filter → discriminator
	SpreadsheetSafe bool                      `json:"spreadsheet_safe,omitempty"`
}

// AttributeColumn is one requested attribute.
type AttributeColumn struct {
	Section   string `json:"section"`
	VersionID string `json:"version_id"`
	Name      string `json:"name"`
	Type      string `json:"type"` // text boolean date timestamp number decimal location
}

// TagColumn is one requested tag.
type TagColumn struct {
	Section   string `json:"section"`
	VersionID string `json:"version_id"`
	Name      string `json:"name"`
}

// EmailVersion is one version of a section's primary e-mail attribute.
type EmailVersion struct {
	VersionID string `json:"version_id"`
	Type      string `json:"type"`
}

// Waiting names a partition that a report waits for, and why.
type Waiting struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`   // the end to be passed
	Position  int64  `json:"position"` // how far it has been committed
	Reason    string `json:"reason"`
}

// MaxWaiting is how many partitions a progress names at the most: with thousands of
// them it would be written, held by every replica and shown in hundreds of kB, and in the
// end be too large to be stored.
const MaxWaiting = 100

// Progress says how far a running report is. Only for show, and to learn the time.
type Progress struct {
	Version       int       `json:"v"`
	At            time.Time `json:"at"` // in a view: by Kafka's clock
	SegmentsDone  int       `json:"segments_done"`
	SegmentsTotal int       `json:"segments_total"`
	Rows          int64     `json:"rows"`
	Bytes         int64     `json:"bytes"`
	Waiting       []Waiting `json:"waiting,omitempty"`       // the first of them, in the order of the barrier
	WaitingTotal  int       `json:"waiting_total,omitempty"` // see WaitsFor
}

// WaitsFor is for how many partitions the report waits. A record of a version that named
// all of them says no total.
func (p *Progress) WaitsFor() int { return max(p.WaitingTotal, len(p.Waiting)) }

// Result is the outcome of one attempt at a report. In a view At is the time at
// which Kafka has stored it, and Expires is later by as much as it was later than
// At when it was written: the clock of who wrote it decides neither.
type Result struct {
	Version int       `json:"v"`
	Attempt string    `json:"attempt"` // a ULID
	At      time.Time `json:"at"`
	Problem *Problem  `json:"problem,omitempty"` // set: status error
	Object  string    `json:"object,omitempty"`  // exports/<account, percent-encoded>/<report id>/<attempt>.csv.gz; empty: a step without rows
	Rows    int64     `json:"rows"`
	Bytes   int64     `json:"bytes"`
	SHA256  string    `json:"sha256,omitempty"` // of the file, hex
	// Through is the position in the input that the file ends at, if it is not
	// the barrier: of a rolling report whose file would else have been too large.
	Through []End     `json:"through,omitempty"`
	More    bool      `json:"more,omitempty"` // the barrier lies beyond Through
	Slices  int       `json:"slices"`
	Expires time.Time `json:"expires"` // when the file is removed
}

// Cancel is the wish to cancel (before a result) or to remove the file (after).
type Cancel struct {
	Version int       `json:"v"`
	At      time.Time `json:"at"` // in a view: by Kafka's clock
	// Withdrawn: taken back by the replica that wrote the request, because it
	// could not learn whether the request was stored and answered an error; the
	// report is shown to nobody. It has no effect once a repeat of the request
	// has been answered with the report.
	Withdrawn bool `json:"withdrawn,omitempty"`
}

// Expired says that the files of a report are gone.
type Expired struct {
	Version int       `json:"v"`
	At      time.Time `json:"at"`
}
