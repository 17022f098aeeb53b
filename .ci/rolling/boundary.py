"""How soon behind the boundary a file of 100,000 new rows can be had."""
import os
import signal
import subprocess
import threading
import time

from api import curl
from compare import credentials
from orders import Order, instant
from procs import wait_for
from product import Dev
from suite import lockstitch

ROWS = int(os.environ.get("ROWS", 100_000))
BOUND = 10  # seconds; meant are 2, on a machine that has nothing else to do
ENOUGH = 15  # seconds before a boundary in which the rows are produced for sure


class Boundary:
    """The part of the suite about the time from the boundary to the file. It has a system of its own; the other
    one is stopped, and so does nothing, while it is about that time."""

    def __init__(self, suite, system):
        self.suite, self.other = suite, system.process
        self.dev = Dev(suite, "boundary", ["--flush-interval", "2s"]).start()
        account = credentials()[0][2]
        self.order = Order(self.dev.clients()[account], "minutely", {"start": "now"}, {})
        self.account, self.figures, self.over = account, None, threading.Event()

    def start(self):
        a = self.order.call("PUT", body=self.order.body)
        self.suite.must("an order of its own for the time behind the boundary", a.status == 201, a)

    def finish(self):
        for seed in range(1, 4):
            if seed > 1 or -time.time() % 60 < ENOUGH:  # behind a miss, what came too late lies in this period
                time.sleep(-time.time() % 60 + 0.5)
            boundary = time.time() // 60 * 60 + 60
            done = subprocess.run([lockstitch(), "sample", "--brokers", self.dev.brokers, "--events", str(ROWS), "--account", self.account,
                                   "--retries", "0", "--poison", "0", "--seed", str(seed)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
            self.suite.must(f"{ROWS} events produced, {boundary - time.time():.1f} s before the boundary", done.returncode == 0, done.stderr[-500:])
            if time.time() < boundary - 1:
                break
        time.sleep(max(0, boundary - 1 - time.time()))
        self.other.signal(signal.SIGSTOP)
        try:
            items = self._measure(boundary)
        finally:
            self.other.signal(signal.SIGCONT)
            self.over.set()
        rows = sum(i["rows"] for i in items)
        listed, had = self.figures
        self.suite.say(f"FIGURE  {rows} rows, {items[0]['bytes'] / 1e6:.1f} MB: the file was listed {listed:.2f} s behind the boundary, "
                       f"{had:.2f} s behind it downloaded; load {os.getloadavg()[0]:.0f}")
        self.suite.check(f"a file of {ROWS} new rows can be had within {BOUND} s of the boundary (meant: 2 s with the machine to itself)",
                         rows == ROWS and had <= BOUND, f"{rows} rows, {had:.2f} s")

    def _measure(self, boundary):
        def files():
            page = self.order.call("GET", "/files?after=0&wait=60").json()
            return [i for i in page["items"] if instant(i["period_end"]).timestamp() == boundary]

        items = wait_for("the file of the boundary", 180, files)
        listed = time.time() - boundary
        status = curl("GET", items[0]["file_download_url"]).status
        self.figures = listed, time.time() - boundary
        self.suite.check("it is downloadable at once", status == 200, status)
        return items

    def check(self, reference):
        pass
