package rolling

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"lockstitch/state/report"
)

func TestEveryPeriodBecomesAFile(t *testing.T) {
	w := newWorld(t)
	w.runner(w.table, nil)
	w.generator(w.table, nil)
	w.produce(0, noon.Add(-time.Hour), "before")
	o := w.order(time.Minute, nil)
	w.produce(0, noon.Add(10*time.Second), "first")
	w.produce(1, noon.Add(59*time.Second), "second")
	w.produce(1, noon.Add(60*time.Second), "third")
	w.commit()
	w.clock.set(noon.Add(time.Minute + Grace))
	w.await(o.Order.ID, "the first boundary", doneTo(noon.Add(time.Minute)))
	w.clock.set(noon.Add(3*time.Minute + Grace))
	w.await(o.Order.ID, "the third boundary", doneTo(noon.Add(3*time.Minute)))
	files := w.files(o.Order.ID)
	if len(files) != 2 {
		t.Fatalf("%d files, want two: the third period has no rows", len(files))
	}
	if got := fmt.Sprint(w.ids(files[0]), w.ids(files[1])); got != "[before first second] [third]" && got != "[first before second] [third]" {
		t.Errorf("files hold %s", got)
	}
	w.onceEach(o.Order.ID)
}

// seed is given by SEED, or chosen.
func seed(t *testing.T) *rand.Rand {
	n := rand.Uint64()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("rerun with SEED=%d go test ./exporter/rolling -run '^%s$'", n, t.Name())
	return rand.New(rand.NewPCG(n, 0))
}

var _ = report.ErrVoid
