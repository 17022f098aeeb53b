package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"

	"lockstitch/state/report"
)

// maxIdempotencyKey bounds the Idempotency-Key header, in characters.
const maxIdempotencyKey = 255

func (s *server) submitOperation(schemas huma.Registry) operation {
	d := describe{schemas}
	return operation{handle: s.submit, Operation: huma.Operation{
		OperationID: "request-export", Method: http.MethodPost, Path: "/emails/reports", Tags: []string{"Exports"},
		Summary: "Request an export",
		Description: "Accepts the export and answers at once; follow it at the `Location`. The export holds exactly the events of the window that were acknowledged by Kafka " +
			"before `complete_through`. With `end_at` absent there is no upper end but that. The window may span at most three calendar months, unless the service is set up otherwise.\n\n" +
			"With `after` instead of a window the export holds what was kept since a cursor, however late it came: every event is in exactly one of the files of clients that go on with the `cursor` " +
			"they were given. Such a file is never too large: it ends earlier, and its status says `more`.\n\n" +
			"What begins before the oldest events that are kept is refused: a window with 400, a cursor with 410. Both name `oldest_available`.",
		Security:    bearer,
		Parameters:  []*huma.Param{d.header("Idempotency-Key", "A key of your own for this request. Sent again within 24 hours with the same body it gives the same report; with another body it is refused.", &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(maxIdempotencyKey), Pattern: `^[!-~]+$`})},
		RequestBody: d.body(map[string]any{mediaJSON: ExportRequest{}}, map[string]any{"start_at": "2026-05-01T00:00:00Z", "end_at": "2026-06-01T00:00:00Z"}),
		Responses: d.responses(
			d.json(202, "The export is accepted.", Status{}, "Location"),
			d.problems(400, 401, 410, 413, 415, 422, 429, 503),
		),
	}}
}

// submit accepts an export: the way of contract 2.4.
func (s *server) submit(c *call) error {
	if wait, ok := s.exports.Take(c.account, s.now()); !ok {
		return limited(kindRate, wait, fmt.Sprintf("The account may request %d exports a minute.", s.cfg.Limits.ExportsPerMinute))
	}
	key, err := idempotencyKey(c.r.Header)
	if err != nil {
		return err
	}
	sent, _, err := c.readBody(s.cfg.Limits.BodyBytes, mediaJSON)
	if err != nil {
		return err
	}
	wire, err := decodeExport(sent, s.cfg.Limits)
	if err != nil {
		return err
	}
	body, hash, err := canonical(wire)
	if err != nil {
		return err
	}
	now := s.now().UTC().Truncate(time.Millisecond)
	q, again, err := s.repeated(c, key, hash, now)
	if err == nil && !again {
		q, err = s.question(c, wire, now)
	}
	if err != nil {
		return err
	}

	// Before the ends are read, not after: everything acknowledged before this
	// moment is below them.
	q.CompleteThrough = s.now().UTC().Truncate(time.Millisecond)
	q.Barrier, err = s.ends(c)
	if err == nil && !again {
		err = s.checkKept(&q, wire.After == beginning)
	}
	if err != nil {
		return err
	}
	req := &report.Request{
		Version: report.Version, ID: ulid.Make().String(), Account: c.account,
		CreatedAt: now, IdempotencyKey: key, BodyHash: hash,
		Body: body, Question: q, BarrierDeadline: q.CompleteThrough.Add(s.cfg.BarrierTimeout),
	}
	if !again {
		if err := s.room(c.account, q.Barrier, req.Size(), "The report", false); err != nil {
			return err
		}
	}
	rep, err := s.write(c, req)
	if err != nil {
		return err
	}
	c.w.Header().Set("Location", s.reportURL(rep.Request.ID))
	st, err := s.status(rep)
	if err != nil {
		return err
	}
	if _, err := s.link(st, c.account, false); err != nil { // a repeat may be of a completed one
		return err
	}
	return writeJSON(c.w, http.StatusAccepted, st)
}

func idempotencyKey(h http.Header) (string, error) {
	vs := h.Values("Idempotency-Key")
	if len(vs) == 0 {
		return "", nil
	}
	key := vs[0]
	ok := len(vs) == 1 && len(key) >= 1 && len(key) <= maxIdempotencyKey
	for i := range len(key) {
		ok = ok && key[i] > ' ' && key[i] <= '~'
	}
	if !ok {
		return "", invalidParam("Idempotency-Key", "must be 1 to %d visible ASCII characters, given once", maxIdempotencyKey)
	}
	return key, nil
}

// canonical is a body with its members in the order of the type and times
// normalised, and its hash: bodies that ask for the same are the same.
func canonical(wire *ExportRequest) (body []byte, hash string, err error) {
	body, err = json.Marshal(wire)
	if err != nil {
		return nil, "", fmt.Errorf("encoding a request: %w", err)
	}
	sum := sha256.Sum256(body)
	return body, hex.EncodeToString(sum[:]), nil
}

// repeated is the question of an earlier request with the same key and body, and refuses
// the same key with another body, whatever else is wrong with that one. Time and
// definitions may have moved on since; a repeat is still one.
func (s *server) repeated(c *call, key, hash string, now time.Time) (q report.Question, again bool, err error) {
	if key == "" {
		return q, false, nil
	}
	if err := s.catchUp(c); err != nil {
		return q, false, err
	}
	switch earlier, ok := s.deps.Reports.ByKey(c.account, key, now); {
	case !ok:
		return q, false, nil
	case earlier.Request.BodyHash != hash:
		return q, false, keyClash()
	default:
		return earlier.Request.Question, true, nil
	}
}

// question checks a request against clock and definitions and resolves it.
func (s *server) question(c *call, wire *ExportRequest, now time.Time) (q report.Question, err error) {
	var after []report.End
	if wire.After != "" {
		after, err = positionAfter(s.cursors, c.account, wire.After)
	} else {
		err = checkWindow(*wire.StartAt, wire.EndAt, timeOf(now), s.cfg.Limits.WindowMonths)
	}
	if err != nil {
		return q, err
	}
	acc, err := s.definitionsOf(c)
	if err != nil {
		return q, err
	}
	q, err = resolve(wire, acc)
	q.After = after
	return q, err
}

func (s *server) write(c *call, req *report.Request) (*report.Report, error) {
	var rep *report.Report
	var refused error
	err := s.within(c, "The table of reports", func(ctx context.Context) (err error) {
		rep, err = s.deps.Reports.Submit(ctx, req, s.cfg.Limits.Pending)
		switch {
		case errors.Is(err, report.ErrTooManyPending):
			refused = limited(kindPending, 30*time.Second, fmt.Sprintf("The account has %d exports without result. Wait for one to finish, or cancel one.", s.cfg.Limits.Pending))
		case errors.Is(err, report.ErrIdempotencyClash):
			refused = keyClash()
		case errors.Is(err, report.ErrTooLarge):
			refused = tooLarge(&req.Question)
		default:
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rep, refused
}

func keyClash() error {
	return kindIdempotency.problem("The Idempotency-Key was used within the last 24 hours with another body.")
}

// tooLarge refuses what a record of the table cannot hold.
func tooLarge(q *report.Question) error {
	return invalid(FieldError{Detail: q.TooLarge()})
}
