package local

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// TestTheMachineCrashesWhileADirectoryIsMade: whatever a power loss leaves of a
// directory, at whatever step of its making, is taken for the replica's own.
func TestTheMachineCrashesWhileADirectoryIsMade(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for step := int32(0); ; step++ {
		disk := vfs.NewCrashableMem()
		crash := errorfs.OnIndex(step)
		_, _, err := identify(errorfs.Wrap(disk, errorfs.ErrInjected.If(crash)), "/", "cluster", "group")
		made := err == nil
		for survive := 0; survive <= 100; survive += 25 {
			name := fmt.Sprintf("step %d, %d%% of what was not synced survives", step, survive)
			left := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rand.New(rand.NewPCG(uint64(step), uint64(survive)))})
			if made {
				// As Pebble does it, at once.
				if err := left.MkdirAll("/"+pebbleDir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			db, err := Open("/", "cluster", "group", Options{FS: left, Log: log})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if err := db.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if made {
			if step < 4 {
				t.Errorf("only %d steps were seen", step)
			}
			return
		}
	}
}
