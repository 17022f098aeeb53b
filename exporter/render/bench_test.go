package render

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"lockstitch/state/catalog"
	"lockstitch/state/event"
	"lockstitch/state/objects"
	"lockstitch/state/profile"
	"lockstitch/state/report"
	"lockstitch/state/segment"
)

// shelf is a store in memory that can only be read.
type shelf struct {
	objects.Store
	data map[string][]byte
}

func (s shelf) Open(_ context.Context, name string, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.data[name][off : off+n])), nil
}

// realistic makes rows that look like real traffic, in cuts of cutRows. overlap
// is how many neighbouring cuts share a stretch of time.
func realistic(b *testing.B, rows, cutRows, overlap int) (objects.Store, []catalog.SliceRef, *report.Question) {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	store := shelf{data: make(map[string][]byte)}
	stream := segment.Stream{Topic: "email-events", ID: segment.TopicID{1}}
	people := make([]profile.Snapshot, 5000)
	for i := range people {
		attributes := map[string]any{"9820534": fmt.Sprintf("anna.%d@example%d.com", r.IntN(1e6), r.IntN(40)), "100": r.IntN(2) == 0, "101": r.IntN(100),
			"102": fmt.Sprintf("19%02d-%02d-%02d", r.IntN(100), 1+r.IntN(12), 1+r.IntN(28)), "103": []string{"female", "male", ""}[r.IntN(3)], "104": fmt.Sprint("city", r.IntN(500)),
			"105": r.Int64N(1e12), "106": fmt.Sprint("given", r.IntN(900)), "107": fmt.Sprint("family", r.IntN(3000)), "108": float64(r.IntN(1e6)) / 100}
		value, err := json.Marshal(map[string]any{"account_id": "acme", "sections": map[string]any{"s": map[string]any{"attributes": attributes, "tags": []string{fmt.Sprint(1 + r.IntN(3))}}}})
		if err != nil {
			b.Fatal(err)
		}
		if people[i], _, err = profile.Decode([]byte("p"), value); err != nil {
			b.Fatal(err)
		}
	}
	var refs []catalog.SliceRef
	for from := 0; from < rows; from += cutRows {
		buffer := segment.NewBuffer()
		for i := from; i < min(from+cutRows, rows); i++ {
			server := 1_700_000_000_000 + 3*int64(from+r.IntN(cutRows*overlap))
			campaign := r.IntN(30)
			ev := event.Event{Type: event.Type(r.IntN(4)), AccountID: []byte("acme"), Section: []byte("s"), ProfileID: fmt.Append(nil, "p", i%50_000), EventTime: server - r.Int64N(5000), ServerTime: server,
				CorrelationID: fmt.Appendf(nil, "%08x-%04x-4%03x-8%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Int64N(1<<48))}
			for c, text := range map[event.Cell]string{event.ActivityID: fmt.Sprint(4000 + campaign), event.SplitID: fmt.Sprint(4000 + campaign), event.ActivityName: fmt.Sprint("Autumn campaign ", campaign),
				event.Sender: "shop@example.com", event.Subject: fmt.Sprintf("News of week %d, only for you", campaign), event.Variation: "A"} {
				ev.Cells[c] = []byte(text)
			}
			if ev.Type == event.Clicked {
				ev.Cells[event.LinkURL] = fmt.Append(nil, "https://shop.example.com/campaign/", campaign, "/link/", r.IntN(40))
			}
			buffer.Add(&stream, 0, int64(i), server, &ev, people[r.IntN(len(people))])
		}
		n := 0
		err := segment.Seal([]*segment.Buffer{buffer}, func(o segment.Object) error {
			name := fmt.Sprint(from, "-", n)
			n++
			store.data[name] = o.Data
			for i := range o.Slices {
				refs = append(refs, catalog.SliceRef{SegmentID: name, Object: name, Info: &o.Slices[i]})
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return store, refs, &report.Question{Barrier: []report.End{{TopicID: stream.ID, Offset: math.MaxInt64}},
		Email: map[string][]report.EmailVersion{"s": {{VersionID: "9820534", Type: "text"}}}}
}

// BenchmarkExport reads, renders, compresses and stitches: the default columns,
// ten attributes and three tags more, the default columns of cuts that overlap in
// time, and all of that by more workers. MB/s are of text; peak-MB is the heap beyond
// what there was, peak/Memory its ratio to what Memory says.
func BenchmarkExport(b *testing.B) {
	const rows = 400_000
	for _, c := range []struct {
		name    string
		wide    bool
		overlap int
		workers int
	}{{"default", false, 1, 0}, {"wide", true, 1, 0}, {"overlapping", false, 20, 0}, {"8 workers", true, 20, 8}, {"64 workers", true, 20, 64}} {
		b.Run(c.name, func(b *testing.B) {
			store, refs, q := realistic(b, rows, 20_000, c.overlap)
			if c.wide {
				for i, as := range []string{"boolean", "number", "date", "text", "location", "timestamp", "text", "text", "decimal"} {
					q.Attributes = append(q.Attributes, report.AttributeColumn{Section: "s", VersionID: fmt.Sprint(100 + i), Name: "column", Type: as})
				}
				for i := range 3 {
					q.Tags = append(q.Tags, report.TagColumn{Section: "s", VersionID: fmt.Sprint(i + 1), Name: "tag"})
				}
			}
			defer debug.SetGCPercent(debug.SetGCPercent(50)) // as replicas have it
			params := Params{Store: store, Slices: refs, Question: q, Parallel: c.workers}
			var file bytes.Buffer
			totals, err := Export(b.Context(), params, &file)
			if err != nil || totals.Rows != rows {
				b.Fatal(totals, err)
			}
			text := int64(len(unzip(b, file.Bytes())))
			file = bytes.Buffer{}
			var before, now runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			peak := uint64(0)
			params.Progress = func(int, int, int64, int64) {
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapInuse)
			}
			b.ReportAllocs()
			var first, last runtime.MemStats
			runtime.ReadMemStats(&first)
			exports := 0
			for b.Loop() {
				if _, err := Export(b.Context(), params, io.Discard); err != nil {
					b.Fatal(err)
				}
				exports++
			}
			runtime.ReadMemStats(&last)
			b.SetBytes(text)
			b.ReportMetric(float64(text)/float64(totals.Bytes), "ratio")
			b.ReportMetric(float64(last.Mallocs-first.Mallocs)/float64(exports*rows), "allocs/row")
			beyond := float64(int64(peak) - int64(before.HeapInuse))
			b.ReportMetric(beyond/(1<<20), "peak-MB")
			b.ReportMetric(beyond/float64(Memory(c.workers)), "peak/Memory")
		})
	}
}

// BenchmarkSmall makes a file of a hundred rows: what a file costs beside its rows.
func BenchmarkSmall(b *testing.B) {
	store, refs, q := realistic(b, 100, 100, 1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Export(b.Context(), Params{Store: store, Slices: refs, Question: q}, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMerged exports what came in cuts of a few rows, as they are and merged. merged
// is the time of the latter by that of the former, opened how many objects each opens: a
// store that is not in memory takes its time for each.
func BenchmarkMerged(b *testing.B) {
	const rows, cut = 40_000, 50
	store, refs, q := realistic(b, rows, cut, 2)
	buffer := segment.NewBuffer()
	for _, ref := range refs {
		data := store.(shelf).data[ref.Object]
		s, err := segment.OpenSlice(ref.Object, ref.Info, data[ref.Info.Offset:ref.Info.Offset+ref.Info.Length])
		if err == nil {
			err = buffer.Take(s)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	o, err := segment.Merge(buffer)
	if err != nil {
		b.Fatal(err)
	}
	one := shelf{data: map[string][]byte{"merged": o.Data}}
	var merged []catalog.SliceRef
	for i := range o.Slices {
		merged = append(merged, catalog.SliceRef{SegmentID: "merged", Object: "merged", Info: &o.Slices[i]})
	}
	export := func(store objects.Store, refs []catalog.SliceRef) ([]byte, time.Duration) {
		var file bytes.Buffer
		begun := time.Now()
		totals, err := Export(b.Context(), Params{Store: store, Slices: refs, Question: q}, &file)
		if err != nil || totals.Rows != rows {
			b.Fatal(totals, err)
		}
		return file.Bytes(), time.Since(begun)
	}
	var before, after time.Duration
	for b.Loop() {
		small, took := export(store, refs)
		before += took
		large, took := export(one, merged)
		after += took
		if unzip(b, small) != unzip(b, large) {
			b.Fatal("merging has changed the export")
		}
	}
	b.ReportMetric(float64(after)/float64(before), "merged")
	b.ReportMetric(float64(len(refs)), "opened-before")
	b.ReportMetric(float64(len(merged)), "opened-after")
}
