package consumer

import (
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
)

// brokerEnv makes the test binary a broker of its own, so that a benchmark's
// CPU time is the consumer's alone.
const brokerEnv = "LOCKSTITCH_BENCH_BROKER"

func TestMain(m *testing.M) {
	if os.Getenv(brokerEnv) != "" {
		c, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(c.ListenAddrs()[0])
		_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone
		c.Close()
		return
	}
	goleak.VerifyTestMain(m)
}
