package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"lockstitch/state/local"
)

// beginning is the cursor of who has none yet.
const beginning = "beginning"

// lockCursor takes the file of a cursor for this process, from before it is read
// until after it is written: two at a time would bring the same rows twice.
func lockCursor(path string) (io.Closer, error) {
	lock, err := local.Lock(vfs.Default, filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".lock"))
	if err != nil {
		return nil, fmt.Errorf("--cursor-file: %s %w", path, err)
	}
	return lock, nil
}

// checkNames refuses a FILE whose name, or that of its part, is of one of the files that
// a cursor is kept with: one would be written over the other.
func checkNames(cursor, out string) error {
	if out == "-" {
		return nil
	}
	lock := filepath.Join(filepath.Dir(cursor), "."+filepath.Base(cursor)+".lock")
	for _, of := range []string{cursor, cursor + ".part", cursor + nextSuffix, lock} {
		for _, name := range []string{out, out + ".part"} {
			if place(name) == place(of) {
				return usage(fmt.Errorf("--output %s: %s would be a file of the cursor as well, which --cursor-file %s keeps there; name another", out, name, cursor))
			}
		}
	}
	return nil
}

// place is a name by which two that lead to the same file can be told, whichever way
// their directory is named.
func place(name string) string {
	if dir, err := filepath.EvalSymlinks(filepath.Dir(name)); err == nil {
		name = filepath.Join(dir, filepath.Base(name))
	}
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	return name
}

// notThere is an error if FILE is there: the cursor has moved behind the rows in it, and
// no call would bring them again.
func notThere(file string) error {
	switch _, err := os.Lstat(file); {
	case err == nil:
		return fmt.Errorf("--output: %s is there; with --cursor-file its rows are in no other file: take it away or name another", file)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--output: %w", err)
	}
	return nil
}

// readCursor is the cursor that a file keeps; without the file, the beginning.
func readCursor(path string) (string, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return beginning, nil
	case err != nil:
		return "", fmt.Errorf("--cursor-file: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		// Never the beginning by accident: that would repeat everything.
		return "", fmt.Errorf("--cursor-file: %s is empty; remove it to start from the beginning", path)
	}
	return text, nil
}

// writeCursor replaces the file. Who calls it has its lock.
func writeCursor(path, cursor string) error {
	if err := replaceFile(path, []byte(cursor+"\n")); err != nil {
		return fmt.Errorf("--cursor-file: %w", err)
	}
	return nil
}

// cursorSink keeps a file and the cursor behind it together. Killed at whatever moment,
// the next call has both or neither (settleCursor), so that no row comes twice and none
// is left out. In this order, each durable before the next:
//
//	cursor/begin   the file is verified, in FILE.part
//	cursor/next    CURSOR.part holds the new cursor: there is room for it
//	cursor/file    CURSOR.next says what is about to happen
//	cursor/move    FILE.part has become FILE, which was not there
//	cursor/moved   CURSOR.part has become CURSOR
//
// Of what went to standard output nothing can be found out later: there is no CURSOR.next.
type cursorSink struct {
	sink
	path           string // of the cursor
	cursor, sha256 string // that it is to be, and of the file
	hook           func(step string)
}

// nextCursor is CURSOR.next.
type nextCursor struct {
	File   []byte `json:"file"` // absolute; names need not be UTF-8
	SHA256 string `json:"sha256"`
	Cursor string `json:"cursor"`
}

const nextSuffix = ".next"

func (s *cursorSink) step(name string) {
	if s.hook != nil {
		s.hook(name)
	}
}

// keep gives the file its name and moves the cursor, or leaves neither.
func (s *cursorSink) keep() error {
	s.step("cursor/begin")
	err := s.prepare()
	if err == nil {
		s.step("cursor/file")
		err = s.sink.keep()
	}
	if err == nil {
		s.step("cursor/move")
		err = os.Rename(s.path+".part", s.path)
	}
	if err != nil {
		return errors.Join(err, s.takeBack())
	}
	s.step("cursor/moved")
	if syncDir(filepath.Dir(s.path)) == nil {
		_ = forgetNext(s.path) // or else by the next call
	}
	return nil
}

// takeBack leaves neither file nor new cursor. A FILE goes before CURSOR.next does, which
// has to say what it is, and FILE.part after it: without the two somebody would seem to
// have taken FILE away.
func (s *cursorSink) takeBack() error {
	if file, ok := s.sink.(*fileSink); ok && file.kept {
		if err := s.drop(); err != nil {
			return err
		}
		return forgetNext(s.path)
	}
	if err := forgetNext(s.path); err != nil {
		return err
	}
	return s.drop()
}

// prepare writes down what is about to happen, and makes durable what that builds on.
func (s *cursorSink) prepare() error {
	if err := writeSynced(s.path+".part", []byte(s.cursor+"\n")); err != nil {
		return fmt.Errorf("--cursor-file: %w", err)
	}
	s.step("cursor/next")
	file, ok := s.sink.(*fileSink)
	if !ok {
		return nil
	}
	name, err := filepath.Abs(file.name)
	if err != nil {
		return err
	}
	if err := errors.Join(file.f.Sync(), syncDir(filepath.Dir(name))); err != nil {
		return err
	}
	b, err := json.Marshal(nextCursor{File: []byte(name), SHA256: s.sha256, Cursor: s.cursor})
	if err == nil {
		err = writeSynced(s.path+nextSuffix, append(b, '\n'))
	}
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		return fmt.Errorf("--cursor-file: %w", err)
	}
	return nil
}

// forgetNext removes CURSOR.next, and the new cursor if it was not used.
func forgetNext(path string) error {
	for _, name := range []string{path + nextSuffix, path + ".part"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--cursor-file: %w", err)
		}
	}
	return nil
}

// settleCursor makes good what a call left that was killed while it kept its file. Who
// calls it has the lock.
func settleCursor(path string) error {
	b, err := os.ReadFile(path + nextSuffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("--cursor-file: %w", err)
	}
	var next nextCursor
	if json.Unmarshal(b, &next) != nil { // cut off: FILE has not got its name
		return forgetNext(path)
	}
	at, err := readCursor(path)
	if err != nil {
		return err
	}
	if at == next.Cursor {
		return forgetNext(path)
	}
	part, err := isFile(string(next.File)+".part", next.SHA256)
	if err != nil {
		return err
	}
	if part { // and not FILE: its rows come with this call
		if err := forgetNext(path); err != nil {
			return err
		}
		return os.Remove(string(next.File) + ".part")
	}
	whole, err := isFile(string(next.File), next.SHA256)
	if err != nil {
		return err
	}
	if !whole {
		// Somebody has taken it away, to use it or to throw it away: either guess would
		// bring rows twice or leave them out.
		return fmt.Errorf("--cursor-file: a call was killed when it had written %s, and the file is not there as it was. If its rows are used, go on behind them:\n  printf '%%s\\n' %s > %s && rm %s\nIf they are not, have them again:\n  rm %[4]s",
			next.File, shellWord(next.Cursor), shellWord(path), shellWord(path+nextSuffix))
	}
	if err := writeCursor(path, next.Cursor); err != nil {
		return err
	}
	return forgetNext(path)
}

// isFile tells whether a file is there and has a digest.
func isFile(path, sha256 string) (bool, error) {
	got, err := fileSHA256(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return got == sha256, err
}
