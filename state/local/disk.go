package local

import (
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// fullRetry is how often a full disk is looked at again.
const fullRetry = time.Second

// whileFull makes writes to a full disk wait until there is room again. To
// Pebble a write that fails is fatal: it would end the process, which on a full
// disk could not start again either. Lag ticks meanwhile. Therefore a write waits
// when opt.Done is closed, too: opt.Held is called then, once, for whoever waits for the write.
func whileFull(fs vfs.FS, dir string, log *slog.Logger, opt Options) vfs.FS {
	probe := fs.PathJoin(dir, "room")
	var once sync.Once
	return vfs.OnDiskFull(fs, func() {
		log.Error("the disk is full; writing waits for room", "dir", dir)
		if opt.Full != nil {
			opt.Full(true)
			defer opt.Full(false)
		}
		begun := time.Now()
		tick := time.NewTicker(fullRetry)
		defer tick.Stop()
		for ending := opt.Done; ; {
			last := false
			select {
			case <-tick.C:
			case <-ending:
				ending, last = nil, true
			}
			if hasRoom(fs, probe) {
				log.Info("there is room on the disk again", "dir", dir, "seconds", time.Since(begun).Seconds())
				return
			}
			if last && opt.Held != nil {
				once.Do(opt.Held)
			}
		}
	})
}

// roomNeeded is more than one write needs.
const roomNeeded = 4 << 20

func hasRoom(fs vfs.FS, probe string) bool {
	f, err := fs.Create(probe, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false
	}
	_, err = f.Write(make([]byte, roomNeeded))
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	_ = fs.Remove(probe)
	return err == nil
}

// onDamage is told by Pebble of what it cannot read. Left to itself it would end
// the process before the damage was noted down. Whoever reads gets the error,
// too; Pebble's own compactions have nobody else to tell.
func (db *DB) onDamage(info pebble.DataCorruptionInfo) {
	if db.Err() != nil {
		return // compactions try again
	}
	db.log.Error("local state is damaged", "path", info.Path, "err", db.Damaged(info.Details))
}
