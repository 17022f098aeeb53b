"""`lockstitch rolling pull --follow`, killed again and again while files come."""
import gzip
import hashlib
import json
import os
import random
import subprocess
import threading
import time

import drive
from compare import credentials
from hostile import ACCOUNTS
from procs import Process
from suite import lockstitch

KILLS = int(os.environ.get("PULL_KILLS", 50))
GIVE_UP = 180  # seconds


class Puller:
    """A directory kept in step by processes that do not live long."""

    def __init__(self, part, order, url, number):
        self.part, self.order, self.r = part, order, random.Random(part.suite.seed + number)
        id, secret, _ = next(c for c in credentials() if c[2] == order.account)
        self.flags = ["--url", url, "--client-id", id]
        self.env = {"LOCKSTITCH_CLIENT_SECRET": secret}
        self.place, self.directories = part.suite.dir / f"pull-{number}", []
        self.process = None
        self.fresh()

    def fresh(self):
        """From now on another directory, empty."""
        self.directories.append(self.place / str(len(self.directories)))
        self.directories[-1].mkdir(parents=True)
        self.process = Process(self.place.name, [lockstitch(), "rolling", "pull", self.order.name, "--dir", self.directories[-1], "--follow", *self.flags],
                               self.part.suite.dir, env=self.env)

    def seen(self):
        """What the directory has: files and the size of what is under way."""
        out = {}
        for p in self.directories[-1].iterdir():
            try:
                out[p.name] = p.stat().st_size
            except FileNotFoundError:
                pass  # renamed
        out.pop(f".{self.order.name}.lock", None)
        return out

    def live(self, patience):
        """Starts a pull and kills it some moments after it has done something, or when patience seconds are up;
        tells whether it did something, and whether it was killed: without a server it ends by itself."""
        before, end = self.seen(), time.monotonic() + patience
        self.process.start()
        while self.process.alive() and time.monotonic() < end and self.seen() == before:
            time.sleep(0.002)
        moved = self.seen() != before
        time.sleep(self.r.choice((0, 0.003, 0.03, 0.3)) * self.r.random())
        alive = self.process.alive()
        self.process.kill()
        return moved, alive

    def complete(self, files):
        return f"{self.order.name}-{files}.json" in self.seen()

    def last(self):
        """A pull that is left alone; its exit status and what it said, for every directory."""
        out = []
        for d in self.directories:
            done = subprocess.run([lockstitch(), "rolling", "pull", self.order.name, "--dir", d, *self.flags], env={**os.environ, **self.env},
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=GIVE_UP)
            out.append(f"exit {done.returncode}: {done.stderr[-300:]}" if done.returncode else "")
        return out


class Pull:
    """The part of the suite about pull: the orders of two accounts that have most files, KILLS kills in all."""

    def __init__(self, suite, system, orders):
        self.suite, self.orders = suite, orders
        self.pullers = [Puller(self, orders.order(a, "all"), system.dev.url, i) for i, a in enumerate(ACCOUNTS[:2])]
        self.kills = self.working = self.parts = 0
        self.lock, self.stop, self.error = threading.Lock(), threading.Event(), None
        self.threads = [threading.Thread(target=self._follow, args=(p,), daemon=True) for p in self.pullers]

    def start(self):
        for t in self.threads:
            t.start()

    def _count(self, puller, moved, killed):
        with self.lock:
            self.kills += killed
            self.working += moved and killed
            self.parts += killed and any(n.endswith(".part") for n in puller.seen())

    def _follow(self, puller):
        try:
            while not self.stop.is_set() and self.kills < KILLS // 2:
                self._count(puller, *puller.live(patience=3 + puller.r.expovariate(1 / 10)))
                self.stop.wait(puller.r.expovariate(1 / 1.5))
        except Exception as e:
            self.error = e

    def finish(self):
        """When all files are there, directories are begun anew until the kills are used up."""
        self.stop.set()
        for t in self.threads:
            t.join(60)
        end = time.monotonic() + GIVE_UP
        self.files = [p.order.status()["files"] for p in self.pullers]

        def rest(puller, files):
            puller.fresh()
            while self.kills < KILLS and time.monotonic() < end:
                if puller.complete(files):
                    puller.fresh()
                self._count(puller, *puller.live(patience=20))

        drive.together(*[lambda p=p, f=f: rest(p, f) for p, f in zip(self.pullers, self.files)])
        self.suite.must(f"pull was killed {self.kills} times, {self.working} times when it had brought something in, {self.parts} times in the middle of a file or a manifest",
                        self.kills >= KILLS and self.working >= KILLS // 3 and self.error is None, self.error)

    def check(self, reference):
        for p, files in zip(self.pullers, self.files):
            wrong = [w for w in p.last() if w]
            listed = [(item, data) for _, item, data in p.order.files()]
            for d in p.directories:
                wrong += self._directory(p.order.name, d, listed)
            for text in wrong[:5]:
                self.suite.say("      " + text)
            self.suite.check(f"{p.order.account}: {len(p.directories)} directories that pull kept are complete: {files} files each, whole, numbered without gaps",
                             not wrong and files > 5 and len(listed) == files, f"{len(wrong)} wrong of {files}")

    @staticmethod
    def _directory(name, directory, listed):
        """What is wrong with a directory, by its own manifests and by the list."""
        wrong = []
        have = {p.name for p in directory.iterdir()} - {f".{name}.lock"}
        want = {f"{name}-{i['number']}{end}" for i, _ in listed for end in (".csv.gz", ".json")}
        if have != want:
            return [f"{directory}: {sorted(have ^ want)[:6]}"]
        for item, data in listed:
            whole = (directory / f"{name}-{item['number']}.csv.gz").read_bytes()
            manifest = json.loads((directory / f"{name}-{item['number']}.json").read_bytes())
            try:
                text = gzip.decompress(whole)
            except (OSError, EOFError) as e:
                text = b""
                wrong.append(f"{directory}: file {item['number']}: {e}")
            if (whole != data or manifest["sha256"] != hashlib.sha256(whole).hexdigest() or manifest["bytes"] != len(whole)
                    or manifest["number"] != item["number"] or manifest["rows"] != item["rows"] or not text):
                wrong.append(f"{directory}: file {item['number']} has {len(whole)} bytes, its manifest is {manifest}")
        return wrong
