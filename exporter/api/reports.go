package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"

	"lockstitch/state/report"
)

// ReportList is a page of an account's reports, newest first.
type ReportList struct {
	Items         []*Status `json:"items" nullable:"false"`
	NextPageToken string    `json:"next_page_token,omitempty" doc:"Gives the next page as page_token; absent on the last page."`
}

// tokenHeader carries a download's credential apart from its URL.
const tokenHeader = "x-apsis-auth"

func (s *server) reportOperations(schemas huma.Registry) []operation {
	d := describe{schemas}
	id := d.path("report_id", "The id of a report.", "01JX8M2Y6T3N5Q7R9S1V2W3X4Y")
	return []operation{
		{handle: s.listReports, Operation: huma.Operation{
			OperationID: "list-reports", Method: http.MethodGet, Path: "/emails/reports", Tags: []string{"Exports"},
			Summary: "List reports", Description: "The account's reports, newest first. Download URLs are given by the status of a single report.",
			Security:   bearer,
			Parameters: d.paging(),
			Responses:  d.responses(d.json(200, "A page of reports.", ReportList{}), d.problems(400, 401, 429, 503)),
		}},
		{handle: s.getReport, Operation: huma.Operation{
			OperationID: "get-report", Method: http.MethodGet, Path: "/emails/reports/{report_id}", Tags: []string{"Exports"},
			Summary: "The status of a report", Description: "Once `status` is `completed`, `file_download_url` is where the file is.",
			Security:   bearer,
			Parameters: []*huma.Param{id, d.headerAuth()},
			Responses:  d.responses(d.json(200, "The status.", Status{}, tokenHeader), d.problems(400, 401, 404, 429, 503)),
		}},
		{limit: s.dear, handle: s.deleteReport, Operation: huma.Operation{
			OperationID: "delete-report", Method: http.MethodDelete, Path: "/emails/reports/{report_id}", Tags: []string{"Exports"},
			Summary: "Cancel a report or delete its file", Description: "A pending report becomes `cancelled`; a completed one loses its file and becomes `expired`; others stay as they are.",
			Security:   bearer,
			Parameters: []*huma.Param{id},
			Responses:  d.responses(map[string]*huma.Response{"204": {Description: "Done, or there was nothing to do."}}, d.problems(400, 401, 404, 429, 503)),
		}},
	}
}

// reportOf finds the report that a path names, as current as Kafka has it.
func (s *server) reportOf(c *call) (*report.Report, error) {
	id := c.r.PathValue("report_id")
	unknown := notFound("The account has no such report.")
	if _, err := ulid.ParseStrict(id); err != nil {
		return nil, unknown
	}
	if err := s.catchUp(c); err != nil {
		return nil, err
	}
	rep, ok := s.deps.Reports.Get(c.account, id)
	if !ok || rep.Request.Step != nil {
		return nil, unknown
	}
	return rep, nil
}

func (s *server) getReport(c *call) error {
	apart, err := c.flag("header_auth")
	if err != nil {
		return err
	}
	rep, err := s.reportOf(c)
	if err != nil {
		return err
	}
	st, err := s.status(rep)
	if err != nil {
		return err
	}
	credential, err := s.link(st, c.account, apart)
	if err != nil {
		return err
	}
	if credential != "" {
		c.w.Header().Set(tokenHeader, credential)
	}
	return writeJSON(c.w, http.StatusOK, st)
}

func (s *server) deleteReport(c *call) error {
	rep, err := s.reportOf(c)
	if err != nil {
		return err
	}
	gone := false
	err = s.within(c, "The table of reports", func(ctx context.Context) error {
		err := s.deps.Reports.Cancel(ctx, c.account, rep.Request.ID)
		gone = errors.Is(err, report.ErrNotFound)
		if gone {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case gone:
		return notFound("The account has no such report.")
	}
	switch rep.Status(time.Time{}) { // before, and by the records alone, as Cancel sees it
	case report.StatusRequested, report.StatusProcessing:
		s.log.Info("a report was cancelled", "account", c.account, "client", c.client, "report", rep.Request.ID)
	case report.StatusCompleted:
		s.log.Info("the file of a report was deleted", "account", c.account, "client", c.client, "report", rep.Request.ID)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// beginList counts a list under way until end is called.
func (s *server) beginList(c *call) (end func(), err error) {
	end, ok := s.lists.Begin(c.account)
	if !ok {
		return nil, limited(kindRate, time.Second, fmt.Sprintf("The account has %d lists under way.", listsAtOnce))
	}
	return end, nil
}

func (s *server) listReports(c *call) error {
	limit, token, err := c.page()
	if err != nil {
		return err
	}
	end, err := s.beginList(c)
	if err != nil {
		return err
	}
	defer end()
	if err := s.catchUp(c); err != nil {
		return err
	}
	reports, next, err := s.deps.Reports.List(c.account, limit, token)
	if err != nil {
		return invalidParam("page_token", "is not one that this list gave")
	}
	page := ReportList{Items: make([]*Status, 0, len(reports)), NextPageToken: next}
	for _, rep := range reports {
		st, err := s.status(rep)
		if err != nil {
			return err
		}
		page.Items = append(page.Items, st)
	}
	return writeJSON(c.w, http.StatusOK, page)
}
