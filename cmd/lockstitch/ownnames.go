package main

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"lockstitch/exporter/api"
)

// ownNames passes on the calls that name this machine, an address, or the host of
// http_listen or public_url. By another name that leads here, which its owner can have
// changed to do so (DNS rebinding), a page in a browser would be let read everything with
// the client that all know.
func ownNames(s HTTPSettings, h http.Handler) http.Handler {
	names := []string{"localhost", hostname(s.Listen)}
	if u, err := url.Parse(s.PublicURL); err == nil {
		names = append(names, u.Hostname())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostname(r.Host)
		_, err := netip.ParseAddr(host)
		if err == nil || slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(name, host) }) {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusMisdirectedRequest)
		_ = json.NewEncoder(w).Encode(api.Problem{
			Type: "about:blank", Title: http.StatusText(http.StatusMisdirectedRequest), Status: http.StatusMisdirectedRequest,
			Detail: "dev answers to localhost, an address, and the host of --http-listen or --public-url. Start it with --public-url to have it answer to another name.",
		})
	})
}

// hostname is the host of host:port, or of a host alone.
func hostname(hostport string) string { return (&url.URL{Host: hostport}).Hostname() }
