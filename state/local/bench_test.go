package local

import (
	"log/slog"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkX(b *testing.B) {
	const n = 5_000_000
	for _, c := range []struct {
		name string
		run  int
		ing  bool
	}{{"load", 8192, true}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				db, err := Open(b.TempDir(), "cluster", "group", Options{CacheBytes: 32 << 20, MemTableBytes: 8 << 20, Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					b.Fatal(err)
				}
				r := rand.NewChaCha8([32]byte{1})
				before, begun := cpu(), time.Now()
				l := db.Lane(0)
				ld := l.LoadDedup(n, 1<<50)
				for done := 0; done < n; {
					e := make([]DedupEntry, 0, c.run)
					for len(e) < cap(e) && done < n {
						done++
						x := DedupEntry{Offset: int64(done), LogTime: 1_760_000_000_000}
						r.Read(x.Key[:])
						e = append(e, x)
					}
					if c.ing {
						err = ld.Add(e)
					} else {
						err = l.WriteDedup(e, 1<<50, nil)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
				if err := ld.Finish(func(int32, DedupKey) {}); err != nil {
					b.Fatal(err)
				}
				if err := ld.Close(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpu()-before).Nanoseconds())/n, "cpu-ns/entry")
				b.ReportMetric(float64(time.Since(begun).Nanoseconds())/n, "wall-ns/entry")
				for {
					m := db.p.Metrics()
					if m.Compact.NumInProgress == 0 && m.Flush.NumInProgress == 0 {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
				b.ReportMetric(float64((cpu()-before).Nanoseconds())/n, "cpu-rest-ns/entry")
				before = cpu()
				if err := l.ScanDedup(0, func(DedupKey) {}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64((cpu()-before).Nanoseconds())/n, "scan-ns/entry")
				db.Close()
			}
		})
	}
}
