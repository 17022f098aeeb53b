package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"lockstitch/state/catalog"
)

// retire writes down that everything stored is below the floor, and removes it,
// as a replica's cut would.
func (y *system) retire() catalog.Floor {
	y.t.Helper()
	ctx := testContext(y.t)
	if err := y.r.catalog.CatchUp(ctx); err != nil {
		y.t.Fatal(err)
	}
	old := y.r.catalog.Segments()
	at := catalog.Retention{Refused: catalog.Floor{}.Above(old), Removed: catalog.Floor{}.Above(old)}
	rec, err := at.Record(y.s.Topics.Catalog)
	if err != nil {
		y.t.Fatal(err)
	}
	records := []*kgo.Record{rec}
	for _, s := range old {
		records = append(records, s.Tombstone(y.s.Topics.Catalog))
	}
	opts, err := y.s.Kafka.Config().Opts()
	if err != nil {
		y.t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		y.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
		y.t.Fatal(err)
	}
	return at.Refused
}

// What retention has removed, as the command line sees it.
func TestExportOfWhatIsNoLongerKept(t *testing.T) {
	ctx := testContext(t)
	y := startSystem(t, t.TempDir(), func(s *Settings) { s.Limits.ExportsPerMinute, s.Limits.TokensPerMinute = 1000, 1000 })
	kept := filepath.Join(t.TempDir(), "acme.cursor")
	before := y.produce(ctx, 1, 100).Events
	rows := func(flags ...string) int {
		t.Helper()
		text, _ := y.export(ctx, y.r.localURL(), flags...)
		all, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return len(all) - 1
	}
	if got := rows("--after", "beginning"); got != before {
		t.Fatalf("%d rows of %d events", got, before)
	}
	out := filepath.Join(t.TempDir(), "f.csv.gz")
	args := []string{"export", "--url", y.r.localURL(), "--client-id", "demo", "--client-secret", "demo-secret", "-o", out}
	status, cursor, errs := command(ctx, nil, append(args, "--after", "beginning", "--quiet")...)
	if status != 0 {
		t.Fatalf("exit %d: %s", status, errs)
	}
	if err := os.WriteFile(kept, []byte(cursor), 0o600); err != nil {
		t.Fatal(err)
	}
	y.produce(ctx, 2, 100)
	rows("--after", "beginning") // all of it is stored now
	floor := y.retire()
	if err := y.r.catalog.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}

	oldest := stampText(floor.OldestAvailable)
	status, _, errs = command(ctx, nil, append(args, "--cursor-file", kept, "-o", out+".next")...)
	if status != 1 || !strings.Contains(errs, "answered 410") || !strings.Contains(errs, oldest) || !strings.Contains(errs, "remove "+kept) {
		t.Errorf("exit %d: %s", status, errs)
	}
	if got, err := os.ReadFile(kept); err != nil || string(got) != cursor {
		t.Errorf("the cursor has moved: %v", err)
	}
	status, _, errs = command(ctx, nil, append(args, "--start-at", stampText(floor.OldestAvailable-1), "--end-at", anything[3])...)
	if status != 1 || !strings.Contains(errs, "answered 400") || !strings.Contains(errs, "is before "+oldest) {
		t.Errorf("exit %d: %s", status, errs)
	}
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	after := y.produce(ctx, 3, 100).Events
	if got := rows("--cursor-file", kept); got != after {
		t.Errorf("%d rows from the beginning, want the %d that are kept", got, after)
	}
	if _, text := y.admin("/metrics"); !strings.Contains(text, fmt.Sprintf("lockstitch_oldest_available_timestamp_seconds %s\n", strconv.FormatFloat(float64(floor.OldestAvailable)/1000, 'g', -1, 64))) {
		t.Errorf("the metric does not say %d", floor.OldestAvailable)
	}
}

// What retention removes while segments are verified is not damaged.
func TestSegmentsVerifyPassesOverWhatIsRemovedMeanwhile(t *testing.T) {
	ctx, dir := testContext(t), t.TempDir()
	y := startSystem(t, dir)
	for seed := range uint64(2) {
		y.produce(ctx, seed, 100)
		y.export(ctx, y.r.localURL(), anything...)
	}
	segs := y.r.catalog.Segments()
	if len(segs) < 2 {
		t.Fatalf("%d segments are stored", len(segs))
	}
	out := newWatch("ok ", func() { // the first one has been read
		y.retire()
		for _, s := range segs {
			if err := y.r.store.Delete(ctx, s.Object); err != nil {
				t.Error(err)
			}
		}
	})
	errs := newWatch("", nil)
	args := []string{"segments", "verify", "--brokers", y.b.addr, "--store-url", "file://" + filepath.ToSlash(filepath.Join(dir, "objects"))}
	status := run(ctx, &app{out: out, err: errs}, args)
	if status != 0 || strings.Count(out.text(), "gone segments/") != len(segs)-1 || !strings.Contains(out.text(), "\n1 segments are as the catalog says\n") {
		t.Errorf("exit %d: %s%s", status, out.text(), errs.text())
	}
}
