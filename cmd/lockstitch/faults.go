//go:build faults && unix

package main

import (
	"math"
	"os"
	"strings"
	"syscall"
	"time"

	"lockstitch/consumer"
)

// Only a binary built with the tag faults has this, never a released one: as a
// step of a cut, a takeover or a report's job begins, the process kills or stops
// itself if the file that FAULTS_FILE names says so ("KILL cut/commit", "STOP
// report/store"). The file is removed first, which tells that it happened.
func init() {
	stepHook = func(step string) {
		path := os.Getenv("FAULTS_FILE")
		order, err := os.ReadFile(path)
		if err != nil {
			return
		}
		what, at, _ := strings.Cut(strings.TrimSpace(string(order)), " ")
		number, known := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "STOP": syscall.SIGSTOP}[what]
		if known && at == step && os.Remove(path) == nil {
			_ = syscall.Kill(os.Getpid(), number)
		}
	}
	// With FAULTS_MERGE segments are merged after seconds, whatever times their rows have.
	if os.Getenv("FAULTS_MERGE") != "" {
		tweakConsumer = func(c *consumer.Config) {
			c.MergeSpans, c.MergeEvery, c.MergeFuture = []time.Duration{4 * time.Second, 24 * time.Second}, time.Second, math.MaxInt64
		}
	}
}
