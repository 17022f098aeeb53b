package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/prometheus/procfs"
)

// memoryEvery is how often the heap's limit follows what is resident beside it.
const memoryEvery = time.Second

// stayWithin keeps the replica's resident memory within limit, in bytes, until ctx
// ends, as far as the garbage collector can: the Go runtime gets what the program
// itself and the memory that the runtime does not count leave, Pebble's cache and
// memtables and what the C allocator keeps of them. Where resident memory cannot
// be read, they are taken for three sixteenths.
func stayWithin(ctx context.Context, limit int64) error {
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		if outside, err := outsideGo(); err == nil {
			debug.SetMemoryLimit(heapLimit(limit, outside))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// heapLimit is what the Go runtime may use when so much is resident beside it:
// the rest, less a little for what comes before the next look, but at most 13 and
// at least 8 sixteenths. With less, collecting garbage would take the processors.
func heapLimit(limit, outside int64) int64 {
	return min(max(limit-limit/32-outside, limit/2), limit/16*13)
}

// outsideGo is the resident memory that the Go runtime does not count.
func outsideGo() (int64, error) {
	self, err := procfs.Self()
	if err != nil {
		return 0, err
	}
	stat, err := self.Stat()
	if err != nil {
		return 0, err
	}
	counted := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(counted)
	return int64(stat.ResidentMemory()) - int64(counted[0].Value.Uint64()-counted[1].Value.Uint64()), nil
}
