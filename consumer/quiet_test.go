package consumer

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lockstitch/state/kafka"
)

// An event topic that brings nothing, for long or ever, holds back nothing that the
// events of another one have done with; and what comes then finds what it needs.
func TestAQuietTopicHoldsBackNothing(t *testing.T) {
	t.Parallel()
	for _, used := range []bool{true, false} {
		t.Run(fmt.Sprintf("used=%v", used), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.topics.Events = append(w.topics.Events, "quiet-events")
			if _, err := kafka.Create(t.Context(), w.prod, w.topics, kafka.CreateOptions{Partitions: lanes, ReplicationFactor: 1}); err != nil {
				t.Fatal(err)
			}
			const days = 20
			now, p := time.Now(), partitionOfKey("p1")
			event := func(corr string) string {
				return fmt.Sprintf(`{"correlation_id":%q,"type":"SENT","account_id":"acme","section":"s1","server_time":%d}`, corr, now.UnixMilli())
			}
			dir := filepath.Join(t.TempDir(), "d")
			daily := func(c *Config) { c.DedupHorizon = day }
			r := w.start(dir, daily)
			r.awaitReady(t)
			begin := now.Add(-days * day)
			if used {
				w.produceAt(begin, "quiet-events", "p1", event("quiet"))
			}
			write := func(at time.Time, name string) {
				w.produceAt(at, "profiles", "p1", profileOf(name))
				w.produceAt(at, "email-events", "p1", event(name))
				w.settle(r.cat)
			}
			for i := range days {
				write(begin.Add(time.Duration(i)*day), fmt.Sprint("v", i))
			}
			write(now, "now")
			// The ends are asked for every second: one more cut knows of them.
			r.await(t, "the ends of the logs stay unknown", func(c *Consumer) bool {
				l := c.lanes[p]
				l.touch(time.Now())
				return min(l.inputs[0].quiet, l.inputs[1].quiet) == now.UnixMilli()-quietSlack
			})
			write(now, "last")
			generations := 0
			r.await(t, "no cut", func(c *Consumer) bool {
				generations = len(c.lanes[p].dd.blooms)
				return !c.lanes[p].dirty
			})
			if generations > 4 {
				t.Errorf("%d generations are kept, want those of the last days", generations)
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if v := w.versionsOn(dir, "p1"); len(v) > 4 {
				t.Errorf("%d versions are kept, want those of the last two days", len(v))
			}

			// It brings something while nobody reads it.
			log := &logged{}
			w.log = slog.New(slog.NewTextHandler(log, nil))
			w.produceAt(now, "quiet-events", "p1", event("again"))
			r = w.start(dir, daily)
			w.settle(r.cat)
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(log.String(), "reading the profiles anew") {
				t.Errorf("the profiles were read anew:\n%s", log.String())
			}
			if rows := w.rows(r.cat); !slices.Contains(rows, "again SENT last") {
				t.Errorf("rows %v", rows)
			}
		})
	}
}

// TestATopicPutBackOnTheListKnowsItsDuplicates: what the lane has dropped meanwhile, by
// the times of the other topic, is read again.
func TestATopicPutBackOnTheListKnowsItsDuplicates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.topics.Events
	both := append(slices.Clone(one), "second-events")
	w.topics.Events = both
	if _, err := kafka.Create(t.Context(), w.prod, w.topics, kafka.CreateOptions{Partitions: lanes, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	begin, dir := time.Now().Add(-10*day), filepath.Join(t.TempDir(), "d")
	event := func(corr string) string {
		return fmt.Sprintf(`{"correlation_id":%q,"type":"SENT","account_id":"acme","section":"s1","server_time":%d}`, corr, begin.UnixMilli())
	}
	with := func(topics []string, do func(*replica)) {
		t.Helper()
		w.topics.Events = topics
		r := w.start(dir, func(c *Config) { c.DedupHorizon = day })
		r.awaitReady(t)
		do(r)
		w.settle(r.cat)
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	with(both, func(*replica) {
		w.produceAt(begin, "second-events", "p1", event("c1"))
		w.produceAt(begin, "email-events", "p1", event("a0"))
	})
	w.produceAt(begin.Add(time.Hour), "second-events", "p1", event("c1")) // nobody reads it
	with(one, func(r *replica) {
		for i := 1; i <= 4; i++ {
			w.produceAt(begin.Add(time.Duration(i)*day), "email-events", "p1", event(fmt.Sprint("a", i)))
			w.settle(r.cat)
		}
	})
	with(both, func(*replica) {})
	rows := slices.DeleteFunc(w.rows(w.caughtUp()), func(row string) bool { return !strings.HasPrefix(row, "c1 ") })
	if len(rows) != 1 {
		t.Errorf("%d rows of one event and its retry within the horizon", len(rows))
	}
}
