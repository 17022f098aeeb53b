package local

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// cpu is the CPU time, user and system, that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spent is the CPU time of f on a new database of a replica's default budget, with
// the compactions that it leaves.
func spent(b *testing.B, f func(*Lane) error) time.Duration {
	b.Helper()
	db, err := Open(b.TempDir(), "cluster", "group", Options{CacheBytes: 32 << 20, MemTableBytes: 8 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	before := cpu()
	if err := f(db.Lane(0)); err != nil {
		b.Fatal(err)
	}
	if err := db.p.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil { // waits for the compaction under way
		b.Fatal(err)
	}
	return cpu() - before
}

// BenchmarkLoadDedup compares the CPU time of loading the entries of a lane
// that has none with that of writing them in batches, slice by slice. Metrics: ns
// an entry of both, and the ratio (load / batches).
func BenchmarkLoadDedup(b *testing.B) {
	const entries, slice, horizon = 2_000_000, 8192, 7 * 24 * 3600 * 1000
	r := rand.New(rand.NewPCG(1, 2))
	all := make([]DedupEntry, entries)
	for i := range all {
		for j := range all[i].Key {
			all[i].Key[j] = byte(r.UintN(256))
		}
		all[i].Offset, all[i].LogTime = int64(i), 1_760_000_000_000+int64(i)
	}
	for b.Loop() {
		batches := spent(b, func(l *Lane) error {
			for at := 0; at < entries; at += slice {
				if err := l.WriteDedup(all[at:min(at+slice, entries)], horizon, nil); err != nil {
					return err
				}
			}
			return nil
		})
		load := spent(b, func(l *Lane) error {
			d := l.LoadDedup(entries, horizon)
			defer func() { _ = d.Close() }()
			for at := 0; at < entries; at += slice {
				if err := d.Add(all[at:min(at+slice, entries)]); err != nil {
					return err
				}
			}
			return d.Finish(context.Background(), func(int32, DedupKey) {})
		})
		b.ReportMetric(float64(batches.Nanoseconds())/entries, "batches-ns/entry")
		b.ReportMetric(float64(load.Nanoseconds())/entries, "load-ns/entry")
		b.ReportMetric(float64(load)/float64(batches), "ratio")
	}
}

// BenchmarkLoadProfiles is the same for profiles. Where batches do not look for
// older versions, as at a first deployment, the ratio is that of "no floor".
func BenchmarkLoadProfiles(b *testing.B) {
	const profiles, poll = 300_000, 10_000
	snap := snapshot(b, "female, born 1970-01-01, user123456@example.com, of Stockholm, a customer since 2011")
	ids := make([][]byte, profiles)
	for i := range ids {
		ids[i] = fmt.Appendf(nil, "profile-%d", i)
	}
	for _, c := range []struct {
		name  string
		floor int64
	}{{"no floor", math.MinInt64}, {"floor", profiles}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				batches := spent(b, func(l *Lane) error {
					for at := 0; at < profiles; at += poll {
						batch := l.NewProfileBatch()
						for i := at; i < at+poll; i++ {
							if err := batch.Put(ids[i], Version{Offset: int64(i), Time: int64(i), Snapshot: snap}, c.floor); err != nil {
								return err
							}
						}
						if err := batch.Commit(ProfileMarker{}); err != nil {
							return err
						}
					}
					return nil
				})
				load := spent(b, func(l *Lane) error {
					p := l.LoadProfiles(profiles)
					defer func() { _ = p.Close() }()
					for i := range ids {
						if err := p.Put(ids[i], Version{Offset: int64(i), Time: int64(i), Snapshot: snap}); err != nil {
							return err
						}
					}
					return p.Finish(ProfileMarker{}, c.floor)
				})
				b.ReportMetric(float64(batches.Nanoseconds())/profiles, "batches-ns/profile")
				b.ReportMetric(float64(load.Nanoseconds())/profiles, "load-ns/profile")
				b.ReportMetric(float64(load)/float64(batches), "ratio")
			}
		})
	}
}
