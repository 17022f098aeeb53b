package run

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstitch/state/kafka"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

const (
	lookEvery = time.Second     // how often the reasons for waiting are looked for anew
	lookLimit = 2 * time.Second // how long brokers may take to tell them
)

// waiting is what a report waits for.
type waiting struct {
	named []report.Waiting // at most report.MaxWaiting
	total int              // how many there are
}

// waits are the reports of a runner that wait for their barriers. Why they do is
// asked for all of them at once, however many they are.
type waits struct {
	mu    sync.Mutex
	of    map[*progress]waiting
	known facts // from the last look
}

// set notes what a report waits for, zero: for nothing any more, and shows it with the
// reasons that are known.
func (w *waits) set(p *progress, what waiting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if what.total == 0 {
		delete(w.of, p)
	} else {
		w.of[p] = what
	}
	p.waiting(w.known.explain(what))
}

// explain is what is waited for with the reasons that are known.
func (w *waits) explain(what waiting) waiting {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known.explain(what)
}

// learn shows all reports that wait the reasons that were found.
func (w *waits) learn(f facts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = f
	for p, what := range w.of {
		p.waiting(f.explain(what))
	}
}

// partitions are those that any report names, by topic.
func (w *waits) partitions() map[string][]int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := make(map[string]map[int32]bool)
	for _, what := range w.of {
		for _, e := range what.named {
			if seen[e.Topic] == nil {
				seen[e.Topic] = make(map[int32]bool)
			}
			seen[e.Topic][e.Partition] = true
		}
	}
	out := make(map[string][]int32, len(seen))
	for topic, parts := range seen {
		out[topic] = slices.Collect(maps.Keys(parts))
	}
	return out
}

// explainLoop looks for the reasons for as long as any report waits.
func (r *Runner) explainLoop(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		r.waits.learn(r.look(ctx, r.waits.partitions()))
	}
}

// facts are what brokers tell of event partitions that are waited for, as far as they
// have told anything.
type facts struct {
	anew     map[string]bool            // topics that were made anew and are not adopted
	stable   map[string]map[int32]int64 // last stable offsets, by topic and partition
	profiles map[int32]string           // partition of the profiles → where a transaction is open on it
}

// look asks the brokers. It takes as many requests for many partitions as for one.
func (r *Runner) look(ctx context.Context, parts map[string][]int32) facts {
	f := facts{anew: make(map[string]bool), stable: make(map[string]map[int32]int64), profiles: make(map[int32]string)}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	cl := r.deps.Catalog.Client()
	numbers := make(map[int32]bool)
	for topic, ps := range parts {
		infos, err := kafka.Describe(ctx, cl, topic)
		if err != nil {
			continue
		}
		if ids := r.deps.Catalog.Adopted(topic); len(ids) > 0 && ids[len(ids)-1] != segment.TopicID(infos[topic].ID) {
			f.anew[topic] = true
			continue
		}
		told, _ := kafka.ListOffsets(ctx, cl, map[string][]int32{topic: ps}, kafka.AtEnd, kafka.LastStable)
		f.stable[topic] = told[topic]
		for n := range told[topic] {
			numbers[n] = true
		}
	}
	if len(numbers) == 0 {
		return f
	}
	part := map[string][]int32{r.cfg.Profiles: slices.Collect(maps.Keys(numbers))}
	ends, _ := kafka.ListOffsets(ctx, cl, part, kafka.AtEnd, kafka.HighWatermark)
	stable, _ := kafka.ListOffsets(ctx, cl, part, kafka.AtEnd, kafka.LastStable)
	for n, at := range stable[r.cfg.Profiles] {
		if at < ends[r.cfg.Profiles][n] {
			f.profiles[n] = fmt.Sprintf("%s/%d at offset %d", r.cfg.Profiles, n, at)
		}
	}
	return f
}

// explain is a copy of what is waited for with the reasons.
func (f *facts) explain(what waiting) waiting {
	what.named = slices.Clone(what.named)
	for i := range what.named {
		w := &what.named[i]
		stable, known := f.stable[w.Topic][w.Partition]
		at, open := f.profiles[w.Partition]
		switch {
		case f.anew[w.Topic]:
			w.Reason = "the topic was made anew and is not adopted"
		case known && stable < w.Offset:
			w.Reason = fmt.Sprintf("a producer's transaction is open at offset %d", stable)
		case known && open:
			w.Reason = fmt.Sprintf("a producer's transaction is open on %s, and the events wait for their profiles", at)
		}
	}
	return what
}

func (what waiting) describe() string {
	const most = 10
	var b strings.Builder
	for i, w := range what.named {
		if i == most {
			fmt.Fprintf(&b, " and %d more", what.total-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s/%d (at %d of %d: %s)", w.Topic, w.Partition, w.Position, w.Offset, w.Reason)
	}
	return b.String() + "."
}
