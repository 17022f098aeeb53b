package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// order is a standing order with its steps.
type order struct {
	standing  Standing // Last and Newest are filled in by snapshot
	partition int32
	offset    int64
	keys      []string // of all records of the order but its own and those of the steps
	void      bool     // the name was taken, or one too many
	size      int64    // what it takes of memory without its steps; see measureOrder
	stepsSize int64    // what its steps take, those that do not count too
	steps     []*entry // those that count, by ascending Seq
}

func (o *order) live() bool { return !o.void && !o.standing.Deleted }

// snapshot is the order as it is now.
func (o *order) snapshot() *Standing {
	s := o.standing
	if s.Trouble != nil && s.Trouble.Revision != s.Settings.Revision {
		s.Trouble = nil
	}
	if n := len(o.steps); n > 0 {
		s.Newest = o.steps[n-1].report
		if r := s.Newest.Result; r != nil && r.Problem != nil && s.Newest.Request.Step.Revision == s.Settings.Revision {
			s.Trouble = &Trouble{Version: Version, Revision: s.Settings.Revision, At: r.At, Problem: *r.Problem}
		}
	}
	if e := o.last(); e != nil {
		s.Last = e.report
	}
	return &s
}

// last is the newest step that succeeded. Few follow it: an order stops at an
// error.
func (o *order) last() *entry {
	for i := len(o.steps) - 1; i >= 0; i-- {
		if o.steps[i].report.Succeeded() {
			return o.steps[i]
		}
	}
	return nil
}

func (o *order) find(seq int64) (int, bool) {
	return slices.BinarySearchFunc(o.steps, seq, func(e *entry, seq int64) int {
		return int(min(1, max(-1, e.report.Request.Step.Seq-seq)))
	})
}

// superseded tells whether a step is not needed to know where the order stands.
func (o *order) superseded(e *entry) bool {
	last := o.last()
	return !o.live() || last != nil && e.report.Request.Step.Seq < last.report.Request.Step.Seq
}

func isOrderKey(kind string) bool {
	switch kind {
	case KeyOrder, KeyChange, KeyPause, KeyTrouble, KeyDelivered, KeyDeletion:
		return true
	}
	return false
}

// applyOrder takes in what a record of a standing order says, or why it cannot be read.
func (v *view) applyOrder(rec *kgo.Record, id string, said any, bad error) error {
	key := string(rec.Key)
	o := v.orders[id]
	_, creation := said.(*Order)
	if o == nil && !creation {
		v.orphans[key] = orphan{rec.Partition, rec.Timestamp}
		return nil
	}
	if bad != nil {
		return bad
	}
	if creation {
		return v.create(rec, id, said.(*Order))
	}
	next := o.standing
	switch x := said.(type) {
	case *Change:
		if err := x.Settings.check(); err != nil {
			return err
		}
		if next.Settings = x.Settings; next.Deleted {
			next.slim()
		}
	case *Pause:
		next.Paused = x.Paused
	case *Trouble:
		next.Trouble = x
	case *Delivered:
		// A replica that lost the order may say late what it has delivered.
		if x.Number > next.Delivered.Number {
			next.Delivered = *x
		}
	case *Deletion:
		if !rec.Timestamp.IsZero() {
			x.At = rec.Timestamp.UTC()
		}
		v.end(o, x)
		next.Deleted = true
		next.slim()
	}
	if !slices.Contains(o.keys, key) {
		o.keys = append(o.keys, key)
	}
	o.standing = next
	v.measureOrder(o)
	return nil
}

func (s *Settings) check() error {
	if s.Every <= 0 || s.Revision == "" {
		return fmt.Errorf("settings of a standing order without a period or a revision")
	}
	return nil
}

func (v *view) create(rec *kgo.Record, id string, c *Order) error {
	switch {
	case c.ID != id:
		return fmt.Errorf("standing order %.80q under the key of %q", c.ID, id)
	case c.Account == "" || c.Name == "":
		return fmt.Errorf("standing order without an account or a name")
	case v.orders[id] != nil:
		return fmt.Errorf("standing order %s %w", id, errThereAlready)
	}
	if err := c.Settings.check(); err != nil {
		return err
	}
	// By the clock of a replica that is ahead of Kafka's the first boundary would be as
	// far ahead, and no file would come before.
	if !rec.Timestamp.IsZero() && rec.Timestamp.Before(c.CreatedAt) {
		c.CreatedAt = rec.Timestamp.UTC()
	}
	o := &order{standing: Standing{Order: c, Settings: c.Settings}, partition: rec.Partition, offset: rec.Offset}
	v.orders[id] = o
	defer v.measureOrder(o)
	names := v.names[c.Account]
	if names[c.Name] != nil || c.MaxOrders > 0 && len(names) >= c.MaxOrders {
		o.void = true
		o.standing.slim()
		return nil
	}
	if names == nil {
		names = make(map[string]*order)
		v.names[c.Account] = names
	}
	names[c.Name] = o
	return nil
}

// slim leaves out what nobody will ask of an order that makes no further step. Its
// records stay for a day, and an account can make many in that time.
func (s *Standing) slim() {
	c := *s.Order
	c.From, c.Settings.Body, s.Settings.Body = nil, nil, nil
	s.Order = &c
}

// end takes a live order out of the list, and its steps with it: what runs is
// cancelled, and files go.
func (v *view) end(o *order, d *Deletion) {
	if !o.live() {
		return
	}
	v.forget(o)
	for _, e := range o.steps {
		next := *e.report
		next.Cancelled, next.CancelledAt = true, d.At
		v.change(e, func() { e.report = &next })
	}
}

func (v *view) forget(o *order) {
	c := o.standing.Order
	if v.names[c.Account][c.Name] == o {
		delete(v.names[c.Account], c.Name)
		if len(v.names[c.Account]) == 0 {
			delete(v.names, c.Account)
		}
	}
}

// step takes in the request for a step. Its entry is there already.
func (v *view) step(e *entry) {
	s := e.report.Request.Step
	o := v.orders[s.Order]
	if o == nil || !o.live() || o.standing.Order.Account != e.report.Request.Account {
		e.countForNothing(nil)
		return
	}
	if i, _ := o.find(s.Seq); i < len(o.steps) {
		e.countForNothing(o.steps[i])
		return
	}
	before := &Question{}
	if n := len(o.steps); n > 0 {
		before = &o.steps[n-1].report.Request.Question
	}
	e.own = e.report.Request.Question.share(before)
	o.steps = append(o.steps, e)
	v.pending[e.report.Request.ID] = e
}

// buryOrder takes in the tombstone of an order's record.
func (v *view) buryOrder(kind, id, key string) {
	o := v.orders[id]
	if o == nil {
		return
	}
	if kind != KeyOrder {
		o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
		return
	}
	for _, k := range o.keys {
		v.orphans[k] = orphan{o.partition, o.standing.Order.CreatedAt}
	}
	v.forget(o)
	delete(v.orders, id)
	v.measureOrder(o)
}

// buryStep takes a removed step out of its order.
func (v *view) buryStep(e *entry) {
	o := v.orders[e.report.Request.Step.Order]
	if o == nil {
		return
	}
	if i, ok := o.find(e.report.Request.Step.Seq); ok && o.steps[i] == e {
		o.steps = slices.Delete(o.steps, i, i+1)
	}
}

// ValidOrderName tells whether name can name a standing order: 1 to 63
// lower-case letters, digits and "-". It becomes part of object names.
func ValidOrderName(name string) bool {
	return len(name) >= 1 && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
