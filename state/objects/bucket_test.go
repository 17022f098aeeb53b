package objects

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"gocloud.dev/blob/azureblob"

	"lockstitch/internal/bubble"
)

// An answer that is cut off is a failure of the store, to be tried again, and
// never the end of an object, which would be damage.
func TestAnswerCutOffIsNotTheEndOfTheObject(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write(make([]byte, 50))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer srv.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Open(ctx, "s3://bucket?use_path_style=true&region=us-east-1&endpoint="+srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Open(ctx, "segments/x", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.ReadFull(r, make([]byte, 100))
	if n != 50 || err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, then %v", n, err)
	}
}

// A store that sends a part of an object and then nothing, on a connection that stays, is
// given up, as a failure of the store: neither the end of the object nor an end that was
// asked for. A reader that takes longer between its reads is no such store.
func TestAReadThatStallsEnds(t *testing.T) {
	const stall = 500 * time.Millisecond
	silent := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write(make([]byte, 50))
		_ = http.NewResponseController(w).Flush()
		<-silent
	}))
	defer srv.Close()
	defer close(silent)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Open(ctx, "s3://bucket?use_path_style=true&region=us-east-1&endpoint="+srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.(*bucketStore).readStall = stall
	r, err := s.Open(ctx, "segments/x", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.ReadFull(r, make([]byte, 25)); n != 25 || err != nil {
		t.Fatalf("%d bytes, then %v", n, err)
	}
	<-time.After(2 * stall) // what the caller does with them
	if n, err := io.ReadFull(r, make([]byte, 25)); n != 25 || err != nil {
		t.Fatalf("%d bytes of those that have come, then %v", n, err)
	}
	for range 2 {
		n, err := r.Read(make([]byte, 50))
		if n != 0 || !errors.Is(err, errStalled) || errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) || ctx.Err() != nil {
			t.Errorf("%d bytes, then %v", n, err)
		}
	}
}

// A store that takes an upload, or its end, and never answers is given up likewise.
func TestAnUploadThatStallsEnds(t *testing.T) {
	silent := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-silent }))
	defer srv.Close()
	defer close(silent)
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Open(ctx, "s3://bucket?use_path_style=true&region=us-east-1&endpoint="+srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.(*bucketStore).writeStall = 500 * time.Millisecond
	for size, where := range map[int]string{100: "its end", 10 * partSize: "a part"} {
		w, err := s.Create(ctx, "exports/x")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if _, err = w.Write(make([]byte, size)); err == nil && size < partSize {
			err = w.Commit()
		}
		if !errors.Is(err, errUploadStalled) || errors.Is(err, context.Canceled) || ctx.Err() != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}

type nameless struct{}

func (nameless) Do(r *http.Request) (*http.Response, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: r.URL.Host, IsNotFound: true}}
}

// A name server that knows no address is a failure of the store, to be tried again:
// nothing is missing, and nothing is deleted.
func TestHostWithoutAddressIsNoMissingObject(t *testing.T) {
	bubble.Test(t, func(t *testing.T) { // the waits between the attempts take no time
		client, err := container.NewClientWithNoCredential("https://account.blob.core.windows.net/bucket", &container.ClientOptions{
			ClientOptions: azcore.ClientOptions{Transport: nameless{}, Retry: policy.RetryOptions{MaxRetries: -1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := azureblob.OpenBucket(t.Context(), client, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := &bucketStore{b: b, url: "azblob://bucket"}
		defer s.Close()
		_, opened := s.Open(t.Context(), "segments/x", 0, 1)
		_, looked := s.Stat(t.Context(), "segments/x")
		for op, err := range map[string]error{"Open": opened, "Stat": looked, "Delete": s.Delete(t.Context(), "segments/x")} {
			if err == nil || errors.Is(err, ErrNotExist) || final(err) {
				t.Errorf("%s: %v", op, err)
			}
		}
	})
}

// TestALookAfterTheClockWasSet: what is signed by a clock that was set is refused once, to a
// look without a word of why.
func TestALookAfterTheClockWasSet(t *testing.T) {
	var refusals atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refusals.Add(-1) >= 0 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Length", "5")
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	}))
	defer srv.Close()
	t.Setenv("AWS_ACCESS_KEY_ID", "x")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
	s, err := Open(t.Context(), "s3://bucket?region=us-east-1&use_path_style=true&endpoint="+srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	refusals.Store(1)
	if info, err := s.Stat(t.Context(), "a/b"); err != nil || info.Size != 5 {
		t.Errorf("looked at, %+v: %v", info, err)
	}
	refusals.Store(100)
	if _, err := s.Stat(t.Context(), "a/b"); err == nil || errors.Is(err, ErrNotExist) || refusals.Load() != 100-attempts {
		t.Errorf("without the right to look, asked %d times: %v", 100-refusals.Load(), err)
	}
}
