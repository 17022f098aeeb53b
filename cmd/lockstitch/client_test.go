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
