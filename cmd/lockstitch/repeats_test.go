package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestRepeatedWarningsAreLeftOut(t *testing.T) {
	var out bytes.Buffer
	plain := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	root := leaveOutRepeats(plain)
	consumer := root.WithAttrs([]slog.Attr{slog.String("component", "consumer")})
	now := time.Now()
	say := func(h slog.Handler, level slog.Level, msg string, args ...any) {
		r := slog.NewRecord(now, level, msg, 0)
		r.Add(args...)
		if err := h.Handle(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 90 {
		say(consumer, slog.LevelWarn, "away", "lane", i%2, "err", fmt.Errorf("attempt %d", i))
		say(root, slog.LevelError, "away", "lane", 0, "err", errors.New("x"))
		say(root, slog.LevelInfo, "moved")
		now = now.Add(time.Second)
	}
	want := map[string]int{
		`level=WARN msg=away component=consumer lane=0 err="attempt 0"`:           1,
		`level=WARN msg=away component=consumer lane=1 err="attempt 1"`:           1,
		`level=WARN msg=away component=consumer lane=0 err="attempt 30" again=14`: 1,
		`level=WARN msg=away component=consumer lane=1 err="attempt 31" again=14`: 1,
		`level=WARN msg=away component=consumer lane=0 err="attempt 60" again=14`: 1,
		`level=WARN msg=away component=consumer lane=1 err="attempt 61" again=14`: 1,
		`level=ERROR msg=away lane=0 err=x`:                                       1,
		`level=ERROR msg=away lane=0 err=x again=29`:                              2,
		`level=INFO msg=moved`: 90,
	}
	got := make(map[string]int)
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		got[line]++
	}
	for line, n := range want {
		if got[line] != n {
			t.Errorf("%d times, want %d: %s", got[line], n, line)
		}
		delete(got, line)
	}
	if len(got) > 0 {
		t.Errorf("besides: %v", got)
	}
}

func TestRepeatsAreLeftOutOfEveryLog(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		log := (&app{err: &out}).logger(LogSettings{Level: "info", Format: format})
		for range 3 {
			log.Warn("away")
		}
		if n := strings.Count(out.String(), "away"); n != 1 {
			t.Errorf("%s: %d lines, want 1:\n%s", format, n, out.String())
		}
	}
}

// Warnings that are all different do not fill the memory instead of the log.
func TestRepeatsAreForgotten(t *testing.T) {
	h := &repeats{Handler: slog.NewTextHandler(io.Discard, nil), seen: &repeatsSeen{lines: make(map[string]*repeated)}}
	for i := range 3 * repeatsKept {
		slog.New(h).Warn("away", "lane", i)
	}
	if n := len(h.seen.lines); n == 0 || n > repeatsKept {
		t.Errorf("%d lines are remembered, want 1 to %d", n, repeatsKept)
	}
}
