package definition

import (
	"slices"
	"sync"
)

// table is what the topic says, as far as it was applied.
type table struct {
	mu       sync.Mutex
	byKey    map[string]entry
	accounts map[string]*account
}

// entry is what one key says.
type entry struct {
	key    string
	offset int64
	def    definition
}

type account struct {
	// said holds for each definition what the keys say of it, lowest offset
	// first: the last counts.
	said     map[identity][]entry
	snapshot *Account // nil: to be made
}

func newTable() *table {
	return &table{byKey: map[string]entry{}, accounts: map[string]*account{}}
}

// put replaces what a key said; a nil def takes it back.
func (t *table) put(key string, offset int64, def *definition) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.byKey[key]; ok {
		t.remove(old)
		delete(t.byKey, key)
	}
	if def == nil {
		return
	}
	e := entry{key, offset, *def}
	t.byKey[key] = e
	a := t.accounts[def.account]
	if a == nil {
		a = &account{said: map[identity][]entry{}}
		t.accounts[def.account] = a
	}
	said := a.said[def.identity]
	at, _ := slices.BinarySearchFunc(said, offset, func(e entry, offset int64) int { return int(e.offset - offset) })
	a.said[def.identity] = slices.Insert(said, at, e)
	a.snapshot = nil
}

func (t *table) remove(e entry) {
	a := t.accounts[e.def.account]
	id := e.def.identity
	rest := slices.DeleteFunc(a.said[id], func(o entry) bool { return o.key == e.key })
	a.snapshot = nil
	if len(rest) > 0 {
		a.said[id] = rest
		return
	}
	if delete(a.said, id); len(a.said) == 0 {
		delete(t.accounts, e.def.account)
	}
}

var nobody = newAccount(nil)

// account is the snapshot of an account; of one without definitions an empty
// one.
func (t *table) account(id string) *Account {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.accounts[id]
	if a == nil {
		return nobody
	}
	if a.snapshot == nil {
		defs := make([]definition, 0, len(a.said))
		for _, said := range a.said {
			defs = append(defs, said[len(said)-1].def)
		}
		a.snapshot = newAccount(defs)
	}
	return a.snapshot
}
