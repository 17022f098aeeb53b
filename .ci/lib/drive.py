"""Producing the hostile load with kcat."""
import threading
import time

import kcat
from compare import DEFINITIONS, EVENTS, PROFILES


def together(*calls):
    """Runs the calls at the same time; the first error is raised when all have ended."""
    errors = []

    def run(call):
        try:
            call()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(c,), daemon=True) for c in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


def define(brokers, load):
    kcat.produce(brokers, DEFINITIONS, load.definitions())


def phase(brokers, load, events=EVENTS, alone=None):
    """One phase: changes of profiles and events, by two clients at the same time. With a lock, alone, by turns: no
    event is produced by its holders while profiles are. Apache Kafka stamps a record before it can be read, so that
    a profile may still be hidden when an event that was stamped later is processed; that is outside of what is
    promised (contract 2.3), and happens on a busy machine."""
    p, e = load.phase()
    if alone is None:
        together(lambda: kcat.produce(brokers, PROFILES, p), lambda: kcat.produce(brokers, events, e))
        return
    with alone:
        kcat.produce(brokers, PROFILES, p)
        time.sleep(0.01)
    kcat.produce(brokers, events, e)


def with_headers(brokers, load, events=EVENTS):
    """Some poison that carries headers of its own, one of them named like ours."""
    records = [(b"k1", b"poison with headers"), (None, b"\xff\x00\n"), (b"k2", load.one()[1])]
    kcat.produce(brokers, events, records, headers=[("x-trace", "å,=b"), ("empty", "")])


def giants(brokers, load, suite, events=EVENTS):
    """Values around 1 MiB and of 10 MB, as far as the broker takes them."""
    taken = []
    for key, value in load.giants(1 << 62):
        try:
            kcat.produce(brokers, events, [(key, value)])
            taken.append(len(value))
        except RuntimeError:
            pass
    suite.say(f"large values taken by the broker: {taken}")
