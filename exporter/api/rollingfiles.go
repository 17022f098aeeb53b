package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"lockstitch/exporter/rolling"
	"lockstitch/state/report"
)

// maxWait is the longest that a call may wait for a file, in seconds.
const maxWait = 60

// RollingExport is what the API says about a rolling export.
type RollingExport struct {
	Name      string          `json:"name" example:"hourly"`
	OrderID   string          `json:"order_id" doc:"New at each creation: a name that was deleted and used again has another."`
	State     string          `json:"state" enum:"active,paused,error"`
	CreatedAt Time            `json:"created_at"`
	Request   *RollingRequest `json:"request"`
	Files     int64           `json:"files" doc:"Number of the last finished file. Files are numbered from 1, without gaps."`
	Delivered *int64          `json:"delivered,omitempty" doc:"With a destination: number of the last file that was written there."`
	Next      RollingPeriod   `json:"next" doc:"The period that the next file is about."`
	Lag       RollingLag      `json:"lag"`
	HeldUp    string          `json:"held_up,omitempty" doc:"Why its files wait although nothing is wrong with the rolling export itself."`
	Error     *Problem        `json:"error,omitempty" doc:"Why it has stopped. It goes on when it is changed, also to what it is already; but not if events of its next file are no longer kept."`
}

// RollingPeriod is the stretch between two boundaries.
type RollingPeriod struct {
	Start *Time `json:"period_start,omitempty" doc:"Absent: the oldest data kept."`
	End   Time  `json:"period_end"`
}

// RollingLag is how far a rolling export is behind.
type RollingLag struct {
	Files   int64   `json:"files" doc:"Periods that are over and not exported, or not delivered, yet."`
	Seconds float64 `json:"seconds" doc:"Time since the end of the first of them; 0 when there is none."`
}

// RollingList is a page of an account's rolling exports, by name.
type RollingList struct {
	Items         []*RollingExport `json:"items" nullable:"false"`
	NextPageToken string           `json:"next_page_token,omitempty" doc:"Gives the next page as page_token; absent on the last page."`
}

// RollingFile is a finished file of a rolling export.
type RollingFile struct {
	Number int64 `json:"number" minimum:"1"`
	RollingPeriod
	Rows            int64         `json:"rows" doc:"Rows of the file, its header line not counted."`
	Bytes           int64         `json:"bytes" doc:"Size of the compressed file."`
	SHA256          string        `json:"sha256" doc:"Of the compressed file, hexadecimal."`
	CompleteThrough *Time         `json:"complete_through,omitempty" doc:"What was acknowledged before this moment is in this file or in one before. Absent if the period goes on in the next file."`
	Cursor          RollingCursor `json:"cursor"`
	Delivered       bool          `json:"delivered" doc:"The file was written to the destination."`

	FileDownloadURL          string `json:"file_download_url" format:"uri" doc:"Where the file is. It carries a short-lived credential, unless it was asked for with header_auth=true."`
	FileDownloadURLExpiresAt Time   `json:"file_download_url_expires_at"`
	FileExpiresAt            Time   `json:"file_expires_at" doc:"When the file is removed."`
}

// RollingCursor is the stretch of the input that a file holds.
type RollingCursor struct {
	From string `json:"from,omitempty" doc:"The position that the file begins at; absent where it begins at the oldest data, and nothing had been removed yet."`
	To   string `json:"to,omitempty" doc:"The position that the file ends at. It can be sent as the after of an export."`
}

// RollingFileList is a page of a rolling export's files, by number.
type RollingFileList struct {
	OrderID string         `json:"order_id" doc:"Of the rolling export, as in its status."`
	Items   []*RollingFile `json:"items" nullable:"false"`
	Files   int64          `json:"files" doc:"Number of the last finished file."`
}

func (s *server) rollingFileOperations(d describe, name *huma.Param) []operation {
	tags := []string{"Rolling exports"}
	number := d.path("number", "The number of a file.", "17")
	number.Schema = &huma.Schema{Type: huma.TypeInteger, Minimum: ptr(1.0)}
	return []operation{
		{handle: s.listRollingFiles, Operation: huma.Operation{
			OperationID: "list-rolling-files", Method: http.MethodGet, Path: rollingPath + "/files", Tags: tags,
			Summary:     "List the files of a rolling export",
			Description: "Its finished files by number, as long as they are kept. Ask with `after` for the number of the last file that you have; numbers have no gaps, so a first item above the next number means that files have expired.",
			Security:    bearer,
			Parameters: []*huma.Param{
				name,
				d.query("after", "Only files with a greater number.", &huma.Schema{Type: huma.TypeInteger, Minimum: ptr(0.0), Default: 0}),
				d.limit(),
				d.query("wait", "Seconds to wait for a file if there is none.", &huma.Schema{Type: huma.TypeInteger, Minimum: ptr(0.0), Maximum: ptr(float64(maxWait)), Default: 0}),
			},
			Responses: d.responses(d.json(200, "A page of files; without items if there is none.", RollingFileList{}), d.problems(400, 401, 404, 413, 429, 503)),
		}},
		{handle: s.getRollingFile, Operation: huma.Operation{
			OperationID: "get-rolling-file", Method: http.MethodGet, Path: rollingPath + "/files/{number}", Tags: tags,
			Summary: "One file of a rolling export", Description: "As in the list, with a fresh download URL.",
			Security:   bearer,
			Parameters: []*huma.Param{name, number, d.headerAuth()},
			Responses:  d.responses(d.json(200, "The file.", RollingFile{}, tokenHeader), d.problems(400, 401, 404, 410, 429, 503)),
		}},
	}
}

// rollingStatus describes a standing order as of now.
func (s *server) rollingStatus(o *report.Standing) (*RollingExport, error) {
	st := &RollingExport{
		Name: o.Order.Name, OrderID: o.Order.ID, State: "active", CreatedAt: timeOf(o.Order.CreatedAt),
		Request: new(RollingRequest), Files: o.Files(), Next: periodOf(rolling.Next(o)),
	}
	if err := json.Unmarshal(o.Settings.Body, st.Request); err != nil {
		return nil, fmt.Errorf("standing order %s: the stored request cannot be read: %w", o.Order.ID, err)
	}
	files, since := rolling.Lag(o, s.now())
	st.Lag = RollingLag{Files: files, Seconds: since.Seconds()}
	if o.Settings.Destination != "" {
		st.Delivered = &o.Delivered.Number
		if !s.mayDeliver(o.Order.Account, o.Settings.Destination) {
			st.HeldUp = noDestination(o.Settings.Destination) + "; files wait until the operator has configured it again, or the rolling export is changed to have another destination or none"
		}
	}
	if o.Paused {
		st.State = "paused"
	}
	if t := o.Trouble; t != nil {
		st.State = "error"
		st.Error = problemOf(&t.Problem)
	}
	return st, nil
}

func periodOf(p rolling.Period) RollingPeriod {
	out := RollingPeriod{End: timeOf(p.End)}
	if !p.Start.IsZero() {
		out.Start = ptr(timeOf(p.Start))
	}
	return out
}

// rollingFile describes a finished file, with its credential in the URL or, if
// asked so, returned apart.
func (s *server) rollingFile(o *report.Standing, rep *report.Report, apart bool) (f *RollingFile, credential string, err error) {
	about, end := rolling.FileOf(o.Order, rep, s.cursors), rep.Result.Expires
	f = &RollingFile{
		Number: about.Number, RollingPeriod: periodOf(rolling.Period{Start: about.PeriodStart, End: about.PeriodEnd}),
		Rows: about.Rows, Bytes: about.Bytes, SHA256: about.SHA256, FileExpiresAt: timeOf(end),
		Delivered: rep.Request.Step.Deliver && o.Delivered.Has(about.Number),
		Cursor:    RollingCursor{From: about.From, To: about.To},
	}
	if !about.CompleteThrough.IsZero() {
		f.CompleteThrough = ptr(timeOf(about.CompleteThrough))
	}
	l, err := s.fileLink(o.Order.Account, rep.Request.ID, end, apart)
	f.FileDownloadURL, f.FileDownloadURLExpiresAt = l.url, l.expires
	return f, l.credential, err
}

// number is a query parameter from 0 to max.
func (c *call) number(name string, max int64) (int64, error) {
	v, given, err := c.param(name)
	if err != nil || !given {
		return 0, err
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > max || v != strconv.FormatInt(n, 10) {
		return 0, invalidParam(name, "must be a whole number from 0 to %d", max)
	}
	return n, nil
}

func (s *server) listRollingFiles(c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	// Ignored, it would give the first page for ever.
	if c.query.Has("page_token") {
		return invalidParam("page_token", "is not taken here; go on with the number of the last file as after")
	}
	after, err := c.number("after", 1<<53)
	if err != nil {
		return err
	}
	seconds, err := c.number("wait", maxWait)
	if err != nil {
		return err
	}
	o, err := s.orderOf(c)
	if err != nil {
		return err
	}
	end, err := s.beginFiles(c, seconds > 0)
	if err != nil {
		return err
	}
	defer end()
	o, files, err := s.awaitFiles(c, o, after, limit, time.Duration(seconds)*time.Second)
	if err != nil {
		return err
	}
	if seconds > 0 && len(files) > 1 {
		// A call that may wait is not counted among the lists, and its page is one. Without
		// room for one more it has one file, and the next call brings the others.
		if endList, err := s.beginList(c); err != nil {
			files = files[:1]
		} else {
			defer endList()
		}
	}
	page := RollingFileList{OrderID: o.Order.ID, Files: o.Files(), Items: make([]*RollingFile, 0, len(files))}
	for _, rep := range files {
		page.Files = max(page.Files, rep.Files())
		f, _, err := s.rollingFile(o, rep, false)
		if err != nil {
			return err
		}
		page.Items = append(page.Items, f)
	}
	return writeJSON(c.w, http.StatusOK, page)
}

// beginFiles counts a call for files under way until end is called, when its answer is
// written: a page is long, and its reader may be slow.
func (s *server) beginFiles(c *call, waits bool) (end func(), err error) {
	if !waits {
		return s.beginList(c)
	}
	end, ok := s.waiting.Begin(c.account)
	if !ok {
		return nil, limited(kindRate, time.Second, fmt.Sprintf("The account has %d calls that wait for files.", waitingForAnOrder*s.cfg.Limits.RollingExports))
	}
	return end, nil
}

// awaitFiles returns files of an order, and the order as it was before it looked for
// them: one that has more files than it found would say that these have expired. If
// there are none, it waits for one, for the order's end or for that of the server.
func (s *server) awaitFiles(c *call, o *report.Standing, after int64, limit int, wait time.Duration) (*report.Standing, []*report.Report, error) {
	// The connection's own limits are for calls that do not wait.
	if err := c.endBody(s.cfg.Limits.BodyBytes); err != nil {
		return nil, nil, err
	}
	_ = http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(wait + answerTimeout))
	late := time.NewTimer(wait)
	defer late.Stop()
	for {
		changed := s.deps.Reports.Changed()
		now, ok := s.deps.Reports.OrderNamed(c.account, o.Order.Name)
		if !ok || now.Order.ID != o.Order.ID {
			return nil, nil, noRolling() // deleted while the call waited
		}
		files := s.deps.Reports.Files(o.Order.ID, after, limit, s.now())
		if len(files) > 0 || wait == 0 {
			return now, files, nil
		}
		select {
		case <-changed:
		case <-late.C:
			return now, nil, nil
		case <-s.deps.Stopping:
			return now, nil, nil
		case <-c.r.Context().Done():
			return nil, nil, c.r.Context().Err()
		}
	}
}

func (s *server) getRollingFile(c *call) error {
	apart, err := c.flag("header_auth")
	if err != nil {
		return err
	}
	o, err := s.orderOf(c)
	if err != nil {
		return err
	}
	text := c.r.PathValue("number")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > o.Files() || text != strconv.FormatInt(n, 10) {
		return notFound("The rolling export has no such file.")
	}
	files := s.deps.Reports.Files(o.Order.ID, n-1, 1, s.now())
	if len(files) == 0 || files[0].Files() != n {
		return kindGone.problem("The file has expired.")
	}
	f, credential, err := s.rollingFile(o, files[0], apart)
	if err != nil {
		return err
	}
	if credential != "" {
		c.w.Header().Set(tokenHeader, credential)
	}
	return writeJSON(c.w, http.StatusOK, f)
}
