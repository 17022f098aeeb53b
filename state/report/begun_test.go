package report

import (
	"bytes"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// heldBack keeps back what is fetched from the first record on whose key begins so.
type heldBack struct {
	from []byte
	open chan struct{}
}

func (h *heldBack) OnFetchRecordBuffered(r *kgo.Record) {
	if bytes.HasPrefix(r.Key, h.from) {
		<-h.open
	}
}

// TestWhatIsReadByHalfIsNotPending: of a table that has just been opened, a report whose
// result follows is not pending before that is read. One in another partition, which
// has been read, is.
func TestWhatIsReadByHalfIsNotPending(t *testing.T) {
	opts := cluster(t)
	writer := open(t, opts)
	done := submit(t, writer, request("acme"), 0)
	for range 6 { // more than comes with one answer, and does not compress
		part := make([]byte, 600_000)
		_, _ = rand.Read(part)
		raw(t, writer, "acme", KeyProgress+done.Request.ID, map[string]any{"v": Version, "part": part})
	}
	if won, err := writer.WriteResult(t.Context(), "acme", done.Request.ID, result("exports/x")); err != nil || !won {
		t.Fatal(won, err)
	}
	other := "other"
	for writer.partition(other) == writer.partition("acme") {
		other += "-"
	}
	waits := submit(t, writer, request(other), 0)

	rest := &heldBack{from: []byte(KeyResult), open: make(chan struct{})}
	goOn := sync.OnceFunc(func() { close(rest.open) })
	tb := open(t, append(opts[:len(opts):len(opts)], kgo.WithHooks(rest)))
	defer goOn()
	late := time.After(30 * time.Second)
	for {
		changed := tb.Changed()
		_, half := tb.Get("acme", done.Request.ID)
		_, whole := tb.Get(other, waits.Request.ID)
		if half && whole {
			break
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%v and %v are read", half, whole)
		}
	}
	pending := func(when string) {
		t.Helper()
		if p := tb.Pending(); len(p) != 1 || p[0].Request.ID != waits.Request.ID {
			t.Errorf("%s: %d are pending, want that of the account that was read", when, len(p))
		}
	}
	if r, _ := tb.Get("acme", done.Request.ID); !r.Pending() {
		t.Fatal("all was read at once")
	}
	pending("by half")
	goOn()
	if err := tb.CatchUpAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	pending("as a whole")
	again := submit(t, tb, request("acme"), 0)
	if p := tb.Pending(); len(p) != 2 || p[1].Request.ID != again.Request.ID {
		t.Errorf("%d are pending after another one", len(p))
	}
}
