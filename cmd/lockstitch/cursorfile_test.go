package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A cron line with --cursor-file keeps in step with a growing log, over files
// that end early, calls that fail and a restart: every event is in one file.
func TestExportKeepsItsCursorInAFile(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	small := func(s *Settings) {
		s.Limits.MaxFileSize, s.Limits.ExportsPerMinute, s.Limits.DownloadsPerMinute = 12<<10, 1000, 1000
	}
	y := startSystem(t, dir, small)
	kept := filepath.Join(t.TempDir(), "acme.cursor")
	seen, events, early := make(map[string]int), 0, 0
	walk := func() {
		t.Helper()
		for more := true; more; {
			text, errs := y.export(ctx, y.r.localURL(), "--cursor-file", kept)
			rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range rows[1:] {
				seen[row[8]+" "+row[9]]++
			}
			if more = strings.Contains(errs, "there is more"); more {
				early++
			}
		}
	}
	for seed := range uint64(3) {
		events += y.produce(ctx, 20+seed, 700).Events
		// A file that cannot be written: the cursor stays.
		before, err := readCursor(kept)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"export", "--url", y.r.localURL(), "--client-id", "demo", "--client-secret", "demo-secret", "--cursor-file", kept, "-o", filepath.Join(t.TempDir(), "no", "directory")}
		if status, _, errs := command(ctx, nil, args...); status == 0 || !strings.Contains(errs, "cannot be written") {
			t.Errorf("exit %d: %s", status, errs)
		}
		if after, err := readCursor(kept); err != nil || after != before {
			t.Errorf("the cursor moved without a file: %v", err)
		}
		if seed == 1 {
			y.stop()
			y = startSystem(t, dir, small)
		}
		walk()
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is in %d files", id, n)
		}
	}
	if len(seen) != events || early == 0 {
		t.Errorf("%d of %d events, %d files ended early", len(seen), events, early)
	}

	// --after prints the cursor, and nothing else, on standard output.
	out := filepath.Join(t.TempDir(), "all.csv.gz")
	args := []string{"export", "--url", y.r.localURL(), "--client-id", "demo", "--client-secret", "demo-secret", "-o", out}
	status, first, errs := command(ctx, nil, append(args, "--after", "beginning")...)
	if status != 0 || len(strings.Fields(first)) != 1 || !strings.Contains(errs, "there is more") {
		t.Fatalf("exit %d: %q %s", status, first, errs)
	}
	// With --quiet nothing but whether there is more is said, until there is not.
	told := 0
	for after, more := first, true; more; {
		status, next, errs := command(ctx, nil, append(args, "--after", strings.TrimSpace(after), "--quiet")...)
		if more = errs != ""; status != 0 || next == after || more && (!strings.HasPrefix(errs, "there is more: ") || strings.Count(errs, "\n") != 1) {
			t.Fatalf("exit %d: %q %s", status, next, errs)
		}
		if after = next; more {
			told++
		}
	}
	if told == 0 {
		t.Error("with --quiet nothing says that there is more")
	}
	if status, _, errs := command(ctx, nil, append(args, "--after", "x"+first)...); status != 1 || !strings.Contains(errs, "/after") {
		t.Errorf("a cursor that is none: exit %d: %s", status, errs)
	}
}

func TestAnEmptyCursorFileIsNotTheBeginning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	if got, err := readCursor(path); got != beginning || err != nil {
		t.Errorf("without a file: %q %v", got, err)
	}
	if err := writeCursor(path, "abc"); err != nil {
		t.Fatal(err)
	}
	if got, err := readCursor(path); got != "abc" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if err := os.WriteFile(path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := "export --url http://localhost:1 --client-id a --client-secret b -o f --cursor-file "
	if status, _, errs := command(context.Background(), nil, strings.Fields(args+path)...); status != 1 || !strings.Contains(errs, "is empty") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if err := writeCursor(filepath.Join(path, "x"), "abc"); err == nil {
		t.Error("a cursor was written below a file")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if fmt.Sprint(left) != fmt.Sprint([]string{filepath.Join(filepath.Dir(path), ".c.lock"), path}) || err != nil {
		t.Errorf("left: %v %v", left, err)
	}
}

// Two cron lines overlap: the rows of the first are not brought once more by the
// second, which asks for nothing.
func TestACursorFileServesOneAtATime(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 30, 100)
	dir := t.TempDir()
	export := func(base string) (status int, errs string) {
		status, _, errs = command(ctx, nil, "export", "--url", base, "--client-id", "demo", "--client-secret", "demo-secret",
			"--cursor-file", filepath.Join(dir, "acme.cursor"), "-o", "-")
		return status, errs
	}
	base, count := files(t, y, func(_ int, w http.ResponseWriter, _ *http.Request, pass func(http.ResponseWriter)) {
		if status, errs := export(y.r.localURL()); status != 1 || !strings.Contains(errs, "--cursor-file: "+dir) || !strings.Contains(errs, "is in use by another process") {
			t.Errorf("the second: exit %d: %s", status, errs)
		}
		pass(w)
	})
	if status, errs := export(base); status != 0 || count() != 1 {
		t.Errorf("the first: exit %d after %d downloads: %s", status, count(), errs)
	}
	if status, errs := export(y.r.localURL()); status != 0 || !strings.Contains(errs, "-: 0 rows") {
		t.Errorf("the next: exit %d: %s", status, errs)
	}
	// Where it cannot be kept is found before anything is asked: nobody answers there.
	dir = filepath.Join(dir, "no")
	if status, errs := export("http://localhost:1"); status != 1 || !strings.Contains(errs, "--cursor-file: ") || !strings.Contains(errs, "cannot be written") {
		t.Errorf("no directory: exit %d: %s", status, errs)
	}
}

// Nobody can go on with the part of a call that kept its cursor in a file: the next
// one is about another report.
func TestAFailedCallWithACursorFileLeavesNoPart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	y.produce(ctx, 31, 500)
	ictx, interrupt := context.WithCancel(ctx)
	base, _ := files(t, y, func(n int, w http.ResponseWriter, r *http.Request, pass func(http.ResponseWriter)) {
		if n == 1 {
			pass(&shortWriter{ResponseWriter: w, left: 100})
			panic(http.ErrAbortHandler)
		}
		interrupt() // what has arrived is in the part by now
		<-r.Context().Done()
	})
	dir := t.TempDir()
	if status, _, errs := command(ictx, nil, "export", "--url", base, "--client-id", "demo", "--client-secret", "demo-secret",
		"--cursor-file", filepath.Join(t.TempDir(), "acme.cursor"), "-o", filepath.Join(dir, "f")); status != 130 || !strings.Contains(errs, "The cursor has not moved") {
		t.Errorf("exit %d: %s", status, errs)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
