package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"lockstitch/state/report"
)

// Orders are the standing orders behind rolling exports; *report.Table has them.
type Orders interface {
	CreateOrder(ctx context.Context, c *report.Order, maxOrders int) (*report.Standing, error)
	ChangeOrder(ctx context.Context, account, id string, s report.Settings) error
	PauseOrder(ctx context.Context, account, id string, paused bool) error
	DeleteOrder(ctx context.Context, account, id string) error
	OrderNamed(account, name string) (*report.Standing, bool)
	StepsSize(id string) int64
	ListOrders(account string, limit int, pageToken string) (items []*report.Standing, next string, err error)
	Files(id string, after int64, limit int, now time.Time) []*report.Report
	// Changed returns a channel that is closed when something was applied.
	Changed() <-chan struct{}
}

const (
	rollingPath  = "/emails/rolling-exports/{name}"
	rollingTries = 3 // of a PUT that loses against others
)

func (s *server) rollingOperations(schemas huma.Registry) []operation {
	d := describe{schemas}
	d.limitRolling(s.cfg.Limits)
	name := d.path("name", "Your name for the rolling export.", "hourly")
	name.Schema = &huma.Schema{Type: huma.TypeString, MinLength: ptr(1), MaxLength: ptr(63), Pattern: `^[a-z0-9-]{1,63}$`}
	done := map[string]*huma.Response{"204": {Description: "Done, or there was nothing to do."}}
	tags := []string{"Rolling exports"}
	ops := []operation{
		{handle: s.putRolling, Operation: huma.Operation{
			OperationID: "put-rolling-export", Method: http.MethodPut, Path: rollingPath, Tags: tags,
			Summary: "Create or change a rolling export",
			Description: "From then on every event that is kept comes in exactly one file, whatever its `server_time` and however late it came. It counts from the beginning with all files that it will have: one that there is no room for is refused with 429, and so is a change to a shorter `every` or to other columns. A change holds from the next boundary on, for one that is behind from the next file on. " +
				"A rolling export that has stopped with an error goes on when it is changed, also to what it is already; but one whose next file would lack events that are no longer kept must be deleted and created anew.",
			Security: bearer, Parameters: []*huma.Param{name},
			RequestBody: d.body(map[string]any{mediaJSON: RollingRequest{}}, map[string]any{"every": "PT15M", "start": "now"}),
			Responses: d.responses(
				d.json(200, "The rolling export was changed.", RollingExport{}), d.json(201, "The rolling export is new.", RollingExport{}, "Location"),
				d.problems(400, 401, 413, 415, 429, 503)),
		}},
		{handle: s.listRolling, Operation: huma.Operation{
			OperationID: "list-rolling-exports", Method: http.MethodGet, Path: "/emails/rolling-exports", Tags: tags,
			Summary: "List rolling exports", Description: "The account's rolling exports by name.",
			Security: bearer, Parameters: d.paging(),
			Responses: d.responses(d.json(200, "A page of rolling exports.", RollingList{}), d.problems(400, 401, 429, 503)),
		}},
		{handle: s.getRolling, Operation: huma.Operation{
			OperationID: "get-rolling-export", Method: http.MethodGet, Path: rollingPath, Tags: tags,
			Summary: "The status of a rolling export", Description: "Its settings, where it stands and how far it is behind.",
			Security: bearer, Parameters: []*huma.Param{name},
			Responses: d.responses(d.json(200, "The status.", RollingExport{}), d.problems(400, 401, 404, 429, 503)),
		}},
		{limit: s.dear, handle: s.deleteRolling, Operation: huma.Operation{
			OperationID: "delete-rolling-export", Method: http.MethodDelete, Path: rollingPath, Tags: tags,
			Summary: "Delete a rolling export", Description: "Its files go, those that were delivered excepted. The name used again is another rolling export, whose files are numbered from 1.",
			Security: bearer, Parameters: []*huma.Param{name},
			Responses: d.responses(done, d.problems(400, 401, 404, 429, 503)),
		}},
		{limit: s.dear, handle: func(c *call) error { return s.pauseRolling(c, true) }, Operation: huma.Operation{
			OperationID: "pause-rolling-export", Method: http.MethodPost, Path: rollingPath + "/pause", Tags: tags,
			Summary: "Pause a rolling export", Description: "A file that is being made is finished; no other is begun. Nothing is lost: what comes in meanwhile is made up for after `resume`, as long as it is kept.",
			Security: bearer, Parameters: []*huma.Param{name},
			Responses: d.responses(done, d.problems(400, 401, 404, 429, 503)),
		}},
		{limit: s.dear, handle: func(c *call) error { return s.pauseRolling(c, false) }, Operation: huma.Operation{
			OperationID: "resume-rolling-export", Method: http.MethodPost, Path: rollingPath + "/resume", Tags: tags,
			Summary: "Let a paused rolling export go on", Description: "The boundaries that were missed are made up for one by one, in order.",
			Security: bearer, Parameters: []*huma.Param{name},
			Responses: d.responses(done, d.problems(400, 401, 404, 429, 503)),
		}},
	}
	return append(ops, s.rollingFileOperations(d, name)...)
}

// putRolling creates or changes a rolling export.
func (s *server) putRolling(c *call) error {
	if wait, ok := s.exports.Take(c.account, s.now()); !ok {
		return limited(kindRate, wait, fmt.Sprintf("The account may request %d exports a minute.", s.cfg.Limits.ExportsPerMinute))
	}
	name := c.r.PathValue("name")
	if !report.ValidOrderName(name) {
		return invalidParam("name", "must be 1 to 63 lower-case letters, digits and dashes")
	}
	body, _, err := c.readBody(s.cfg.Limits.BodyBytes, mediaJSON)
	if err != nil {
		return err
	}
	req, err := decodeRolling(body, s.cfg.Limits)
	if err != nil {
		return err
	}
	if req.Destination != "" && !s.mayDeliver(c.account, req.Destination) {
		return invalid(FieldError{"/destination", noDestination(req.Destination)})
	}
	acc, err := s.definitionsOf(c)
	if err != nil {
		return err
	}
	q, err := resolve(req.export(), acc)
	if err != nil {
		return err
	}
	// Each step is such a request, with the positions between which it lies.
	if _, err := (&report.Request{Question: q}).Encode(); errors.Is(err, report.ErrTooLarge) {
		return tooLarge(&q)
	}
	// Others may create and delete the name at the same time.
	for range rollingTries {
		if err := s.catchUp(c); err != nil {
			return err
		}
		old, ok := s.deps.Reports.OrderNamed(c.account, name)
		code := http.StatusOK
		if ok {
			err = s.changeRolling(c, old, req, &q)
		} else {
			code, err = http.StatusCreated, s.createRolling(c, name, req, &q)
		}
		if errors.Is(err, report.ErrNotFound) || errors.Is(err, report.ErrNameTaken) {
			continue
		}
		if err != nil {
			return err
		}
		did := "a rolling export was changed"
		if code == http.StatusCreated {
			did = "a rolling export was created"
		}
		s.log.Info(did, "account", c.account, "client", c.client, "order", name)
		now, ok := s.deps.Reports.OrderNamed(c.account, name)
		if !ok {
			continue // deleted already
		}
		st, err := s.rollingStatus(now)
		if err != nil {
			return err
		}
		if code == http.StatusCreated {
			c.w.Header().Set("Location", s.rollingURL(name))
		}
		return writeJSON(c.w, code, st)
	}
	return unavailable("Others change the same rolling export. Try again.")
}

// mayDeliver says whether the operator has configured the destination for the account.
func (s *server) mayDeliver(account, destination string) bool {
	return s.deps.Destination != nil && s.deps.Destination(account, destination)
}

func noDestination(name string) string {
	return fmt.Sprintf("there is no destination %q for this account", name)
}

// orderOf finds the standing order that a path names, as current as Kafka has
// it.
func (s *server) orderOf(c *call) (*report.Standing, error) {
	name := c.r.PathValue("name")
	if !report.ValidOrderName(name) {
		return nil, noRolling()
	}
	if err := s.catchUp(c); err != nil {
		return nil, err
	}
	o, ok := s.deps.Reports.OrderNamed(c.account, name)
	if !ok {
		return nil, noRolling()
	}
	return o, nil
}

func noRolling() error { return notFound("The account has no such rolling export.") }

func (s *server) getRolling(c *call) error {
	o, err := s.orderOf(c)
	if err != nil {
		return err
	}
	st, err := s.rollingStatus(o)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, st)
}

func (s *server) listRolling(c *call) error {
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
	orders, next, err := s.deps.Reports.ListOrders(c.account, limit, token)
	if err != nil {
		return invalidParam("page_token", "is not one that this list gave")
	}
	page := RollingList{Items: make([]*RollingExport, 0, len(orders)), NextPageToken: next}
	for _, o := range orders {
		st, err := s.rollingStatus(o)
		if err != nil {
			return err
		}
		page.Items = append(page.Items, st)
	}
	return writeJSON(c.w, http.StatusOK, page)
}

func (s *server) deleteRolling(c *call) error {
	return s.orderDone(c, "deleted", func(ctx context.Context, o *report.Standing) (bool, error) {
		return true, s.deps.Reports.DeleteOrder(ctx, c.account, o.Order.ID)
	})
}

func (s *server) pauseRolling(c *call, paused bool) error {
	did := "resumed"
	if paused {
		did = "paused"
	}
	return s.orderDone(c, did, func(ctx context.Context, o *report.Standing) (bool, error) {
		if o.Paused == paused {
			return false, nil
		}
		return true, s.deps.Reports.PauseOrder(ctx, c.account, o.Order.ID, paused)
	})
}

// orderDone does something to a standing order and answers 204. f says whether there was
// anything to do; if so, the log tells who did it.
func (s *server) orderDone(c *call, did string, f func(context.Context, *report.Standing) (bool, error)) error {
	o, err := s.orderOf(c)
	if err != nil {
		return err
	}
	changed := false
	err = s.withOrders(c, func(ctx context.Context) (err error) {
		changed, err = f(ctx, o)
		return err
	})
	switch {
	case errors.Is(err, report.ErrNotFound):
		return noRolling()
	case err != nil:
		return err
	case changed:
		s.log.Info("a rolling export was "+did, "account", c.account, "client", c.client, "order", o.Order.Name)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) rollingURL(name string) string {
	return s.cfg.PublicURL + "/emails/rolling-exports/" + name
}
