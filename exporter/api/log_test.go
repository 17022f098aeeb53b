package api

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"
)

// logged is what a replica has written to its log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// since is what came since the last call.
func (l *logged) since() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(l.text.String(), "")
}

// TestWhoChangedWhatIsLogged: one line of each call that has changed something, with who
// did it; none of one that has not.
func TestWhoChangedWhatIsLogged(t *testing.T) {
	var log logged
	r := newRig(t, func(_ *Config, d *Deps) { d.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	logs := func(what, want string) {
		t.Helper()
		if got := strings.TrimSuffix(log.since(), "\n"); got != want {
			t.Errorf("%s is logged as %q, want %q", what, got, want)
		}
	}
	order := func(what, method, call string, code int, want string) {
		t.Helper()
		if a := r.do(method, "/emails/rolling-exports/hourly"+call, "a", ""); a.StatusCode != code {
			t.Fatalf("%s: %d %s", what, a.StatusCode, a.body)
		}
		logs(what, want)
	}
	const who = " account=acme client=a "
	r.put("a", "hourly", `{"every":"PT1H","start":"now"}`, 201)
	logs("a creation", `level=INFO msg="a rolling export was created"`+who+"order=hourly")
	r.put("a", "hourly", `{"every":"PT15M"}`, 200)
	logs("a change", `level=INFO msg="a rolling export was changed"`+who+"order=hourly")
	r.put("a", "hourly", `{"every":"PT15M","start":"beginning"}`, 400)
	logs("a change that was refused", "")
	order("a pause", "POST", "/pause", 204, `level=INFO msg="a rolling export was paused"`+who+"order=hourly")
	order("a second pause", "POST", "/pause", 204, "")
	order("a resumption", "POST", "/resume", 204, `level=INFO msg="a rolling export was resumed"`+who+"order=hourly")
	order("a deletion", "DELETE", "", 204, `level=INFO msg="a rolling export was deleted"`+who+"order=hourly")
	order("a second deletion", "DELETE", "", 404, "")

	id := r.request("a", `{"after":"beginning"}`).ReportID
	log.since()
	r.delete("a", id)
	logs("a cancellation", `level=INFO msg="a report was cancelled"`+who+"report="+id)
	r.delete("a", id)
	logs("a second cancellation", "")
	id = r.request("a", `{"after":"beginning"}`).ReportID
	r.complete("acme", id, []byte("file"))
	log.since()
	r.delete("a", id)
	logs("the deletion of a file", `level=INFO msg="the file of a report was deleted"`+who+"report="+id)
	if a := r.do("DELETE", "/emails/reports/"+ulid.Make().String(), "a", ""); a.StatusCode != 404 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	logs("a report that is none", "")
}
