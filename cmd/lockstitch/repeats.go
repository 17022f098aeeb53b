package main

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	repeatAfter = 30 * time.Second // a warning is written again after this long
	repeatsKept = 1000             // different warnings that are remembered
)

// repeats is a log handler that leaves out warnings and errors that were written
// less than 30 s ago: with the same message and attributes, whatever the err. The
// next one that is written says by "again" how many were left out. What is away for
// an hour, and whoever calls meanwhile, must not fill the log.
type repeats struct {
	slog.Handler
	attrs string // those of the logger
	seen  *repeatsSeen
}

type repeatsSeen struct {
	mu    sync.Mutex
	lines map[string]*repeated
}

type repeated struct {
	written time.Time
	leftOut int
}

func leaveOutRepeats(h slog.Handler) slog.Handler {
	return &repeats{Handler: h, seen: &repeatsSeen{lines: make(map[string]*repeated)}}
}

// Handle implements slog.Handler.
func (h *repeats) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return h.Handler.Handle(ctx, r)
	}
	var line strings.Builder
	line.WriteString(r.Message + h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "err" {
			line.WriteString(" " + a.String())
		}
		return true
	})
	leftOut, write := h.seen.write(line.String(), r.Time)
	if !write {
		return nil
	}
	if leftOut > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("again", leftOut))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *repeats) WithAttrs(attrs []slog.Attr) slog.Handler {
	more := h.attrs
	for _, a := range attrs {
		more += " " + a.String()
	}
	return &repeats{Handler: h.Handler.WithAttrs(attrs), attrs: more, seen: h.seen}
}

// WithGroup implements slog.Handler.
func (h *repeats) WithGroup(name string) slog.Handler {
	return &repeats{Handler: h.Handler.WithGroup(name), attrs: h.attrs + " " + name + ".", seen: h.seen}
}

// write says whether a line is to be written now, and how many like it were left
// out since the last one.
func (s *repeatsSeen) write(line string, now time.Time) (leftOut int, write bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lines[line]; l != nil {
		if now.Sub(l.written) < repeatAfter {
			l.leftOut++
			return 0, false
		}
		leftOut = l.leftOut
	} else if len(s.lines) >= repeatsKept {
		clear(s.lines)
	}
	s.lines[line] = &repeated{written: now}
	return leftOut, true
}
