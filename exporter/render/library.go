package render

import (
	"context"
	"sync"

	"lockstitch/exporter/plan"
	"lockstitch/state/catalog"
	"lockstitch/state/objects"
	"lockstitch/state/segment"
)

// library holds the slices that are being rendered or will be needed again
// soon. A slice that nobody uses stays only while pieces that need it are still
// to come and all slices together are within the budget, so memory does not
// grow with the export, however many slices overlap.
type library struct {
	ctx     context.Context
	store   objects.Store
	columns *columns
	refs    []catalog.SliceRef
	budget  int64
	loaders sync.WaitGroup

	mu      sync.Mutex
	loans   map[int32]*loan
	pending []int32 // per slice: pieces not yet finished that need it
	held    int64   // bytes of all loaded slices
}

// loan is a slice that is loaded or being loaded.
type loan struct {
	index int32
	users int           // guarded by library.mu
	ready chan struct{} // closed when sheet or err is set
	sheet *sheet
	err   error
}

func newLibrary(ctx context.Context, store objects.Store, c *columns, p *plan.Plan, budget int64) *library {
	l := &library{ctx: ctx, store: store, columns: c, refs: p.Slices, budget: budget,
		loans: make(map[int32]*loan), pending: make([]int32, len(p.Slices))}
	for i := range p.Pieces {
		for _, s := range p.Pieces[i].Slices {
			l.pending[s]++
		}
	}
	return l
}

// borrow asks for a slice, which is loaded in the background if it is not there.
// The caller waits for the loan and gives it back.
func (l *library) borrow(index int32) *loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, there := l.loans[index]; there {
		n.users++
		return n
	}
	n := &loan{index: index, users: 1, ready: make(chan struct{})}
	l.loans[index] = n
	l.loaders.Go(func() {
		n.sheet, n.err = l.load(&l.refs[index])
		if n.err == nil {
			l.mu.Lock()
			l.held += n.sheet.bytes
			l.mu.Unlock()
		}
		close(n.ready)
	})
	return n
}

// wait returns the slice once it is loaded.
func (n *loan) wait() (*sheet, error) {
	<-n.ready
	return n.sheet, n.err
}

// giveBack ends a loan, waiting for the loading to end if need be.
func (l *library) giveBack(n *loan) {
	<-n.ready
	l.mu.Lock()
	defer l.mu.Unlock()
	n.users--
	l.shed(n)
}

// finish says that a piece is done with its slices.
func (l *library) finish(slices []int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range slices {
		l.pending[i]--
		if n, there := l.loans[i]; there {
			l.shed(n)
		}
	}
}

// shed lets go of a slice that need not be kept. l.mu is held.
func (l *library) shed(n *loan) {
	if n.users > 0 || (n.err == nil && l.pending[n.index] > 0 && l.held <= l.budget) {
		return
	}
	delete(l.loans, n.index)
	if n.err == nil {
		l.held -= n.sheet.bytes
	}
}

// close waits for everything that is still loading.
func (l *library) close() { l.loaders.Wait() }

func (l *library) load(ref *catalog.SliceRef) (*sheet, error) {
	data, err := ref.Read(l.ctx, l.store, ref.Info.Length)
	if err != nil {
		return nil, err
	}
	s, err := segment.OpenSlice(ref.Object, ref.Info, data)
	if err != nil {
		return nil, err
	}
	return newSheet(ref.Object, ref.Info, s, l.columns)
}
