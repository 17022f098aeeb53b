package kafka

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

// questions are those that a test has been asked; each waits to be answered.
type questions struct {
	n    atomic.Int64
	open chan func(error) // answers the oldest with its number, or an error
}

func (q *questions) ask(ctx context.Context) (int64, error) {
	n := q.n.Add(1)
	answered := make(chan error, 1)
	select {
	case q.open <- func(err error) { answered <- err }:
	case <-ctx.Done():
		return n, ctx.Err()
	}
	select {
	case err := <-answered:
		return n, err
	case <-ctx.Done():
		return n, ctx.Err()
	}
}

// call is one Do.
type call struct {
	done   chan struct{}
	answer int64
	err    error
}

func (c *call) isDone() bool {
	synctest.Wait()
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// sharing is a Shared whose questions a test answers.
func sharing(t *testing.T) (s *Shared[string, int64], q *questions, do func(context.Context) *call) {
	s, q = NewShared[string, int64](), &questions{open: make(chan func(error))}
	t.Cleanup(func() { s.Close(errors.New("closed")) })
	return s, q, func(ctx context.Context) *call {
		c := &call{done: make(chan struct{})}
		go func() {
			defer close(c.done)
			c.answer, c.err = s.Do(ctx, "x", q.ask)
		}()
		synctest.Wait() // it has come
		return c
	}
}

// TestWhoComesLateSharesTheNextAnswer, as that under way may be of before his call; the
// answer, and an error too, is that of all who came before its question began.
func TestWhoComesLateSharesTheNextAnswer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, q, do := sharing(t)
		waits := []*call{do(t.Context())}
		for i, want := range []error{nil, errors.New("refused"), nil} {
			var late []*call
			for range 100 {
				late = append(late, do(t.Context()))
			}
			if got := q.n.Load(); got != int64(i+1) {
				t.Fatalf("%d questions while the first %d are not answered", got, i+1)
			}
			(<-q.open)(want)
			for _, c := range waits {
				if !c.isDone() || c.answer != int64(i+1) || !errors.Is(c.err, want) {
					t.Fatalf("answer %d, %v; want %d, %v", c.answer, c.err, i+1, want)
				}
			}
			if late[0].isDone() {
				t.Fatal("who came late has the answer of before")
			}
			waits = late
		}
	})
}

// TestWhoLeavesTakesNobodyAlong: he goes at once, and the question goes on as long as
// anybody waits for it.
func TestWhoLeavesTakesNobodyAlong(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, q, do := sharing(t)
		ctx, leave := context.WithCancel(t.Context())
		alone, later, stays := do(ctx), do(ctx), do(t.Context())
		leave()
		if !alone.isDone() || !later.isDone() || !errors.Is(alone.err, context.Canceled) || !errors.Is(later.err, context.Canceled) {
			t.Errorf("%v, %v", alone.err, later.err)
		}
		(<-q.open)(nil) // of the second: the first ended with whom it was for
		if !stays.isDone() || stays.err != nil || stays.answer != 2 {
			t.Errorf("answer %d, %v", stays.answer, stays.err)
		}
		if len(s.lines) != 0 {
			t.Errorf("%d questions are remembered", len(s.lines))
		}
	})
}

// TestAQuestionThatHangsHoldsUpNobodyForLong: the next may come to another broker.
func TestAQuestionThatHangsHoldsUpNobodyForLong(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, q, do := sharing(t)
		hangs := do(t.Context())
		answer := <-q.open
		next := do(t.Context())
		time.Sleep(holdUp)
		(<-q.open)(nil)
		if !next.isDone() || next.answer != 2 || hangs.isDone() {
			t.Errorf("answer %d, %v", next.answer, next.err)
		}
		answer(nil)
		if !hangs.isDone() || hangs.answer != 1 {
			t.Errorf("answer %d, %v", hangs.answer, hangs.err)
		}
	})
}

// TestSharedIsClosed: whoever waits is told why, and nothing goes on.
func TestSharedIsClosed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, _, do := sharing(t)
		waits := []*call{do(t.Context()), do(t.Context())}
		why := errors.New("over")
		s.Close(why)
		waits = append(waits, do(t.Context()))
		for i, c := range waits {
			if !c.isDone() || !errors.Is(c.err, why) {
				t.Errorf("call %d: %v", i, c.err)
			}
		}
	})
}

// TestCallsShareTheirQuestions of a tail, and who calls after a record was acknowledged
// sees it, whatever question was under way.
func TestCallsShareTheirQuestions(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n := &kfake.VirtualNetwork{}
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "x"), kfake.Ports(9092), kfake.ListenFn(n.Listen))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...), kgo.Dialer(n.DialContext)}
		apply := make(chan struct{})
		tail, err := StartTail(t.Context(), TailConfig{
			Opts: opts, Topic: "x", Log: slog.New(slog.DiscardHandler),
			Apply: func(*kgo.Record) error { <-apply; return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		p, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := tail.CatchUp(t.Context(), 0); err != nil {
			t.Fatal(err)
		}

		var asked, ends atomic.Int64
		old := make(chan struct{})
		c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			asked.Add(1)
			return nil, nil, false
		})
		c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			if ends.Add(1) > 1 {
				return nil, nil, false
			}
			c.SleepControl(func() { <-old }) // and then the end of now
			resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
			resp.Topics = []kmsg.ListOffsetsResponseTopic{{Topic: "x", Partitions: []kmsg.ListOffsetsResponseTopicPartition{{Offset: 0, LeaderEpoch: -1}}}}
			return resp, nil, true
		})
		var callers sync.WaitGroup
		var failed atomic.Int64
		caughtUp := func() {
			if err := tail.CatchUp(t.Context(), 0); err != nil {
				failed.Add(1)
			}
		}
		callers.Go(caughtUp)
		synctest.Wait() // the first question is under way
		if err := p.ProduceSync(t.Context(), &kgo.Record{Topic: "x"}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		var after atomic.Int64
		const most = 2000
		for range most {
			callers.Go(func() {
				caughtUp()
				after.Add(1)
			})
		}
		synctest.Wait()
		close(old)
		time.Sleep(100 * time.Millisecond)
		if n := after.Load(); n > 0 {
			t.Errorf("%d calls have ended before the record was applied that was acknowledged before them", n)
		}
		close(apply)
		callers.Wait()
		if failed.Load() > 0 || after.Load() != most {
			t.Errorf("%d of %d calls have failed", failed.Load(), most)
		}
		if ends.Load() != 2 || asked.Load() > 10 {
			t.Errorf("%d calls: %d questions for ends, %d for metadata", most+1, ends.Load(), asked.Load())
		}
	})
}

// TestAQuestionHasTheTimeOfItsCallers: it may be asked for as long as they wait, and who
// waits until then learns what it has met with.
func TestAQuestionHasTheTimeOfItsCallers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewShared[string, int]()
		defer s.Close(errors.New("closed"))
		met := errors.New("no route to the broker")
		had := make(chan time.Duration, 10) // -1: no deadline
		do := func(wait time.Duration) error {
			ctx := t.Context()
			if wait > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, wait)
				defer cancel()
			}
			_, err := s.Do(ctx, "x", func(ctx context.Context) (int, error) {
				until, is := ctx.Deadline()
				if !is {
					had <- -1
					return 0, nil
				}
				had <- time.Until(until)
				<-ctx.Done()
				return 0, errors.Join(ctx.Err(), met)
			})
			return err
		}
		if err := do(time.Minute); !errors.Is(err, met) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after a minute: %v", err)
		}
		if got := <-had; got != time.Minute {
			t.Errorf("asked for %v", got)
		}
		var bg sync.WaitGroup
		bg.Go(func() { _ = do(time.Hour) }) // has a question of its own
		synctest.Wait()
		<-had
		for _, wait := range []time.Duration{time.Minute, 2 * time.Minute, 500 * time.Millisecond} {
			bg.Go(func() { _ = do(wait) })
		}
		synctest.Wait()
		time.Sleep(holdUp)
		synctest.Wait()
		if got := <-had; got != 2*time.Minute-holdUp {
			t.Errorf("asked for %v, want what the last of those who wait has left", got)
		}
		bg.Wait()
		if err := do(0); err != nil {
			t.Error(err)
		}
		if got := <-had; got != -1 {
			t.Errorf("asked for %v for who waits without end", got)
		}
	})
}
