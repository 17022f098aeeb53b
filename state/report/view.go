package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/kafka"
)

// IdempotencyTime is for how long an idempotency key is remembered.
const IdempotencyTime = 24 * time.Hour

// entry is one request and what followed it.
type entry struct {
	report    *Report // replaced, never changed
	partition int32
	keys      []string // of all records of the report but the request's own
	void      bool     // a repeat, or one too many
	withdrawn bool
	behind    *entry // void because of this one: the first under its idempotency key, its step's number or a later one
	own       int64  // what the question takes of memory beside what it shares; see share
	size      int64  // all that it takes; see measure
	repeated  bool   // a repeat was answered with this report
	place     int    // in view.files, from 1; 0: not there
}

func (e *entry) visible() bool { return !e.void && !e.withdrawn }
func (e *entry) pending() bool { return e.visible() && e.report.Pending() }

// countForNothing makes the entry void: nobody will ask what the request was about. behind: see entry.
func (e *entry) countForNothing(behind *entry) {
	e.void, e.behind, e.own = true, behind, 0
	q := e.report.Request
	e.report.Request = &Request{
		Version: q.Version, ID: q.ID, Account: q.Account, CreatedAt: q.CreatedAt,
		IdempotencyKey: q.IdempotencyKey, BodyHash: q.BodyHash, Step: q.Step,
	}
}

type account struct {
	entries []*entry          // visible ones, by ascending offset
	keys    map[string]*entry // idempotency key → the last request that was not void
	pending int
}

// view is the state that the records of the topic describe. Records of one
// partition are applied in offset order.
type view struct {
	mu       sync.RWMutex
	unusable error     // what could not be read; see Table.Err
	caughtUp time.Time // everything written before it is in the view
	byID     map[string]*entry
	accounts map[string]*account
	pending  map[string]*entry
	files    dueQueue
	orphans  map[string]orphan            // key → a record whose request or order has been removed
	orders   map[string]*order            // standing orders by id
	names    map[string]map[string]*order // account → name → live standing order
	sizes    map[string]int64             // account → what its entries and orders take of memory; see measure
	size     int64                        // what those of all accounts take
}

type orphan struct {
	partition int32
	written   time.Time
}

// currentFor is how long a view is taken for current after it has caught up. A replica
// asks whether it is ready four times within it.
const currentFor = time.Minute

// current is Table.Current; mu is held.
func (v *view) current(now time.Time) bool { return now.Sub(v.caughtUp) < currentFor }

func newView() *view {
	return &view{
		byID:     make(map[string]*entry),
		accounts: make(map[string]*account),
		pending:  make(map[string]*entry),
		orphans:  make(map[string]orphan),
		orders:   make(map[string]*order),
		names:    make(map[string]map[string]*order),
		sizes:    make(map[string]int64),
	}
}

// ValidID tells whether id can be a report id: 1 to 64 letters, digits, "-"
// and "_". It becomes part of object names.
func ValidID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// splitKey returns the kind of a record ("q/") and the id of the report or the
// standing order. Errors: kafka.ErrUnknownKind, others.
func splitKey(key string) (kind, id string, err error) {
	if len(key) < 3 || key[1] != '/' {
		return "", "", fmt.Errorf("unknown key %.80q", key)
	}
	kind, id = key[:2], key[2:]
	switch kind {
	case KeyRequest, KeyProgress, KeyExpired, KeyOrder, KeyChange, KeyPause, KeyTrouble, KeyDelivered:
	case KeyResult, KeyCancel, KeyDeletion:
		id, _, _ = strings.Cut(id, "/")
	default:
		return "", "", kafka.ErrUnknownKind
	}
	if !ValidID(id) {
		return "", "", fmt.Errorf("key %.80q holds no id", key)
	}
	return kind, id, nil
}

// errThereAlready says that a request or a standing order was stored before; it
// changes nothing.
var errThereAlready = errors.New("is there already")

// apply takes in one record. Errors: *kafka.DamagedError, *kafka.VersionError,
// errThereAlready.
func (v *view) apply(rec *kgo.Record) error {
	if ok, err := kafka.Verify(rec, Version); !ok {
		return err
	}
	if err := v.read(rec); err != nil && !errors.Is(err, errThereAlready) {
		return kafka.Unreadable(rec, err)
	} else if err != nil {
		return err
	}
	return nil
}

func (v *view) read(rec *kgo.Record) error {
	key := string(rec.Key)
	kind, id, err := splitKey(key)
	if err != nil {
		return err
	}
	// Before the lock, which every call waits for: the request of a step is as large as
	// there are partitions.
	var said any
	var bad error // counts only for a record that is looked at
	if rec.Value != nil {
		said, bad = decode(kind, rec.Value)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if rec.Value == nil {
		v.bury(kind, id, key)
		return nil
	}
	if isOrderKey(kind) {
		return v.applyOrder(rec, id, said, bad)
	}
	if kind == KeyRequest {
		if bad != nil {
			return bad
		}
		return v.request(rec, id, said.(*Request))
	}
	e := v.byID[id]
	if e == nil {
		// A record comes after its request, so the request has been removed,
		// and whoever did that was stopped before the rest.
		v.orphans[key] = orphan{rec.Partition, rec.Timestamp}
		return nil
	}
	if bad != nil {
		return bad
	}
	next := *e.report
	withdrawn := e.withdrawn
	switch x := said.(type) {
	case *Progress:
		if !rec.Timestamp.IsZero() {
			x.At = rec.Timestamp.UTC()
		}
		next.Progress = x
	case *Result:
		if x.Problem == nil && x.Object == "" && next.Request.Step == nil {
			return fmt.Errorf("a result without a problem and without an object")
		}
		if !x.At.IsZero() && !rec.Timestamp.IsZero() {
			x.Expires, x.At = x.Expires.Add(rec.Timestamp.Sub(x.At)), rec.Timestamp.UTC()
		}
		if next.Pending() {
			next.Result = x
		}
	case *Cancel:
		if !rec.Timestamp.IsZero() {
			x.At = rec.Timestamp.UTC()
		}
		switch {
		case x.Withdrawn:
			withdrawn = withdrawn || !e.repeated
		case !next.Cancelled:
			next.Cancelled, next.CancelledAt = true, x.At
		}
	case *Expired:
		next.Expired = true
	}
	if !slices.Contains(e.keys, key) {
		e.keys = append(e.keys, key)
	}
	v.change(e, func() { e.report, e.withdrawn = &next, withdrawn })
	return nil
}

// decode is what a record of a kind says.
func decode(kind string, value []byte) (said any, err error) {
	switch kind {
	case KeyRequest:
		said = new(Request)
	case KeyProgress:
		said = new(Progress)
	case KeyResult:
		said = new(Result)
	case KeyCancel:
		said = new(Cancel)
	case KeyExpired:
		said = new(Expired)
	case KeyOrder:
		said = new(Order)
	case KeyChange:
		said = new(Change)
	case KeyPause:
		said = new(Pause)
	case KeyTrouble:
		said = new(Trouble)
	case KeyDelivered:
		said = new(Delivered)
	case KeyDeletion:
		said = new(Deletion)
	}
	return said, json.Unmarshal(value, said)
}

func (v *view) request(rec *kgo.Record, id string, q *Request) error {
	if q.ID != id {
		return fmt.Errorf("request %.80q under the key of %q", q.ID, id)
	}
	if q.Account == "" {
		return fmt.Errorf("request without an account")
	}
	if v.byID[id] != nil {
		return fmt.Errorf("request %s %w", id, errThereAlready)
	}
	e := &entry{partition: rec.Partition, report: &Report{Request: q, Offset: rec.Offset}}
	v.byID[id] = e
	defer v.measure(e)
	if q.Step != nil {
		v.step(e)
		return nil
	}
	a := v.accounts[q.Account]
	if a == nil {
		a = &account{keys: make(map[string]*entry)}
		v.accounts[q.Account] = a
	}
	if q.IdempotencyKey != "" {
		if first := a.remembers(q.IdempotencyKey, q.CreatedAt); first != nil {
			e.countForNothing(first)
			if first.report.Request.BodyHash == q.BodyHash {
				first.repeated = true
			}
			return nil
		}
	}
	if q.MaxPending > 0 && a.pending >= q.MaxPending {
		e.countForNothing(nil)
		return nil
	}
	if q.IdempotencyKey != "" {
		a.keys[q.IdempotencyKey] = e
	}
	e.own = q.Question.share(&Question{})
	a.entries = append(a.entries, e)
	a.pending++
	v.pending[id] = e
	return nil
}

// remembers is the request that an idempotency key stands for at a time; nil:
// none.
func (a *account) remembers(key string, at time.Time) *entry {
	first := a.keys[key]
	if key == "" || first == nil || first.withdrawn || at.Sub(first.report.Request.CreatedAt) >= IdempotencyTime {
		return nil
	}
	return first
}

// change does fn and keeps the indexes right.
func (v *view) change(e *entry, fn func()) {
	wasPending, wasVisible := e.pending(), e.visible()
	fn()
	v.measure(e)
	v.files.update(e)
	if wasPending && !e.pending() {
		delete(v.pending, e.report.Request.ID)
	}
	if e.report.Request.Step != nil {
		return
	}
	a := v.accounts[e.report.Request.Account]
	if wasPending && !e.pending() {
		a.pending--
	}
	if wasVisible && !e.visible() {
		if i, ok := a.find(e.report.Offset); ok {
			a.entries = slices.Delete(a.entries, i, i+1)
		}
	}
}

// find returns the place of the entry with an offset, or where it would be.
func (a *account) find(offset int64) (int, bool) {
	return slices.BinarySearchFunc(a.entries, offset, func(e *entry, o int64) int {
		switch {
		case e.report.Offset < o:
			return -1
		case e.report.Offset > o:
			return 1
		}
		return 0
	})
}

// bury takes in a tombstone.
func (v *view) bury(kind, id, key string) {
	delete(v.orphans, key)
	if isOrderKey(kind) {
		v.buryOrder(kind, id, key)
		return
	}
	e := v.byID[id]
	if e == nil {
		return
	}
	if kind != KeyRequest {
		e.keys = slices.DeleteFunc(e.keys, func(k string) bool { return k == key })
		return
	}
	for _, k := range e.keys {
		v.orphans[k] = orphan{e.partition, e.report.Request.CreatedAt}
	}
	v.change(e, func() { e.withdrawn = true })
	v.files.remove(e)
	delete(v.byID, id)
	v.measure(e)
	q := e.report.Request
	if q.Step != nil {
		v.buryStep(e)
		return
	}
	a := v.accounts[q.Account]
	if a == nil {
		return // only what did not count was left of the account
	}
	if a.keys[q.IdempotencyKey] == e {
		delete(a.keys, q.IdempotencyKey)
	}
	if len(a.entries) == 0 && len(a.keys) == 0 {
		delete(v.accounts, q.Account)
	}
}
