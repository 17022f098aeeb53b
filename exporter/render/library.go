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
// to come and all such slices are within keep; those that are used or being loaded
// are within room with them, or one is alone. So memory does not grow with the
// export, however many slices overlap and however large they are.
type library struct {
	ctx        context.Context
	store      objects.Store
	columns    *columns
	refs       []catalog.SliceRef
	keep, room int64
	loaders    sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond // something was loaded, given back or let go
	loans   map[int32]*loan
	pending []int32 // per slice: pieces not yet finished that need it
	used    int     // loans that somebody has
	held    int64   // bytes of all loans
	idle    int64   // and of those that nobody has
}

// loan is a slice that is loaded or being loaded.
type loan struct {
	index int32
	users int           // guarded by library.mu
	bytes int64         // the same; what it takes, or about what loading it takes
	ready chan struct{} // closed when sheet or err is set
	sheet *sheet
	err   error
}

// loading is how many times its stored length a slice takes while it is being loaded:
// as it is stored, unpacked, and as cells.
const loading = 4

func newLibrary(ctx context.Context, store objects.Store, c *columns, refs []catalog.SliceRef, keep, room int64) *library {
	l := &library{ctx: ctx, store: store, columns: c, refs: refs, keep: keep, room: room,
		loans: make(map[int32]*loan), pending: make([]int32, len(refs))}
	l.changed.L = &l.mu
	return l
}

// expect says which slices the pieces need.
func (l *library) expect(pieces []plan.Piece) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range pieces {
		for _, s := range pieces[i].Slices {
			l.pending[s]++
		}
	}
}

// borrow asks for a slice, which is loaded in the background if it is not there, once
// there is room. The caller has no other loan, or two might wait for each other's room;
// it waits for this one and gives it back.
func (l *library) borrow(index int32) *loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if n := l.ask(index, l.used == 0); n != nil {
			return n
		}
		l.changed.Wait()
	}
}

// prefetch is borrow for who has a loan: nil if there is no room now.
func (l *library) prefetch(index int32) *loan {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ask(index, false)
}

// ask lends a slice that is there, or that there is room for or must be. l.mu is held.
func (l *library) ask(index int32, must bool) *loan {
	if n, there := l.loans[index]; there {
		if n.users == 0 {
			l.used++
			l.idle -= n.bytes
		}
		n.users++
		return n
	}
	size := loading * l.refs[index].Info.Length
	if !must && l.held+size > l.room {
		return nil
	}
	n := &loan{index: index, users: 1, bytes: size, ready: make(chan struct{})}
	l.loans[index] = n
	l.used++
	l.held += size
	l.loaders.Go(func() {
		n.sheet, n.err = l.load(&l.refs[index])
		l.mu.Lock()
		l.held -= n.bytes
		n.bytes = 0
		if n.err == nil {
			n.bytes = n.sheet.bytes
		}
		l.held += n.bytes
		l.mu.Unlock()
		l.changed.Broadcast()
		close(n.ready)
	})
	return n
}

// there answers the first slice that is loaded or being loaded and that the caller
// wants; false if there is none.
func (l *library) there(wants func(index int32) bool) (first int32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for index := range l.loans {
		if (!ok || index < first) && wants(index) {
			first, ok = index, true
		}
	}
	return first, ok
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
	if n.users--; n.users == 0 {
		l.used--
		l.idle += n.bytes
		l.shed(n)
	}
}

// finish says that a piece is done with a slice.
func (l *library) finish(index int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending[index]--
	if n, there := l.loans[index]; there && n.users == 0 {
		l.shed(n)
	}
}

// shed lets go of a slice that nobody has, unless it is kept. l.mu is held.
func (l *library) shed(n *loan) {
	if n.err != nil || l.pending[n.index] <= 0 || l.idle > l.keep {
		delete(l.loans, n.index)
		l.held -= n.bytes
		l.idle -= n.bytes
	}
	l.changed.Broadcast()
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
