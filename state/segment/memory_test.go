package segment

import (
	"runtime"
	"sync"
	"testing"
)

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The estimate bounds the memory of the process: it may not be much below what is held, nor
// so far above that budgets are wasted.
func TestBytesAreHonest(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine, much to compute")
	}
	d := newTraffic(t, 20_000, 50_000)
	before := heap()
	b := NewBuffer()
	d.fill(b)
	held, said := heap()-before, b.Bytes()
	if said < held || said > 2*held {
		t.Errorf("a buffer holds %d bytes and says %d", held, said)
	}
	runtime.KeepAlive(d)
	runtime.KeepAlive(b)
}

func TestAddAllocatesNothingForWhatWasSeen(t *testing.T) {
	d := newTraffic(t, 100, 1000)
	b := NewBuffer()
	d.fill(b)
	n := 0
	// One allocation in 1024 rows is the next piece of the buffer.
	if avg := testing.AllocsPerRun(5000, func() { d.rows[n%len(d.rows)].add(b); n++ }); avg != 0 {
		t.Errorf("%v allocations a row", avg)
	}
}

func TestSliceIsSafeForConcurrentUse(t *testing.T) {
	d := newTraffic(t, 500, 3000)
	b := NewBuffer()
	d.fill(b)
	s := openAll(t, seal(t, b))[0]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := readExport(s); err != nil {
				t.Error(err)
			}
			if err := s.verify(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
