// Package seed gives tests their random numbers, and a failed one the command that
// runs it again with the same ones: LOCKSTITCH_SEED is then the only seed.
package seed

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// New is a seed that no run before had. Should the test fail, it says how to run it
// again.
func New(t testing.TB) uint64 {
	t.Helper()
	n, ok := given(t)
	if !ok {
		n = uint64(time.Now().UnixNano())
	}
	say(t, folderOf(callers()), n)
	return n
}

// Rand is a source of random numbers with a seed of New.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return rand.New(rand.NewPCG(New(t), 0))
}

// Each runs f as a test of its own for each of the seeds 1 … n and for one that no
// run before had.
func Each(t *testing.T, n uint64, f func(t *testing.T, seed uint64)) {
	t.Helper()
	seeds := make([]uint64, 0, n+1)
	for i := range n {
		seeds = append(seeds, i+1)
	}
	seeds = append(seeds, uint64(time.Now().UnixNano()))
	if given, ok := given(t); ok {
		seeds = []uint64{given}
	}
	folder := folderOf(callers())
	for _, seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			say(t, folder, seed)
			f(t, seed)
		})
	}
}

func given(t testing.TB) (uint64, bool) {
	text, ok := os.LookupEnv("LOCKSTITCH_SEED")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("LOCKSTITCH_SEED: %v", err)
	}
	return n, true
}

func say(t testing.TB, folder string, n uint64) {
	t.Cleanup(func() {
		if t.Failed() {
			name, _, _ := strings.Cut(t.Name(), "/")
			t.Logf("again: LOCKSTITCH_SEED=%d go test ./%s -run '^%s$'", n, folder, name)
		}
	})
}

// callers are the functions that called, the nearest first, as the runtime names
// them: lockstitch/state/local.TestX.
func callers() []string {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	var names []string
	for {
		f, more := frames.Next()
		names = append(names, f.Function)
		if !more {
			return names
		}
	}
}

// folderOf is the folder, seen from the module's, of the first function that is not
// one of this package or of testing.
func folderOf(functions []string) string {
	for _, f := range functions {
		path, ok := strings.CutPrefix(f, "lockstitch/")
		if !ok || strings.HasPrefix(path, "internal/seed.") {
			continue
		}
		slash := strings.LastIndex(path, "/")
		dot := strings.Index(path[slash+1:], ".")
		return path[:slash+1+dot]
	}
	return "..." // all
}
