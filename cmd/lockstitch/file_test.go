package main

import (
	"io/fs"
	"os"
	"path/filepath"
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
