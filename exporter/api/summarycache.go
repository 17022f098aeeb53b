package api

import (
	"container/list"
	"sync"

	"lockstitch/state/segment"
)

// summaryCache remembers summaries of stretches within a budget of bytes; the one
// not asked for longest goes first.
type summaryCache struct {
	budget int64   // of what is remembered
	making *memory // what is to be remembered while it is added up

	mu    sync.Mutex
	used  int64
	order *list.List // of *summary, asked for last in front
	byKey map[stretchKey]*list.Element
}

type summary struct {
	key   stretchKey
	parts []segment.Activity
	bytes int64
}

func newSummaryCache(budget int64) *summaryCache {
	return &summaryCache{budget: budget - budget/4, making: newMemory(budget / 4), order: list.New(), byKey: make(map[stretchKey]*list.Element)}
}

// get returns shared memory that must not be changed.
func (c *summaryCache) get(k stretchKey) ([]segment.Activity, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byKey[k]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*summary).parts, true
}

func (c *summaryCache) put(k stretchKey, parts []segment.Activity) {
	e := &summary{key: k, parts: parts, bytes: 256}
	for i := range parts {
		p := &parts[i]
		e.bytes += 160 + int64(len(p.Section)+len(p.ActivityID)+len(p.SplitID)+len(p.ActivityName)+len(p.SplitActivityName))
	}
	if e.bytes > c.budget/3 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[k]; ok {
		return
	}
	c.byKey[k] = c.order.PushFront(e)
	c.used += e.bytes
	for c.used > c.budget {
		last := c.order.Back()
		old := last.Value.(*summary)
		c.order.Remove(last)
		delete(c.byKey, old.key)
		c.used -= old.bytes
	}
}
