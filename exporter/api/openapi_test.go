package api

import (
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"go.uber.org/goleak"
)

// Every answer that a test gets is held against the OpenAPI document, and the
// document against the answers: what it describes must have been served.
func TestMain(m *testing.M) { goleak.VerifyTestMain(described{m}) }

type described struct{ *testing.M }

func (m described) Run() int {
	code := m.M.Run()
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if flag.Lookup(name).Value.String() != "" {
			return code // not all of the tests
		}
	}
	if missing := served.missing(); code == 0 && len(missing) > 0 {
		os.Stderr.WriteString("no test has been answered with\n  " + strings.Join(missing, "\n  ") + "\n")
		return 1
	}
	return code
}

// served remembers which of the described answers tests were given.
var served = &answers{seen: map[string]bool{}}

type answers struct {
	mu   sync.Mutex
	seen map[string]bool // "GET /emails/reports 200"
}

func (a *answers) add(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[what] = true
}

func (a *answers) missing() (out []string) {
	doc := newTestDocument(Config{PublicURL: "http://x"})
	for path, methods := range doc.Paths {
		for method, op := range operationsOf(methods) {
			for status := range op.Responses {
				// A 500 is a defect; those that can be brought about are tested.
				if what := method + " " + path + " " + status; status != "500" && !a.seen[what] {
					out = append(out, what)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func newTestDocument(cfg Config) *huma.OpenAPI {
	cfg = cfg.withDefaults()
	doc := newDocument(cfg)
	for _, op := range (&server{cfg: cfg}).operations(doc.Components.Schemas) {
		doc.AddOperation(&op.Operation)
	}
	for _, s := range doc.Components.Schemas.Map() {
		s.PrecomputeMessages()
	}
	return doc
}

func operationsOf(item *huma.PathItem) map[string]*huma.Operation {
	out := map[string]*huma.Operation{}
	v := reflect.ValueOf(item).Elem()
	for _, method := range []string{"Get", "Put", "Post", "Delete", "Patch"} {
		if op, _ := v.FieldByName(method).Interface().(*huma.Operation); op != nil {
			out[strings.ToUpper(method)] = op
		}
	}
	return out
}

// find is the operation that a request is for; nil: none.
func find(doc *huma.OpenAPI, method, escapedPath string) (path string, op *huma.Operation) {
	got := strings.Split(escapedPath, "/")
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for path, item := range doc.Paths {
		parts := strings.Split(path, "/")
		same := len(parts) == len(got)
		for i := range parts {
			same = same && (parts[i] == got[i] || strings.HasPrefix(parts[i], "{") && got[i] != "")
		}
		if same {
			return path, operationsOf(item)[method]
		}
	}
	return "", nil
}

// checkDescribed fails the test if the document does not describe the answer.
func (r *rig) checkDescribed(a answer) {
	r.t.Helper()
	req := a.Request
	path, op := find(r.doc, req.Method, req.URL.EscapedPath())
	if op == nil {
		return
	}
	what := op.Method + " " + path + " " + strconv.Itoa(a.StatusCode)
	resp := op.Responses[strconv.Itoa(a.StatusCode)]
	if resp == nil {
		r.t.Errorf("%s is not in the OpenAPI document: %s", what, a.body)
		return
	}
	served.add(what)
	for name := range resp.Headers {
		// Some are there in some cases only; that they are is for the tests of these cases.
		if _, optional := map[string]bool{tokenHeader: true}[name]; !optional && a.Header.Get(name) == "" {
			r.t.Errorf("%s without %s", what, name)
		}
	}
	media, _, _ := strings.Cut(a.Header.Get("Content-Type"), ";")
	if len(resp.Content) == 0 {
		if len(a.body) > 0 {
			r.t.Errorf("%s has a body: %.100q", what, a.body)
		}
		return
	}
	content := resp.Content[media]
	if content == nil {
		r.t.Errorf("%s comes as %q, which is not in the OpenAPI document", what, media)
		return
	}
	if !strings.HasSuffix(media, "json") || req.Method == http.MethodHead {
		return
	}
	var v any
	if err := json.Unmarshal(a.body, &v); err != nil {
		r.t.Errorf("%s: %v in %.200q", what, err, a.body)
		return
	}
	res := &huma.ValidateResult{}
	huma.Validate(r.doc.Components.Schemas, content.Schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, v, res)
	for _, err := range res.Errors {
		r.t.Errorf("%s is not as the OpenAPI document says: %v in %s", what, err, a.body)
	}
}

// The document says of a request what decodeExport does. (The validator takes
// null for absent, and lower-case "t" and "z" in times for wrong; neither is in
// the schema.)
func TestRequestSchemaAgrees(t *testing.T) {
	doc := newTestDocument(Config{PublicURL: "http://x"})
	schema := doc.Components.Schemas.Map()["ExportRequest"]
	lim := Config{}.withDefaults().Limits
	list := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"version_id":"1"},`, n), ",") + "]"
	}
	start := `{"start_at":"2026-05-01T00:00:00Z"`
	for _, body := range []string{
		start + `}`, `{}`, `{"start_at":1}`, `{"start_at":null}`, `{"start_at":"2026-05-01T00:00:00+02:00"}`, start + `,"x":1}`,
		start + `,"end_at":"2026-05-01T00:00:00.123456789Z"}`, start + `,"end_at":"2026-05-01T00:00:00.1234567890Z"}`,
		start + `,"spreadsheet_safe":false}`, start + `,"spreadsheet_safe":"no"}`,
		start + `,"additional_tag_mappings":[]}`, start + `,"additional_tag_mappings":` + list(25) + `}`, start + `,"additional_tag_mappings":` + list(26) + `}`,
		start + `,"additional_attribute_mappings":` + list(75) + `}`, start + `,"additional_attribute_mappings":` + list(76) + `}`,
		start + `,"additional_tag_mappings":[{}]}`, start + `,"additional_tag_mappings":[{"version_id":"12345678901234567890"}]}`, start + `,"additional_tag_mappings":[{"version_id":""}]}`,
		start + `,"additional_tag_mappings":[{"version_id":"1","discriminator":"x"}]}`, start + `,"additional_tag_mappings":[{"section_discriminator":"s","discriminator":"x"}]}`,
		start + `,"additional_tag_mappings":[{"section_discriminator":"s","discriminator":""}]}`,
		start + `,"segment_filter":{}}`, start + `,"segment_filter":{"segment_discriminator":"s"}}`, start + `,"segment_filter":{"segment_discriminator":""}}`,
		start + `,"segment_filter":{"segment_discriminator":"s","filter":"s"}}`, start + `,"segment_filter":{"segment_discriminators":{"a":"s"},"filter":"a"}}`,
		start + `,"segment_filter":{"segment_discriminators":{"a":"s"}}}`, start + `,"segment_filter":{"segment_discriminators":{},"filter":"a"}}`,
		start + `,"segment_filter":{"segment_discriminators":{"a":""},"filter":"a"}}`, start + `,"segment_filter":{"segment_discriminators":{"a":1},"filter":"a"}}`,
		start + `,"segment_filter":{"segment_discriminators":{"a":"s"},"filter":""}}`,
		`{"after":"beginning"}`, `{"after":"` + strings.Repeat("A-_9", 20) + `","spreadsheet_safe":true}`, `{"after":""}`, `{"after":5}`, `{"after":["beginning"]}`,
		`{"end_at":"2026-05-01T00:00:00Z"}`, start + `,"after":"beginning"}`, start + `,"end_at":"2026-06-01T00:00:00Z","after":"beginning"}`,
		`{"after":"beginning","end_at":"2026-06-01T00:00:00Z"}`,
	} {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		res := &huma.ValidateResult{}
		huma.Validate(doc.Components.Schemas, schema, huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, v, res)
		_, err := decodeExport([]byte(body), lim)
		if (err == nil) != (len(res.Errors) == 0) {
			t.Errorf("%.200s: the schema says %v, the API %v", body, res.Errors, err)
		}
	}
}
