"""Exports and dead letters of a running Lockstitch against the reference."""
import concurrent.futures
import hashlib
import json
import pathlib

import kcat
from hostile import ACCOUNTS
from reference import Reference

EVENTS, PROFILES, DEFINITIONS, DEAD = "email-events", "profiles", "definitions", "lockstitch.dead-letters"


def read_reference(brokers, suite, event_topics=(EVENTS,), **more):
    """The reference over dumps of the topics as they stand."""
    r = Reference([kcat.dump(brokers, t) for t in sorted(event_topics)], kcat.dump(brokers, PROFILES), kcat.dump(brokers, DEFINITIONS), **more)
    suite.say(r.summary())
    return r


def first_difference(got, want):
    g, w = got.split(b"\n"), want.split(b"\n")
    for i, (a, b) in enumerate(zip(g, w)):
        if a != b:
            at = next((j for j, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            at = max(0, at - 60)
            return f"line {i + 1} of {len(g)} (want {len(w)}):\n  got  …{a[at:at + 160]!r}\n  want …{b[at:at + 160]!r}\n  row  {b[:300]!r}"
    return f"{len(g)} lines, want {len(w)}"


def exports(suite, reference, clients, load, count=50, keep=None, threads=4):
    """count random questions, each compared byte for byte. clients: [Client] a list per account that is taken in turn.
    keep: {question number: (account, body, text)} is filled, for comparing with another run."""
    questions = [load.question(i) for i in range(count)]

    def one(i):
        account, body, arguments = questions[i]
        c = clients[account][i % len(clients[account])]
        try:
            text, status = c.export(body)
        except (ValueError, OSError) as e:
            return i, None, None, str(e)
        want, rows = reference.export(account, **arguments)
        wrong = ""
        if text != want:
            wrong = first_difference(text, want)
            (suite.dir / f"export-{i}.got").write_bytes(text)
            (suite.dir / f"export-{i}.want").write_bytes(want)
        elif status["rows"] != rows:
            wrong = f"the status says {status['rows']} rows, there are {rows}"
        return i, text, rows, wrong

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(one, range(count)))
    different = 0
    total = bytes_ = 0
    for i, text, rows, wrong in done:
        account, body, _ = questions[i]
        if wrong:
            different += 1
            suite.check(f"export {i} of {account}", False, f"{wrong}\n  {json.dumps(body, ensure_ascii=False)[:700]}")
            continue
        total += rows
        bytes_ += len(text)
        if keep is not None:
            keep[i] = (account, body, text)
    suite.check(f"{count} exports equal the reference byte for byte ({total} rows, {bytes_ / 1e6:.0f} MB of CSV, "
                f"{sum('segment_filter' in q[1] for q in questions)} with a filter)", different == 0, f"{different} differ")


def dead_letters(suite, brokers, reference, store, topic=DEAD, sources=(EVENTS, PROFILES)):
    """The dead letters are exactly the poison of the topics: key, value, headers, origin and reason.
    store: the directory under which the object store keeps its objects. Answers how many are missing and doubled."""
    original = {}
    for t in sources:
        for at, h in kcat.headers(brokers, t).items():
            original[t, *at] = h
    headers = kcat.headers(brokers, topic)
    found, wrong = {}, []
    large = 0
    for r in kcat.dump(brokers, topic):
        h = headers[r.partition, r.offset]
        added = {k: v for k, v in h if k.startswith("lockstitch.")}
        try:
            origin = added["lockstitch.topic"], int(added["lockstitch.partition"]), int(added["lockstitch.offset"])
        except (KeyError, ValueError):
            wrong.append(f"without origin: {h}")
            continue
        if origin in found:
            wrong.append(f"{origin} twice")
        found[origin] = r
        if origin not in reference.dead:
            wrong.append(f"{origin} is not poison: {added.get('lockstitch.reason')} {added.get('lockstitch.detail')} {(r.value or b'')[:200]!r}")
            continue
        reason, source = reference.dead[origin]
        if added.get("lockstitch.reason") != reason:
            wrong.append(f"{origin}: {added.get('lockstitch.reason')} ({added.get('lockstitch.detail')}), want {reason}: {(r.value or b'')[:300]!r}")
        if added.get("lockstitch.timestamp") != str(source.time):
            wrong.append(f"{origin}: timestamp {added.get('lockstitch.timestamp')}, want {source.time}")
        if not added.get("lockstitch.detail"):
            wrong.append(f"{origin}: no detail")
        if [x for x in h if not x[0].startswith("lockstitch.")] != original[origin]:
            wrong.append(f"{origin}: headers {h}, were {original[origin]}")
        if r.key != source.key:
            wrong.append(f"{origin}: key {r.key!r}, was {source.key!r}")
        if r.value != source.value:
            # Over 900 kB it goes to the object store: the record names the object and the SHA-256.
            large += 1
            stored = [f.read_bytes() for f in pathlib.Path(store).glob(f"**/{added.get('lockstitch.object')}")]
            if len(source.value or b"") < 899_000 or stored != [source.value] or added.get("lockstitch.sha256") != hashlib.sha256(source.value).hexdigest():
                wrong.append(f"{origin}: value of {len(r.value or b'')} bytes, was {len(source.value or b'')}: {h}")
    missing = [k for k in reference.dead if k not in found]
    for k in missing[:5]:
        wrong.append(f"missing: {k} {reference.dead[k][0]} {(reference.dead[k][1].value or b'')[:200]!r}")
    for w in wrong[:10]:
        suite.say("      " + w)
    suite.check(f"{len(found)} dead letters are exactly the poison: key, value, headers, origin, reason ({large} of them too large for the topic)",
                not wrong and not missing, f"{len(wrong)} wrong, {len(missing)} missing")
    return len(missing), sum(w.endswith(" twice") for w in wrong)


def credentials():
    """(id, secret, account) of the three accounts."""
    return [(f"client{i}", f"secret-{i}-åß", a) for i, a in enumerate(ACCOUNTS)]
