package api

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// stallTimeout is how long a reader of a file may take no byte at all.
const stallTimeout = 2 * time.Minute

// transferRetry is when to ask again behind too many downloads under way.
const transferRetry = 10 * time.Second

func (s *server) downloadOperation(schemas huma.Registry) operation {
	d := describe{schemas}
	file := func(description string, more ...string) *huma.Response {
		h := map[string]*huma.Param{}
		for name, about := range map[string]string{
			"Accept-Ranges":       "`bytes`",
			"Content-Disposition": "A name for the file.",
			"ETag":                "Of the file's bytes; take it for `If-Range` when a download is resumed.",
			"Repr-Digest":         "SHA-256 of the whole file (RFC 9530).",
		} {
			h[name] = &huma.Param{Description: about, Schema: &huma.Schema{Type: huma.TypeString}}
		}
		maps.Copy(h, headers(more...))
		return &huma.Response{Description: description, Headers: h, Content: map[string]*huma.MediaType{
			"application/gzip": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}
	}
	return operation{public: true, handle: s.download, Operation: huma.Operation{
		OperationID: "download-file", Method: http.MethodGet, Path: "/emails/reports/{report_id}/file", Tags: []string{"Exports"},
		Summary: "Download an export file",
		Description: "The `file_download_url` of a completed report, to be taken as it is given. The credential is in the URL or, after `header_auth=true`, in the `x-apsis-auth` header. " +
			"A transfer that broke off is resumed with `Range` and `If-Range`; one range at a time. " +
			"An account may start a number of downloads a minute, by default 60, and have as many under way.",
		Security: []map[string][]string{},
		Parameters: []*huma.Param{
			d.path("report_id", "The id of a report.", "01JX8M2Y6T3N5Q7R9S1V2W3X4Y"),
			d.query("token", "The credential, if it is not in the header.", &huma.Schema{Type: huma.TypeString}),
			d.header(tokenHeader, "The credential, if it is not in the URL.", &huma.Schema{Type: huma.TypeString}),
			d.header("Range", "Such as `bytes=1000-`.", &huma.Schema{Type: huma.TypeString}),
			d.header("If-Range", "The `ETag` of the file that a range is wanted of; if the file is another, all of it is sent.", &huma.Schema{Type: huma.TypeString}),
			d.header("If-Match", "An `ETag`: another file is not sent.", &huma.Schema{Type: huma.TypeString}),
			d.header("If-None-Match", "An `ETag`: this file is not sent.", &huma.Schema{Type: huma.TypeString}),
		},
		Responses: d.responses(
			map[string]*huma.Response{
				"200": file("The file."), "206": file("The range that was asked for.", "Content-Range"),
				"304": {Description: "The file is the one that `If-None-Match` names."},
			},
			d.problems(400, 403, 410, 412, 413, 416, 429, 503),
		),
	}}
}

// fileLink is where a file can be downloaded until a time.
type fileLink struct {
	url        string
	expires    Time
	credential string // to be sent as a header; empty: it is in the URL
}

// fileLink makes a link with a fresh credential to the file of a report, which is removed
// at end; apart: the credential is not in the URL.
func (s *server) fileLink(account, id string, end time.Time, apart bool) (fileLink, error) {
	expires := s.now().Add(s.cfg.DownloadLifetime)
	if end.Before(expires) {
		expires = end
	}
	expires = expires.Truncate(time.Second) // what a JWT can say
	credential, err := s.authority.IssueDownload(account, id, expires)
	if err != nil {
		return fileLink{}, err
	}
	l := fileLink{url: s.reportURL(id) + "/file", expires: timeOf(expires)}
	if apart {
		l.credential = credential
	} else {
		l.url += "?token=" + url.QueryEscape(credential)
	}
	return l, nil
}

func (s *server) download(c *call) error {
	credential := c.r.Header.Get(tokenHeader)
	if credential == "" {
		var err error
		if credential, _, err = c.param("token"); err != nil {
			return err
		}
	}
	refused := kindForbidden.problem("The credential is missing, wrong or has expired. Ask for the report's status again: it gives a fresh one.")
	if credential == "" {
		return refused
	}
	who, err := s.authority.VerifyDownload(credential)
	if err != nil || who.Subject != c.r.PathValue("report_id") {
		return refused
	}
	c.account = who.Account
	// Each holds a connection to the store for as long as its reader likes; cuts,
	// exports and takeovers need some too.
	end, ok := s.transfers.Begin(c.account)
	if !ok {
		return limited(kindRate, transferRetry, fmt.Sprintf("The account has %d downloads under way.", s.cfg.Limits.DownloadsPerMinute))
	}
	defer end()
	if wait, ok := s.downloads.Take(c.account, s.now()); !ok {
		return limited(kindRate, wait, fmt.Sprintf("The account may start %d downloads a minute.", s.cfg.Limits.DownloadsPerMinute))
	}
	if err := s.catchUp(c); err != nil {
		return err
	}
	rep, ok := s.deps.Reports.Get(c.account, who.Subject)
	if !ok || rep.Status(s.now()) != report.StatusCompleted {
		return kindGone.problem("The file has expired or was deleted. Request the export anew.")
	}
	return s.serveFile(c, rep)
}

func (s *server) serveFile(c *call, rep *report.Report) error {
	res := rep.Result
	digest, err := hex.DecodeString(res.SHA256)
	if err != nil || len(digest) == 0 {
		return fmt.Errorf("report %s: the result has no SHA-256", rep.Request.ID)
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), s.cfg.KafkaTimeout)
	info, err := s.deps.Store.Stat(ctx, res.Object)
	cancel()
	switch {
	case errors.Is(err, objects.ErrNotExist):
		return kindGone.problem("The file has expired or was deleted. Request the export anew.")
	case err != nil:
		s.log.Warn("a file cannot be read", "object", res.Object, "err", err)
		return unavailable("The file cannot be read at the moment.")
	case info.Size != res.Bytes:
		return fmt.Errorf("object %s has %d bytes, the result says %d", res.Object, info.Size, res.Bytes)
	}
	// The connection's limit on reading would end a long transfer: the server
	// keeps reading to notice that the client has gone.
	if err := c.endBody(s.cfg.Limits.BodyBytes); err != nil {
		return err
	}
	f := openFile(c.r.Context(), s.deps.Store, res.Object, res.Bytes)
	defer f.Close()
	h := c.w.Header()
	h.Set("Content-Type", "application/gzip")
	name := "email-events-" + rep.Request.ID
	if step := rep.Request.Step; step != nil {
		name = fmt.Sprintf("%s-%d", step.Name, rep.Files())
	}
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.csv.gz"`, name))
	h.Set("ETag", `"`+res.SHA256+`"`)
	h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest)+":")
	h.Set("Cache-Control", "private, no-store, no-transform")
	if rng := c.r.Header.Get("Range"); c.r.Method != http.MethodGet || !strings.HasPrefix(rng, "bytes=") || strings.Contains(rng, ",") {
		// Ranges of other methods and in other units must be ignored (RFC 9110,
		// 14.2). Several ranges would be several requests to the store, thousands
		// if a client likes; a server may send the whole instead.
		c.r.Header.Del("Range")
	}
	w := &fileWriter{ResponseWriter: c.w, size: res.Bytes}
	http.ServeContent(w, c.r, "", time.Time{}, f)
	if f.err != nil && c.r.Context().Err() == nil {
		s.log.Error("a download broke off", "object", res.Object, "err", f.err)
		panic(http.ErrAbortHandler) // the client must not take the part for the whole
	}
	return nil
}

// fileWriter turns the refusals of http.ServeContent into problems and keeps a
// reader that stalls from holding its handler.
type fileWriter struct {
	http.ResponseWriter
	size    int64
	refused bool
}

func (w *fileWriter) WriteHeader(code int) {
	var p *Problem
	switch code {
	case http.StatusRequestedRangeNotSatisfiable:
		p = kindRange.problem(fmt.Sprintf("The file has %d bytes.", w.size)).with("Content-Range", fmt.Sprintf("bytes */%d", w.size))
	case http.StatusPreconditionFailed:
		p = kindPrecondition.problem("The file is not the one that If-Match names.")
	default:
		w.ResponseWriter.WriteHeader(code)
		w.wait()
		return
	}
	w.refused = true
	for _, name := range []string{"Content-Disposition", "Repr-Digest", "Accept-Ranges"} {
		w.Header().Del(name)
	}
	writeProblem(w.ResponseWriter, p)
}

func (w *fileWriter) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil // the text that the problem stands for
	}
	w.wait()
	return w.ResponseWriter.Write(b)
}

func (w *fileWriter) wait() {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(stallTimeout))
}
