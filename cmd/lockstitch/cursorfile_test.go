package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// movedExport makes calls with a cursor file, each with a FILE of its own in dir.
type movedExport struct {
	y     *system
	dir   string // of the files
	kept  string // the cursor's file
	calls int
}

func newMovedExport(t *testing.T, y *system) *movedExport {
	return &movedExport{y: y, dir: t.TempDir(), kept: filepath.Join(t.TempDir(), "acme.cursor")}
}

// call makes one, which calls hook at each step.
func (m *movedExport) call(ctx context.Context, hook func(step string)) (file string, status int, errs string) {
	m.calls++
	file = filepath.Join(m.dir, fmt.Sprintf("acme-%d.csv.gz", m.calls))
	var e bytes.Buffer
	status = run(ctx, &app{out: io.Discard, err: &e, hook: hook}, []string{"export", "--url", m.y.r.localURL(),
		"--client-id", "demo", "--client-secret", "demo-secret", "--cursor-file", m.kept, "-o", file})
	return file, status, e.String()
}

// killed makes one that is killed as a step begins.
func (m *movedExport) killed(ctx context.Context, t *testing.T, step string) (file string) {
	t.Helper()
	const kill = "killed"
	defer func() {
		if err := recover(); err != kill {
			t.Fatalf("%s: ended with %v", step, err)
		}
		file = filepath.Join(m.dir, fmt.Sprintf("acme-%d.csv.gz", m.calls))
	}()
	_, status, errs := m.call(ctx, func(at string) {
		if at == step {
			panic(kill)
		}
	})
	t.Fatalf("%s: exit %d: %s", step, status, errs)
	return ""
}

// rows counts in how many rows of the files each event is.
func (m *movedExport) rows(t *testing.T) (rows map[string]int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.dir, "*.csv.gz"))
	if err != nil {
		t.Fatal(err)
	}
	rows = make(map[string]int)
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		all, err := csv.NewReader(z).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range all[1:] {
			rows[row[8]+" "+row[9]]++
		}
	}
	return rows
}

// left are the files beside the cursor, and the parts.
func (m *movedExport) left(t *testing.T) (names []string) {
	t.Helper()
	for _, pattern := range []string{m.kept + ".*", filepath.Join(m.dir, "*.part")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}

// TestAKilledCallWithACursorFileIsMadeGood at each step by the next call, whose FILE has
// another name as in a cron line: each event is in one file.
func TestAKilledCallWithACursorFileIsMadeGood(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir(), func(s *Settings) { s.Limits.ExportsPerMinute, s.Limits.DownloadsPerMinute = 1000, 1000 })
	events := y.produce(ctx, 40, 100).Events
	for _, c := range []struct {
		step      string
		named, at bool // FILE has its name; the cursor has moved
		unknown   bool // the call was killed before it wrote down what it was about to do
	}{
		{"cursor/begin", false, false, true},
		{"cursor/next", false, false, true},
		{"cursor/file", false, false, false},
		{"cursor/move", true, false, false},
		{"cursor/moved", true, true, false},
	} {
		m := newMovedExport(t, y)
		file := m.killed(ctx, t, c.step)
		if _, err := os.Stat(file); (err == nil) != c.named {
			t.Errorf("%s: the file: %v", c.step, err)
		}
		if _, err := os.Stat(m.kept); (err == nil) != c.at {
			t.Errorf("%s: the cursor: %v", c.step, err)
		}
		if _, status, errs := m.call(ctx, nil); status != 0 {
			t.Fatalf("%s: the next call: exit %d: %s", c.step, status, errs)
		}
		if left := m.left(t); len(left) > 0 && !(c.unknown && len(left) == 1 && left[0] == file+".part") {
			t.Errorf("%s: left behind: %v", c.step, left)
		}
		rows, twice := m.rows(t), 0
		for _, n := range rows {
			if n > 1 {
				twice++
			}
		}
		if len(rows) != events || twice > 0 {
			t.Errorf("%s: %d events of %d, %d of them more than once", c.step, len(rows), events, twice)
		}
	}
}

// TestAFileThatIsTakenAwayFromAKilledCall may have been used or not: the next call
// decides nothing, and says what to do for either.
func TestAFileThatIsTakenAwayFromAKilledCall(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	events := y.produce(ctx, 41, 100).Events
	for _, used := range []bool{false, true} {
		m := newMovedExport(t, y)
		file := m.killed(ctx, t, "cursor/move")
		if err := os.Rename(file, filepath.Join(t.TempDir(), "f")); err != nil {
			t.Fatal(err)
		}
		_, status, errs := m.call(ctx, nil)
		if status != 1 || !strings.Contains(errs, file) || m.calls != 2 || len(m.rows(t)) != 0 {
			t.Errorf("the next call: exit %d: %s", status, errs)
		}
		said := regexp.MustCompile(`(?m)^  (printf .*|rm .*)$`).FindAllStringSubmatch(errs, -1)
		if len(said) != 2 {
			t.Fatalf("it does not say what to do: %s", errs)
		}
		do, want := said[1][1], events
		if used {
			do, want = said[0][1], 0
		}
		if out, err := exec.CommandContext(ctx, "sh", "-c", do).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", do, err, out)
		}
		if _, status, errs := m.call(ctx, nil); status != 0 || len(m.rows(t)) != want {
			t.Errorf("after %s: exit %d, %d events, want %d: %s", do, status, len(m.rows(t)), want, errs)
		}
	}
}

// TestACursorThatCannotMoveLeavesNoFile: the next call would bring its rows once more,
// under another name.
func TestACursorThatCannotMoveLeavesNoFile(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir())
	events := y.produce(ctx, 42, 100).Events
	for _, c := range []struct{ step, directory string }{
		{"cursor/begin", ".part"},
		{"cursor/next", ".next"},
		{"cursor/move", ""},
	} {
		m := newMovedExport(t, y)
		directory := m.kept + c.directory
		_, status, errs := m.call(ctx, func(at string) {
			if at == c.step {
				if err := os.MkdirAll(filepath.Join(directory, "x"), 0o700); err != nil {
					t.Error(err)
				}
			}
		})
		if status != 1 || !strings.Contains(errs, "The cursor has not moved") || !strings.Contains(errs, directory) {
			t.Errorf("%s: exit %d: %s", c.step, status, errs)
		}
		if left, err := os.ReadDir(m.dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v %v", c.step, left, err)
		}
		if err := os.RemoveAll(directory); err != nil {
			t.Fatal(err)
		}
		if _, status, errs := m.call(ctx, nil); status != 0 || len(m.rows(t)) != events || len(m.left(t)) > 0 {
			t.Errorf("%s: the next call: exit %d, %d events, left %v: %s", c.step, status, len(m.rows(t)), m.left(t), errs)
		}
	}
}

// TestACursorsFileIsNotReplaced, neither by the next call with the same name nor where it
// comes while one is under way: the cursor is behind its rows.
func TestACursorsFileIsNotReplaced(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	y := startSystem(t, t.TempDir(), func(s *Settings) { s.Limits.ExportsPerMinute, s.Limits.DownloadsPerMinute = 1000, 1000 })
	events := y.produce(ctx, 43, 100).Events
	again := func(m *movedExport, hook func(string)) (string, int, string) {
		m.calls = 0 // the same name
		return m.call(ctx, hook)
	}
	m := newMovedExport(t, y)
	file, status, errs := m.call(ctx, nil)
	if status != 0 {
		t.Fatalf("exit %d: %s", status, errs)
	}
	before, err := readCursor(m.kept)
	if err != nil {
		t.Fatal(err)
	}
	more := y.produce(ctx, 44, 100).Events
	refused := func(when string, want int) {
		t.Helper()
		_, status, errs := again(m, nil)
		if status != 2 || !strings.Contains(errs, file+" is there; with --cursor-file") {
			t.Errorf("%s: exit %d: %s", when, status, errs)
		}
		if left := m.left(t); len(m.rows(t)) != want || len(left) > 0 {
			t.Errorf("%s: %d events, want %d, left %v", when, len(m.rows(t)), want, left)
		}
	}
	refused("the same name", events)
	if at, err := readCursor(m.kept); err != nil || at != before {
		t.Errorf("the cursor moved: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, status, errs := again(m, nil); status != 0 || len(m.rows(t)) != more {
		t.Errorf("taken away: exit %d, %d events, want %d: %s", status, len(m.rows(t)), more, errs)
	}

	// What a killed call has left is made good before.
	m = newMovedExport(t, y)
	file = m.killed(ctx, t, "cursor/move")
	refused("after a kill", events+more)
	if at, err := readCursor(m.kept); err != nil || at == beginning {
		t.Errorf("the cursor did not move behind the file: %q %v", at, err)
	}

	// Another program makes it at the last moment.
	m = newMovedExport(t, y)
	file, status, errs = m.call(ctx, func(at string) {
		if at == "cursor/file" {
			if err := os.WriteFile(filepath.Join(m.dir, "acme-1.csv.gz"), []byte("another's"), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	if status != 1 || !strings.Contains(errs, "is there; with --cursor-file") || !strings.Contains(errs, "The cursor has not moved") {
		t.Errorf("at the last moment: exit %d: %s", status, errs)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "another's" || len(m.left(t)) > 0 {
		t.Errorf("at the last moment: %q %v, left %v", text, err, m.left(t))
	}
}

// The files of a cursor and that of the rows, with its part, are all others. Nobody is
// asked for that: nobody answers there.
func TestACursorAndItsFileHaveOtherNames(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ cursor, out string }{
		{"c", "c"}, {"c", "c.next"}, {"c", "c.part"}, {"f.part", "f"}, {"c", ".c.lock"}, {"c", "x/../c"}, {"f.part.part", "f.part.part.part"},
	} {
		for _, at := range []string{dir, link} {
			cursor, out := filepath.Join(dir, c.cursor), at+"/"+c.out
			status, _, errs := command(context.Background(), nil, "export", "--url", "http://localhost:1", "--client-id", "a", "--client-secret", "b", "--cursor-file", cursor, "-o", out)
			if status != 2 || !strings.Contains(errs, "name another") {
				t.Errorf("%s and %s: exit %d: %s", cursor, out, status, errs)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%s and %s: left behind: %v %v", cursor, out, left, err)
			}
		}
	}
	if err := checkNames(filepath.Join(dir, "acme.cursor"), filepath.Join(dir, "acme.csv.gz")); err != nil {
		t.Error(err)
	}
	if err := checkNames("-", "-"); err != nil {
		t.Error(err)
	}
}

// Of a CURSOR.next that is cut off FILE has not got its name yet.
func TestHalfANextCursorIsForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	for _, text := range []string{"", `{"file":"/f","sha256":"`, "\x00\x00"} {
		if err := os.WriteFile(path+nextSuffix, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := settleCursor(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path + nextSuffix); err == nil {
			t.Errorf("%q is left", text)
		}
	}
}
