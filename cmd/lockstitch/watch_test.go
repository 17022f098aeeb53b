package main

import (
	"bytes"
	"strings"
	"sync"
)

// watch is a log that calls a function when a text is written to it.
type watch struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	want string
	then func()
}

func newWatch(want string, then func()) *watch { return &watch{want: want, then: then} }

func (w *watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.buf.Write(p)
	if w.then != nil && strings.Contains(w.buf.String(), w.want) {
		w.then()
		w.then = nil
	}
	return n, err
}

func (w *watch) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
