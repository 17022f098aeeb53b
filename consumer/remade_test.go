package consumer

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// noticing lets the clients look at the topics all the time, and what they say of them
// go to the log.
func (w *world) noticing() *logged {
	log := &logged{}
	w.opts = append(w.opts, kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(50*time.Millisecond),
		kgo.WithLogger(kgo.BasicLogger(log, kgo.LogLevelWarn, nil)))
	return log
}

// TestDeadLettersMadeAnewUnderARunningReplica: the producer gives up for good a topic
// that was made anew, and every cut with a dead letter would fail until a restart.
func TestDeadLettersMadeAnewUnderARunningReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	log := w.noticing()
	r := w.start(filepath.Join(t.TempDir(), "d"), nil)
	w.produce("email-events", "p1", "{old")
	w.settle(r.cat)
	w.remake(w.topics.DeadLetters, 1)
	log.await(t, "metadata has a new ID", w.topics.DeadLetters)
	w.produce("email-events", "p1", "{new")
	w.settle(r.cat)
	dead := w.client(kgo.ConsumeTopics(w.topics.DeadLetters), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if recs := dead.PollFetches(t.Context()).Records(); len(recs) != 1 || string(recs[0].Value) != "{new" {
		t.Errorf("dead letters: %v", recs)
	}
}

// TestACatalogMadeAnewIsNotWrittenTo by a replica that knows the old one, be it that its
// producer knows that one still or has given it up.
func TestACatalogMadeAnewIsNotWrittenTo(t *testing.T) {
	t.Parallel()
	for _, noticed := range []bool{false, true} {
		w := newWorld(t)
		log := &logged{}
		if noticed {
			log = w.noticing()
		}
		r := w.start(filepath.Join(t.TempDir(), "d"), nil)
		w.produce("email-events", "p1", "{old")
		w.settle(r.cat)
		w.remake(w.topics.Catalog, 1)
		if noticed {
			log.await(t, "metadata has a new ID", w.topics.Catalog, "until it is purged")
		}
		w.produce("email-events", "p1", "{new")
		cut := false
		r.await(t, "no cut was tried", func(c *Consumer) bool {
			cut = c.lanes[partitionOfKey("p1")].inputs[0].committed.Next == 2
			return cut || testutil.ToFloat64(c.metrics.cutFailures.WithLabelValues("transaction")) >= 3
		})
		ends, err := kafka.Ends(t.Context(), w.prod, w.topics.Catalog)
		if err != nil {
			t.Fatal(err)
		}
		if end := ends[w.topics.Catalog][0].End; cut || end > 0 {
			t.Errorf("a cut was made: %v, and the catalog made anew ends at %d; noticed: %v", cut, end, noticed)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestACatalogMadeAnewDuringAnUpload is not written to either.
func TestACatalogMadeAnewDuringAnUpload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var armed atomic.Bool
	held, goOn := make(chan struct{}), make(chan struct{})
	r := w.start(filepath.Join(t.TempDir(), "d"), func(c *Config) {
		c.Hook = func(step string) {
			if step == StepUpload && armed.CompareAndSwap(true, false) {
				close(held)
				<-goOn
			}
		}
	})
	w.produce("email-events", "p1", "{old")
	w.settle(r.cat)
	armed.Store(true)
	w.produce("email-events", "p1", "{new")
	<-held
	w.remake(w.topics.Catalog, 1)
	close(goOn)
	r.await(t, "no cut was tried", func(c *Consumer) bool {
		return testutil.ToFloat64(c.metrics.cutFailures.WithLabelValues("transaction")) >= 1 || c.lanes[partitionOfKey("p1")].inputs[0].committed.Next == 2
	})
	ends, err := kafka.Ends(t.Context(), w.prod, w.topics.Catalog)
	if err != nil {
		t.Fatal(err)
	}
	if end := ends[w.topics.Catalog][0].End; end > 0 {
		t.Errorf("the catalog made anew ends at %d", end)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}
