"""A suite: what it checked, said line by line, with a last line to read.

A suite is one program under .ci/ that anybody can run by itself. It starts
what it needs on loopback, ends what it started whatever happens, and waits for
nothing without a limit.
"""
import atexit
import functools
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import clock

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "lockstitch-ci"


class Failed(Exception):
    """A check without which the rest of the suite makes no sense."""


class Suite:
    """Counts checks. `with Suite("name") as s:` prints the summary at the end
    and sets the exit status."""

    def __init__(self, name):
        self.name = name
        self.passed = self.failed = 0
        self.failures = []
        self.seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
        self.random = random.Random(self.seed)
        self.started = time.monotonic()
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"lockstitch-{name}-"))
        self.keep = bool(os.environ.get("KEEP"))
        atexit.register(self._remove)

    def _remove(self):
        if self.keep:
            print(f"kept: {self.dir}", flush=True)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)

    def say(self, text):
        print(f"{time.monotonic() - self.started:7.1f}s  {text}", flush=True)

    def check(self, what, good, detail=""):
        """One thing that must hold. A failed one is counted, and the suite goes on."""
        if good:
            self.passed += 1
            self.say(f"ok    {what}")
        else:
            self._fail(what + (f": {detail}" if detail else ""))
        return bool(good)

    def _fail(self, what):
        self.failed += 1
        self.failures.append(what)
        self.say(f"FAIL  {what}")

    def must(self, what, good, detail=""):
        """Like check, but nothing after it makes sense if it fails."""
        if not self.check(what, good, detail):
            raise Failed()

    def __enter__(self):
        self.say(f"{self.name}: rerun with SEED={self.seed} .ci/{self.name}/run; KEEP=1 keeps {self.dir}")
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None and kind is not Failed:
            self._fail(f"{kind.__name__}: {error}")
            if kind is not KeyboardInterrupt:
                traceback.print_exception(kind, error, trace)
        if self.failed:
            self.say(f"rerun with SEED={self.seed} .ci/{self.name}/run")
            for log in sorted([*self.dir.glob("*.log"), *self.dir.glob("*/*.log")]):
                lines = log.read_text(errors="replace").splitlines()[-int(os.environ.get("TAIL", 25)):]
                print(f"--- the last lines of {log.name}\n" + "\n".join(lines), flush=True)
            # Once more, where whoever has only the last lines finds them.
            print(f"--- what failed; rerun with SEED={self.seed} .ci/{self.name}/run")
            for what in self.failures:
                print(f"FAIL  {what[:2000]}", flush=True)
        if "api" in sys.modules and (away := sys.modules["api"].away):
            self.say(f"{len(away)} answers were 503 and asked for again")
        sys.stdout.flush()
        sys.stderr.flush()
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        from procs import end_all
        end_all()
        self._remove()
        self.keep = False
        os._exit(1 if self.failed else 0)


def lockstitch(*tags):
    """Path of the binary: $LOCKSTITCH, else built from this checkout (with build tags, under a name of its own; with
    the tag faults its wall clock can be set, see clock.py)."""
    if os.environ.get("LOCKSTITCH"):
        return os.environ["LOCKSTITCH"]
    return build("./cmd/lockstitch", "-".join(["lockstitch", *tags]), *tags)


@functools.cache
def build(package, name, *tags):
    """Builds a program of this module into the cache, once in a suite. Every
    checkout has a place of its own: suites of two may run at a time."""
    out = CACHE / "built" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:12] / name
    out.parent.mkdir(parents=True, exist_ok=True)
    overlay = ["-overlay", str(clock.overlay(out.parent / "overlay"))] if "faults" in tags else []
    subprocess.run(["go", "build", *overlay, "-tags", ",".join(tags), "-o", str(out), package], cwd=ROOT, check=True,
                   stdin=subprocess.DEVNULL, timeout=3600)
    return str(out)
