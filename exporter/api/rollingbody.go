package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"lockstitch/exporter/rolling"
	"lockstitch/state/definition"
	"lockstitch/state/report"
)

// Where a rolling export begins.
const (
	startNow       = "now"
	startBeginning = "beginning"
)

// maxDestination bounds the name of a destination, in characters.
const maxDestination = 63

// RollingRequest is the body of PUT /emails/rolling-exports/{name}, echoed in
// its status.
type RollingRequest struct {
	Every           string         `json:"every" pattern:"^P(1D|T([0-9]+H)?([0-9]+M)?)$" example:"PT15M" doc:"Time between two boundaries: an ISO 8601 duration of whole minutes, PT1M to P1D, that divides 24 hours. Boundaries are its multiples since 00:00Z."`
	Start           string         `json:"start,omitempty" enum:"now,beginning" doc:"Where the first file begins: with what is acknowledged from now on, or with the oldest data kept. Needed for a new name; it cannot be changed."`
	EmptyFiles      bool           `json:"empty_files,omitempty" doc:"Makes a file for a period without rows too."`
	Destination     string         `json:"destination,omitempty" maxLength:"63" doc:"A place that the operator has configured, to which each file is written as well."`
	SegmentFilter   *SegmentFilter `json:"segment_filter,omitempty"`
	Attributes      []Mapping      `json:"additional_attribute_mappings,omitempty" nullable:"false"`
	Tags            []Mapping      `json:"additional_tag_mappings,omitempty" nullable:"false"`
	SpreadsheetSafe bool           `json:"spreadsheet_safe,omitempty" doc:"As in an export."`
}

// export is the part of the request that shapes the files.
func (r *RollingRequest) export() *ExportRequest {
	return &ExportRequest{SegmentFilter: r.SegmentFilter, Attributes: r.Attributes, Tags: r.Tags, SpreadsheetSafe: r.SpreadsheetSafe}
}

// sameExport tells whether files by a stored body have what those of a request have.
func sameExport(stored []byte, req *RollingRequest) bool {
	old := new(RollingRequest)
	if json.Unmarshal(stored, old) != nil {
		return false
	}
	a, errA := json.Marshal(old.export())
	b, errB := json.Marshal(req.export())
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// decodeRolling reads the body of a rolling export: everything about it that
// can be said without definitions and destinations. Errors name their places.
func decodeRolling(body []byte, lim Limits) (*RollingRequest, error) {
	m, err := parseObject(body)
	if err != nil {
		return nil, err
	}
	var e fieldErrors
	e.only(m, "", "every", "start", "empty_files", "destination", "segment_filter", "additional_attribute_mappings", "additional_tag_mappings", "spreadsheet_safe")
	req := &RollingRequest{
		EmptyFiles: e.flag(m, "empty_files"), SpreadsheetSafe: e.flag(m, "spreadsheet_safe"),
		Attributes: e.mappings(m, "additional_attribute_mappings", lim.Attributes),
		Tags:       e.mappings(m, "additional_tag_mappings", lim.Tags),
	}
	if req.Every = e.text(m, "", "every", 1, 32); req.Every != "" {
		if _, ok := rolling.ParseEvery(req.Every); !ok {
			e.add("/every", "must be an ISO 8601 duration of whole minutes, PT1M to P1D, that divides 24 hours, such as PT15M")
		}
	}
	if _, ok := m["start"]; ok {
		req.Start = e.text(m, "", "start", 1, 32)
		if req.Start != "" && req.Start != startNow && req.Start != startBeginning {
			e.add("/start", "must be now or beginning")
		}
	}
	if _, ok := m["destination"]; ok {
		req.Destination = e.text(m, "", "destination", 1, maxDestination)
	}
	if v, ok := m["segment_filter"]; ok {
		req.SegmentFilter = e.segmentFilter(v)
	}
	return req, e.err()
}

// ResolveRolling turns the body of a rolling export, as the API has stored it,
// into a question by an account's definitions as they are now. A
// *rolling.Refusal if something that it names is no longer there.
func ResolveRolling(body []byte, acc *definition.Account) (report.Question, error) {
	req := new(RollingRequest)
	if err := json.Unmarshal(body, req); err != nil {
		return report.Question{}, fmt.Errorf("the stored request cannot be read: %w", err)
	}
	q, err := resolve(req.export(), acc)
	if err != nil {
		p, _ := asProblem(err)
		return q, &rolling.Refusal{Problem: report.Problem{Type: p.Type, Title: p.Title, Status: p.Status, Detail: p.Detail}}
	}
	return q, nil
}

// limitRolling puts the limits, which are settings, into the schema.
func (d describe) limitRolling(lim Limits) {
	d.schemas.Schema(reflect.TypeFor[RollingRequest](), true, "")
	props := d.schemas.Map()["RollingRequest"].Properties
	props["additional_attribute_mappings"].MaxItems = &lim.Attributes
	props["additional_tag_mappings"].MaxItems = &lim.Tags
}
