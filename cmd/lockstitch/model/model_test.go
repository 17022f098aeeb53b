// Package model runs whole systems, each decided by a seed, in virtual time: one
// embedded broker or three, an object store, several replicas as `lockstitch serve`
// wires them, each with a disk that loses what was not synced when it crashes. The
// seed decides what is sent and what goes wrong. Then everything stored and
// exported must be what a reference that shares no code with the product
// computes from the logs.
//
//	traffic, exports, walks, orders        what clients do while it lasts
//	topics                                 how topics are made anew, and grow
//	retention                              what expires
//	faults, brokers, cable, store, clock   what goes wrong
//	finish                                 how standing orders come to rest
//	check, files, ledger                   what must hold then
//
//	go test ./cmd/lockstitch/model                      a few seeds
//	go test ./cmd/lockstitch/model -seeds 1000          more; -from S: other ones
//	go test ./cmd/lockstitch/model -from S -seeds 1 -story   one, told step by step
//	go test ./cmd/lockstitch/model -three …                  a third of them with three brokers
//	go test ./cmd/lockstitch/model -topics …                 topics made anew, partitions added
//	go test ./cmd/lockstitch/model -retention …              what is older than half a day expires
//
// The broker's clock, the network and all waiting are virtual, but goroutines
// are not scheduled by the seed: a run repeats its story, seldom its every
// interleaving.
package model

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lockstitch/cmd/lockstitch/model/reference"
	"lockstitch/internal/bubble"
)

var (
	seeds   = flag.Int("seeds", fewSeeds, "how many seeds to run")
	from    = flag.Uint64("from", 1, "the first seed")
	minutes = flag.Float64("minutes", 0, "begin no further seed after so many minutes; 0: no limit")
	three   = flag.Bool("three", false, "let a third of the seeds have three brokers, whose leaders are replaced")
	remade  = flag.Bool("topics", false, "let topics be made anew in a sixth of the seeds, and partitions be added in a sixth")
	expires = flag.Bool("retention", false, "let what is older than half a day expire in half of the seeds")
	until   = flag.Bool("until-wrong", false, "begin no further seed after one has failed")
	verbose = flag.Bool("story", false, "tell what happens as it happens, with the replicas' logs in detail")
	level   = new(slog.LevelVar) // of the replicas' logs
)

var discard = slog.New(slog.DiscardHandler)

func TestModel(t *testing.T) {
	begun := time.Now()
	var wrong atomic.Bool
	var ended atomic.Int64
	t.Cleanup(func() { t.Log(total.String()) })
	if *verbose {
		level.Set(slog.LevelDebug)
	}
	for i := range *seeds {
		seed := *from + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			if *minutes > 0 && time.Since(begun).Minutes() > *minutes || *until && wrong.Load() {
				return
			}
			defer func() {
				if n := ended.Add(1); t.Failed() {
					wrong.Store(true)
					t.Logf("seed number %d of this run", n)
				}
			}()
			watch := &atomic.Pointer[world]{}
			defer time.AfterFunc(stuckAfter, func() { stuck(seed, watch.Load()) }).Stop()
			bubble.Test(t, func(t *testing.T) { runSeed(t, seed, watch) })
		})
	}
}

// stuckAfter is the real time that a seed may take; most take a second. What
// repeats itself without any waiting lets no virtual time pass and never ends. Nor
// does any pass while a goroutine waits for a mutex: should its holder wait for time,
// as the client library does at a few places when there are several brokers, all stands
// still. That says nothing of the product, in real time it would go on; with the
// library's build tag synctests its mutexes are not of that kind.
const stuckAfter = 5 * time.Minute

func stuck(seed uint64, w *world) {
	story := ""
	if w != nil {
		w.mu.Lock()
		story = strings.Join(w.trace, "\n")
	}
	stacks := make([]byte, 64<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, g := range strings.Split(string(stacks), "\n\n") {
		if first, _, _ := strings.Cut(g, "\n"); strings.Contains(first, "Mutex") && strings.Contains(first, "synctest") {
			panic(fmt.Sprintf("seed %d has not ended after %v; virtual time stands still while a goroutine waits for a mutex:\n%s\n%s", seed, stuckAfter, g, story))
		}
	}
	panic(fmt.Sprintf("seed %d has not ended after %v; something goes round without waiting:\n%s", seed, stuckAfter, story))
}

func runSeed(t *testing.T, seed uint64, watch *atomic.Pointer[world]) {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, seed)
	watch.Store(w)
	defer func() {
		w.close()
		if t.Failed() && !*verbose {
			t.Logf("again, told step by step:\n\tgo test -tags synctests ./cmd/lockstitch/model -run TestModel -from %d -seeds 1 -three=%v -topics=%v -retention=%v -story\n%s", seed, *three, *remade, *expires, strings.Join(w.trace, "\n"))
		}
	}()
	tr := &traffic{w: w, rng: rand.New(rand.NewPCG(seed, 10))}
	f := &faults{w: w, rng: rand.New(rand.NewPCG(seed, 11))}
	for _, a := range accounts {
		for _, v := range versions[:2] {
			tr.definition(a, "attribute", v)
			tr.definition(a, "tag", v)
		}
		for _, s := range audiences {
			tr.definition(a, "segment", s)
		}
	}
	if rng.IntN(2) == 0 { // what stood there before the first deployment
		tr.run(5+rng.IntN(40), 5*time.Millisecond)
		w.firstStart = w.eventEnds()
	}
	for _, r := range w.replicas {
		if rng.IntN(4) > 0 || r == w.replicas[0] {
			r.start()
		}
	}
	step := []time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}[rng.IntN(3)]
	n := 30 + rng.IntN(120)
	if w.three != nil {
		step = max(step, 50*time.Millisecond) // a broker takes a second to be replaced
	}
	w.bg.Go(func() { f.run(1+rng.IntN(8), time.Duration(n)*step) })
	if w.three != nil {
		w.bg.Go(func() { w.three.run(time.Duration(n) * step) })
	}
	tr.run(n, step)
	w.bg.Wait() // also all faults that end by themselves
	f.heal()
	if !w.atRest(rng) || rng.IntN(3) > 0 {
		return
	}
	w.nextDay(f, tr, rng)
}

// atRest waits until nothing moves and checks everything.
func (w *world) atRest(rng *rand.Rand) bool {
	if !w.settle() {
		return false
	}
	w.finishOrders(rng)
	w.checkLags()
	want := w.check(rng)
	total.add(w, want)
	w.notef("%d rows decorated, %d of them by the rule of the first deployment; counts %v", want.Decorated, want.Backlog, want.Counts)
	return !w.t.Failed()
}

// nextDay lets everything stand for some days, so that orphaned objects are old
// enough to be swept and profiles on disk so old that they are read anew.
func (w *world) nextDay(f *faults, tr *traffic, rng *rand.Rand) {
	w.slowDown(rng)
	w.slowDown(rng)
	for _, r := range w.replicas {
		r.shutdown()
	}
	w.observer.Close()
	w.observer, w.paused = nil, w.eventEnds()
	pause := time.Duration(1+rng.IntN(5)) * 24 * time.Hour
	w.notef("all replicas stand for %v", pause)
	w.ghosts.close()
	if *remade {
		tr.takeOff()
	}
	time.Sleep(pause)
	w.ghosts.begin()
	w.mu.Lock()
	w.token = make(map[string]string) // expired
	w.mu.Unlock()
	f.heal()
	tr.run(10, 20*time.Millisecond)
	if w.retention > 0 {
		w.expiring(f, tr, rng)
	}
	if !w.settle() {
		return
	}
	// A start sweeps; what is old is told by the newest object, which there is now.
	w.replicas[0].shutdown()
	w.replicas[0].start()
	time.Sleep(20 * time.Second)
	w.expire()
	if w.atRest(rng) {
		w.checkSwept(pause)
	}
}

// totals are what all seeds together have seen: a suite that sees little proves
// little.
type totals struct {
	mu                                                sync.Mutex
	rests, kept, duplicates, dead, decorated, backlog int
	exports, refused, swept, merged                   int
	repeats                                           int // requests that were stored under the Idempotency-Key of another
	walks, walked                                     int // walks, their files
	worlds, orders, files, delivered, parts, periods  int // systems with orders, orders, their files; files that end before their period does; periods
	expired, short                                    int // events that were removed because of their age; exports that ended in error for it
	anew, grown, left                                 int // topics that were deleted and made anew; systems whose topics got partitions; topics that were taken off the list
	three, replaced                                   int // systems with three brokers; leaders that were replaced and did not know it
	troubles, second, rows                            int // orders in error; steps asked for twice; rows of all walks and orders
}

var total totals

func (s *totals) add(w *world, a *reference.Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rests++
	for _, c := range a.Counts {
		s.kept += int(c.Kept)
		s.duplicates += int(c.Duplicates)
	}
	s.dead += len(a.Dead)
	s.decorated += a.Decorated
	s.backlog += a.Backlog
	for _, e := range w.exports {
		switch {
		case e.short:
			s.short++
		case e.answer.status == http.StatusAccepted:
			s.exports++
		case e.answer.status == http.StatusBadRequest:
			s.refused++
		}
	}
}

func (s *totals) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("%d times at rest: %d events kept, %d decorated (%d by the rule of the first deployment), %d duplicates, %d dead letters; %d exports compared, %d refused, %d stored again under their key; %d orphaned objects swept, %d segments merged, %d events expired, for which %d exports ended in error; "+
		"%d topics made anew, %d taken off the list; %d systems with added partitions; "+
		"%d systems with three brokers: %d leaders that did not know that they were replaced; "+
		"%d systems with standing orders: %d over %d periods with %d files (%d of them not the last of their period, %d delivered), %d in error, %d steps asked for twice; %d walks of %d files; %d rows of both in one file each",
		s.rests, s.kept, s.decorated, s.backlog, s.duplicates, s.dead, s.exports, s.refused, s.repeats, s.swept, s.merged, s.expired, s.short, s.anew, s.left, s.grown, s.three, s.replaced,
		s.worlds, s.orders, s.periods, s.files, s.parts, s.delivered, s.troubles, s.second, s.walks, s.walked, s.rows)
}
