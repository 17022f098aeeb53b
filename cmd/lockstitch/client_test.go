package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"unicode"
)

// The address of a download carries a credential, and what is said about one that failed
// ends up in logs.
func TestADownloadThatFailsDoesNotTellItsAddress(t *testing.T) {
	closed, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + closed.Addr().String() + "/file?token=hush"
	closed.Close()
	err = new(exportClient).download(t.Context(), address, "", 0, io.Discard)
	if !errors.Is(err, syscall.ECONNREFUSED) || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
}

// What answers without end fills no memory, whether it says that all is well or not.
func TestAnAnswerIsBounded(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"report_id": "x", "detail": "%s"}`, strings.Repeat("x", maxAnswer))
	}))
	defer srv.Close()
	x := &exportClient{url: srv.URL, token: "t"}
	if st, err := x.status(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("%+v, %v", st, err)
	}
	status = http.StatusConflict
	if _, err := x.status(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "answered 409: Conflict") || len(err.Error()) > 1000 {
		t.Errorf("%.1000v", err)
	}
}

// Secrets, tokens and the credentials of downloads are for the server that was named, and
// not for one that it redirects to.
func TestNoRedirectIsFollowed(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was sent on, Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/moved") {
			t.Errorf("%s was sent on", r.URL)
		}
		to := other.URL
		if r.FormValue("to") == "here" {
			to = ""
		}
		w.Header().Set("Location", to+"/moved?token=hush")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	for _, to := range []string{"there", "here"} {
		for name, call := range map[string]func(x *exportClient) error{
			"a token": func(x *exportClient) error {
				return x.send(t.Context(), http.MethodPost, "/oauth/token?to="+to, "", "client_secret=hush", nil)
			},
			"a call": func(x *exportClient) error {
				x.token = "hush"
				return x.call(t.Context(), http.MethodGet, "/?to="+to, "", "", nil)
			},
			"download": func(x *exportClient) error { return x.download(t.Context(), srv.URL+"/?to="+to, "", 0, io.Discard) },
		} {
			err := call(&exportClient{url: srv.URL, id: "a", secret: "hush", http: *srv.Client()})
			var p *problemError
			if !errors.As(err, &p) || p.status != http.StatusTemporaryRedirect || !strings.Contains(p.detail, "a redirect to http") || strings.Contains(p.detail, "hush") {
				t.Errorf("%s, redirected %s: %v", name, to, err)
			}
		}
	}
}

// A server's texts end up in a terminal, which obeys control characters, and its id of a
// report in a command that is meant to be pasted.
func TestTextsOfAServerAreOnlyShown(t *testing.T) {
	obeyed := func(text string) bool {
		return strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' })
	}
	const hostile = "a\x1b]0;x\x07\u009b31m\x7f$(touch x)"
	status := map[string]any{"report_id": hostile, "status": "completed", "rows": 1, "bytes": 1, "sha256": hostile, "cursor": hostile, "created_at": "2026-01-01T00:00:00Z"}
	var answers map[string]any
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer := answers[r.URL.Path]; answer != nil {
			_ = json.NewEncoder(w).Encode(answer)
			return
		}
		status := http.StatusConflict
		if r.URL.Path == "/oauth/token" {
			status = http.StatusTooManyRequests
		}
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"title": hostile, "detail": hostile, "errors": []any{map[string]any{"pointer": hostile, "detail": hostile}, map[string]any{}}})
	}))
	defer srv.Close()
	env := []string{"LOCKSTITCH_URL=" + srv.URL + "/a;b", "LOCKSTITCH_TOKEN=t"}
	failed := map[string]any{"report_id": hostile, "status": "error", "error": map[string]any{"title": hostile, "detail": hostile}, "waiting": []any{map[string]any{"topic": hostile, "reason": hostile}}}
	order := map[string]any{"name": hostile, "state": hostile, "request": map[string]any{"every": hostile}, "held_up": hostile, "error": map[string]any{"title": hostile, "detail": hostile}}
	for name, c := range map[string]struct {
		args    string
		answers map[string]any
		want    string
	}{
		"refused":     {"export --report x -o -", nil, "the server answered 409"},
		"failed":      {"export --report x -o -", map[string]any{"/a;b/emails/reports/x": failed}, "waiting for a"},
		"to go on":    {"export --report x -o -", map[string]any{"/a;b/emails/reports/x": status}, "--url '" + srv.URL + "/a;b' --report 'a"},
		"stopped":     {"rolling pull x --dir " + t.TempDir(), map[string]any{"/a;b/emails/rolling-exports/x/files": map[string]any{"order_id": hostile}, "/a;b/emails/rolling-exports/x": order}, "is held up: a"},
		"of an order": {"rolling show x", map[string]any{"/a;b/emails/rolling-exports/x": order}, `\u009b31m\u007f$(touch x)`},
		"of no order": {"rolling list", map[string]any{"/a;b/emails/rolling-exports": map[string]any{"items": []any{map[string]any{"name": hostile}}}}, "is it a Lockstitch API?"},
		"all orders":  {"rolling list", map[string]any{"/a;b/emails/rolling-exports": map[string]any{"items": []any{order}}}, "NAME"},
	} {
		answers = c.answers
		_, out, errs := command(t.Context(), env, strings.Fields(c.args)...)
		if !strings.Contains(out+errs, c.want) || !strings.Contains(out+errs, "$(touch x)") {
			t.Errorf("%s: %q %q", name, out, errs)
		}
		if obeyed(out + errs) {
			t.Errorf("%s: a terminal obeys %q %q", name, out, errs)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	waits := newWatch("waiting for", stop)
	if err := (&exportClient{url: srv.URL, id: "a", secret: "b", out: waits}).authorize(ctx); err == nil || obeyed(waits.text()) {
		t.Errorf("a token: %v; a terminal obeys %q", err, waits.text())
	}
}
