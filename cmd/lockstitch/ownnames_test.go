package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// A page in a browser that was given a name which leads to this machine reads nothing.
func TestDevAnswersToItsOwnNamesAlone(t *testing.T) {
	y := startSystem(t, t.TempDir(), func(s *Settings) { s.HTTP.PublicURL = "https://Exports.example:8443/x" })
	get := func(h http.Handler, host string) int {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/openapi.json", nil)
		req.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	whole := *y.r.server.handler.Load()
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "LocalHost:1": 200, "127.0.0.1:8080": 200, "192.0.2.7": 200, "[::1]:8080": 200, "[::1]": 200,
		"exports.example": 200, "exports.example:80": 200,
		"rebound.example:8080": 421, "localhost.example": 421, "127.0.0.1.example": 421, "": 421,
	} {
		if got := get(whole, host); got != want {
			t.Errorf("%q is answered with %d, want %d", host, got, want)
		}
	}
	named := ownNames(HTTPSettings{Listen: "Box.lan:8080"}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if got := get(named, "box.lan:8080"); got != 200 {
		t.Errorf("the host of http_listen is answered with %d", got)
	}
}
