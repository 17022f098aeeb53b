package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/danielgtaylor/huma/v2"

	"lockstitch/state/event"
	"lockstitch/state/report"
)

// Activity is an email activity of the recent past, as its events show it.
type Activity struct {
	ActivityID string  `json:"activity_id"`
	Name       string  `json:"name" doc:"As in the latest event."`
	FirstSeen  Time    `json:"first_seen" doc:"Server time of the first event."`
	LastSeen   Time    `json:"last_seen" doc:"Server time of the latest event."`
	Counts     Counts  `json:"counts"`
	Splits     []Split `json:"splits" nullable:"false" doc:"Parts of a split test; a single one for an activity that is not split."`
}

// Split is a part of an activity.
type Split struct {
	SplitID   string `json:"split_id"`
	Name      string `json:"name"`
	FirstSeen Time   `json:"first_seen"`
	LastSeen  Time   `json:"last_seen"`
	Counts    Counts `json:"counts"`
}

// Counts are numbers of events by type.
type Counts struct {
	Sent         int64 `json:"SENT"`
	Delivered    int64 `json:"DELIVERED"`
	Opened       int64 `json:"OPENED"`
	Clicked      int64 `json:"CLICKED"`
	Bounced      int64 `json:"BOUNCED"`
	Unsubscribed int64 `json:"UNSUBSCRIBED"`
	Abuse        int64 `json:"ABUSE"`
}

func countsOf(n *[event.NumTypes]int64) Counts {
	return Counts{
		Sent: n[event.Sent], Delivered: n[event.Delivered], Opened: n[event.Opened], Clicked: n[event.Clicked],
		Bounced: n[event.Bounced], Unsubscribed: n[event.Unsubscribed], Abuse: n[event.Abuse],
	}
}

// ActivityList is a page of activities, the latest event first.
type ActivityList struct {
	Items         []Activity `json:"items" nullable:"false"`
	NextPageToken string     `json:"next_page_token,omitempty" doc:"Gives the next page as page_token; absent on the last page."`
}

func (s *server) activityOperations(schemas huma.Registry) []operation {
	d := describe{schemas}
	section := d.path("section_discriminator", "The discriminator of a section.", "usercreated.sections.europe-r6tz73a27t")
	activity := d.path("activity_id", "The id of an activity.", "act-1")
	var ops []operation
	// The seed writes the list with "sections" and the single one with
	// "section"; both are answered under both.
	for _, v := range []struct{ word, suffix string }{{"sections", ""}, {"section", "-alias"}} {
		ops = append(ops,
			operation{limit: s.dear, handle: s.listActivities, Operation: huma.Operation{
				OperationID: "list-activities" + v.suffix, Method: http.MethodGet, Path: "/emails/" + v.word + "/{section_discriminator}/activities", Tags: []string{"Activities"},
				Summary: "List recent activities", Description: fmt.Sprintf("The activities of a section with events in the last %d days, by server time; the latest event first.", activityDays),
				Security:   bearer,
				Parameters: append([]*huma.Param{section}, d.paging()...),
				Responses:  d.responses(d.json(200, "A page of activities.", ActivityList{}), d.problems(400, 401, 404, 413, 429, 503)),
			}},
			operation{limit: s.dear, handle: s.getActivity, Operation: huma.Operation{
				OperationID: "get-activity" + v.suffix, Method: http.MethodGet, Path: "/emails/" + v.word + "/{section_discriminator}/activities/{activity_id}", Tags: []string{"Activities"},
				Summary: "A recent activity", Description: fmt.Sprintf("An activity of a section with events in the last %d days.", activityDays),
				Security:   bearer,
				Parameters: []*huma.Param{section, activity},
				Responses:  d.responses(d.json(200, "The activity.", Activity{}), d.problems(400, 401, 404, 413, 429, 503)),
			}},
		)
	}
	return ops
}

func (s *server) listActivities(c *call) error {
	limit, token, err := c.page()
	if err != nil {
		return err
	}
	var after pageEnd
	if token != "" {
		if after, err = parsePageEnd(token); err != nil {
			return invalidParam("page_token", "is not one that this list gave")
		}
	}
	end, err := s.beginActivities(c)
	if err != nil {
		return err
	}
	defer end()
	mem := s.sums.share()
	defer mem.end()
	all, err := s.activitiesOf(c, "", mem)
	if err != nil {
		return err
	}
	from := 0
	if token != "" {
		from = after.next(all)
	}
	to, size := from, int64(0)
	for ; to < min(from+limit, len(all)) && size < report.PageBytes; to++ {
		size += answerBytes(&all[to])
	}
	if err := mem.take(size); err != nil {
		return err
	}
	page := ActivityList{Items: all[from:to:to]}
	if page.Items == nil {
		page.Items = []Activity{}
	}
	if to < len(all) {
		page.NextPageToken = endOf(&all[to-1]).String()
	}
	return writeJSON(c.w, http.StatusOK, page)
}

func (s *server) getActivity(c *call) error {
	end, err := s.beginActivities(c)
	if err != nil {
		return err
	}
	defer end()
	mem := s.sums.share()
	defer mem.end()
	all, err := s.activitiesOf(c, c.r.PathValue("activity_id"), mem)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return notFound(fmt.Sprintf("The section has no such activity in the last %d days.", activityDays))
	}
	if err := mem.take(answerBytes(&all[0])); err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, all[0])
}

// answerBytes is about what an activity takes in an answer while that is written, more
// than once.
func answerBytes(a *Activity) int64 {
	n := 600 + 2*int64(len(a.ActivityID)+len(a.Name))
	for i := range a.Splits {
		n += 500 + 2*int64(len(a.Splits[i].SplitID)+len(a.Splits[i].Name))
	}
	return n
}

// beginActivities counts a call until its answer is written, as that is when its memory
// is free again.
func (s *server) beginActivities(c *call) (end func(), err error) {
	end, ok := s.activities.Begin(c.account)
	if !ok {
		return nil, limited(kindRate, time.Second, fmt.Sprintf("The account has %d calls for activities under way.", activitiesAtOnce))
	}
	return end, nil
}

// activitiesOf reads the activities of the section that the path names, or the one of
// the id, the latest event first, ties by id, into memory that mem takes.
func (s *server) activitiesOf(c *call, id string, mem *share) ([]Activity, error) {
	section := c.r.PathValue("section_discriminator")
	if !utf8.ValidString(section) {
		return nil, notFound("The account has no such section.")
	}
	if err := s.within(c, "The definitions", s.deps.Definitions.CatchUp); err != nil {
		return nil, err
	}
	if _, ok := s.deps.Definitions.Account(c.account).Section(section); !ok {
		return nil, notFound("The account has no such section.")
	}
	if err := s.within(c, "The catalog", s.deps.Catalog.CatchUp); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), s.cfg.ActivityTimeout)
	defer cancel()
	sum, err := s.summarise(ctx, activityQuestion{c.account, section, id}, s.now(), mem)
	var full *Problem
	switch {
	case err == nil:
		return sum, nil
	case errors.As(err, &full):
		s.log.Warn("activities do not fit into the memory for them", "account", c.account, "section", section, "bytes", s.cfg.ActivitySumBytes, "err", err)
		return nil, err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		s.log.Warn("activities were not summed up in time", "account", c.account, "section", section, "limit", s.cfg.ActivityTimeout, "err", err)
		return nil, unavailable(fmt.Sprintf("The stored events were not summed up within %s. What was read by then is remembered for a while: ask again, the answer comes nearer each time.", s.cfg.ActivityTimeout))
	case ctx.Err() != nil || !damaged(err):
		s.log.Warn("activities cannot be read", "account", c.account, "section", section, "err", err)
		return nil, unavailable("The stored events cannot be read at the moment.")
	}
	// What exactly is damaged is in the log; it says nothing to who asked.
	s.log.Error("activities cannot be summed up", "account", c.account, "section", section, "err", err)
	return nil, kindDamaged.problem("Stored events of the account are damaged or missing, and a sum is never short. The damage was logged.")
}

// latestFirst orders activities: the latest event first, ties by id.
func latestFirst(a, b *Activity) int {
	return cmp.Or(cmp.Compare(b.LastSeen, a.LastSeen), cmp.Compare(a.ActivityID, b.ActivityID))
}

// pageEnd is the last item of a page of activities. It stands in URLs, and ids
// have no bound: a hash stands for the id.
type pageEnd struct {
	LastSeen int64  `json:"t"`
	ID       uint64 `json:"a"`
}

func endOf(a *Activity) pageEnd { return pageEnd{int64(a.LastSeen), xxhash.Sum64String(a.ActivityID)} }

// next is where the page behind this one begins. If the item has moved, as it was
// seen again, those of its moment are repeated; none is left out.
func (p pageEnd) next(all []Activity) int {
	from := sort.Search(len(all), func(i int) bool { return int64(all[i].LastSeen) <= p.LastSeen })
	for i := from; i < len(all) && int64(all[i].LastSeen) == p.LastSeen; i++ {
		if endOf(&all[i]) == p {
			return i + 1
		}
	}
	return from
}

func (p pageEnd) String() string {
	b, _ := json.Marshal(p) // two plain fields
	return base64.RawURLEncoding.EncodeToString(b)
}

func parsePageEnd(s string) (p pageEnd, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err == nil && p.String() != s {
		err = errors.New("not canonical")
	}
	return p, err
}
