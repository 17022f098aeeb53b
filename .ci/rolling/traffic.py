"""Hostile events until an end that is set, with transactions that are committed, aborted and left open."""
import contextlib
import random
import threading
import time

import drive
from compare import EVENTS
from hostile import Load
from txn import Txn

PACE = 2.5  # seconds between two phases


class Traffic:
    """Phases of `events` records each from kcat, beside them small transactions. What it produced in the end only
    the topics know: replicas, and on dev the broker too, are killed under it."""

    def __init__(self, suite, brokers, load, on_kafka):
        self.suite, self.brokers, self.load, self.on_kafka = suite, brokers, load, on_kafka
        # The same profiles, other events: some share a correlation id with the first ones.
        self.other = Load(suite.seed)
        self.other.r.seed(suite.seed + 1)
        self.random = random.Random(suite.seed + 2)
        self.ended = threading.Event()
        self.alone = threading.Lock() if on_kafka else None
        self.counts = {"committed": 0, "aborted": 0, "left open": 0, "broken off": 0}
        self.failed, self.txn = None, None
        self.phases = 0
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self._events, self._transactions)]

    def start(self):
        for t in self.threads:
            t.start()

    def finish(self):
        """The time behind the last acknowledgement, in seconds since 1970."""
        self.ended.set()
        self.threads[1].join(30)
        if self.threads[1].is_alive():
            self.txn.kill()
        for t in self.threads:
            t.join(240)
        self.suite.must(f"kcat got every record of {self.phases} phases acknowledged; transactions: {self.counts}",
                        not any(t.is_alive() for t in self.threads) and self.failed is None, self.failed or "still producing")
        return time.time()

    def _events(self):
        try:
            while not self.ended.is_set():
                began = time.monotonic()
                drive.phase(self.brokers, self.load, alone=self.alone)
                self.phases += 1
                self.ended.wait(max(0, PACE - (time.monotonic() - began)))
        except Exception as e:
            self.failed = e

    def _transactions(self):
        number = 0
        while not self.ended.wait(self.random.expovariate(1 / 1.5)):
            number += 1
            # An id of its own for each: the broker of dev, killed within a transaction, ends it without a marker.
            self.txn = Txn(self.brokers, f"hostile-{number}", "12s")
            outcome = self.random.choice(("committed", "aborted", "aborted", "left open") if self.on_kafka else ("committed", "aborted"))
            try:
                self.txn.begin()
                for _ in range(self.random.randint(1, 20)):
                    with self.alone or contextlib.nullcontext():
                        self.txn.send(EVENTS, *self.other.one())
                if outcome != "left open":
                    self.txn.commit() if outcome == "committed" else self.txn.abort()
            except (RuntimeError, OSError):
                outcome = "broken off"
            self.counts[outcome] += 1
            self.txn.kill()
