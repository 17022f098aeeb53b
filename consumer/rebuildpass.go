package consumer

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lockstitch/state/catalog"
	"lockstitch/state/local"
	"lockstitch/state/segment"
)

// Deduplication entries are rebuilt from the keys of segments. Most slices have rows of
// many lanes, and a replica has to rebuild those of many at a time, as it starts or as
// another has ended: one pass reads each slice once for all of them. The memory that this
// takes does not grow with the number of lanes.
const (
	passLanes   = local.DedupLoads      // the most lanes of one pass
	passWait    = 25 * time.Millisecond // for others, from the first lane on
	passReaders = 8                     // slices that are read at a time
	passBatch   = 512                   // entries that are handed over at a time
	sortedLanes = 2                     // lanes whose entries are sorted at a time
)

// rebuild is what a lane wants of a pass.
type rebuild struct {
	lacks []missing
	load  *local.DedupLoad // the lane's; once it is closed it takes no more
	read  chan error       // what the pass has come to; has room for it
	over  chan struct{}    // closed when the lane is done, or has given up
}

func (r *rebuild) given() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

// rebuildLoop makes a pass for all lanes that wait for one, then the next.
func (c *Consumer) rebuildLoop(ctx context.Context) {
	for {
		select {
		case first := <-c.rebuilds:
			c.makePass(ctx, c.gather(first))
		case <-ctx.Done():
			return
		}
	}
}

func (c *Consumer) gather(first *rebuild) []*rebuild {
	lanes := []*rebuild{first}
	enough := time.NewTimer(passWait)
	defer enough.Stop()
	for len(lanes) < passLanes {
		select {
		case r := <-c.rebuilds:
			lanes = append(lanes, r)
		case <-enough.C:
			return lanes
		}
	}
	return lanes
}

// pass is one look at all slices that some lanes lack entries of.
type pass struct {
	wants map[segment.Partition]want

	mu     sync.Mutex
	failed map[*rebuild]error
}

// want is what is to be read of a partition, and for whom.
type want struct {
	missing
	by *rebuild
}

// makePass returns when the lanes need nothing more of the memory that theirs takes, or
// ctx ends.
func (c *Consumer) makePass(ctx context.Context, lanes []*rebuild) {
	p := &pass{wants: make(map[segment.Partition]want), failed: make(map[*rebuild]error)}
	var slices []catalog.SliceRef
	seen := make(map[catalog.SliceRef]struct{})
	for _, r := range lanes {
		for _, m := range r.lacks {
			p.wants[m.within.Source().At()] = want{m, r}
			for _, ref := range c.deps.Catalog.SlicesSince(m.within, m.oldest) {
				if _, ok := seen[ref]; !ok {
					seen[ref] = struct{}{}
					slices = append(slices, ref)
				}
			}
		}
	}
	var eg errgroup.Group
	eg.SetLimit(passReaders)
	for _, ref := range slices {
		eg.Go(func() error {
			c.readKeys(ctx, p, ref)
			return nil
		})
	}
	_ = eg.Wait()
	for _, r := range lanes {
		if p.failed[r] == nil {
			r.read <- nil
		}
	}
	for _, r := range lanes {
		select {
		case <-r.over:
		case <-ctx.Done():
			return
		}
	}
}

// of are those who want rows of a source, nil if nobody does any more.
func (p *pass) of(src segment.Source) *want {
	w, ok := p.wants[src.At()]
	if !ok || w.by.given() {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed[w.by] != nil {
		return nil
	}
	return &w
}

// fail ends the pass for a lane, and tells it.
func (p *pass) fail(r *rebuild, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed[r] == nil {
		p.failed[r] = err
		r.read <- err
	}
}

// readKeys gives the entries of one slice to the lanes that lack them. Those alone fail
// if it cannot be read.
func (c *Consumer) readKeys(ctx context.Context, p *pass, ref catalog.SliceRef) {
	var by []*rebuild
	for _, r := range ref.Info.Sources {
		if w := p.of(r.Source()); w != nil && rowsOf(ref.Info, w.within) > 0 {
			by = append(by, w.by)
		}
	}
	if len(by) == 0 {
		return
	}
	if err := c.dealKeys(ctx, p, ref); err != nil {
		for _, r := range by {
			p.fail(r, err)
		}
	}
}

func (c *Consumer) dealKeys(ctx context.Context, p *pass, ref catalog.SliceRef) error {
	info := ref.Info
	data, err := ref.Read(ctx, c.deps.Store, info.KeysLength)
	if err != nil {
		return err
	}
	s, err := segment.OpenKeys(ref.Object, info, data)
	if err != nil {
		return err
	}
	types, err := s.Types()
	if err != nil {
		return err
	}
	codes, err := s.SourceCodes()
	if err != nil {
		return err
	}
	offsets, err := s.Offsets()
	if err != nil {
		return err
	}
	times, err := s.LogTimes()
	if err != nil {
		return err
	}
	wants := make([]*want, len(s.Sources())) // by source
	batches := make([][]local.DedupEntry, len(wants))
	for i, src := range s.Sources() {
		wants[i] = p.of(src)
	}
	handOver := func(source int) {
		if err := wants[source].by.load.Add(batches[source]); err != nil {
			p.fail(wants[source].by, c.db.Damaged(err))
			wants[source] = nil
		}
		batches[source] = batches[source][:0]
	}
	account := []byte(info.Account)
	var corr []byte
	for i := range types {
		code := int(codes[i])
		w := wants[code]
		if w == nil || offsets[i] < w.within.Min || offsets[i] >= w.within.Next || times[i] < w.oldest {
			continue
		}
		if corr, err = s.AppendCorrelation(corr[:0], i); err != nil {
			return err
		}
		batches[code] = append(batches[code], local.DedupEntry{Key: dedupKey(w.within.Source().ID, account, types[i], corr), Offset: offsets[i], LogTime: times[i]})
		if len(batches[code]) == passBatch {
			handOver(code)
		}
	}
	for source := range batches {
		if wants[source] != nil {
			handOver(source)
		}
	}
	return nil
}
