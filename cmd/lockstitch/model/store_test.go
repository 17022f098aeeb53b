package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"lockstitch/state/objects"
)

// bucket is the object store that all replicas share. It outlives them and can
// be away.
type bucket struct {
	mu         sync.Mutex
	rng        *rand.Rand
	objects    map[string]stored
	deleted    map[string]bool
	down       bool
	flaky      int  // percent of calls that fail, before or after their effect
	place      bool // files are delivered to it: names are tried again, and manifests come last
	violations []string
}

type stored struct {
	data []byte
	at   time.Time
}

var errAway = errors.New("the store is away")

func newBucket(rng *rand.Rand) *bucket {
	return &bucket{rng: rng, objects: make(map[string]stored), deleted: make(map[string]bool)}
}

// under are the objects whose names begin so, and what they hold.
func (b *bucket) under(prefix string) map[string][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	there := make(map[string][]byte)
	for name, o := range b.objects {
		if strings.HasPrefix(name, prefix) {
			there[name] = o.data
		}
	}
	return there
}

// get is an object's content; nil if there is none.
func (b *bucket) get(name string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects[name].data
}

func (b *bucket) set(down bool, flaky int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down, b.flaky = down, flaky
}

// fault says whether a call fails before, or after, it has had its effect.
func (b *bucket) fault() (before, after error) {
	if b.down {
		return errAway, nil
	}
	if b.flaky > 0 && b.rng.IntN(100) < b.flaky {
		if b.rng.IntN(2) == 0 {
			return errAway, nil
		}
		return nil, errAway
	}
	return nil, nil
}

// door is one process's way to the bucket; shut for good when it dies.
type door struct {
	b    *bucket
	mu   sync.Mutex
	shut bool
}

func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = true
}

// pass takes the time that a call takes, and runs it unless the process is dead
// or the store is away.
func (d *door) pass(ctx context.Context, f func(b *bucket) error) error {
	select {
	case <-time.After(2 * time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return errAway
	}
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	before, after := d.b.fault()
	if before != nil {
		return before
	}
	if err := f(d.b); err != nil {
		return err
	}
	return after
}

func (d *door) Put(ctx context.Context, name string, data []byte) error {
	data = bytes.Clone(data)
	return d.pass(ctx, func(b *bucket) error {
		if file, ok := strings.CutSuffix(name, ".json"); ok && b.place {
			if _, whole := b.objects[file+".csv.gz"]; !whole {
				b.violations = append(b.violations, fmt.Sprintf("%s is there before its file", name))
			}
		}
		if _, ok := b.objects[name]; ok && b.place {
			return objects.ErrExists
		} else if ok || b.deleted[name] {
			b.violations = append(b.violations, fmt.Sprintf("the name %s was used twice", name))
			return objects.ErrExists
		}
		b.objects[name] = stored{data, time.Now()}
		return nil
	})
}

func (d *door) Create(ctx context.Context, name string) (objects.Writer, error) {
	return &upload{ctx: ctx, d: d, name: name}, nil
}

type upload struct {
	ctx  context.Context
	d    *door
	name string
	buf  bytes.Buffer
}

func (u *upload) Write(p []byte) (int, error) { return u.buf.Write(p) }
func (u *upload) Commit() error               { return u.d.Put(u.ctx, u.name, u.buf.Bytes()) }
func (u *upload) Abort()                      {}

func (d *door) Open(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	var data []byte
	err := d.pass(ctx, func(b *bucket) error {
		o, ok := b.objects[name]
		if !ok {
			return objects.ErrNotExist
		}
		if off > int64(len(o.data)) {
			return fmt.Errorf("offset %d of %s lies behind its end", off, name)
		}
		data = o.data[off:]
		if n >= 0 && n < int64(len(data)) {
			data = data[:n]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (d *door) Stat(ctx context.Context, name string) (info objects.Info, err error) {
	err = d.pass(ctx, func(b *bucket) error {
		o, ok := b.objects[name]
		if !ok {
			return objects.ErrNotExist
		}
		info = objects.Info{Name: name, Size: int64(len(o.data)), ModTime: o.at}
		return nil
	})
	return info, err
}

func (d *door) List(ctx context.Context, prefix string, fn func(objects.Info) error) error {
	var all []objects.Info
	if err := d.pass(ctx, func(b *bucket) error {
		for name, o := range b.objects {
			if strings.HasPrefix(name, prefix) {
				all = append(all, objects.Info{Name: name, Size: int64(len(o.data)), ModTime: o.at})
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, i := range all {
		if err := fn(i); err != nil {
			return err
		}
	}
	return nil
}

func (d *door) Delete(ctx context.Context, name string) error {
	return d.pass(ctx, func(b *bucket) error {
		if _, ok := b.objects[name]; ok {
			b.deleted[name] = true
			delete(b.objects, name)
		}
		return nil
	})
}

func (d *door) Close() error { return nil }
