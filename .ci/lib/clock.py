"""A wall clock that can be set from outside, for a Go binary that is built with the overlay made here. A real step
of CLOCK_REALTIME moves time.Now and leaves monotonic readings, timers and file times alone; so does this. No library
that is preloaded reaches a static binary, and a time namespace moves the monotonic clock alone."""
import json
import mmap
import pathlib
import struct
import subprocess
import time

# What time.Now is in the Go at hand must contain this once; another Go may need another patch.
NOW, SHIFTED = ("""func Now() Time {
	sec, nsec, mono := runtimeNow()
""", """func Now() Time {
	sec, nsec, mono := runtimeNow()
	sec += wallShift.Load()
""")

# The shift is 8 bytes of a file that is mapped: it holds from the first reading of a process on, over restarts,
# and changes while the process stands still.
MAPPED = """package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var wallShift = mapShift() // seconds

func mapShift() *atomic.Int64 {
	path, ok := syscall.Getenv("FAULTS_CLOCK")
	if !ok {
		return new(atomic.Int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("FAULTS_CLOCK: " + err.Error())
	}
	m, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("FAULTS_CLOCK: " + err.Error())
	}
	_ = syscall.Close(fd)
	return (*atomic.Int64)(unsafe.Pointer(&m[0]))
}
"""


def overlay(out):
    """Writes the overlay for `go build -overlay` into a directory; answers its path."""
    src = pathlib.Path(subprocess.run(["go", "env", "GOROOT"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True,
                                      text=True, timeout=60).stdout.strip()) / "src" / "time"
    text = (src / "time.go").read_text()
    if text.count(NOW) != 1 or (src / "shift.go").exists():
        raise RuntimeError(f"{src}/time.go is not the one that lib/clock.py patches: look at time.Now there, and change NOW and SHIFTED")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("time.go", text.replace(NOW, SHIFTED)), ("shift.go", MAPPED)):
        (out / name).write_text(content)
    path = out / "overlay.json"
    path.write_text(json.dumps({"Replace": {str(src / name): str(out / name) for name in ("time.go", "shift.go")}}))
    return path


class Clock:
    """How far the wall clock of a process is from the machine's, in seconds. The process gets env."""

    def __init__(self, path):
        path.write_bytes(bytes(8))
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), 8)
        self.env = {"FAULTS_CLOCK": str(path)}
        self._set = [(0.0, 0)]  # to what, and when by time.monotonic

    @property
    def ahead(self):
        return struct.unpack("=q", self.map[:8])[0]

    @ahead.setter
    def ahead(self, seconds):
        self.map[:8] = struct.pack("=q", seconds)
        self._set.append((time.monotonic(), seconds))

    def most(self, since):
        """The furthest that it has been ahead since a time.monotonic."""
        return max([s for t, s in self._set if t < since][-1:] + [s for t, s in self._set if t >= since])
