package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"html"
	"html/template"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// page is something that is made once and served as it is.
type page struct {
	mediaType string
	policy    string // Content-Security-Policy; empty: none
	body      []byte
}

func (p page) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", p.mediaType)
	if p.policy != "" {
		h.Set("Content-Security-Policy", p.policy)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.body))
}

// documentPages makes the pages about the API, by path, each when it is first
// asked for: the OpenAPI document in two notations and a page for people, which
// is one file without scripts and without anything from elsewhere. The document
// must not change any more.
func documentPages(doc *huma.OpenAPI) map[string]func() (page, error) {
	return map[string]func() (page, error){
		"/openapi.json": sync.OnceValues(func() (page, error) {
			b, err := json.MarshalIndent(doc, "", "  ")
			return page{mediaType: "application/json", body: b}, err
		}),
		"/openapi.yaml": sync.OnceValues(func() (page, error) {
			b, err := doc.YAML()
			return page{mediaType: "application/yaml", body: b}, err
		}),
		"/docs": sync.OnceValues(func() (page, error) { return docsPage(doc) }),
	}
}

//go:embed docs.html
var docsTemplate string

//go:embed docs.css
var docsStyle string

// docsData is what docs.html shows.
type docsData struct {
	Style      template.CSS
	Server     string
	Operations []docsOperation
	Schemas    []docsSchema
	Problems   []docsProblem
}

type docsOperation struct {
	*huma.Operation
	Authorized bool
	Bodies     []docsBody
	Answers    []docsAnswer
}

type docsBody struct{ Media, Schema string }

type docsAnswer struct {
	Status, About, Schema string
	Headers               []string
}

type docsSchema struct{ Name, JSON string }

type docsProblem struct {
	Word, URI, Title, About string
	Status                  int
}

func docsPage(doc *huma.OpenAPI) (page, error) {
	data := docsData{Style: template.CSS(docsStyle), Server: doc.Servers[0].URL}
	for _, path := range sortedNames(doc.Paths) {
		item := doc.Paths[path]
		for _, op := range []*huma.Operation{item.Post, item.Get, item.Put, item.Delete} {
			if op != nil {
				data.Operations = append(data.Operations, docsOperationOf(op))
			}
		}
	}
	sort.SliceStable(data.Operations, func(i, j int) bool {
		return order(doc, data.Operations[i].Operation) < order(doc, data.Operations[j].Operation)
	})
	for _, name := range sortedNames(doc.Components.Schemas.Map()) {
		b, err := json.MarshalIndent(doc.Components.Schemas.Map()[name], "", "  ")
		if err != nil {
			return page{}, err
		}
		data.Schemas = append(data.Schemas, docsSchema{name, string(b)})
	}
	for _, k := range kinds {
		data.Problems = append(data.Problems, docsProblem{Word: k.word, URI: k.uri(), Title: k.title, About: k.about, Status: k.status})
	}
	t, err := template.New("docs").Funcs(template.FuncMap{"text": withCode}).Parse(docsTemplate)
	if err != nil {
		return page{}, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return page{}, err
	}
	sum := sha256.Sum256([]byte(docsStyle))
	return page{
		mediaType: "text/html; charset=utf-8",
		policy:    "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		body:      b.Bytes(),
	}, nil
}

// order puts operations in the order of the document's tags.
func order(doc *huma.OpenAPI, op *huma.Operation) int {
	for i, t := range doc.Tags {
		if len(op.Tags) > 0 && op.Tags[0] == t.Name {
			return i
		}
	}
	return len(doc.Tags)
}

func docsOperationOf(op *huma.Operation) docsOperation {
	out := docsOperation{Operation: op, Authorized: len(op.Security) > 0}
	if op.RequestBody != nil {
		for _, media := range sortedNames(op.RequestBody.Content) {
			out.Bodies = append(out.Bodies, docsBody{media, schemaName(op.RequestBody.Content[media].Schema)})
		}
	}
	for _, status := range sortedNames(op.Responses) {
		r := op.Responses[status]
		a := docsAnswer{Status: status, About: r.Description, Headers: sortedNames(r.Headers)}
		for _, media := range sortedNames(r.Content) {
			a.Schema = schemaName(r.Content[media].Schema)
		}
		out.Answers = append(out.Answers, a)
	}
	return out
}

func schemaName(s *huma.Schema) string {
	return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
}

var inCode = regexp.MustCompile("`([^`]*)`")

// withCode escapes a text and shows what stands between backquotes as code.
func withCode(s string) template.HTML {
	return template.HTML(inCode.ReplaceAllString(html.EscapeString(s), "<code>$1</code>"))
}
