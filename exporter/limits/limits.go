// Package limits counts calls for many callers in bounded memory: those of a minute
// (contract 3: token calls by client, requests and downloads by account), and those
// under way. Each replica counts for itself.
package limits

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxCallers bounds the callers remembered. The one not seen for longest is
// forgotten first, which gives it its full allowance back.
const maxCallers = 10_000

// PerMinute allows every caller a number of calls a minute, all at once if it
// likes; what was used comes back evenly over the minute.
type PerMinute struct {
	perMinute int

	mu     sync.Mutex
	order  *list.List // of *caller, seen last in front
	byName map[hash]*list.Element
}

// hash stands for a caller's name: who calls may choose that, long and as a part of
// something longer, which would be kept with it.
type hash [sha256.Size]byte

type caller struct {
	name hash
	lim  *rate.Limiter
}

// NewPerMinute makes a limit of n calls a minute, n >= 1.
func NewPerMinute(n int) *PerMinute {
	return &PerMinute{perMinute: n, order: list.New(), byName: make(map[hash]*list.Element)}
}

// Take counts one call at a time. If the caller has none left it says how long
// to wait for the next.
func (p *PerMinute) Take(name string, now time.Time) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A reservation that was made before another one gives nothing back when it is
	// cancelled: none is made between the two steps.
	r := p.limiter(sha256.Sum256([]byte(name))).ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return d, false
	}
	return 0, true
}

// limiter is the caller's own. mu is held.
func (p *PerMinute) limiter(name hash) *rate.Limiter {
	if el, ok := p.byName[name]; ok {
		p.order.MoveToFront(el)
		return el.Value.(*caller).lim
	}
	if p.order.Len() >= maxCallers {
		last := p.order.Back()
		delete(p.byName, last.Value.(*caller).name)
		p.order.Remove(last)
	}
	c := &caller{name: name, lim: rate.NewLimiter(rate.Limit(float64(p.perMinute)/60), p.perMinute)}
	p.byName[name] = p.order.PushFront(c)
	return c.lim
}
