package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"lockstitch/state/report"
)

// Problem is an error answer (RFC 9457).
type Problem struct {
	Type   string       `json:"type" format:"uri-reference" example:"/problems/invalid-request" doc:"Says which kind of problem this is; stable. The kinds are listed in /docs."`
	Title  string       `json:"title" example:"The request is not valid" doc:"The kind in words; the same for all problems of a type."`
	Status int          `json:"status" minimum:"400" maximum:"599" example:"400" doc:"The HTTP status."`
	Detail string       `json:"detail" doc:"What is wrong this time, and what to do about it."`
	Errors []FieldError `json:"errors,omitempty" nullable:"false" doc:"Each place in the request that is not valid."`
	// OldestAvailable is there if retention has removed what was asked for.
	OldestAvailable *Time `json:"oldest_available,omitempty" doc:"Where what was asked for begins before what is kept: the server_time from which on everything is."`

	header http.Header // sent with the problem
}

// FieldError is one place in a request that is not valid.
type FieldError struct {
	Pointer string `json:"pointer" example:"/end_at" doc:"JSON Pointer (RFC 6901) into the body; for a parameter, a slash and its name."`
	Detail  string `json:"detail" example:"must be later than start_at" doc:"What is wrong there."`
}

func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// kind is a row of the table of problems. Words are API: never renamed.
type kind struct {
	word   string
	status int
	title  string
	about  string // for /docs
}

func (k kind) uri() string { return "/problems/" + k.word }

var (
	kindUnauthorized = kind{"unauthorized", 401, "A valid access token is needed",
		"The Authorization header is missing, or its token is malformed, expired, forged or of an issuer that is not accepted. At `/oauth/token`: no such client, or a wrong secret."}
	kindForbidden = kind{"invalid-download-credential", 403, "The download credential is not valid",
		"The credential of a download URL is short-lived. Ask for the report's status again: it gives a fresh one."}
	kindNotFound = kind{"not-found", 404, "There is nothing here",
		"The path, the report, the rolling export, the section or the activity is unknown, or belongs to another account."}
	kindMethod = kind{"method-not-allowed", 405, "The method is not allowed here",
		"The `Allow` header lists the methods of this path."}
	kindGone = kind{"file-gone", 410, "The file is gone",
		"The export file has expired or was deleted. Request the export anew."}
	kindPrecondition = kind{"precondition-failed", 412, "A precondition does not hold",
		"The file is not the one that `If-Match` names."}
	kindTooLarge = kind{"body-too-large", 413, "The body is too large",
		"Bodies are limited, by default to 100 kB, at `/oauth/token` to 32 kB."}
	kindSections = kind{"too-many-sections", 413, "The account has too many sections",
		"Exports are limited to accounts with few sections, by default at most 25."}
	kindActivities = kind{"too-many-activities", 413, "There are too many activities",
		fmt.Sprintf("The activities of the section in the last %d days, or the splits of one, do not fit into the memory for them, by default those of some 15,000. An `activity_id` is meant to name a mailing, not a message. One activity that is asked for by its id may still fit.", activityDays)}
	kindMediaType = kind{"unsupported-media-type", 415, "The body's media type is not supported",
		"Send `Content-Type: application/json` (at `/oauth/token` also `application/x-www-form-urlencoded`), without Content-Encoding."}
	kindRange = kind{"range-not-satisfiable", 416, "The range lies outside of the file",
		"`Content-Range` gives the file's size."}
	kindIdempotency = kind{"idempotency-key-reused", 422, "The Idempotency-Key was used for another request",
		"Within 24 hours one key stands for one body. Use another key for another request."}
	kindRate = kind{"rate-limit", 429, "Too many calls",
		"Wait as long as `Retry-After` says."}
	kindPending = kind{"too-many-pending", 429, "Too many exports are pending",
		"An account may have a number of exports without result, by default 10. Wait for one to finish, or cancel one."}
	kindReports = kind{"too-many-reports", 429, "There are too many reports or files of rolling exports",
		"All that is known of reports and of the files of rolling exports lies in memory: of a report until 2 days after its file has expired or was deleted, or after it has failed or was cancelled, of a file of a rolling export until it expires. " +
			"An account may take a size of it, by default 64 MiB: some 15,000 reports of a usual size, or two rolling exports with a file every minute and a few with one every hour; all accounts together may, too. " +
			"A rolling export counts from the beginning with all files that it will have. `detail` has the figures. Request fewer exports, delete those that were downloaded, or choose a longer `every`, or delete a rolling export."}
	kindRolling = kind{"too-many-rolling-exports", 429, "The account has too many rolling exports",
		"An account may have a number of rolling exports, by default 20. Delete one."}
	kindInternal = kind{"internal-error", 500, "Something went wrong here",
		"The failure was logged. Trying again may help."}
	kindUnavailable = kind{"unavailable", 503, "Not available at the moment",
		"Kafka or the object store cannot be reached, so that no answer could be trusted, or the service is just starting or has as many calls under way as its memory allows. Try again after `Retry-After`."}
)

// What is said of a call, of a report and of a rolling export alike.
var kindDamaged = kind{report.Damaged.Word, report.Damaged.Status, report.Damaged.Title,
	"Stored events that the export would hold, or that activities are summed up from, are damaged or missing. Nothing was exported or summed up, as events would have been missing. The operator has to look into it."}

// What is said of a call and of a rolling export alike.
var kindInvalid = kind{report.Invalid.Word, report.Invalid.Status, report.Invalid.Title,
	"The body or a parameter breaks a rule. `errors` names each place. Sending it again unchanged will fail again."}

// What is said of a call, of a report and of a rolling export alike.
var kindNoLongerKept = kind{report.NoLongerKept.Word, report.NoLongerKept.Status, report.NoLongerKept.Title,
	"Events are kept for a time, by default 400 days, and a cursor, a report that waited for long or a rolling export begins before that. Nothing was exported, as events would have been missing. " +
		"`oldest_available` is the `server_time` from which on everything is there. Begin anew: with `after` `beginning`, which is behind the newest event that was removed, with a window from there, or with a new rolling export in place of the old one."}

// Of a report's `error`; listed here so that one table describes all types.
var (
	kindFileTooLarge = ofReport(report.TooLarge, "The file would exceed the size limit. Request a shorter window or fewer columns. A report with `after` ends earlier instead, unless a single row is too large.")
	kindBarrier      = ofReport(report.Barrier, "Some partitions did not pass the position that the report waits for. Nothing was exported, as the file would have been short. Request it again.")
)

func ofReport(k report.ProblemKind, about string) kind {
	return kind{k.Word, k.Status, k.Title, "In the `error` of a report: " + about}
}

// answerKinds are what calls are refused with.
var answerKinds = []kind{
	kindInvalid, kindUnauthorized, kindForbidden, kindNotFound, kindMethod, kindGone, kindPrecondition,
	kindTooLarge, kindSections, kindActivities, kindMediaType, kindRange, kindIdempotency, kindRate, kindPending, kindReports, kindRolling,
	kindNoLongerKept, kindInternal, kindDamaged, kindUnavailable,
}

// kinds lists all of them for /docs.
var kinds = append(answerKinds[:len(answerKinds):len(answerKinds)], kindFileTooLarge, kindBarrier)

func (k kind) problem(detail string) *Problem {
	return &Problem{Type: k.uri(), Title: k.title, Status: k.status, Detail: detail}
}

// problemOf is the problem that a report or a rolling export has ended in.
func problemOf(p *report.Problem) *Problem {
	out := &Problem{Type: p.Type, Title: p.Title, Status: p.Status, Detail: p.Detail}
	if p.OldestAvailable > 0 {
		out.OldestAvailable = ptr(Time(p.OldestAvailable))
	}
	return out
}

func (p *Problem) with(header, value string) *Problem {
	if p.header == nil {
		p.header = make(http.Header)
	}
	p.header.Set(header, value)
	return p
}

func invalid(errs ...FieldError) *Problem {
	p := kindInvalid.problem("The request breaks a rule.")
	if len(errs) > 0 {
		p.Detail = errs[0].Detail
		if errs[0].Pointer != "" {
			p.Detail = errs[0].Pointer + ": " + errs[0].Detail
		}
		if n := len(errs) - 1; n > 0 {
			p.Detail += fmt.Sprintf(" (and %d more)", n)
		}
	}
	p.Errors = errs
	return p
}

func invalidParam(name, format string, args ...any) *Problem {
	return invalid(FieldError{Pointer: "/" + name, Detail: fmt.Sprintf(format, args...)})
}

func unauthorized(challenge, detail string) *Problem {
	return kindUnauthorized.problem(detail).with("WWW-Authenticate", challenge)
}

func notFound(detail string) *Problem { return kindNotFound.problem(detail) }

func unavailable(detail string) *Problem {
	return kindUnavailable.problem(detail).with("Retry-After", "5")
}

func limited(k kind, wait time.Duration, detail string) *Problem {
	seconds := max(1, int(math.Ceil(wait.Seconds())))
	return k.problem(detail).with("Retry-After", strconv.Itoa(seconds))
}

// asProblem is the problem that an error is, or "internal-error".
func asProblem(err error) (p *Problem, internal bool) {
	if errors.As(err, &p) {
		return p, false
	}
	return kindInternal.problem("The call could not be completed. The failure was logged."), true
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	h := w.Header()
	for name, values := range p.header {
		h[name] = values
	}
	body, err := json.Marshal(p)
	if err != nil { // strings and numbers only
		body = []byte(`{}`)
	}
	h.Del("ETag")
	h.Del("Last-Modified")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a caller that is gone gets nothing
}
