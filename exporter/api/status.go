package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"lockstitch/state/report"
)

// Status is what the API says about a report.
type Status struct {
	ReportID  string         `json:"report_id" example:"01JX8M2Y6T3N5Q7R9S1V2W3X4Y"`
	Status    string         `json:"status" enum:"requested,processing,completed,error,cancelled,expired"`
	CreatedAt Time           `json:"created_at"`
	Request   *ExportRequest `json:"request"`
	Progress  Progress       `json:"progress"`
	// Waiting is empty once all of the input below the barrier was processed.
	Waiting         []Waiting `json:"waiting,omitempty" nullable:"false" doc:"The input partitions that the report still waits for, the first 100 of them."`
	WaitingTotal    int       `json:"waiting_total,omitempty" doc:"How many input partitions the report still waits for; waiting names at most 100 of them."`
	CompleteThrough Time      `json:"complete_through" doc:"Everything that Kafka acknowledged before this moment is in the export; if more is true, in it and those that follow."`

	Rows   *int64 `json:"rows,omitempty" doc:"Rows of the file, its header line not counted."`
	Bytes  *int64 `json:"bytes,omitempty" doc:"Size of the compressed file."`
	SHA256 string `json:"sha256,omitempty" doc:"Of the compressed file, hexadecimal."`

	Cursor string `json:"cursor,omitempty" doc:"Where in the input the file ends. Sent as after it gives what was kept since. It is good for as long as all that follows it is kept; see /docs."`
	More   *bool  `json:"more,omitempty" doc:"Of a report with after: the file would have been too large and ends earlier. Go on with cursor at once."`

	FileDownloadURL          string `json:"file_download_url,omitempty" format:"uri" doc:"Where the file is. Unless asked for with header_auth=true it carries a short-lived credential."`
	FileDownloadURLExpiresAt *Time  `json:"file_download_url_expires_at,omitempty" doc:"When the credential ends. Asking for the status again gives a fresh one."`
	FileExpiresAt            *Time  `json:"file_expires_at,omitempty" doc:"When the file is removed."`

	Error *Problem `json:"error,omitempty" doc:"Why the report failed."`
}

// Progress is how far the rendering of a report is.
type Progress struct {
	SegmentsDone  int   `json:"segments_done"`
	SegmentsTotal int   `json:"segments_total"`
	Rows          int64 `json:"rows"`
	Bytes         int64 `json:"bytes"`
}

// Waiting is an input partition that a report waits for.
type Waiting struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset" doc:"The position to be passed."`
	Position  int64  `json:"position" doc:"How far the partition has been processed and committed."`
	Reason    string `json:"reason"`
}

// status describes a report as of now. File URLs are not in it; link adds them.
func (s *server) status(rep *report.Report) (*Status, error) {
	req := rep.Request
	st := &Status{
		ReportID: req.ID, Status: string(rep.Status(s.now())),
		CreatedAt: timeOf(req.CreatedAt), CompleteThrough: timeOf(req.Question.CompleteThrough),
		Request: new(ExportRequest),
	}
	if err := json.Unmarshal(req.Body, st.Request); err != nil {
		return nil, fmt.Errorf("report %s: the stored request cannot be read: %w", req.ID, err)
	}
	if p := rep.Progress; p != nil {
		st.Progress = Progress{SegmentsDone: p.SegmentsDone, SegmentsTotal: p.SegmentsTotal, Rows: p.Rows, Bytes: p.Bytes}
		if rep.Pending() {
			st.WaitingTotal = p.WaitsFor()
			for _, w := range p.Waiting[:min(len(p.Waiting), report.MaxWaiting)] { // earlier versions wrote all
				st.Waiting = append(st.Waiting, Waiting(w))
			}
		}
	}
	res := rep.Result
	switch {
	case res == nil:
	case st.Status == string(report.StatusError) && res.Problem != nil:
		st.Error = problemOf(res.Problem)
	case st.Status == string(report.StatusCompleted):
		st.Progress = Progress{SegmentsDone: res.Slices, SegmentsTotal: res.Slices, Rows: res.Rows, Bytes: res.Bytes}
		st.Rows, st.Bytes, st.SHA256 = &res.Rows, &res.Bytes, res.SHA256
		st.FileExpiresAt = ptr(timeOf(res.Expires))
		st.Cursor = s.cursors.Encode(req.Account, rep.Through())
		if req.Question.Rolling {
			st.More = &res.More
		}
	}
	return st, nil
}

// link adds the download URL to the status of a completed report, with its
// credential in the URL or, if asked so, returned apart.
func (s *server) link(st *Status, account string, apart bool) (credential string, err error) {
	if st.Status != string(report.StatusCompleted) {
		return "", nil
	}
	l, err := s.fileLink(account, st.ReportID, time.UnixMilli(int64(*st.FileExpiresAt)), apart)
	if err != nil {
		return "", err
	}
	st.FileDownloadURL, st.FileDownloadURLExpiresAt = l.url, &l.expires
	return l.credential, nil
}

func (s *server) reportURL(id string) string { return s.cfg.PublicURL + "/emails/reports/" + id }

func writeJSON(w http.ResponseWriter, code int, v any) error {
	var body bytes.Buffer
	e := json.NewEncoder(&body)
	e.SetEscapeHTML(false) // it is no web page, and filters have many an "&"
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(code)
	_, _ = w.Write(body.Bytes()) // a caller that is gone gets nothing
	return nil
}
