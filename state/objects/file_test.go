package objects

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func openTestFile(t *testing.T) (*fileStore, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deep", "er")
	s, err := Open(context.Background(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*fileStore), dir
}

// What a store holds is personal data, and what is delivered is for others. The
// directory of another above is left as others need it.
func TestWhoMayReadTheFiles(t *testing.T) {
	for name, c := range map[string]struct {
		open      func(context.Context, string) (Store, error)
		dir, file os.FileMode
	}{
		"a store":       {Open, 0o700, 0o600},
		"a destination": {OpenForOthers, 0o755, 0o644},
	} {
		t.Run(name, func(t *testing.T) {
			above := filepath.Join(t.TempDir(), "above")
			root := filepath.Join(above, "root")
			s, err := c.open(t.Context(), "file://"+root)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := s.Put(t.Context(), "a/b/c", []byte("x")); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]os.FileMode{
				above: 0o755, root: c.dir, filepath.Join(root, tempDir): c.dir, filepath.Join(root, "a"): c.dir,
				filepath.Join(root, "a", "b"): c.dir, filepath.Join(root, "a", "b", "c"): c.file,
			} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want&^umask() {
					t.Errorf("%s: %v %v, want %v", path, info, err, want)
				}
			}
		})
	}
}

// TestAStoreThatIsReadIsLeftAsItIs: nothing is made in it or taken out of it, by whoever
// reads it, and what it has not is told from that it is not there.
func TestAStoreThatIsReadIsLeftAsItIs(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	read := func() Store {
		t.Helper()
		s, err := OpenToRead(ctx, "file://"+dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := read()
	if body, err := s.Open(ctx, "a", 0, -1); err != nil {
		t.Error(err)
	} else {
		body.Close()
	}
	if _, err := s.Stat(ctx, "b"); !errors.Is(err, ErrNotExist) {
		t.Errorf("what is missing: %v", err)
	}
	if err := s.Put(ctx, "b", nil); err == nil || !strings.Contains(err.Error(), "opened to be read") {
		t.Errorf("Put: %v", err)
	}
	if err := s.Delete(ctx, "a"); err == nil || !strings.Contains(err.Error(), "opened to be read") {
		t.Errorf("Delete: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("there are now %v %v", left, err)
	}

	// What a writer has left there stays, and without it the store is not there.
	stale := filepath.Join(dir, tempDir, "stale")
	if err := os.Mkdir(filepath.Dir(stale), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * staleTemp)
	if err := os.Chtimes(stale, past, past); err != nil {
		t.Fatal(err)
	}
	s = read()
	if _, err := os.Stat(stale); err != nil {
		t.Errorf("it was swept: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(stale)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "b"); err == nil || errors.Is(err, ErrNotExist) {
		t.Errorf("of a volume that has gone: %v", err)
	}
}

// umask is what this process takes away from the modes that it asks for.
func umask() os.FileMode {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return os.FileMode(m)
}

// What a loss of power may take is what was not synced: the file must be synced
// before it has its name, every directory above it afterwards.
func TestPutSyncsBeforeAndAfterTheName(t *testing.T) {
	s, dir := openTestFile(t)
	final := filepath.Join(dir, "a", "b", "c")
	var synced []string
	s.sync = func(f *os.File) error {
		_, err := os.Stat(final)
		named := err == nil
		rel, err := filepath.Rel(dir, f.Name())
		if err != nil {
			return err
		}
		if strings.HasPrefix(rel, tempDir) {
			rel = "temp"
		}
		if isFile := rel == "temp"; isFile == named {
			t.Errorf("%s synced while the object's name existed: %v", rel, named)
		}
		synced = append(synced, rel)
		return f.Sync()
	}
	if err := s.Put(context.Background(), "a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(synced, " "); got != "temp a/b a ." {
		t.Errorf("synced %q", got)
	}
}

func TestFailedSyncIsAFailedPut(t *testing.T) {
	s, dir := openTestFile(t)
	broken := errors.New("disk is gone")
	s.sync = func(f *os.File) error { return broken }
	if err := s.Put(context.Background(), "a", []byte("x")); !errors.Is(err, broken) {
		t.Errorf("Put: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
		t.Error("an object that was not synced got its name")
	}
	left, err := os.ReadDir(filepath.Join(dir, tempDir))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v %v", left, err)
	}
}

func TestStaleTemporaryFilesAreSweptAndNeverListed(t *testing.T) {
	s, dir := openTestFile(t)
	old, young := filepath.Join(dir, tempDir, "old"), filepath.Join(dir, tempDir, "young")
	for _, f := range []string{old, young} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * staleTemp)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if err := s.List(context.Background(), "", func(i Info) error {
		t.Errorf("listed %s", i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), "file://"+dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the stale file is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a file that may be in use was removed: %v", err)
	}
}

// TestTemporaryFilesAreSweptAgain: a process that was killed and is back at once finds what
// it was writing young, and nobody may open the store for long after.
func TestTemporaryFilesAreSweptAgain(t *testing.T) {
	s, dir := openTestFile(t)
	left := filepath.Join(dir, tempDir, "left")
	if err := os.WriteFile(left, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		age, looked time.Duration // of the file, and since the store has looked
		stays       bool
	}{
		{0, 2 * staleTemp, true},
		{2 * staleTemp, staleTemp / 2, true},
		{2 * staleTemp, 2 * staleTemp, false},
	} {
		past := time.Now().Add(-c.age)
		if err := os.Chtimes(left, past, past); err != nil {
			t.Fatal(err)
		}
		s.swept.Store(time.Now().Add(-c.looked).UnixNano())
		if err := s.Put(t.Context(), fmt.Sprintf("a/%d", i), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(left); (err == nil) != c.stays {
			t.Errorf("last written to %s ago, looked at %s ago: %v", c.age, c.looked, err)
		}
	}
}

func TestDeleteRemovesEmptyDirectories(t *testing.T) {
	s, dir := openTestFile(t)
	ctx := context.Background()
	for _, n := range []string{"a/b/1", "a/2"} {
		if err := s.Put(ctx, n, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "a/b/1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "a", "b")); err == nil {
		t.Error("the empty directory is still there")
	}
	if _, err := s.Stat(ctx, "a/2"); err != nil {
		t.Error(err)
	}
}

// A directory that is gone, a volume that is not mounted, is no store without
// objects.
// A directory may go with all that is in it while it is listed.
func TestListWhileObjectsGo(t *testing.T) {
	t.Parallel()
	s, root := openTestFile(t)
	const all = 1500 // more than are read at a time
	if err := os.Mkdir(filepath.Join(root, "a"), 0o777); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if err := os.WriteFile(filepath.Join(root, "a", fmt.Sprint(i)), nil, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	err := s.List(t.Context(), "a/", func(Info) error {
		if n++; n == 1 {
			return os.RemoveAll(filepath.Join(root, "a"))
		}
		return nil
	})
	if err != nil || n == 0 || n >= all {
		t.Errorf("listed %d of %d, %v", n, all, err)
	}
}

func TestDirectoryGone(t *testing.T) {
	s, root := openTestFile(t)
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	away := root + ".away"
	if err := os.Rename(root, away); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"a/b", "nothing"} {
		_, err := s.Open(t.Context(), name, 0, -1)
		check("Open "+name, err)
		_, err = s.Stat(t.Context(), name)
		check("Stat "+name, err)
		check("Delete "+name, s.Delete(t.Context(), name))
	}
	check("List", s.List(t.Context(), "", func(Info) error { return nil }))
	check("List a/", s.List(t.Context(), "a/", func(Info) error { return nil }))
	check("Put", s.Put(t.Context(), "c", nil))
	if err := os.Rename(away, root); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
	if _, err := s.Stat(t.Context(), "nothing"); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, url := range []string{"", "ftp://x", "file://host/dir", "file:relative", "file:///x?y=z", "s3://", "s3://b?no_such=1", "gs://", "azblob://", "s3://b/../c", "http://u:hunter2@h/\x7f?sig=hunter2", "://hunter2"} {
		s, err := Open(context.Background(), url)
		if err == nil {
			s.Close()
			t.Errorf("Open(%q) succeeded", url)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the secret: %v", err)
		}
		if cerr := Check(context.Background(), url); cerr == nil || cerr.Error() != err.Error() {
			t.Errorf("Check(%q): %v; Open: %v", url, cerr, err)
		}
	}
}

func TestErrorsTellNoSecrets(t *testing.T) {
	cause := errors.New(`Put "https://user:hunter2@h/c/b?sv=1&sig=hunter2": dial tcp: refused`)
	err := &storeError{op: "writing", store: "azblob://c", name: "n", cause: cause}
	if want := `writing azblob://c object n: Put "https://h/c/b": dial tcp: refused`; err.Error() != want {
		t.Errorf("%s\nwant %s", err, want)
	}
}

func TestPart(t *testing.T) {
	long := strings.Repeat("å", 34) // 204 bytes when encoded
	for text, want := range map[string]string{
		"acme": "acme", "A-z_0.9~": "A-z_0.9~", "a/b": "a%2Fb", ".": "%2E", "..": "%2E.", ".a": "%2Ea", "a..b": "a..b",
		"å&b=c +%:@": "%C3%A5%26b%3Dc%20%2B%25%3A%40", "\x00\n\\": "%00%0A%5C",
		"":   "%sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		long: "%sha256-" + fmt.Sprintf("%x", sha256.Sum256([]byte(long))),
	} {
		if got := Part(text); got != want {
			t.Errorf("Part(%q) = %s, want %s", text, got, want)
		}
	}
}

func FuzzPart(f *testing.F) {
	for _, s := range []string{"", "a", ".", "..", "a/b", "%sha256-", "%73ha256-00", "\xff", strings.Repeat("x", 201)} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, text := range []string{a, b} {
			if err := CheckName(Part(text)); err != nil || strings.Contains(Part(text), "/") {
				t.Fatalf("Part(%q) = %q: %v", text, Part(text), err)
			}
		}
		if a != b && Part(a) == Part(b) {
			t.Fatalf("%q and %q are both written %q", a, b, Part(a))
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../x", "a=b/.c", "å/🙂", "a//", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if CheckName(name) != nil {
			return
		}
		for part := range strings.SplitSeq(name, "/") {
			e := encodePart(part)
			if strings.ContainsAny(e, "/\x00") || e == "." || e == ".." || e[0] == '.' {
				t.Fatalf("%q is written as %q", part, e)
			}
			if back, ok := decodePart(e); !ok || back != part {
				t.Fatalf("%q is written as %q and read as %q (%v)", part, e, back, ok)
			}
		}
	})
}
