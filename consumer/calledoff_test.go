package consumer

import (
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"lockstitch/internal/bubble"
)

// TestCutWithoutReplyCountsAsWhatItIs loses the end of a cut, or only the reply to
// it. In both cases nothing comes back; the replica goes on, and no event is lost
// or doubled.
func TestCutWithoutReplyCountsAsWhatItIs(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*cable, kmsg.Key) <-chan struct{}{"committed": (*cable).loseReply, "aborted": (*cable).loseRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newVirtualWorld(t)
				w.produce("profiles", "p1", profileOf("v"))
				w.tick()
				line := w.cable()
				a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
					line.connect(c)
					c.TransactionTimeout = time.Second
				})
				a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
				w.settle(a.cat)
				sent := lose(line, kmsg.EndTxn)
				w.event("p1", "c1", "SENT")
				await(t, "the cut's end is sent", sent)
				w.event("p1", "c1", "SENT")
				w.event("p1", "c2", "SENT")
				w.settle(a.cat)
				if got := w.rows(a.cat); !slices.Equal(got, []string{"c1 SENT v", "c2 SENT v"}) {
					t.Errorf("rows %v", got)
				}
			})
		})
	}
}

// TestCutCalledOffAtItsEndIsNotCommittedAgain stops a replica whose cut has
// committed without a reply, before it knows: what it holds is committed, and its
// last cut must not commit it a second time.
func TestCutCalledOffAtItsEndIsNotCommittedAgain(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		reading bool // it has a new producer already, and reads the catalog
	}{{"while it waits for the reply", false}, {"while it reads the catalog", true}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newVirtualWorld(t)
				w.produce("profiles", "p1", profileOf("v"))
				w.tick()
				line := w.cable()
				a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
					line.connect(c)
					c.TransactionTimeout = time.Second
				})
				a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
				w.settle(a.cat)

				// Somebody else's open transaction holds up who reads the catalog.
				foreign := w.client(kgo.TransactionalID("foreign"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
				if err := foreign.BeginTransaction(); err != nil {
					t.Fatal(err)
				}
				if err := foreign.ProduceSync(t.Context(), &kgo.Record{Topic: w.topics.Catalog, Key: []byte("x")}).FirstErr(); err != nil {
					t.Fatal(err)
				}
				reading := w.catalogRead(a.c.writer)
				sent := line.loseReply(kmsg.EndTxn)
				w.event("p1", "c1", "SENT")
				await(t, "the cut's end is sent", sent)
				if tc.reading {
					await(t, "the replica looks for its cut in the catalog", reading)
				}
				if err := a.stop(); err != nil {
					t.Fatal(err)
				}
				if err := foreign.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
					t.Fatal(err)
				}
				cat := w.caughtUp()
				if n := len(cat.Segments()); n != 1 {
					t.Errorf("%d segments hold the event, want 1", n)
				}

				b := w.start(filepath.Join(t.TempDir(), "b"), nil)
				w.event("p1", "c1", "SENT")
				w.event("p1", "c2", "SENT")
				w.settle(b.cat)
				if got := w.rows(b.cat); !slices.Equal(got, []string{"c1 SENT v", "c2 SENT v"}) {
					t.Errorf("rows %v", got)
				}
			})
		})
	}
}

// catalogRead returns a channel that is closed when somebody asks for the
// catalog's end after the named producer has been made anew.
func (w *world) catalogRead(writer string) <-chan struct{} {
	anew := false // control functions run one at a time
	var once sync.Once
	read := make(chan struct{})
	w.broker.ControlKey(kmsg.InitProducerID.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		id := req.(*kmsg.InitProducerIDRequest).TransactionalID
		anew = anew || id != nil && *id == writer
		return nil, nil, false
	})
	w.broker.ControlKey(kmsg.ListOffsets.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		for _, topic := range req.(*kmsg.ListOffsetsRequest).Topics {
			if anew && topic.Topic == w.topics.Catalog {
				once.Do(func() { close(read) })
			}
		}
		return nil, nil, false
	})
	return read
}

// TestCutCalledOffOnItsWay stops a replica whose cut is called off while the
// reply to its records does not come. It must neither wait for that nor give up
// what it holds: its last cut commits it.
func TestCutCalledOffOnItsWay(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newVirtualWorld(t)
		w.produce("profiles", "p1", profileOf("v"))
		w.tick()
		line := w.cable()
		a := w.start(filepath.Join(t.TempDir(), "a"), func(c *Config) {
			line.connect(c)
			c.TransactionTimeout = 5 * time.Minute
		})
		a.awaitLanes(t, func(ready, all int) bool { return ready == lanes })
		w.settle(a.cat)
		sent := line.loseReply(kmsg.Produce)
		w.event("p1", "c1", "SENT")
		await(t, "the cut's records are sent", sent)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			if err := a.stop(); err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-stopped:
		case <-time.After(revokeGrace):
			t.Error("the replica waits for replies that do not come and does not stop")
			<-stopped
		}
		cat := w.caughtUp()
		if got := w.rows(cat); !slices.Equal(got, []string{"c1 SENT v"}) {
			t.Errorf("the last cut has committed %v", got)
		}
		if n := len(cat.Segments()); n != 1 {
			t.Errorf("%d segments hold the event, want 1", n)
		}
	})
}
