package api

import (
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// bearer is the security of all calls that need an access token.
var bearer = []map[string][]string{{"accessToken": {}}}

// newDocument is the OpenAPI document without its operations.
func newDocument(cfg Config) *huma.OpenAPI {
	doc := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Lockstitch", Version: "1",
			Description: "Exports email events, decorated with profile attributes and tags as of the event, as gzip CSV. See /docs for what the answers mean.",
			License:     &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"},
		},
		Servers: []*huma.Server{{URL: cfg.PublicURL}},
		Components: &huma.Components{
			Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"accessToken": {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "From /oauth/token, or from an issuer that this installation accepts."},
			},
		},
		Tags: []*huma.Tag{{Name: "Authorization"}, {Name: "Exports"}, {Name: "Rolling exports"}, {Name: "Activities"}},
	}
	// The limits are settings, so the schema cannot be a tag of the type.
	doc.Components.Schemas.Schema(reflect.TypeFor[ExportRequest](), true, "")
	props := doc.Components.Schemas.Map()["ExportRequest"].OneOf[0].Properties // shared by both shapes
	props["additional_attribute_mappings"].MaxItems = &cfg.Limits.Attributes
	props["additional_attribute_mappings"].Description = "Attributes to add as columns, in this order; each at most once."
	props["additional_tag_mappings"].MaxItems = &cfg.Limits.Tags
	props["additional_tag_mappings"].Description = "Tags to add as columns, in this order; each at most once."
	return doc
}

// describe builds the parts of an operation's description.
type describe struct{ schemas huma.Registry }

func (d describe) schema(v any) *huma.Schema {
	return d.schemas.Schema(reflect.TypeOf(v), true, "")
}

func (d describe) path(name, about, example string) *huma.Param {
	return &huma.Param{Name: name, In: "path", Required: true, Description: about, Example: example, Schema: &huma.Schema{Type: huma.TypeString, MinLength: ptr(1)}}
}

func (d describe) query(name, about string, schema *huma.Schema) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: about, Schema: schema}
}

func (d describe) header(name, about string, schema *huma.Schema) *huma.Param {
	return &huma.Param{Name: name, In: "header", Description: about, Schema: schema}
}

func (d describe) paging() []*huma.Param {
	return []*huma.Param{d.limit(), d.query("page_token", "The `next_page_token` of the page before.", &huma.Schema{Type: huma.TypeString, MinLength: ptr(1)})}
}

func (d describe) limit() *huma.Param {
	return d.query("limit", "How many items a page holds at most; it may hold fewer.", &huma.Schema{
		Type: huma.TypeInteger, Minimum: ptr(1.0), Maximum: ptr(float64(listMax)), Default: listDefault,
	})
}

func (d describe) headerAuth() *huma.Param {
	return d.query("header_auth", "With `true` the URL carries no credential: it is in the `"+tokenHeader+"` header of this answer and must be sent back as the same header on the download.",
		&huma.Schema{Type: huma.TypeBoolean, Default: false})
}

func (d describe) body(byMedia map[string]any, example any) *huma.RequestBody {
	b := &huma.RequestBody{Required: true, Content: make(map[string]*huma.MediaType)}
	for media, v := range byMedia {
		b.Content[media] = &huma.MediaType{Schema: d.schema(v), Example: example}
	}
	return b
}

// headerAbout describes the headers that answers carry.
var headerAbout = map[string]string{
	"Location":         "The URL of the report or of the rolling export.",
	tokenHeader:        "With `header_auth=true` on a completed report: the credential of the download.",
	"WWW-Authenticate": "How to authenticate.",
	"Retry-After":      "Seconds to wait.",
	"Content-Range":    "The range that is sent, if any, and the size of the file.",
}

func headers(names ...string) map[string]*huma.Param {
	h := make(map[string]*huma.Param, len(names))
	for _, name := range names {
		h[name] = &huma.Param{Description: headerAbout[name], Schema: &huma.Schema{Type: huma.TypeString}}
	}
	return h
}

func (d describe) json(status int, about string, v any, headerNames ...string) map[string]*huma.Response {
	return map[string]*huma.Response{strconv.Itoa(status): {
		Description: about, Headers: headers(headerNames...),
		Content: map[string]*huma.MediaType{mediaJSON: {Schema: d.schema(v)}},
	}}
}

// problems describes the refusals of an operation; 500 is always among them.
func (d describe) problems(statuses ...int) map[string]*huma.Response {
	out := make(map[string]*huma.Response)
	for _, status := range append(statuses, 500) {
		about := ""
		for _, k := range answerKinds {
			if k.status != status {
				continue
			}
			if about != "" {
				about += "; "
			}
			about += k.title + " (`" + k.uri() + "`)"
		}
		r := &huma.Response{Description: about, Content: map[string]*huma.MediaType{
			"application/problem+json": {Schema: d.schema(Problem{})},
		}}
		switch status {
		case 401:
			r.Headers = headers("WWW-Authenticate")
		case 416:
			r.Headers = headers("Content-Range")
		case 429, 503:
			r.Headers = headers("Retry-After")
		}
		out[strconv.Itoa(status)] = r
	}
	return out
}

func (d describe) responses(parts ...map[string]*huma.Response) map[string]*huma.Response {
	out := make(map[string]*huma.Response)
	for _, part := range parts {
		for status, r := range part {
			out[status] = r
		}
	}
	return out
}
