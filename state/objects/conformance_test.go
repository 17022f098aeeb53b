package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// The suite below runs on the file store, and on the store that
// LOCKSTITCH_TEST_STORE_URL names, under a prefix of its own.

func TestFileStoreConforms(t *testing.T) {
	conform(t, "file://"+t.TempDir())
}

func TestStoreOfEnvironmentConforms(t *testing.T) {
	url := os.Getenv("LOCKSTITCH_TEST_STORE_URL")
	if url == "" {
		// Nothing is hidden by this: the suite above is the same one.
		url = "file://" + t.TempDir()
	}
	conform(t, url)
}

func conform(t *testing.T, url string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	s, err := Open(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	at := "conformance/" + ulid.Make().String() + "/"

	read := func(t *testing.T, name string, off, n int64) string {
		t.Helper()
		r, err := s.Open(ctx, name, off, n)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	names := func(t *testing.T, prefix string) []string {
		t.Helper()
		var out []string
		if err := s.List(ctx, prefix, func(i Info) error {
			out = append(out, i.Name)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		sort.Strings(out)
		return out
	}

	t.Run("put and read ranges", func(t *testing.T) {
		name := at + "put"
		if err := s.Put(ctx, name, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			off, n int64
			want   string
		}{{0, -1, "0123456789"}, {3, -1, "3456789"}, {3, 4, "3456"}, {0, 10, "0123456789"}, {9, 1, "9"}, {8, 100, "89"}, {10, -1, ""}, {10, 5, ""}, {11, 5, ""}} {
			if got := read(t, name, c.off, c.n); got != c.want {
				t.Errorf("Open(%d, %d) = %q, want %q", c.off, c.n, got, c.want)
			}
		}
		info, err := s.Stat(ctx, name)
		if err != nil || info.Size != 10 || info.Name != name {
			t.Errorf("Stat = %+v, %v", info, err)
		}
		if age := time.Since(info.ModTime); age > time.Hour || age < -time.Hour {
			t.Errorf("modified %v ago", age)
		}
	})
	t.Run("empty object", func(t *testing.T) {
		name := at + "empty"
		if err := s.Put(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int64{-1, 0, 5} {
			if got := read(t, name, 0, n); got != "" {
				t.Errorf("read %q", got)
			}
		}
	})
	t.Run("a name is taken once", func(t *testing.T) {
		name := at + "once"
		if err := s.Put(ctx, name, []byte("first")); err != nil {
			t.Fatal(err)
		}
		if err := s.Put(ctx, name, []byte("second")); !errors.Is(err, ErrExists) {
			t.Errorf("second Put: %v", err)
		}
		if err := s.Put(ctx, name, []byte("first")); !errors.Is(err, ErrExists) {
			t.Errorf("third Put, of the same bytes: %v", err)
		}
		w, err := s.Create(ctx, name)
		if err == nil {
			_, err = io.WriteString(w, "third")
			if err == nil {
				err = w.Commit()
			}
			w.Abort()
		}
		if !errors.Is(err, ErrExists) {
			t.Errorf("Create and Commit: %v", err)
		}
		if got := read(t, name, 0, -1); got != "first" {
			t.Errorf("read %q", got)
		}
	})
	t.Run("one of many racing writers wins", func(t *testing.T) {
		name := at + "race"
		var wg sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			wg.Go(func() { errs[i] = s.Put(ctx, name, fmt.Appendf(nil, "writer %d", i)) })
		}
		wg.Wait()
		won := -1
		for i, err := range errs {
			if err == nil {
				if won >= 0 {
					t.Fatalf("writers %d and %d both won", won, i)
				}
				won = i
			} else if !errors.Is(err, ErrExists) {
				t.Errorf("writer %d: %v", i, err)
			}
		}
		if won < 0 {
			t.Fatal("nobody won")
		}
		if got, want := read(t, name, 0, -1), fmt.Sprintf("writer %d", won); got != want {
			t.Errorf("stored %q, want %q", got, want)
		}
	})
	t.Run("streams", func(t *testing.T) {
		name := at + "stream"
		w, err := s.Create(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		chunk := bytes.Repeat([]byte("abcdefgh"), 1<<16)
		for range 20 { // 10 MiB: several parts where an upload has parts
			if _, err := w.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Stat(ctx, name); !errors.Is(err, ErrNotExist) {
			t.Errorf("visible before Commit: %v", err)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		w.Abort()
		if err := w.Commit(); err == nil {
			t.Error("second Commit succeeded")
		}
		if got := read(t, name, 0, -1); got != strings.Repeat(string(chunk), 20) {
			t.Errorf("read %d bytes that differ", len(got))
		}
	})
	t.Run("aborted and cancelled streams leave nothing", func(t *testing.T) {
		w, err := s.Create(ctx, at+"aborted")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "text")
		w.Abort()
		w.Abort()
		cctx, cancel := context.WithCancel(ctx)
		w, err = s.Create(cctx, at+"cancelled")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "text")
		cancel()
		if err := w.Commit(); err == nil {
			t.Error("Commit succeeded after its context was cancelled")
		}
		for _, name := range []string{"aborted", "cancelled"} {
			if _, err := s.Stat(ctx, at+name); !errors.Is(err, ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("what is missing", func(t *testing.T) {
		for _, name := range []string{at + "missing", at + "put/below", strings.TrimSuffix(at, "/")} {
			if _, err := s.Open(ctx, name, 0, -1); !errors.Is(err, ErrNotExist) {
				t.Errorf("Open %s: %v", name, err)
			}
			if _, err := s.Stat(ctx, name); !errors.Is(err, ErrNotExist) {
				t.Errorf("Stat %s: %v", name, err)
			}
			if err := s.Delete(ctx, name); err != nil {
				t.Errorf("Delete %s: %v", name, err)
			}
		}
	})
	t.Run("list and delete", func(t *testing.T) {
		want := []string{at + "l/%C3%A5/x", at + "l/.hidden", at + "l/a=b:c*?", at + "l/a/1", at + "l/a/2", at + "l/ab", at + "l/å🙂"}
		sort.Strings(want)
		for _, n := range want {
			if err := s.Put(ctx, n, []byte(n)); err != nil {
				t.Fatal(err)
			}
		}
		if got := names(t, at+"l/"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("List = %q\nwant   %q", got, want)
		}
		if got := names(t, at+"l/a/"); len(got) != 2 {
			t.Errorf("List a/ = %q", got)
		}
		if got := names(t, at+"l/a"); len(got) != 4 {
			t.Errorf("List a = %q", got)
		}
		if got := names(t, at+"l/none/"); len(got) != 0 {
			t.Errorf("List none/ = %q", got)
		}
		stop := errors.New("stop")
		if err := s.List(ctx, at+"l/", func(Info) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("List returned %v", err)
		}
		for _, n := range want {
			if got := read(t, n, 0, -1); got != n {
				t.Errorf("%s holds %q", n, got)
			}
			if err := s.Delete(ctx, n); err != nil {
				t.Fatal(err)
			}
		}
		if got := names(t, at+"l/"); len(got) != 0 {
			t.Errorf("left after Delete: %q", got)
		}
	})
	t.Run("names that are none", func(t *testing.T) {
		for _, n := range []string{"", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/./b", ".", "a\x00b", "a\nb", "a\\b", "a\xff", strings.Repeat("a/", 500) + "a", strings.Repeat("a", 241)} {
			if err := s.Put(ctx, n, nil); err == nil || errors.Is(err, ErrExists) {
				t.Errorf("Put %.20q: %v", n, err)
			}
			if _, err := s.Open(ctx, n, 0, -1); err == nil || errors.Is(err, ErrNotExist) {
				t.Errorf("Open %.20q: %v", n, err)
			}
			if err := s.Delete(ctx, n); err == nil {
				t.Errorf("Delete %.20q succeeded", n)
			}
		}
	})
}
