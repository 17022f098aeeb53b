"""One schedule: real parts, replicas, a load that flows, exports that are asked for
meanwhile, faults by two hands at the same time, and what must be true in the end."""
import collections
import concurrent.futures
import email.utils
import itertools
import json
import os
import random
import subprocess
import threading
import time
import traceback

import api
import compare
import drive
import kcat
from clock import Clock
from cluster import Cluster
from hostile import ACCOUNTS, Load
from procs import wait_for, wait_http
from product import Serve, create_topics
from reference import Reference
from suite import lockstitch
from txn import Txn

PARTITIONS = 6
SESSION = TRANSACTION = 6  # seconds
TOKENS = 86400 - 3600  # seconds that a token lasts for the whole of a schedule
BUCKET, GROUP = "store", "lockstitch"
LAGS = ("lockstitch_processing_lag_records", "lockstitch_durable_lag_records")
# The longest windows that can be had, two of which hold all times; every other limit out of the way.
EARLY = ({"start_at": "1970-01-01T00:00:00Z", "end_at": "2069-01-01T00:00:00Z"}, {"start": 0, "end": 3124224000000})
LATE = ({"start_at": "2069-01-01T00:00:00Z"}, {"start": 3124224000000, "end": None})
SETTINGS = {"session_timeout": f"{SESSION}s", "transaction_timeout": f"{TRANSACTION}s", "flush_interval": "2s", "start_timeout": "5m", "window_months": 1200, "retention": "1000000h",
            "tokens_per_minute": 10000, "exports_per_minute": 10000, "downloads_per_minute": 10000, "calls_per_minute": 1000000, "max_pending": 1000,
            "memory_limit": "256MiB", "log_level": "debug"}


class Replica:
    """One replica's process. Who holds its lock may do to it what they like; else the scene's supervisor starts it again."""

    def __init__(self, scene, name, small=None):
        self.scene, self.name = scene, name
        self.orders = scene.dir / f"{name}.order"
        self.clock = Clock(scene.dir / f"{name}.clock")
        settings = dict(SETTINGS) if scene.static else {**SETTINGS, "instance_id": ""}
        self.serve = Serve(scene, name, scene.cluster.brokers, scene.cluster.store_url(BUCKET), settings,
                           {**scene.cluster.s3.env, **self.clock.env, "FAULTS_MERGE": "1", "FAULTS_FILE": str(self.orders)}, binary=lockstitch("faults"))
        self.process = self.serve.process
        self.data = scene.dir / f"{name}-data"
        self.small = small  # its data directory is a file system of its own, and a small one
        if small:
            self.data.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={small}", "tmpfs", self.data], check=True, timeout=30)
        self.lock = threading.RLock()
        self.ends = []  # how it ended without being told to

    def start(self):
        self.process.start()

    def ready(self):
        return self.process.alive() and api.http_ok(self.serve.admin + "/readyz")

    def state(self):
        """The letter of the process's state: T when it is stopped."""
        try:
            return open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()[0]
        except OSError:
            return ""

    def believes(self):
        """Whether the process says that it is the time that its clock was set to."""
        try:
            said = api.curl("GET", self.serve.admin + "/healthz", {}).headers["date"]
        except (OSError, KeyError, IndexError):
            return False  # it is away
        return abs(email.utils.parsedate_to_datetime(said).timestamp() - time.time() - self.clock.ahead) < 60

    def last_words(self):
        words = [x for x in self.process.tail(400).splitlines() if not x.startswith(("\t", "goroutine")) and "level=DEBUG" not in x]
        return " | ".join(words[-3:])[-700:]


class Scene:
    def __init__(self, suite, number, seed, happened):
        self.suite, self.number, self.happened = suite, number, happened
        self.random = random.Random(seed)
        self.seed = seed
        self.dir = suite.dir / f"schedule-{number}"
        self.dir.mkdir()
        self.static = self.random.random() < 0.5  # KIP-345: instance ids
        self.over, self.quiet = threading.Event(), threading.Event()
        self.replicas, self.asked, self.missed, self.errors = [], [], [], []
        self.struck = {}  # the proxy's counts so far
        self.load_lock = threading.Lock()  # the load makes one thing at a time
        self.lost = self.doubled = self.merged = 0
        self.partitions = PARTITIONS
        self.faults = 0

    def say(self, text):
        self.suite.say(f"[{self.number}] {text}")

    def check(self, what, good, detail=""):
        return self.suite.check(f"[{self.number}] {what}", good, detail)

    def begin(self):
        self.cluster = Cluster(self.dir, BUCKET)
        self.brokers = self.cluster.brokers
        create_topics(self, self.brokers, "--partitions", str(self.partitions), "--replication-factor", "3")
        self.load = Load(self.seed, 6000, profiles=400, phases=20, complete_profiles=True)
        drive.define(self.brokers, self.load)
        kcat.produce(self.brokers, compare.PROFILES, self.load.first_profiles())
        self.add("one"), self.add("two"), self.add("three", small="64m")
        for r in self.replicas:
            wait_http(r.serve.admin + "/readyz", 120, r.process)
        self.clients = self.replicas[0].serve.clients()
        self.say(f"three brokers, S3 and three replicas are up ({'static' if self.static else 'dynamic'} members)")

    def add(self, name, small=None):
        r = Replica(self, name, small)
        r.start()
        self.replicas.append(r)
        return r

    # What goes on while faults happen

    def produce(self):
        """Profiles and events by turns, each acknowledged before the next: a profile that a broker has not copied
        yet when an event behind it is processed is outside of what is promised."""
        for i in itertools.count():
            if self.over.is_set():
                return
            with self.load_lock:
                profiles, events = self.load.phase()
                if i % 16 == 8:  # some so large that their dead letters go to the store
                    events += self.load.giants(1 << 20)
            kcat.produce(self.brokers, compare.PROFILES, profiles)
            time.sleep(0.01)
            kcat.produce(self.brokers, compare.EVENTS, events)
            self.quiet.wait(0.6)

    def ask(self):
        """Exports in the middle: each is to hold what was acknowledged before, and nothing from after."""
        for i in itertools.count():
            if self.over.wait(self.ask_random.uniform(1.5, 4)):
                return
            account, body, arguments = self.question(i)
            r = self.ask_random.choice(self.replicas)
            began = time.monotonic()
            try:
                before = kcat.ends(self.brokers, compare.EVENTS)
                a = self.clients[account][0].at(r.serve.url).call("POST", "/emails/reports", body)
                after = self.cluster.ends(compare.EVENTS)
            except (OSError, RuntimeError, ValueError, subprocess.SubprocessError):
                continue  # the replica or the brokers are away
            if a.status == 202:
                self.asked.append((a.json()["report_id"], account, body, arguments, before, after))
            elif a.status != 503 and not (a.status == 401 and r.clock.most(began) >= TOKENS):  # its token had expired, to it
                self.errors.append(f"POST answered {a}")

    def question(self, i):
        if i % 3 == 0:
            return ACCOUNTS[i // 3 % 3], *EARLY
        with self.load_lock:
            return self.load.question(i + 3)

    def supervise(self):
        """Starts again what has ended without being told to, and remembers it."""
        while not self.quiet.wait(0.3):
            for r in list(self.replicas):
                if not r.lock.acquire(blocking=False):
                    continue
                try:
                    if not r.process.alive():
                        r.ends.append(f"{r.name} ended with status {r.process.child.returncode}: {r.last_words()}")
                        self.say("      " + r.ends[-1])
                        time.sleep(1)
                        r.start()
                finally:
                    r.lock.release()

    def hand(self, kinds, rnd):
        for name, fault in kinds:
            time.sleep(rnd.uniform(0.3, 2))
            began = time.monotonic()
            n = 0
            while not n and time.monotonic() - began < 300:
                # A fault may need something that the other hand's has taken away.
                try:
                    n = fault(self, rnd)
                except Exception as e:  # the kinds behind it have their turn
                    self.errors.append(f"{name}: {type(e).__name__}: {e}\n{traceback.format_exc()}")
                    break
            self.say(f"{name}: {n or 'DID NOT HAPPEN'} ({time.monotonic() - began:.1f} s)")
            if n:
                self.happened[name] += n
                self.faults += n
            else:
                self.missed.append(name)

    def act(self, hands):
        """Lets the hands (lists of kinds) do their faults while events flow and exports are asked for."""
        self.ask_random = random.Random(self.seed + 1)
        background = [threading.Thread(target=self._guard, args=(f,), daemon=True) for f in (self.produce, self.ask, self.supervise)]
        for t in background:
            t.start()
        time.sleep(2)
        doing = [threading.Thread(target=self._guard, args=(self.hand, kinds, random.Random(f"{self.seed}-{i}")), daemon=True)
                 for i, kinds in enumerate(hands)]
        for t in doing:
            t.start()
        for t in doing:
            t.join()
        self.cluster.proxy.disarm()
        time.sleep(2)
        self.over.set()
        for t in background[:2]:
            t.join(300)
            if t.is_alive():
                self.errors.append("producing did not end within 300 s")
        self.cluster.wait_whole()
        for r in self.replicas:
            wait_for(f"replica {r.name} is ready", 120, r.ready, every=0.3)
        for r in self.replicas:
            if r.clock.ahead >= TOKENS:
                r.clock.ahead = 0  # it refuses every token
            wait_for(f"replica {r.name} has its time", 60, r.believes, every=0.3)
        if any(r.clock.ahead for r in self.replicas):
            self.say("judged with clocks that are wrong: " + ", ".join(f"{r.name} by {r.clock.ahead} s" for r in self.replicas))
        self.quiet.set()
        background[2].join(60)

    def _guard(self, call, *arguments):
        try:
            call(*arguments)
        except BaseException as e:
            self.errors.append(f"{getattr(call, '__name__', call)}: {type(e).__name__}: {e}\n{traceback.format_exc()}")

    # What must be true in the end

    def judge(self, count):
        self.check(f"{self.faults} faults, each of the schedule's kinds has happened", not self.missed, self.missed)
        self.check("nothing else went wrong", not self.errors, "\n".join(map(str, self.errors[:5])))
        ends = [e for r in self.replicas for e in r.ends]
        self.check("no replica ended by itself", not ends, "\n  ".join(ends))
        self.reference = compare.read_reference(self.brokers, self)
        self.compare_asked()
        self.compare_all()
        clients = {a: [self.clients[a][0].at(r.serve.url) for r in self.replicas] for a in ACCOUNTS}
        compare.exports(self, self.reference, clients, self.load, count)
        lost, doubled = compare.dead_letters(self, self.brokers, self.reference, self.cluster.s3.root / BUCKET)
        self.lost, self.doubled = self.lost + lost, self.doubled + doubled
        self.lag()
        self.segments()

    def compare_asked(self):
        """The exports from the middle, against the reference below each one's barrier."""
        barriers = {}
        for r in kcat.dump(self.brokers, "lockstitch.reports"):
            if (r.key or b"").startswith(b"q/") and r.value:
                q = json.loads(r.value)
                barriers[q["id"]] = {(e["topic"], e["partition"]): e["offset"] for e in q["question"]["barrier"]}

        def one(i):
            report, account, body, arguments, before, after = self.asked[i]
            client = self.clients[account][0].at(self.replicas[i % len(self.replicas)].serve.url)
            barrier = barriers[report]
            wrong = [p for p in before if not before[p] <= barrier[compare.EVENTS, p] <= after[p]]
            if wrong:
                return f"barrier {barrier} is not between {before} and {after}"
            try:
                text = client.download(client.wait(report, 180))
            except (ValueError, OSError) as e:
                return str(e)
            want, _ = self.reference.export(account, **arguments, below=barrier)
            if text == want:
                return ""
            self.weigh(text, want)
            return compare.first_difference(text, want) + f"\n  {json.dumps(body)[:300]}"

        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            wrong = [w for w in pool.map(one, range(len(self.asked))) if w]
        self.check(f"{len(self.asked)} exports asked for in the middle are complete below their barriers", self.asked and not wrong, "\n".join(wrong[:5]))

    def anew(self):
        """The events topic deleted and made anew: its lanes stop, loudly, until that is adopted; then it is a stream
        of its own behind the old one."""
        old = kcat.dump(self.brokers, compare.EVENTS)
        admin = Txn(self.brokers, "faults-admin")
        admin.delete(compare.EVENTS)
        admin.close()
        create_topics(self, self.brokers, "--partitions", str(self.partitions), "--replication-factor", "3")
        self.cluster.wait_whole()
        kcat.produce(self.brokers, compare.EVENTS, self.load.phase()[1])

        def stopped():
            return not any(v for r in self.replicas for _, v in api.metrics(r.serve.admin).get("lockstitch_lane_ready", [])) and any(
                "was made anew" in r.process.log.read_text(errors="replace") for r in self.replicas)

        try:
            wait_for("all lanes to stop", 60, stopped, every=0.3)
        except TimeoutError as e:
            self.check("an events topic made anew stops its lanes, loudly", False, e)
        done = subprocess.run([lockstitch("faults"), "topics", "adopt", "--brokers", self.brokers], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        self.check("lockstitch topics adopt", done.returncode == 0 and b"adopted " + compare.EVENTS.encode() in done.stdout, done.stdout[-500:])
        kcat.produce(self.brokers, compare.EVENTS, self.load.phase()[1])
        new = [r._replace(topic=compare.EVENTS + " anew") for r in kcat.dump(self.brokers, compare.EVENTS)]
        self.reference = Reference([old, new], kcat.dump(self.brokers, compare.PROFILES), kcat.dump(self.brokers, compare.DEFINITIONS))
        self.say(f"{compare.EVENTS} made anew: {len(old)} records before, {len(new)} after")
        self.compare_all()
        self.lag()
        dead = len(kcat.dump(self.brokers, compare.DEAD))
        self.check(f"{dead} dead letters", dead == len(self.reference.dead), f"want {len(self.reference.dead)}")
        self.happened["events topic made anew"] += 1
        self.faults += 1

    def grown(self):
        """Partitions added to both topics, one after the other, while events flow: the lanes come with the last one."""
        self.partitions += 2
        admin = Txn(self.brokers, "faults-admin")
        for topic in self.load.r.sample((compare.EVENTS, compare.PROFILES), 2):
            admin.grow(topic, self.partitions)
            kcat.produce(self.brokers, compare.EVENTS, self.load.phase()[1])
        admin.close()
        self.reference = compare.read_reference(self.brokers, self)
        self.say(f"{compare.EVENTS} and {compare.PROFILES} have {self.partitions} partitions now")
        self.compare_all()
        self.lag()
        dead = len(kcat.dump(self.brokers, compare.DEAD))
        self.check(f"{dead} dead letters", dead == len(self.reference.dead), f"want {len(self.reference.dead)}")
        self.happened["partitions added"] += 1
        self.faults += 1

    def compare_all(self):
        """All rows of all accounts, for the count of what is lost and doubled."""
        rows = right = 0
        for i, (account, (body, arguments)) in enumerate(itertools.product(ACCOUNTS, (EARLY, LATE))):
            client = self.clients[account][0].at(self.replicas[i % len(self.replicas)].serve.url)
            text, _ = client.export(body)
            want, n = self.reference.export(account, **arguments)
            rows += n
            right += text == want
            if text != want:
                self.say("      " + compare.first_difference(text, want))
                self.weigh(text, want)
                (self.dir / f"all-{i}.got").write_bytes(text)
                (self.dir / f"all-{i}.want").write_bytes(want)
        self.check(f"all {rows} rows of all accounts, byte for byte", right == 2 * len(ACCOUNTS), f"{right} of {2 * len(ACCOUNTS)}")

    def weigh(self, got, want):
        got, want = (collections.Counter(x.split(b"\n")) for x in (got, want))
        self.lost += (want - got).total()
        self.doubled += (got - want).total()

    def lag(self):
        """Every partition is read by exactly one replica and nothing is left to read."""
        wanted = sorted((t, str(p)) for t in (compare.EVENTS, compare.PROFILES) for p in range(self.partitions))
        seen = {}

        def nothing():
            seen.clear()
            for name in LAGS:
                seen[name] = [(x["topic"], x["partition"], v) for r in self.replicas for x, v in api.metrics(r.serve.admin).get(name, [])]
            return all(sorted(x[:2] for x in v) == wanted and not any(x[2] for x in v) for v in seen.values())

        try:
            wait_for("lag 0", 120, nothing, every=0.3)
            self.check("lag is 0, every partition is read by one replica", True)
        except TimeoutError:
            self.check("lag is 0, every partition is read by one replica", False, seen)

    def segments(self):
        done = subprocess.run([lockstitch("faults"), "segments", "verify", "--brokers", self.brokers, "--store-url", self.cluster.store_url(BUCKET)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                              env={**os.environ, **self.cluster.s3.env})
        self.check("the stored segments are whole", done.returncode == 0, done.stdout[-1500:].decode(errors="replace"))
        records = [json.loads(r.value) for r in kcat.dump(self.brokers, "lockstitch.catalog") if (r.key or b"").startswith((b"s/", b"g/")) and r.value]
        merged = sum(len(r.get("replaces", ())) for r in records)
        self.say(f"{merged} of {len(records)} segments were merged")
        self.merged += merged

    def end(self):
        status = {r.name: None for r in self.replicas}
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for r, code in zip(self.replicas, pool.map(lambda r: r.process.stop(), self.replicas)):
                status[r.name] = code
        self.check("replicas end with exit 0 on SIGTERM", not any(status.values()), status)

    def close(self):
        for r in self.replicas:
            r.process.kill()
            if r.small:
                subprocess.run(["umount", "-l", r.data], timeout=30)
        for p in self.cluster.processes + [self.cluster.proxy.process, self.cluster.s3.process]:
            p.kill()
