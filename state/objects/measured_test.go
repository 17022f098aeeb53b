package objects

import (
	"context"
	"errors"
	"io"
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// broken refuses all that it is asked.
type broken struct{ Store }

var errBroken = errors.New("broken")

func (broken) Put(context.Context, string, []byte) error { return errBroken }
func (broken) Open(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, errBroken
}
func (broken) Stat(context.Context, string) (Info, error)           { return Info{}, errBroken }
func (broken) List(context.Context, string, func(Info) error) error { return errBroken }
func (broken) Delete(context.Context, string) error                 { return errBroken }

// TestMeasured: each call is counted once, with what it says of the store: that an object is
// not there, or that its name is taken, is an answer, and who was called off knows nothing.
func TestMeasured(t *testing.T) {
	inner, err := Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	use := func(ctx context.Context, s Store) {
		_ = s.Put(ctx, "a/1", []byte("x"))
		_ = s.Put(ctx, "a/1", []byte("x")) // taken
		if w, err := s.Create(ctx, "a/2"); err == nil {
			_ = w.Commit()
		}
		if r, err := s.Open(ctx, "a/1", 0, -1); err == nil {
			_ = r.Close()
		}
		_, _ = s.Open(ctx, "a/none", 0, -1)
		_, _ = s.Stat(ctx, "a/1")
		_ = s.List(ctx, "a/", func(Info) error { return nil })
		_ = s.List(ctx, "a/", func(Info) error { return errBroken }) // by its caller
		_ = s.Delete(ctx, "a/1")
	}
	counts := func(s Store, ctx context.Context) map[string]uint64 {
		reg := prometheus.NewRegistry()
		use(ctx, Measured(s, reg))
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]uint64)
		for _, m := range families[0].GetMetric() {
			if n := m.GetHistogram().GetSampleCount(); n > 0 {
				got[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = n
			}
		}
		return got
	}
	off, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		got, want map[string]uint64
	}{
		"whole":      {counts(inner, t.Context()), map[string]uint64{"put ok": 2, "commit ok": 1, "open ok": 2, "stat ok": 1, "list ok": 1, "delete ok": 1}},
		"broken":     {counts(broken{inner}, t.Context()), map[string]uint64{"put error": 2, "commit ok": 1, "open error": 2, "stat error": 1, "list error": 2, "delete error": 1}},
		"called off": {counts(broken{inner}, off), map[string]uint64{}},
	} {
		if !maps.Equal(tc.got, tc.want) {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
}
