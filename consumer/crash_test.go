package consumer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"lockstitch/internal/bubble"
	"lockstitch/state/objects"
)

// TestCrashAtEveryStepOfACut lets a replica die as each named step begins. What
// another replica, with an empty disk, makes of the log must be what an
// undisturbed one would have made.
func TestCrashAtEveryStepOfACut(t *testing.T) {
	t.Parallel()
	for _, step := range []string{StepUpload, StepBegin, StepProduce, StepOffsets, StepCommit, StepLocal, StepDone} {
		t.Run(strings.TrimPrefix(step, "cut/"), func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newVirtualWorld(t)
				for i := range 10 {
					w.produce("profiles", fmt.Sprintf("p%d", i), profileOf("v"))
				}
				// From here on Kafka's clock goes fast: minutes pass, and an hour ends.
				w.at = time.Now().Truncate(time.Hour).Add(2*time.Hour - 5*time.Minute)
				line := w.cable()
				died := make(chan struct{})
				release := make(chan struct{})
				armed := make(chan struct{})
				var once sync.Once
				a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
					line.connect(c)
					c.SessionTimeout = time.Second
					c.TransactionTimeout = time.Second
					c.Hook = func(at string) {
						select {
						case <-armed:
							if at == step {
								once.Do(func() {
									line.sever()
									close(died)
									<-release
								})
							}
						default:
						}
					}
				})
				a.awaitReady(t)
				for i := range 10 {
					w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
					w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
				}
				close(armed)
				w.event("p0", "last", "SENT")
				<-died
				b := w.start(filepath.Join(t.TempDir(), "b"), nil)
				b.awaitReady(t)
				for i := range 10 {
					w.event(fmt.Sprintf("p%d", i), fmt.Sprintf("c%02d", i), "SENT")
				}
				w.settle(b.cat)
				// The dead replica was only a zombie: now it goes on where it was.
				line.mend()
				close(release)
				if err := a.stop(); err != nil {
					t.Log("the zombie ended with:", err)
				}
				w.settle(b.cat)
				rows := w.rows(b.cat)
				var want []string
				for i := range 10 {
					want = append(want, fmt.Sprintf("c%02d SENT v", i))
				}
				want = append(want, "last SENT v")
				if got := strings.Join(rows, "\n"); got != strings.Join(want, "\n") {
					t.Errorf("rows:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
				}
				w.checkMarks(b.cat)
			})
		})
	}
}

// TestStoreOutage lets uploads fail for a while: nothing is committed, nothing
// is lost.
func TestStoreOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	flaky := &flakyStore{Store: w.store}
	w.store = flaky
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	r.awaitReady(t)
	flaky.fail(true)
	for i := range 10 {
		w.event("p1", fmt.Sprintf("c%02d", i), "SENT")
	}
	for flaky.failures() < 3 {
		if err := r.cat.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r.await(t, "the uploads that failed are not counted", func(c *Consumer) bool {
		return testutil.ToFloat64(c.metrics.cutFailures.WithLabelValues("upload")) >= 2
	})
	if rows := w.rows(r.cat); len(rows) != 0 {
		t.Errorf("%d rows committed without their object", len(rows))
	}
	flaky.fail(false)
	w.settle(r.cat)
	if rows := w.rows(r.cat); len(rows) != 10 {
		t.Errorf("%d rows, want 10", len(rows))
	}
}

type flakyStore struct {
	objects.Store
	mu   sync.Mutex
	down bool
	n    int
	left int // objects that it takes before it goes away; 0: it does not
}

// failAfter lets the store go away when it has taken n objects.
func (s *flakyStore) failAfter(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = n
}

func (s *flakyStore) fail(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *flakyStore) failures() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *flakyStore) Put(ctx context.Context, name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		s.n++
		return errors.New("the store is away")
	}
	if s.left > 0 {
		s.left--
		s.down = s.left == 0
	}
	return s.Store.Put(ctx, name, data)
}
