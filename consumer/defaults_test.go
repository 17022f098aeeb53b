package consumer

import (
	"reflect"
	"testing"
	"time"

	"lockstitch/state/kafka"
)

// TestDefaults are what the contract and DESIGN.md say; what they leave out follows from
// them: nothing is swept before an upload under way can have been committed, and profiles
// are read anew before tombstones that were missed can be gone.
func TestDefaults(t *testing.T) {
	const day = 24 * time.Hour
	var c Config
	c.setDefaults()
	want := Config{
		Group: "lockstitch", MemoryBytes: 256 << 20, FlushInterval: 30 * time.Second, DedupHorizon: 7 * day, SessionTimeout: 10 * time.Second, TransactionTimeout: 10 * time.Second,
		ProfileStale: 84 * time.Hour, SweepAge: day, SweepEvery: time.Hour, Retention: 400 * day, RemovalNotice: day,
		MergeEvery: 5 * time.Minute, MergeFuture: day, MergeSpans: []time.Duration{time.Hour, day},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("%+v\nwant\n%+v", c, want)
	}
	if c.ProfileStale > kafka.KeepTombstone/2 || c.SweepAge < 2*uploadLimit {
		t.Errorf("profiles are stale after %v, orphans are swept after %v", c.ProfileStale, c.SweepAge)
	}
}
