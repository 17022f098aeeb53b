package report

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// Errors of standing orders that callers tell apart.
var (
	ErrTooManyOrders = errors.New("too many standing orders")
	ErrNameTaken     = errors.New("the account has a standing order of this name")
)

// CreateOrder stores a standing order, whose ID must be a new one. Races are
// settled by the order of the records: ErrNameTaken if the account had a live
// order of this name before, ErrTooManyOrders if it had maxOrders (0: no limit).
// On any other error it is unknown whether the order was stored.
func (t *Table) CreateOrder(ctx context.Context, c *Order, maxOrders int) (*Standing, error) {
	if !ValidID(c.ID) || c.Account == "" || !ValidOrderName(c.Name) {
		return nil, fmt.Errorf("order id %.80q, account %.80q or name %.80q is not valid", c.ID, c.Account, c.Name)
	}
	o := *c
	o.Version, o.MaxOrders = Version, maxOrders
	p := t.partition(o.Account)
	// Most refusals need no record.
	if err := t.tail.CatchUp(ctx, p); err != nil {
		return nil, err
	}
	if err := t.orderRefusal(&o); err != nil {
		return nil, err
	}
	if _, err := t.write(ctx, p, KeyOrder+o.ID, &o); err != nil {
		return nil, fmt.Errorf("standing order %s: it is unknown whether it was stored: %w", o.ID, err)
	}
	t.view.mu.RLock()
	got := t.view.orders[o.ID]
	t.view.mu.RUnlock()
	switch {
	case got == nil:
		return nil, fmt.Errorf("standing order %s: it cannot be read back", o.ID)
	case !got.void:
		t.view.mu.RLock()
		defer t.view.mu.RUnlock()
		return got.snapshot(), nil
	}
	if err := t.orderRefusal(&o); err != nil {
		return nil, err
	}
	// What stood in its way has gone meanwhile.
	return nil, ErrNameTaken
}

func (t *Table) orderRefusal(o *Order) error {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	names := t.view.names[o.Account]
	switch {
	case names[o.Name] != nil:
		return ErrNameTaken
	case o.MaxOrders > 0 && len(names) >= o.MaxOrders:
		return ErrTooManyOrders
	}
	return nil
}

// OrderNamed returns the live standing order of an account's name as the view
// has it.
func (t *Table) OrderNamed(account, name string) (*Standing, bool) {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	if o := t.view.names[account][name]; o != nil {
		return o.snapshot(), true
	}
	return nil, false
}

// Order returns a standing order by its id, live or deleted.
func (t *Table) Order(id string) (*Standing, bool) {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	if o := t.view.orders[id]; o != nil && !o.void {
		return o.snapshot(), true
	}
	return nil, false
}

// ListOrders returns up to limit of an account's live orders by name, fewer of large
// ones (PageBytes), and the token of the next page ("" behind the last). The first page
// has the token "". ErrBadPageToken for a token that ListOrders did not make.
func (t *Table) ListOrders(account string, limit int, pageToken string) (items []*Standing, next string, err error) {
	after := ""
	if pageToken != "" {
		raw, err := base64.RawURLEncoding.DecodeString(pageToken)
		name, ok := strings.CutPrefix(string(raw), "o")
		if err != nil || !ok || !ValidOrderName(name) {
			return nil, "", ErrBadPageToken
		}
		after = name
	}
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	names := make([]string, 0, len(t.view.names[account]))
	for n := range t.view.names[account] {
		if n > after {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	size := 0
	for i, n := range names {
		if i == limit || size >= PageBytes {
			next = base64.RawURLEncoding.EncodeToString([]byte("o" + names[i-1]))
			break
		}
		o := t.view.names[account][n].snapshot()
		items = append(items, o)
		size += len(o.Settings.Body)
	}
	return items, next, nil
}

// Orders returns the live orders of all accounts that mine picks by their ids,
// oldest first.
func (t *Table) Orders(mine func(id string) bool) []*Standing {
	if t.Err() != nil {
		return nil
	}
	t.view.mu.RLock()
	var out []*Standing
	for id, o := range t.view.orders {
		if o.live() && mine(id) {
			out = append(out, o.snapshot())
		}
	}
	t.view.mu.RUnlock()
	slices.SortFunc(out, func(a, b *Standing) int {
		return cmp.Or(a.Order.CreatedAt.Compare(b.Order.CreatedAt), cmp.Compare(a.Order.ID, b.Order.ID))
	})
	return out
}

// Files returns up to limit of an order's steps that have made a file with a
// number above after and not expired at a time, by ascending number without gaps:
// behind one, files that were made with a shorter lifetime than those before, it ends.
func (t *Table) Files(id string, after int64, limit int, now time.Time) []*Report {
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	o := t.view.orders[id]
	if o == nil || !o.live() {
		return nil
	}
	from, _ := slices.BinarySearchFunc(o.steps, after, func(e *entry, after int64) int {
		if e.report.Request.Step.Files < after {
			return -1
		}
		return 1
	})
	var out []*Report
	for _, e := range o.steps[from:] {
		r, n := e.report, len(out)
		if !r.MadeFile() || r.Status(now) != StatusCompleted {
			continue
		}
		if n == limit || n > 0 && r.Files() != out[n-1].Files()+1 {
			break
		}
		out = append(out, r)
	}
	return out
}

// ErrVoid says that another step of the same number came first, or that the
// order has ended.
var ErrVoid = errors.New("the step does not count")

// SubmitStep stores the request of a step. The step returned is the one that
// counts: another replica's if that came first. ErrVoid if none of this number
// counts, ErrTooLarge if the request has more than MaxRequest bytes. On any other
// error it is unknown whether the request was stored; the step may be submitted
// again, under another id.
func (t *Table) SubmitStep(ctx context.Context, req *Request) (*Report, error) {
	if !ValidID(req.ID) || req.Account == "" || req.Step == nil {
		return nil, fmt.Errorf("report id %.80q or account %.80q is not valid, or it is no step", req.ID, req.Account)
	}
	q := *req
	q.Version = Version
	data, err := q.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := t.store(ctx, t.partition(q.Account), KeyRequest+q.ID, data); err != nil {
		return nil, fmt.Errorf("step %d of standing order %s: it is unknown whether it was stored: %w", q.Step.Seq, q.Step.Order, err)
	}
	t.view.mu.RLock()
	defer t.view.mu.RUnlock()
	switch e := t.view.byID[q.ID]; {
	case e == nil:
		return nil, fmt.Errorf("report %s: the stored request cannot be read back", q.ID)
	case e.behind != nil && e.behind.report.Request.Step.Seq == q.Step.Seq:
		return e.behind.report, nil
	case !e.void:
		return e.report, nil
	}
	return nil, ErrVoid
}

// writeOrder writes one record of an order that must be live. ErrNotFound if it
// is not.
func (t *Table) writeOrder(ctx context.Context, account, id, key string, value any) error {
	if s, ok := t.Order(id); !ok || s.Deleted || s.Order.Account != account {
		return ErrNotFound
	}
	_, err := t.write(ctx, t.partition(account), key, value)
	return err
}

// ChangeOrder replaces the settings of an order; they hold from its next step
// on. ErrNotFound if it was deleted before.
func (t *Table) ChangeOrder(ctx context.Context, account, id string, s Settings) error {
	return t.writeOrder(ctx, account, id, KeyChange+id, &Change{Version: Version, Settings: s})
}

// PauseOrder stops an order before its next step, or lets it go on.
func (t *Table) PauseOrder(ctx context.Context, account, id string, paused bool) error {
	return t.writeOrder(ctx, account, id, KeyPause+id, &Pause{Version: Version, Paused: paused})
}

// DeleteOrder ends an order: its files go, its name is free.
func (t *Table) DeleteOrder(ctx context.Context, account, id string) error {
	return t.writeOrder(ctx, account, id, KeyDeletion+id+"/"+ulid.Make().String(), &Deletion{Version: Version, At: time.Now().UTC()})
}

// WriteTrouble stops an order, with the settings that revision names, until it
// is changed.
func (t *Table) WriteTrouble(ctx context.Context, account, id, revision string, p Problem) error {
	return t.writeOrder(ctx, account, id, KeyTrouble+id, &Trouble{Version: Version, Revision: revision, At: time.Now().UTC(), Problem: p})
}

// WriteDelivered says that the destination of an order has the file number, and so all
// up to it but those that were passed over.
func (t *Table) WriteDelivered(ctx context.Context, account, id string, number int64) error {
	s, ok := t.Order(id)
	if !ok {
		return ErrNotFound
	}
	if number <= s.Delivered.Number {
		return nil // compaction would keep what says less
	}
	d := s.Delivered.upTo(number)
	return t.writeOrder(ctx, account, id, KeyDelivered+id, &d)
}
