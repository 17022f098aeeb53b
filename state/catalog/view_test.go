package catalog

import (
	"errors"
	"log/slog"
	"math"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"lockstitch/state/kafka"
	"lockstitch/state/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type topic struct {
	t    *testing.T
	opts []kgo.Opt
	prod *kgo.Client
}

func newTopic(t *testing.T, partitions int32) *topic {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, "cat"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	opts := []kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}
	prod, err := kgo.NewClient(append(opts[:1:1], kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(prod.Close)
	return &topic{t: t, opts: opts, prod: prod}
}

func (tp *topic) put(r *kgo.Record, err error) {
	tp.t.Helper()
	if err != nil {
		tp.t.Fatal(err)
	}
	if err := tp.prod.ProduceSync(tp.t.Context(), r).FirstErr(); err != nil {
		tp.t.Fatal(err)
	}
}

func (tp *topic) open() *View {
	tp.t.Helper()
	v, err := Open(tp.t.Context(), Config{Opts: tp.opts, Topic: "cat", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tp.t.Fatal(err)
	}
	tp.t.Cleanup(v.Close)
	return v
}

func slice(account string, from, to int64) segment.SliceInfo {
	return segment.SliceInfo{Account: account, Rows: 1, MinTime: from, MaxTime: to, Length: 10, KeysLength: 5,
		Sources: []segment.OffsetRange{segment.Stream{Topic: "e", ID: segment.TopicID{1}}.Range(3, 5, 9)}}
}

func TestViewShowsWhatWasWritten(t *testing.T) {
	tp := newTopic(t, 1)
	id := segment.TopicID{7}
	a := &Segment{ID: "01A", Object: "segments/h/01A", Slices: []segment.SliceInfo{slice("acme", 100, 200), slice("other", 100, 200)}}
	b := &Segment{ID: "01B", Object: "segments/h/01B", Slices: []segment.SliceInfo{slice("acme", 150, 300)}}
	tp.put(b.Record("cat"))
	tp.put(a.Record("cat"))
	tp.put((&Position{Topic: "e", TopicID: id, Partition: 2, Next: 42, Cut: "c"}).Record("cat"))
	tp.put((&FirstEnds{TopicID: id, Partition: 2, EventEnd: 9}).Record("cat"))
	tp.put((&Adopted{Topic: "e", IDs: []segment.TopicID{id}}).Record("cat"))
	v := tp.open()
	if err := v.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p, ok := v.Position(id, 2); !ok || p.Next != 42 || p.Cut != "c" {
		t.Errorf("position %+v %v", p, ok)
	}
	if _, ok := v.Position(id, 3); ok {
		t.Error("a partition without a record has a position")
	}
	if f, ok := v.FirstEnds(id, 2); !ok || f.EventEnd != 9 {
		t.Errorf("first ends %+v %v", f, ok)
	}
	if ids := v.Adopted("e"); len(ids) != 1 || ids[0] != id {
		t.Errorf("adopted %v", ids)
	}
	for _, w := range []struct {
		account    string
		start, end int64
		want       []string
	}{
		{"acme", 0, math.MaxInt64, []string{"01A", "01B"}},
		{"acme", 200, 201, []string{"01A", "01B"}},
		{"acme", 201, 1000, []string{"01B"}},
		{"acme", 0, 150, []string{"01A"}},
		{"acme", 301, 1000, nil},
		{"other", 0, 1000, []string{"01A"}},
		{"nobody", 0, 1000, nil},
	} {
		var got []string
		for _, s := range v.Slices(w.account, w.start, w.end) {
			got = append(got, s.SegmentID)
		}
		if len(got) != len(w.want) || len(got) > 0 && (got[0] != w.want[0] || got[len(got)-1] != w.want[len(w.want)-1]) {
			t.Errorf("slices of %s in [%d,%d): %v, want %v", w.account, w.start, w.end, got, w.want)
		}
	}
	tp.put(kafka.Stamp(&kgo.Record{Topic: "cat", Key: []byte("s/01A")}), nil)
	if err := v.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v.Live("01A") || !v.Live("01B") || len(v.Slices("other", 0, 1000)) != 0 || len(v.Segments()) != 1 {
		t.Error("a deleted segment is still there")
	}
}

func TestViewRefusesWhatItCannotRead(t *testing.T) {
	for name, c := range map[string]struct {
		key, value string
		version    bool
	}{
		"another version":       {"s/01A", `{"v":99,"id":"01A"}`, true},
		"no version":            {"s/01A", `{"id":"01A"}`, true},
		"not JSON":              {"p/x/1", `{`, false},
		"a floor, other key":    {"r/x", `{"v":2}`, false},
		"a floor, not in order": {"r/", `{"v":2,"refused":{"ends":[{"t":"AAAAAAAAAAAAAAAAAAAAAA","p":1},{"t":"AAAAAAAAAAAAAAAAAAAAAA","p":0}]}}`, false},
		"other id":              {"s/01A", `{"v":2,"id":"01B"}`, false},
		"replaces unexpectedly": {"s/01A", `{"v":2,"id":"01A","replaces":["01B"]}`, false},
		"replaces nothing":      {"g/01A", `{"v":2,"id":"01A"}`, false},
		"empty key":             {"", `{"v":2}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			tp := newTopic(t, 1)
			v := tp.open()
			tp.put(kafka.Stamp(&kgo.Record{Topic: "cat", Key: []byte(c.key), Value: []byte(c.value)}), nil)
			err := v.CatchUp(t.Context())
			var version *kafka.VersionError
			var damaged *kafka.DamagedError
			switch {
			case c.version:
				if !errors.As(err, &version) || version.Known != Version || version.Topic != "cat" || version.Offset != 0 || version.Key != c.key {
					t.Errorf("got %v", err)
				}
			case !errors.As(err, &damaged) || damaged.Topic != "cat" || damaged.Offset != 0 || damaged.Key != c.key:
				t.Errorf("got %v", err)
			}
			if v.Err() == nil || !errors.Is(err, v.Err()) {
				t.Errorf("the view says %v", v.Err())
			}
		})
	}
}

// TestKindsOfALaterVersion: those with a capital letter are passed over, their
// tombstones too, and what stands behind them is read; all others are refused.
func TestKindsOfALaterVersion(t *testing.T) {
	for name, value := range map[string][]byte{"a value": []byte(`{"v":2}`), "a tombstone": nil} {
		t.Run(name, func(t *testing.T) {
			tp := newTopic(t, 1)
			v := tp.open()
			tp.put(kafka.Stamp(&kgo.Record{Topic: "cat", Key: []byte("S/01A"), Value: value}), nil)
			tp.put((&Segment{ID: "01B", Slices: []segment.SliceInfo{slice("acme", 150, 300)}}).Record("cat"))
			if err := v.CatchUp(t.Context()); err != nil || !v.Live("01B") || v.Live("01A") {
				t.Fatalf("%v, segments %v", err, v.Segments())
			}
			tp.put(kafka.Stamp(&kgo.Record{Topic: "cat", Key: []byte("z/x"), Value: value}), nil)
			var version *kafka.VersionError
			if err := v.CatchUp(t.Context()); !errors.As(err, &version) || version.Known != 0 || version.Offset != 2 || version.Key != "z/x" || !errors.Is(err, v.Err()) {
				t.Errorf("got %v, the view says %v", err, v.Err())
			}
		})
	}
}

func TestCatalogHasOnePartition(t *testing.T) {
	tp := newTopic(t, 2)
	if _, err := Open(t.Context(), Config{Opts: tp.opts, Topic: "cat", Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Fatal("a catalog of two partitions was opened: a cut would not become visible whole")
	}
}

func FuzzDecode(f *testing.F) {
	rec, err := (&Segment{ID: "01A", Slices: []segment.SliceInfo{slice("acme", 1, 2)}}).Record("cat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(rec.Key, rec.Value)
	f.Add([]byte("p/AAAAAAAAAAAAAAAAAAAAAA/1"), []byte(`{"v":2,"next":5}`))
	f.Add([]byte("m/AAAAAAAAAAAAAAAAAAAAAA/1/495000"), []byte(`{"v":2,"minutes":[0,7],"offsets":[5,900]}`))
	f.Add([]byte("g/01A"), []byte(`{"v":2,"id":"01A","slices":[],"replaces":["01B","01A",""]}`))
	f.Add([]byte("r/"), []byte(`{"v":2,"at":5,"refused":{"oldest_available":9,"ends":[{"t":"AAAAAAAAAAAAAAAAAAAAAA","p":1,"n":7}]},"removed":{}}`))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		s := newState()
		if err := s.decode(kafka.Stamp(&kgo.Record{Key: key, Value: value})); err != nil {
			var version *kafka.VersionError
			var damaged *kafka.DamagedError
			if !errors.As(err, &version) && !errors.As(err, &damaged) {
				t.Fatalf("untyped error %v", err)
			}
		}
		if err := s.decode(kafka.Stamp(&kgo.Record{Key: key})); err == nil && (len(s.segments) != 0 || len(s.accounts) != 0) {
			t.Fatal("something is left of a segment that was removed")
		}
	})
}
