package run

import (
	"testing"

	"lockstitch/exporter/retained"
	"lockstitch/state/catalog"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// TestStepDoesNotWaitForWhatIsLostWithItsTopic: a boundary may be fixed, and the
// topic made anew before it is reached. Once nobody can cut of the earlier one,
// the standing order goes on; a report would be short.
func TestStepDoesNotWaitForWhatIsLostWithItsTopic(t *testing.T) {
	w := newWorld(t)
	r, err := New(Config{Kafka: w.opts, Topic: "reports"}, Deps{Reports: w.table(), Catalog: w.catalog, Store: w.store, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	anew := segment.TopicID{2}
	floor := catalog.Floor{Ends: []catalog.FloorEnd{{TopicID: topicID, Next: 3}}} // that the order began at
	barrier := report.Later([]report.End{{Topic: "events", TopicID: topicID, Offset: 10}}, retained.Beginning(floor))
	step := &report.Report{Request: &report.Request{Step: &report.Step{}, Question: report.Question{Barrier: barrier}}}
	plain := &report.Report{Request: &report.Request{Question: report.Question{Barrier: barrier}}}
	waits := func(when string, wantStep, wantPlain int) {
		t.Helper()
		if err := w.catalog.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s, p := len(r.waitingFor(step)), len(r.waitingFor(plain)); s != wantStep || p != wantPlain {
			t.Errorf("%s: the step waits for %d partitions, the report for %d; want %d, %d", when, s, p, wantStep, wantPlain)
		}
	}
	w.put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{topicID}}).Record("catalog"))
	w.put((&catalog.Position{Topic: "events", TopicID: topicID, Next: 7}).Record("catalog"))
	waits("in the first topic", 1, 1)
	w.put((&catalog.Adopted{Topic: "events", IDs: []segment.TopicID{topicID, anew}}).Record("catalog"))
	waits("while an owner of the lane may still cut", 1, 1)
	w.put((&catalog.Position{Topic: "events", TopicID: anew, Next: 0}).Record("catalog"))
	waits("after the lane has gone on", 0, 1)
	barrier[0].TopicID = anew
	waits("for the present topic", 1, 1)
}
