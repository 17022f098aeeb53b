package main

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// bar is a progress bar on standard error if that is a terminal, and silent
// elsewhere.
type bar struct {
	name  string
	bytes bool // what is counted
	on    bool
	out   io.Writer
	b     *progressbar.ProgressBar
}

func (a *app) bar(quiet bool, name string, bytes bool) *bar {
	f, ok := a.err.(*os.File)
	if !ok || quiet {
		return &bar{}
	}
	info, err := f.Stat()
	return &bar{name: name, bytes: bytes, on: err == nil && info.Mode()&os.ModeCharDevice != 0, out: a.err}
}

// set shows so much of total; the first call makes the bar appear.
func (b *bar) set(done, total int64) {
	if !b.on {
		return
	}
	if b.b == nil {
		b.b = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.out), progressbar.OptionSetDescription(b.name),
			progressbar.OptionShowCount(), progressbar.OptionShowBytes(b.bytes), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	_ = b.b.Set64(done)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// end takes the bar away, so that other lines can follow.
func (b *bar) end() {
	if b.b != nil {
		_ = b.b.Finish()
	}
}
