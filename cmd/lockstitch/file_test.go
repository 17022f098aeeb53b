package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What one who was killed has left is taken up, and who fails leaves nothing.
func TestAFileIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, text := range []string{"first", "2"} {
		if err := os.WriteFile(path+".part", []byte("half of something longer"), privateFile); err != nil {
			t.Fatal(err)
		}
		if err := replaceFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); string(got) != text || err != nil {
			t.Errorf("%q %v, want %q", got, err, text)
		}
	}
	taken := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(taken, "x"), privateDir); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(taken, []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v %v", left, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != privateFile {
		t.Errorf("%v %v", info, err)
	}
}

func TestTheDataDirectoryIsForItsUserAlone(t *testing.T) {
	there := t.TempDir()
	if err := os.Chmod(there, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]fs.FileMode{there: 0o755, filepath.Join(t.TempDir(), "new", "data"): privateDir} {
		r := &replica{s: &Settings{Replica: ReplicaSettings{DataDir: dir}}}
		if err := r.lockDataDir(); err != nil {
			t.Fatal(err)
		}
		r.close()
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %o", dir, info, err, want)
		}
	}
}

// In a directory that others may write to, what lies where a file is to be written may
// have been put there to read it, to change it, or to have it written elsewhere.
func TestNothingIsWrittenToAFileOfOthers(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for name, put := range map[string]func(path string) error{
		"a link":        func(path string) error { return os.Symlink(elsewhere, path) },
		"a second name": func(path string) error { return os.Link(elsewhere, path) },
		"a pipe":        func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"another user's": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, privateFile), os.Chmod(path, 0o666), os.Chown(path, os.Geteuid()+1, -1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another user's" && os.Geteuid() != 0 {
				t.Skip("only root can make one")
			}
			if err := os.WriteFile(elsewhere, []byte("as it was"), privateFile); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "f")
			if err := put(path + ".part"); err != nil {
				t.Fatal(err)
			}
			to, err := openFile(path)
			if !errors.Is(err, errNotOwn) || !strings.Contains(err.Error(), path+".part") {
				t.Errorf("a download: %v", err)
			}
			if err == nil {
				to.Close()
			}
			if err := replaceFile(path, []byte("new")); err != nil {
				t.Error(err)
			}
			info, err := os.Lstat(path)
			if err != nil || !isOwnFile(info) || info.Mode() != privateFile {
				t.Errorf("what was written is %v, %v", info, err)
			}
			if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "as it was" {
				t.Errorf("elsewhere is %q, %v", b, err)
			}
		})
	}
}

// A part that everybody may read or change is its user's alone again from when it is
// taken up, and a FILE of another user does not say who may read what takes its place.
func TestAPartThatIsTakenUpIsForItsUserAlone(t *testing.T) {
	for owner, want := range map[int]fs.FileMode{os.Geteuid(): 0o644, os.Geteuid() + 1: privateFile} {
		if owner != os.Geteuid() && os.Geteuid() != 0 {
			continue // only root can make one
		}
		path := filepath.Join(t.TempDir(), "f")
		for name, mode := range map[string]fs.FileMode{path: 0o644, path + ".part": 0o666} {
			if err := errors.Join(os.WriteFile(name, []byte("half"), privateFile), os.Chmod(name, mode)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(path, owner, -1); err != nil {
			t.Fatal(err)
		}
		to, err := openFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path + ".part"); err != nil || info.Mode() != privateFile || to.size() != int64(len("half")) {
			t.Errorf("of %d bytes, %v %v", to.size(), info, err)
		}
		if err := errors.Join(to.keep(), to.Close()); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("in the place of a file of user %d: %v %v, want %v", owner, info, err, want)
		}
	}
}

// Who has made the directory may have put a signing key there that they know.
func TestDevTakesNoDirectoryOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make one")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, os.Geteuid()+1, -1); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	errs := newWatch("", nil)
	status := run(ctx, &app{out: newWatch("Lockstitch dev is running", stop), err: errs},
		[]string{"dev", "--data-dir", dir, "--kafka-listen", "localhost:0", "--http-listen", "localhost:0", "--admin-listen", "localhost:0"})
	if status != 1 || !strings.Contains(errs.text(), dir+" belongs to another user") {
		t.Errorf("exit %d: %s", status, errs.text())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it has %v, %v", left, err)
	}
}
