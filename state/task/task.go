// Package task tells of what goes on beside the events when it last succeeded: such a thing
// may stand still for a year before anybody sees it by what it leaves.
package task

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Tasks. The owner of lane 0 alone has the first two, each replica the others.
const (
	Retention = "retention" // of segments
	Merging   = "merging"   // of segments
	Sweeping  = "sweeping"  // of segment objects that nobody knows
	Cleaning  = "cleaning"  // of the files of reports
)

// Times is lockstitch_task_last_success_timestamp_seconds{task}: when a task last ended
// without an error or, before that, when it began to be this replica's. All parts of a replica
// that share a registry share it.
type Times struct{ at *prometheus.GaugeVec }

// NewTimes registers it, unless that was done. Without a registry nothing is told.
func NewTimes(reg prometheus.Registerer) Times {
	at := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "lockstitch_task_last_success_timestamp_seconds",
		Help: "When a task that goes on beside the events last ended without an error, or began to be this replica's, in seconds since the Unix epoch."}, []string{"task"})
	if reg == nil {
		return Times{at}
	}
	err := reg.Register(at)
	var already prometheus.AlreadyRegisteredError
	switch {
	case errors.As(err, &already):
		return Times{already.ExistingCollector.(*prometheus.GaugeVec)}
	case err != nil:
		panic(err) // as promauto does
	}
	return Times{at}
}

// Done notes that a look at a task has ended without an error, or that the task is this
// replica's from now on.
func (t Times) Done(task string) { t.at.WithLabelValues(task).SetToCurrentTime() }

// Forget notes that tasks are another replica's.
func (t Times) Forget(tasks ...string) {
	for _, task := range tasks {
		t.at.DeleteLabelValues(task)
	}
}
