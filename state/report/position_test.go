package report

import (
	"fmt"
	"testing"

	"lockstitch/state/segment"
)

// show writes a position as topic/partition:offset.
func show(ends []End) (s string) {
	for _, e := range ends {
		s += fmt.Sprintf("%d/%d:%d ", e.TopicID[0], e.Partition, e.Offset)
	}
	return s
}

func at(topic byte, partition int32, offset int64) End {
	return End{TopicID: segment.TopicID{topic}, Partition: partition, Offset: offset}
}

func TestAReportEndsNowhereBelowWhereItBegan(t *testing.T) {
	after := []End{at(2, 0, 5), at(1, 1, 7), at(1, 0, 9), at(3, 0, 4)} // topic 3 is not known any more
	barrier := []End{at(1, 0, 8), at(1, 1, 20), at(2, 0, 5), at(2, 1, 1)}
	r := &Report{Request: &Request{Question: Question{After: after, Barrier: barrier}}, Result: &Result{}}
	if got, want := show(r.Through()), "1/0:9 1/1:20 2/0:5 2/1:1 3/0:4 "; got != want {
		t.Errorf("through the barrier: %s, want %s", got, want)
	}
	r.Result.Through = []End{at(1, 0, 8), at(1, 1, 12), at(2, 0, 5), at(2, 1, 0)}
	if got, want := show(r.Through()), "1/0:9 1/1:12 2/0:5 2/1:0 3/0:4 "; got != want {
		t.Errorf("ended early: %s, want %s", got, want)
	}
	if after[0] != at(2, 0, 5) || barrier[0] != at(1, 0, 8) {
		t.Error("the arguments have changed")
	}
	if got := Later(nil, nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestBetweenTwoPositions(t *testing.T) {
	after := []End{at(2, 0, 5), at(1, 1, 7), at(1, 0, 9), at(3, 0, 4)}
	end := []End{at(1, 0, 8), at(1, 1, 20), at(2, 0, 5), at(2, 1, 1), at(4, 0, 0)}
	got := ""
	for _, r := range Between(after, end) {
		got += fmt.Sprintf("%d/%d:%d-%d ", r.Source().ID[0], r.Source().Partition, r.Min, r.Next)
	}
	if want := "1/1:7-20 2/1:0-1 "; got != want {
		t.Errorf("between the positions: %s, want %s", got, want)
	}
}
