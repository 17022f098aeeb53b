//go:build !race

// The race detector maps memory of its own beside the heap for all that is written.

package main

import (
	"runtime"
	"syscall"
	"testing"
)

// What the heap takes is none of it, what is mapped beside the heap is.
func TestOutsideGo(t *testing.T) {
	const size, slack = 256 << 20, 64 << 20
	outside := func() int64 {
		n, err := outsideGo()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	touch := func(b []byte) {
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
	}
	before := outside()
	heap := make([]byte, size)
	touch(heap)
	if grown := outside() - before; grown > slack {
		t.Errorf("a heap of %d bytes more is taken for %d outside of it", size, grown)
	}
	runtime.KeepAlive(heap)
	before = outside()
	mapped, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	touch(mapped)
	if grown := outside() - before; grown < size-slack {
		t.Errorf("%d bytes mapped beside the heap are taken for %d", size, grown)
	}
	if err := syscall.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
}
