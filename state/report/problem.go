package report

// Problem is a report's failure as an RFC 9457 problem object.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// OldestAvailable, of NoLongerKept, is a server_time (ms) from which on
	// everything is kept.
	OldestAvailable int64 `json:"oldest_available,omitempty"`
}

// ProblemKind is a kind of failure that reports end in. Words are API: never
// renamed.
type ProblemKind struct {
	Word   string
	Status int
	Title  string
}

// The kinds of failure.
var (
	TooLarge = ProblemKind{"file-too-large", 413, "The file would be too large"}
	Barrier  = ProblemKind{"barrier-timeout", 503, "The input was not processed in time"}
	Damaged  = ProblemKind{"stored-data-damaged", 500, "Stored data is damaged"}
	// NoLongerKept: retention has removed some of what the report begins with.
	NoLongerKept = ProblemKind{"no-longer-kept", 410, "What it begins with is no longer kept"}

	// Invalid is the failure of a standing order that asks for what cannot be had.
	Invalid = ProblemKind{"invalid-request", 400, "The request is not valid"}

	// ProblemKinds are those of reports.
	ProblemKinds = []ProblemKind{TooLarge, Barrier, Damaged, NoLongerKept}
)

// Problem is a failure of the kind; detail says what is wrong this time.
func (k ProblemKind) Problem(detail string) *Problem {
	return &Problem{Type: "/problems/" + k.Word, Title: k.Title, Status: k.Status, Detail: detail}
}
