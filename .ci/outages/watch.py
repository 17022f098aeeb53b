"""What replicas are like while something is away: a sample of each every second, by phases."""
import os
import threading
import time

import api
from procs import http_status

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


class Sample:
    """One replica at one time."""

    def __init__(self, replica):
        process = replica.serve.process
        self.at = time.monotonic()
        self.resident = process.memory("VmRSS")
        self.disk = size(replica.serve.config.parent / f"{process.name}-data")
        fields = open(f"/proc/{process.pid}/stat").read().rsplit(")", 1)[1].split()
        self.cpu = (int(fields[11]) + int(fields[12])) / TICKS  # seconds so far
        self.lines = replica.log_lines()
        found = api.metrics(replica.serve.admin)

        def lag(name, over):
            values = [v for _, v in found.get(f"lockstitch_{name}", [])]
            return over(values) if values else None  # None: absent

        self.processing = lag("processing_lag_records", sum), lag("processing_lag_seconds", max)
        self.durable = lag("durable_lag_records", sum), lag("durable_lag_seconds", max)
        self.lanes = api.total(found, "lockstitch_lane_ready")
        self.failures = api.total(found, "lockstitch_cut_failures_total")
        try:
            self.ready = http_status(replica.serve.admin + "/readyz")
        except OSError:
            self.ready = 0
        self.alive = http_status(replica.serve.admin + "/healthz", 30)


class Replica:
    """A replica under watch: its samples, and how often it could not be asked."""

    def __init__(self, serve):
        self.serve, self.samples, self.unasked = serve, [], []
        self._read = self._lines = 0

    def log_lines(self):
        with open(self.serve.process.log, "rb") as f:
            f.seek(self._read)
            new = f.read()
        self._read += len(new)
        self._lines += new.count(b"\n")
        return self._lines

    def between(self, begin, end):
        """Its samples from a stretch of time, at least one."""
        return [s for s in self.samples if begin <= s.at <= end] or self.samples[-1:]


class Watch:
    """Samples the replicas until it is closed."""

    def __init__(self, serves):
        self.replicas = [Replica(s) for s in serves]
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._sample, args=(r,), daemon=True) for r in self.replicas]
        for t in self.threads:
            t.start()

    def _sample(self, replica):
        while not self.over.wait(1):
            try:
                replica.samples.append(Sample(replica))
            except (OSError, ValueError) as e:
                replica.unasked.append(e)

    def latest(self):
        """The last sample of each replica; none while one has none."""
        return [r.samples[-1] for r in self.replicas] if all(r.samples for r in self.replicas) else []

    def close(self):
        self.over.set()
        for t in self.threads:
            t.join(30)


class Phase:
    """A stretch of time: what the replicas were like in it."""

    def __init__(self, watch, name, begin, end, events, again=None):
        """again: seconds that catching up took after it, if something was away."""
        self.name, self.begin, self.end, self.events, self.again = name, begin, end, events, again
        self.each = [r.between(begin, end) for r in watch.replicas]
        self.all = [s for each in self.each for s in each]
        self.resident = max(s.resident for s in self.all)
        self.disk = max(s.disk for s in self.all)
        self.cpu = max(processors(each[0], each[-1]) for each in self.each)
        self.busiest = max(busiest(each) for each in self.each)
        self.lines = max((each[-1].lines - each[0].lines) / max(1, each[-1].at - each[0].at) for each in self.each) * 60  # a minute

    def highest(self, lag):
        """(records of all replicas at a time, about; seconds) of "processing" or "durable"."""
        return (sum(max((getattr(s, lag)[0] or 0 for s in each), default=0) for each in self.each),
                max((getattr(s, lag)[1] or 0 for s in self.all), default=0))

    HEAD = ("| phase | minutes | events produced | resident, MiB | disk, MiB | processors: on average, in the busiest 10 s | log lines a minute | "
            "highest processing lag | highest durable lag | caught up after |\n|---|---|---|---|---|---|---|---|---|---|")

    def row(self):
        def lag(name):
            records, seconds = self.highest(name)
            return f"{records:,.0f}, {seconds:.0f} s"
        return (f"| {self.name} | {(self.end - self.begin) / 60:.1f} | {self.events:,} | {self.resident / MIB:.0f} | {self.disk / MIB:.0f} | "
                f"{self.cpu:.2f}, {self.busiest:.2f} | {self.lines:.0f} | {lag('processing')} | {lag('durable')} | {'' if self.again is None else f'{self.again:.0f} s'} |")


def processors(one, two):
    """What a replica used between two samples: 1 is one processor all the time."""
    return (two.cpu - one.cpu) / max(1, two.at - one.at)


def busiest(samples):
    """The most that it used over about 10 s."""
    most, first = 0.0, 0
    for s in samples:
        while s.at - samples[first].at >= 10:
            most = max(most, processors(samples[first], s))
            first += 1
    return most


def size(directory):
    """Bytes on the disk of what is below a directory in which files come and go: what is reserved counts."""
    total = 0
    for at, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_blocks * 512
            except OSError:
                pass
    return total
