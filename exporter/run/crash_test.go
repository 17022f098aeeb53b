package run

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/internal/bubble"
	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/report"
)

// mortal is a replica's runner that dies as a step begins. One that is to come
// back as a zombie stands still there and goes on later; any other does nothing
// more, to the brokers or to the store.
type mortal struct {
	step   string
	zombie bool
	pause  string // a step before, at which it stands still until resumed

	died, back, paused, resumed, buried chan struct{}
	once, pauseOnce                     sync.Once

	mu    sync.Mutex
	conns []net.Conn
	cut   bool
	dial  dialer
}

func (w *world) mortal(step string, zombie bool) *mortal {
	m := &mortal{step: step, zombie: zombie, dial: w.dial}
	for _, c := range []*chan struct{}{&m.died, &m.back, &m.paused, &m.resumed, &m.buried} {
		*c = make(chan struct{})
	}
	return m
}

func (m *mortal) hook(at string) {
	if at == m.pause {
		m.pauseOnce.Do(func() { close(m.paused) })
		<-m.resumed
	}
	if at == m.step {
		m.once.Do(func() {
			m.sever(true)
			close(m.died)
		})
	}
	if !m.isDead() {
		return
	}
	if m.zombie {
		<-m.back
		return
	}
	<-m.buried
	runtime.Goexit()
}

func (m *mortal) isDead() bool {
	select {
	case <-m.died:
		return true
	default:
		return false
	}
}

// sever cuts the connection to the brokers, or mends it.
func (m *mortal) sever(cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = cut
	for _, conn := range m.conns {
		_ = conn.Close()
	}
	m.conns = nil
}

func (m *mortal) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := m.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cut {
		_ = conn.Close()
		return nil, errors.New("the cable is cut")
	}
	m.conns = append(m.conns, conn)
	return conn, nil
}

// start runs it. The returned function ends it, also where it stands still.
func (m *mortal) start(w *world, tweak func(*Config)) (stop func()) {
	w.t.Helper()
	opts := append(w.opts[:1:1], kgo.Dialer(m.connect))
	tab, err := report.Open(w.t.Context(), report.Config{Opts: opts, Topic: "reports", Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(tab.Close)
	cat, err := catalog.Open(w.t.Context(), catalog.Config{Opts: opts, Topic: "catalog", Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cat.Close)
	cfg := Config{Kafka: opts, Topic: "reports", SessionTimeout: w.session, Hook: m.hook}
	tweak(&cfg)
	r, err := New(cfg, Deps{Reports: tab, Catalog: cat, Store: &mortalStore{w.store, m}, Log: quiet})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		close(m.buried)
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// mortalStore takes nothing from the dead, and leaves what they had begun.
type mortalStore struct {
	objects.Store
	m *mortal
}

var errDead = errors.New("the replica is dead")

func (m *mortal) gone() bool { return m.isDead() && !m.zombie }

func (s *mortalStore) Create(ctx context.Context, name string) (objects.Writer, error) {
	if s.m.gone() {
		return nil, errDead
	}
	// Where all of it stands still, nothing calls the job off.
	w, err := s.Store.Create(context.WithoutCancel(ctx), name)
	return &mortalWriter{w, s.m}, err
}

func (s *mortalStore) Delete(ctx context.Context, name string) error {
	if s.m.gone() {
		return errDead
	}
	return s.Store.Delete(ctx, name)
}

type mortalWriter struct {
	objects.Writer
	m *mortal
}

func (w *mortalWriter) Commit() error {
	if w.m.gone() {
		return errDead
	}
	return w.Writer.Commit()
}

func (w *mortalWriter) Abort() {
	if !w.m.gone() {
		w.Writer.Abort()
	}
}

// awaitGone waits until it is written that the files of a report are gone.
func (w *world) awaitGone(tab *report.Table, id string) {
	w.t.Helper()
	for begun := time.Now(); time.Since(begun) < time.Hour; {
		changed := tab.Changed()
		if got, _ := tab.Get("acme", id); got.Expired {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Hour):
		}
	}
	w.t.Fatal("the files of a report that is over are not removed")
}

func (w *world) happens(what string, c <-chan struct{}) {
	w.t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		w.t.Fatal("does not happen: " + what)
	}
}

func (w *world) bytes(r *report.Report) []byte {
	w.t.Helper()
	rd, err := w.store.Open(w.t.Context(), r.Result.Object, 0, -1)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rd.Close()
	data, err := io.ReadAll(rd)
	if err != nil {
		w.t.Fatal(err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != r.Result.SHA256 || int64(len(data)) != r.Result.Bytes {
		w.t.Error("the object is not what the result says of it")
	}
	return data
}

// each runs a test in virtual time for every step and for both kinds of death.
func each(t *testing.T, steps []string, test func(t *testing.T, step string, zombie bool)) {
	for _, step := range steps {
		for _, zombie := range []bool{false, true} {
			name := strings.TrimPrefix(step, "report/")
			if zombie {
				name += ", zombie"
			}
			t.Run(name, func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) { test(t, step, zombie) })
			})
		}
	}
}

// TestCrashAtEveryStepOfAJob lets a runner die as each named step of a job begins.
// Others finish the report: with one result, whose file has the bytes of an
// undisturbed run. What is left of attempts that did not count goes at once if
// their runner comes back, and with the report otherwise.
func TestCrashAtEveryStepOfAJob(t *testing.T) {
	steps := []string{StepBarrier, StepPlan, StepRender, StepShorten, StepStore, StepResult, StepLost, StepDone}
	each(t, steps, func(t *testing.T, step string, zombie bool) {
		const events = 2000
		w := newVirtualWorld(t)
		w.commit(events)
		tweak := func(*Config) {}
		question := report.Question{Barrier: []report.End{{Topic: "events", TopicID: topicID, Offset: events}}}
		if step == StepShorten {
			tweak = func(c *Config) { c.MaxBytes = 2000 }
			question.Rolling = true
		}
		tab := w.table()
		submit := func(q report.Question) *report.Report {
			r, err := tab.Submit(t.Context(), &report.Request{
				ID: ulid.Make().String(), Account: "acme", CreatedAt: time.Now().UTC(), Body: []byte("{}"),
				Question: q, BarrierDeadline: time.Now().Add(time.Hour),
			}, 100)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		m := w.mortal(step, zombie)
		if step == StepLost {
			m.pause = StepResult // for so long that another result counts
		}
		stop := m.start(w, tweak)
		id := submit(question).Request.ID
		others := func() {
			w.runner(tab, w.store, tweak)
			w.runner(w.table(), w.store, tweak)
		}
		if m.pause != "" {
			w.happens("the runner comes to "+m.pause, m.paused)
			m.sever(true)
			others()
			w.await(tab, id, report.StatusCompleted)
			m.sever(false)
			close(m.resumed)
		}
		w.happens("the runner comes to "+step, m.died)
		if m.pause == "" {
			others()
		}
		r := w.await(tab, id, report.StatusCompleted)
		counts := r.Result.Attempt
		if zombie {
			m.sever(false)
			close(m.back)
		}
		stop()

		after := w.table()
		if err := after.CatchUp(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
		r, _ = after.Get("acme", id)
		if r.Result.Attempt != counts {
			t.Error("another result counts than the one that was answered")
		}
		files := 1
		if !zombie && (step == StepResult || step == StepLost) {
			files = 2 // the dead one's lies there until the report is over
		}
		if n := w.files(); n != files {
			t.Errorf("%d files, want %d", n, files)
		}
		rows := events
		if step == StepShorten {
			if !r.Result.More {
				t.Fatalf("the file is not shortened: %+v", r.Result)
			}
			rows = int(r.Result.Through[0].Offset)
			question.Barrier = r.Result.Through
		}
		if got := w.rows(r); got != rows {
			t.Errorf("%d rows, want %d", got, rows)
		}
		same := w.await(tab, submit(question).Request.ID, report.StatusCompleted)
		if !bytes.Equal(w.bytes(r), w.bytes(same)) {
			t.Error("the bytes are not those of an undisturbed run")
		}
		for _, id := range []string{id, same.Request.ID} {
			if err := tab.Cancel(t.Context(), "acme", id); err != nil {
				t.Fatal(err)
			}
			w.awaitGone(tab, id)
		}
		if n := w.files(); n != 0 {
			t.Errorf("%d files are left of attempts", n)
		}
	})
}

// TestCrashAtEveryStepOfCleaning lets a runner die as it removes the files of a
// report that has expired, or was cancelled.
func TestCrashAtEveryStepOfCleaning(t *testing.T) {
	each(t, []string{StepClean, StepExpired, StepCleaned}, func(t *testing.T, step string, zombie bool) {
		w := newVirtualWorld(t)
		w.commit(5)
		tab := w.table()
		m := w.mortal(step, zombie)
		cancelled := zombie
		stop := m.start(w, func(c *Config) {
			if !cancelled {
				c.FileLifetime = time.Minute
			}
		})
		id := w.submit(tab, 5, time.Hour).Request.ID
		w.await(tab, id, report.StatusCompleted)
		if n := w.files(); n != 1 {
			t.Errorf("%d files of a report that is completed", n)
		}
		if cancelled {
			if err := tab.Cancel(t.Context(), "acme", id); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-m.died:
		case <-time.After(time.Hour):
			t.Fatal("the runner does not come to " + step)
		}
		w.runner(tab, w.store, nil)
		w.runner(w.table(), w.store, nil)
		w.awaitGone(tab, id)
		if zombie {
			m.sever(false)
			close(m.back)
		}
		stop()
		r, _ := tab.Get("acme", id)
		if s := r.Status(time.Now()); s != report.StatusExpired {
			t.Errorf("status %v", s)
		}
		if n := w.files(); n != 0 {
			t.Errorf("%d files are left", n)
		}
	})
}

// TestFileStoredAfterCleaning lets a runner stand still before it stores its file,
// until the report was cancelled and cleaned, then store it and die: the file goes
// when the report does. So does that of a step whose order was deleted.
func TestFileStoredAfterCleaning(t *testing.T) {
	for name, begin := range map[string]func(*world, *report.Table) (id string, end func() error){
		"report": func(w *world, tab *report.Table) (string, func() error) {
			id := w.submit(tab, 5, time.Hour).Request.ID
			return id, func() error { return tab.Cancel(w.t.Context(), "acme", id) }
		},
		"step": func(w *world, tab *report.Table) (string, func() error) {
			step := w.submitStep(tab, 5)
			return step.Request.ID, func() error { return tab.DeleteOrder(w.t.Context(), "acme", step.Request.Step.Order) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newVirtualWorld(t)
				w.commit(5)
				tab := w.table()
				m := w.mortal(StepResult, false)
				m.pause = StepStore
				stop := m.start(w, func(*Config) {})
				id, end := begin(w, tab)
				w.happens("the runner is about to store the file", m.paused)
				m.sever(true)
				w.runner(tab, w.store, func(c *Config) { c.Retention = time.Hour })
				if err := end(); err != nil {
					t.Fatal(err)
				}
				w.awaitGone(tab, id)
				close(m.resumed)
				w.happens("the runner dies with the file stored", m.died)
				stop()
				if n := w.files(); n != 1 {
					t.Fatalf("%d files were stored too late, want 1", n)
				}
				for begun := time.Now(); ; {
					changed := tab.Changed()
					if _, known := tab.Get("acme", id); !known {
						break
					}
					select {
					case <-changed:
					case <-time.After(time.Hour):
					}
					if time.Since(begun) > 24*time.Hour {
						t.Fatal("the report is not removed")
					}
				}
				if n := w.files(); n != 0 {
					t.Errorf("%d files are left of a report that is not known any more", n)
				}
			})
		})
	}
}
