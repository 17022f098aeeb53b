package main

import "testing"

func TestHeapLimit(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct{ limit, outside, want int64 }{
		{512, 0, 416}, {512, 80, 416}, {512, 81, 415}, {512, 200, 296}, {512, 240, 256}, {512, 400, 256}, {512, -20, 416}, {128, 60, 64},
	} {
		if got := heapLimit(tc.limit*mib, tc.outside*mib); got != tc.want*mib {
			t.Errorf("with %d of %d MiB outside: %d MiB, want %d", tc.outside, tc.limit, got/mib, tc.want)
		}
	}
}
