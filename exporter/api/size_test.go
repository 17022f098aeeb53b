package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/report"
)

// largest is a body of as many columns and segments as may be asked for, and the
// definitions behind it, each with a name of so many characters.
func (r *rig) largest(attributes, tags, name int) string {
	r.t.Helper()
	var recs []*kgo.Record
	define := func(what, id string, more map[string]any) {
		d := map[string]any{"kind": what, "account_id": "acme", "discriminator": fmt.Sprintf("%s-%s", id, strings.Repeat("d", 200)), "name": strings.Repeat("é", name)}
		for k, v := range more {
			d[k] = v
		}
		value, err := json.Marshal(d)
		if err != nil {
			r.t.Fatal(err)
		}
		recs = append(recs, &kgo.Record{Topic: "definitions", Key: fmt.Appendf(nil, "%s-%s", what, id), Value: value})
	}
	section := "s-" + strings.Repeat("s", 250)
	mappings := func(what string, base, n int) (out []map[string]string) {
		for i := range n {
			id := fmt.Sprint(base + i)
			define(what, id, map[string]any{"version_id": id, "section": section})
			out = append(out, map[string]string{"version_id": id})
		}
		return out
	}
	segments, filter := map[string]string{}, []string{}
	for i := range 100 {
		id := fmt.Sprint("seg", i)
		define("segment", id, nil)
		segments[id] = fmt.Sprintf("%s-%s", id, strings.Repeat("d", 200))
		filter = append(filter, id)
	}
	body, err := json.Marshal(map[string]any{
		"start_at": "2027-01-01T00:00:00Z", "end_at": "2027-04-01T00:00:00Z",
		"additional_attribute_mappings": mappings("attribute", 1_000_000_000_000_000_000, attributes),
		"additional_tag_mappings":       mappings("tag", 2_000_000_000_000_000_000, tags),
		"segment_filter":                map[string]any{"segment_discriminators": segments, "filter": strings.Join(filter, " | ")},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.client.ProduceSync(r.t.Context(), recs...).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	return string(body)
}

// The limits themselves are allowed, with long names too; what cannot be stored
// is refused as the caller's, not as a failure of ours.
func TestLargestRequests(t *testing.T) {
	r := newRig(t, nil)
	for i := range 25 {
		r.define(fmt.Sprintf(`{"kind":"section","account_id":"acme","discriminator":"s%d","name":"n"}`, i))
	}
	st := r.request("a", r.largest(75, 25, 1000))
	rep, ok := r.table.Get("acme", st.ReportID)
	if !ok || len(rep.Request.Question.Attributes) != 75 || len(rep.Request.Question.Tags) != 25 || len(rep.Request.Question.Audiences) != 100 {
		t.Fatalf("%v %+v", ok, rep)
	}
	if st.Request == nil || len(st.Request.Attributes) != 75 || len(st.Request.Tags) != 25 || len(st.Request.SegmentFilter.Discriminators) != 100 {
		t.Fatalf("echo %+v", st.Request)
	}
	standing := strings.NewReplacer(`"start_at":"2027-01-01T00:00:00Z"`, `"start":"now"`, `"end_at":"2027-04-01T00:00:00Z"`, `"every":"PT1M"`)
	r.put("a", "long", standing.Replace(r.largest(75, 25, 1000)), 201)
	body := r.largest(75, 25, 5000)
	for _, a := range []answer{
		r.do("POST", "/emails/reports", "a", body),
		r.do("PUT", "/emails/rolling-exports/long", "a", standing.Replace(body)),
		r.do("PUT", "/emails/rolling-exports/longer", "a", standing.Replace(body)),
	} {
		p := r.problem(a, 400, "invalid-request")
		if len(p.Errors) != 1 || !strings.Contains(p.Detail, fmt.Sprint(report.MaxRequest)) {
			t.Fatalf("%+v", p)
		}
	}
	if n := len(r.list("a")); n != 1 {
		t.Fatalf("%d reports", n)
	}

	// A body of exactly the bound, too.
	body = recently()
	r.request("a", body+strings.Repeat(" ", 100_000-len(body)))
	r.problem(r.do("POST", "/emails/reports", "a", body+strings.Repeat(" ", 100_001-len(body))), 413, "body-too-large")
}
