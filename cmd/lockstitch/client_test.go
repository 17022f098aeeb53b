package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
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
