package bubble

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestTimersThatAreDueAtOnce: with synctest.Test itself, some ten of these crash the race
// detector, or make it report a race.
func TestTimersThatAreDueAtOnce(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for range 50 {
				Test(t, func(*testing.T) {
					var wg sync.WaitGroup
					for range 8 {
						wg.Go(func() {
							due := time.NewTimer(0)
							for range 100 {
								fired := make(chan int, 1)
								time.AfterFunc(0, func() { fired <- 1 })
								<-due.C
								<-fired
								due.Reset(0)
							}
						})
					}
					wg.Wait()
				})
			}
		})
	}
}
