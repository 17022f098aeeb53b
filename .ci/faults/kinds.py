"""The kinds of faults. Each is a function of the scene and a random source that makes
one and answers how often it really happened (0: it did not). Those of REPLICAS and
those of PARTS happen at the same time, so no two functions of different lists touch
the same process."""
import shutil
import signal
import time

import api
import compare
from procs import wait_for
from scene import GROUP, SESSION, TRANSACTION
from txn import Txn

STEPS = ("cut/upload", "cut/begin", "cut/produce", "cut/offsets", "cut/commit", "cut/local", "cut/done")
# Of takeovers and of jobs one is drawn: not takeover/fence, report/lost and the like, which are seldom come to.
TAKEOVER = tuple("takeover/" + step for step in ("stable", "catalog", "ends", "profiles", "rebuild", "catch-up", "ready", "taken"))
MERGE = ("merge/read", "merge/upload", "merge/made")
JOB = tuple("report/" + step for step in ("barrier", "plan", "render", "store", "result", "done"))


ENDED = (0, 130)  # SIGTERM: once it has started, and before


def _pick(scene, rnd, count=1, disk=False):
    """As many replicas, those that run first; disk: those whose data directory may be moved about."""
    good = [r for r in scene.replicas if not (disk and r.small)]
    rnd.shuffle(good)
    return sorted(good, key=lambda r: not r.process.alive())[:count]


def _on_disk(scene, rnd, count):
    """Like _pick, those whose data directory may be moved about: once they have one, or have had time to make one."""
    some = _pick(scene, rnd, count, disk=True)
    _within(30, lambda: all(r.data.exists() for r in some))
    return some


def _within(seconds, probe):
    """Whether probe says true in time."""
    try:
        return wait_for("", seconds, probe, every=0.05)
    except TimeoutError:
        return False


# Replicas


def kill(scene, rnd):
    """SIGKILL at any moment, started again at once or later."""
    r, = _pick(scene, rnd)
    with r.lock:
        r.process.kill()
        time.sleep(rnd.choice((0, 1, 4, SESSION + 3)))
        r.start()
    return 1


def _has_lane_0(r):
    try:
        return ({"partition": "0"}, 1) in api.metrics(r.serve.admin).get("lockstitch_lane_ready", [])
    except (OSError, ValueError):
        return False  # it is away


def _order(scene, rnd, order, done):
    """Tells a replica to hurt itself when it comes to a step; answers it when it has. Lanes are taken over at a start,
    by a dynamic member once its dead self is forgotten; who has lane 0 merges."""
    some = _pick(scene, rnd, len(scene.replicas))
    if " merge/" in order:
        some = [r for r in some if _has_lane_0(r)] or some
    for r in some:
        r.lock.acquire()
        if " takeover/" in order:
            r.process.kill()
            r.orders.write_text(order)
            r.start()
        else:
            r.orders.write_text(order)
        if _within(15 if " cut/" in order or " report/" in order else 40, lambda: done(r)):
            return r
        r.orders.unlink(missing_ok=True)
        if done(r):
            return r
        r.lock.release()  # it has no lanes, or no broker answers
    return None


def kill_at(*steps):
    def fault(scene, rnd):
        r = _order(scene, rnd, f"KILL {rnd.choice(steps)}", lambda r: not r.process.alive())
        if r is None:
            return 0
        time.sleep(rnd.choice((0, 1, SESSION + 3)))
        r.start()
        r.lock.release()
        return 1
    return fault


def _asleep(r, rnd):
    """Longer than session and transaction last, so that others have taken its work; then it goes on where it was."""
    time.sleep(max(SESSION, TRANSACTION) + rnd.uniform(3, 6))
    stopped = r.state() == "T"
    r.process.signal(signal.SIGCONT)
    return stopped


def stop(scene, rnd):
    """SIGSTOP at any moment, for longer than session and transaction last, then SIGCONT."""
    r, = _pick(scene, rnd)
    with r.lock:
        r.process.signal(signal.SIGSTOP)
        return int(_asleep(r, rnd))


def stop_at(*steps):
    def fault(scene, rnd):
        r = _order(scene, rnd, f"STOP {rnd.choice(steps)}", lambda r: r.state() == "T")
        if r is None:
            return 0
        try:
            return int(_asleep(r, rnd))
        finally:
            r.lock.release()
    return fault


def wipe(scene, rnd):
    """Killed, its data directory gone."""
    r, = _on_disk(scene, rnd, 1)
    with r.lock:
        r.process.kill()
        there = r.data.exists()
        shutil.rmtree(r.data, ignore_errors=True)
        r.start()
    return int(there)


def swap(scene, rnd):
    """Two killed, each started again on the other's data directory."""
    a, b = _on_disk(scene, rnd, 2)
    with a.lock, b.lock:
        a.process.kill()
        b.process.kill()
        there = a.data.exists() and b.data.exists()  # not where one never came to a broker
        if there:
            aside = scene.dir / "aside"
            a.data.rename(aside)
            b.data.rename(a.data)
            aside.rename(b.data)
        a.start()
        b.start()
    return int(there)


def clone(scene, rnd):
    """Two killed, both started again on copies of one data directory, as after a volume was cloned."""
    a, b = _on_disk(scene, rnd, 2)
    with a.lock, b.lock:
        a.process.kill()
        b.process.kill()
        there = a.data.exists()
        if there:
            shutil.rmtree(b.data, ignore_errors=True)
            shutil.copytree(a.data, b.data)
        a.start()
        b.start()
    return int(there)


def stale(scene, rnd):
    """Killed, and later again, with the data directory of the first time."""
    r, = _on_disk(scene, rnd, 1)
    copy = scene.dir / "copy"
    with r.lock:
        r.process.kill()
        if not r.data.exists():
            r.start()
            return 0
        shutil.copytree(r.data, copy)
        r.start()
        _within(30, r.ready)
        time.sleep(8)
        r.process.kill()
        shutil.rmtree(r.data, ignore_errors=True)
        copy.rename(r.data)
        r.start()
    return 1


def full(scene, rnd):
    """The disk under the data directory is full, and filled again as soon as something is freed, for a while; killed
    and started meanwhile, and started again as often as it ends."""
    r = next(r for r in scene.replicas if r.small)
    with r.lock:
        before = r.process.log.stat().st_size
        filler = r.data / "filler"
        end, killed = time.monotonic() + 14, False
        with open(filler, "wb", buffering=0) as f:
            while time.monotonic() < end:
                size = 1 << 16
                while size:
                    try:
                        f.write(b"x" * size)
                    except OSError:
                        size //= 2
                if not killed and time.monotonic() > end - 8:
                    r.process.kill()
                    killed = True
                if not r.process.alive():
                    time.sleep(0.5)
                    r.start()
                time.sleep(0.1)
        filler.unlink()
        said = r.process.log.read_bytes()[before:]
        felt = b"no space left" in said or b"the disk is full" in said
        if not r.process.alive():
            r.start()
    return int(felt)


def add(scene, rnd):
    """One more replica, killed or ended a while later; its lanes come and go."""
    r = scene.add(f"more{len(list(scene.dir.glob('more*.yaml')))}")
    with r.lock:
        up = _within(60, r.ready)
        time.sleep(rnd.uniform(2, 8))
        if rnd.random() < 0.5:
            r.process.kill()
        elif r.process.stop() not in ENDED:
            scene.errors.append(f"{r.name} did not end well: {r.last_words()}")
        scene.replicas.remove(r)
    return int(up)


def remove(scene, rnd):
    """SIGTERM, away for a while, started again."""
    r, = _pick(scene, rnd)
    with r.lock:
        _within(10, lambda: api.http_ok(r.serve.admin + "/healthz"))  # a process that has just begun does not catch it yet
        code = r.process.stop()
        if code not in ENDED:
            scene.errors.append(f"{r.name} ended with {code} on SIGTERM: {r.last_words()}")
        time.sleep(rnd.choice((0, 3, SESSION + 3)))
        r.start()
    return 1


HOUR, DAY = 3600, 86400


def clock(*steps, restart=False):
    """The wall clock of a replica jumps, to as many seconds ahead as each step's range says; with restart while the
    process is away. Then it is set right, or stays wrong until the next jump, also while the schedule is judged."""
    def fault(scene, rnd):
        r, = _pick(scene, rnd)
        seen = 0
        for low, high in steps:
            if restart:
                with r.lock:
                    r.process.kill()
                    r.clock.ahead = rnd.randint(low, high)
                    r.start()
            else:
                r.clock.ahead = rnd.randint(low, high)
            seen += _within(30, r.believes)
            time.sleep(rnd.uniform(3, 9))
        if rnd.random() < 0.5:
            r.clock.ahead = 0
        return seen
    return fault


def forget(scene, rnd):
    """All replicas killed, and the group with its offsets deleted, as when they have expired."""
    t = Txn(scene.brokers, "faults-admin")
    for r in scene.replicas:
        r.lock.acquire()
        r.process.kill()

    def gone():
        try:
            t.forget(GROUP)
            return True
        except RuntimeError:  # its members are not forgotten yet, or its coordinator is away
            time.sleep(0.5)
            return False

    done = _within(90, gone)
    for r in scene.replicas:
        r.start()
        r.lock.release()
    t.close()
    return int(done)


# Brokers, store, upstream


def broker_killed(scene, rnd):
    """SIGKILL, started again at once or soon."""
    return _broker_away(scene, rnd, rnd.choice((0, 2, 5)))


def broker_lost(scene, rnd):
    """SIGKILL, away for long."""
    return _broker_away(scene, rnd, rnd.uniform(20, 40))


def _broker_away(scene, rnd, seconds):
    p = rnd.choice(scene.cluster.processes)
    p.kill()
    time.sleep(seconds)
    p.start()
    scene.cluster.wait_whole()
    return 1


def broker_stopped(scene, rnd):
    """SIGSTOP beyond its session, then SIGCONT."""
    p = rnd.choice(scene.cluster.processes)
    p.signal(signal.SIGSTOP)
    time.sleep(rnd.uniform(7, 12))
    p.signal(signal.SIGCONT)
    scene.cluster.wait_whole()
    return 1


def broker_held(scene, rnd):
    """No client's bytes pass to or from a broker that is well."""
    i = rnd.choice((1, 2, 3))
    scene.cluster.proxy.arm(f"broker{i}", "hold", seconds=rnd.randint(5, 12))
    return _struck(scene, f"broker{i} hold", 15)


def brokers_killed(scene, rnd):
    """SIGKILL of all three."""
    for p in scene.cluster.processes:
        p.kill()
    time.sleep(rnd.choice((0, 3)))
    for p in scene.cluster.processes:
        p.start()
    scene.cluster.wait_whole()
    return 3


def _struck(scene, name, seconds, armed=0, before=None):
    """How often the proxy has done it since, when it has at all, after so many seconds at most."""
    before = scene.struck.get(name, 0)
    _within(seconds, lambda: scene.cluster.proxy.counts().get(name, 0) >= before + max(1, armed))
    now = scene.cluster.proxy.counts().get(name, 0)
    scene.struck[name] = now
    return now - before


def reply_lost(scene, rnd):
    """Replies to commits are lost after the broker has committed."""
    n = rnd.choice((1, 1, 2, 4))
    scene.cluster.proxy.arm("kafka", "endtxn", n)
    struck = _struck(scene, "kafka endtxn", 30, n)
    scene.cluster.proxy.disarm()
    return struck


def s3(kind, method):
    def fault(scene, rnd):
        n = rnd.choice((1, 2, 4, 10))
        scene.cluster.proxy.arm("s3", kind, n, method)
        struck = _struck(scene, f"s3 {method} {kind}", 20, n)
        scene.cluster.proxy.disarm()  # what has not struck would meet the faults to come
        return struck
    return fault


def s3_for(kind):
    def fault(scene, rnd):
        seconds = rnd.randint(5, 12)
        scene.cluster.proxy.arm("s3", kind, seconds=seconds)
        time.sleep(seconds)
        return min(1, _struck(scene, f"s3 {kind}", 1))  # however many requests it met
    return fault


def hanging(scene, rnd):
    """An upstream transaction on events and profiles that is left open: its producer dies, the broker ends it."""
    t = Txn(scene.brokers, f"faults-{time.monotonic_ns()}", "8s")
    try:
        t.begin()
        with scene.load_lock:
            key, value = scene.load.profile(scene.load.ids[0])
            events = [scene.load.one() for _ in range(20)]
        t.send(compare.PROFILES, key, value)
        for key, value in events:
            t.send(compare.EVENTS, key, value)
    except RuntimeError as e:
        scene.say(f"      {e}")
        return 0
    finally:
        t.kill()
    time.sleep(10)
    return 1


REPLICAS = [("replica killed", kill), ("replica stopped and continued", stop), ("data directory wiped", wipe), ("data directories swapped", swap),
            ("data directory cloned", clone), ("old data directory back", stale), ("disk full", full), ("replica added and removed", add), ("replica ended and started", remove),
            ("group's offsets deleted", forget)]
REPLICAS += [(f"replica killed at {step}", kill_at(step)) for step in STEPS]
REPLICAS += [(f"replica stopped at {step} and continued", stop_at(step)) for step in STEPS]
REPLICAS += [("replica killed at a step of a takeover", kill_at(*TAKEOVER)), ("replica killed at a step of a report's job", kill_at(*JOB)),
             ("replica killed at a step of merging", kill_at(*MERGE)), ("replica stopped at a step of merging and continued", stop_at(*MERGE)),
             ("replica stopped at a step of a report's job and continued", stop_at(*JOB))]
REPLICAS += [("clock hours ahead", clock((2 * HOUR, 20 * HOUR))), ("clock days behind", clock((-3 * DAY, -DAY))),
             ("clock weeks ahead", clock((14 * DAY, 60 * DAY))), ("clock weeks behind", clock((-60 * DAY, -14 * DAY))),
             ("clock forth and back", clock((DAY, 3 * DAY), (-3 * DAY, -DAY), (HOUR, 2 * HOUR), (-2 * HOUR, -HOUR))),
             ("clock wrong over a restart", clock((-10 * DAY, 20 * HOUR), (-10 * DAY, 20 * HOUR), restart=True))]
PARTS = [("broker killed", broker_killed), ("broker lost for long", broker_lost), ("broker stopped and continued", broker_stopped),
         ("broker out of reach", broker_held), ("all brokers killed", brokers_killed), ("reply to a commit lost", reply_lost),
         ("S3 slow", s3_for("slow")), ("S3 away", s3_for("away")), ("upstream transaction left hanging", hanging)]
PARTS += [(f"S3 PUT {kind}", s3(kind, "PUT")) for kind in ("500", "503", "reset", "timeout", "lost")]
PARTS += [(f"S3 GET {kind}", s3(kind, "GET")) for kind in ("500", "reset")]
