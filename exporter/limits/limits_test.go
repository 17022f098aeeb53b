package limits

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestPerMinute(t *testing.T) {
	p := NewPerMinute(3)
	now := time.Unix(1_000_000, 0)
	for range 3 {
		if _, ok := p.Take("a", now); !ok {
			t.Fatal("refused within the allowance")
		}
	}
	wait, ok := p.Take("a", now)
	if ok || wait != 20*time.Second {
		t.Fatalf("the fourth call: %v, wait %s", ok, wait)
	}
	if _, ok := p.Take("b", now); !ok {
		t.Fatal("one caller takes from another")
	}
	if _, ok := p.Take("a", now.Add(19*time.Second)); ok {
		t.Fatal("a call too early, and refused calls count for nothing")
	}
	if _, ok := p.Take("a", now.Add(20*time.Second)); !ok {
		t.Fatal("refused after the wait")
	}
}

// Calls that are refused at the same time count for nothing, either: nobody waits
// longer for them.
func TestRefusedAtTheSameTime(t *testing.T) {
	p := NewPerMinute(1)
	now := time.Unix(1_000_000, 0)
	p.Take("a", now)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 10_000 {
				if wait, ok := p.Take("a", now); ok || wait != time.Minute {
					t.Errorf("a call too many: %v, wait %s", ok, wait)
					return
				}
			}
		})
	}
	callers.Wait()
	if wait, ok := p.Take("a", now.Add(time.Minute)); !ok {
		t.Errorf("refused after the wait, for %s more", wait)
	}
}

func TestCallersAreBounded(t *testing.T) {
	p := NewPerMinute(1)
	now := time.Unix(1_000_000, 0)
	p.Take("kept", now)
	for i := range 2 * maxCallers {
		p.Take(fmt.Sprint(i), now)
		if _, ok := p.Take("kept", now); ok {
			t.Fatal("a caller in use was forgotten")
		}
	}
	if len(p.byName) != maxCallers || p.order.Len() != maxCallers {
		t.Fatalf("%d callers remembered", len(p.byName))
	}
}

// What a caller calls itself takes no memory, however long it is, nor does what its name
// was cut out of.
func TestNamesAreNotKept(t *testing.T) {
	p := NewPerMinute(1)
	now := time.Unix(1_000_000, 0)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range maxCallers {
		body := fmt.Sprintf("%d%s", i, strings.Repeat("&", 8<<10))
		p.Take(body[:4<<10], now)
	}
	if took := (heap() - before) / maxCallers; took > 1<<10 {
		t.Errorf("%d bytes for each caller", took)
	}
	if len(p.byName) != maxCallers {
		t.Errorf("%d callers remembered", len(p.byName))
	}
}
