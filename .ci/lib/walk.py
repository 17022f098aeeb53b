"""Clients that go from cursor to cursor while the log grows."""
import collections
import random
import threading
import time
import uuid

import api
import compare

GIVE_UP = 120  # seconds of nothing but failures


class Walker:
    """One client of one account: asks for what was kept since its cursor, again and again."""

    def __init__(self, name, client, body, arguments, seed):
        self.name, self.client, self.body, self.arguments = name, client, body, arguments
        self.r = random.Random(seed)
        self.cursor, self.files, self.repeats = "beginning", [], 0
        self.report = self.key = None
        self.last_round = threading.Event()  # the log has ended
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def again(self, seed):
        return Walker(f"{self.name}, again", self.client, self.body, self.arguments, seed)

    def _run(self):
        failing = None
        while True:
            last = self.last_round.is_set()
            try:
                more = self._step()
                failing = None
                if last and not more:
                    return
                if not more:
                    self.last_round.wait(self.r.expovariate(1 / 1.0))
            except (OSError, ValueError) as e:
                # The replica was killed, before the request was stored, after, or during the download. The
                # cursor is where it was, so it does not matter whether the same report is followed.
                failing = failing or time.monotonic()
                if time.monotonic() - failing > GIVE_UP:
                    self.error = e
                    return
                if self.r.random() < 0.5:
                    self.report = self.key = None
                    self.repeats += 1
                time.sleep(0.2)

    def _step(self):
        if self.report is None:
            if self.key is None and self.r.random() < 0.5:
                self.key = str(uuid.UUID(int=self.r.getrandbits(128)))
            self.report = self.client.request({**self.body, "after": self.cursor}, {"Idempotency-Key": self.key} if self.key else {})
        status = self.client.wait(self.report)
        self.files.append((self.client.download(status), status))
        self.cursor, self.report, self.key = status["cursor"], None, None
        return status["more"]


class Cursors:
    """The part of the suite about cursors: walkers of all accounts, with and without a filter."""

    def __init__(self, suite, system, load):
        self.suite = suite
        clients = system.clients()
        self.walkers, self.late = [], 0
        questions = [load.question(i) for i in range(100)]
        filtered = [q for q in questions if "segment_filter" in q[1]]
        for i, (account, body, arguments) in enumerate([*questions[:3], *filtered[:2]]):
            for name in ("start_at", "end_at"):
                body.pop(name, None)
            arguments.update(start=0, end=None)
            self.walkers.append(Walker(f"{i}, {account}", clients[account][0], body, arguments, suite.random.random()))

    def start(self):
        for w in self.walkers:
            w.thread.start()

    def finish(self):
        """The log has ended and nothing is killed any more: every walker goes on to the end, and three walk
        all of the log, with whatever limit of the file size holds now."""
        fresh = [w.again(self.suite.random.random()) for w in self.walkers[:3]]
        for w in self.walkers + fresh:
            w.last_round.set()
        for w in fresh:
            w.thread.start()
        self.walkers += fresh
        for w in self.walkers:
            w.thread.join(GIVE_UP + 60)
            self.suite.must(f"walker {w.name} came to the end: {len(w.files)} files, {sum(s['more'] for _, s in w.files)} of them ended early, asked {w.repeats} times anew",
                            not w.thread.is_alive() and w.error is None, w.error)

    def check(self, reference):
        s = self.suite
        for w in self.walkers:
            wrong, late = once(w.files, reference.lines(w.client.account, **w.arguments))
            self.late += late
            for text in wrong[:5]:
                s.say("      " + text)
            s.check(f"walker {w.name}: every row is in exactly one of {len(w.files)} files, each sorted ({sum(f['rows'] for _, f in w.files)} rows, "
                    f"{'with' if 'segment_filter' in w.body else 'without'} a filter)", not wrong, f"{len(wrong)} wrong")
        early = [f["more"] for w in self.walkers for _, f in w.files]
        few = len(self.walkers)
        s.check(f"{sum(early)} of {len(early)} files ended early, the others at their barrier", early.count(True) > few and early.count(False) > few)
        s.check(f"{self.late} rows are in a file although an earlier file has later ones", self.late > 0)
        self._foreign()

    def _foreign(self):
        """Cursors are of one account, and cannot be made up."""
        s, (one, other) = self.suite, self.walkers[:2]
        said = set()
        for client, cursor in ((other.client, one.cursor), (one.client, one.cursor[:-1] + ("A" if one.cursor[-1] != "A" else "Q")), (one.client, "made-up")):
            a = client.call("POST", "/emails/reports", {"after": cursor})
            said.add((a.status, a.json().get("type"), a.json().get("detail")))
        s.check("another account's cursor, a changed one and a made-up one are refused with the same 400", len(said) == 1 and said.pop()[:2] == (400, "/problems/invalid-request"), said)
        a = one.client.call("POST", "/emails/reports", {"after": one.cursor, "start_at": "2026-01-01T00:00:00Z"})
        s.check("after and start_at together are refused", a.status == 400 and a.json()["errors"][0]["pointer"] == "/start_at", a)


def once(files, lines):
    """What is wrong with files of one account, [(text, their status)], that follow one another in the input and
    must have each of lines, [(Row, line)] in order behind a header, exactly once; and how many rows are late:
    earlier than a row of an earlier file."""
    wrong, late = [], 0
    header = lines[0][1]
    places = collections.defaultdict(list)  # line -> its places in the order of all rows
    for i, (_, line) in enumerate(lines[1:], 1):
        places[line].append(i)
    ends, newest = {}, 0  # partition -> the last offset of the files before; the latest server_time in them
    for n, (text, status) in enumerate(files):
        got = split(text)
        if got[:1] != [header]:
            wrong.append(f"file {n}: header {got[:1]}")
        if status["rows"] != len(got) - 1:
            wrong.append(f"file {n}: {len(got) - 1} rows, the status says {status['rows']}")
        last, here = 0, {}
        for line in got[1:]:
            left = places.get(line)
            if not left:
                wrong.append(f"file {n}: a row too many, or not the reference's: {line[:300]!r}")
                continue
            at = left.pop(next((k for k, p in enumerate(left) if p > last), 0))
            if at < last:
                wrong.append(f"file {n}: not in order at {line[:300]!r}")
            last = at
            row = lines[at][0]
            if row.offset <= ends.get((row.topic, row.partition), -1):
                wrong.append(f"file {n}: {row.topic}/{row.partition}/{row.offset} lies before the end of an earlier file")
            here[row.topic, row.partition] = max(row.offset, here.get((row.topic, row.partition), -1))
            late += row.server_time < newest
        ends.update(here)
        newest = max(newest, lines[last][0].server_time if last else 0)
    missing = [line for line, left in places.items() for _ in left]
    wrong += [f"missing: {line[:300]!r}" for line in missing]
    return wrong, late


def split(text):
    """The lines of a CSV text, a line being a whole row."""
    out, open_ = [], False
    for part in text.decode().split("\n"):
        if open_:
            out[-1] += "\n" + part
        else:
            out.append(part)
        open_ ^= part.count('"') % 2 == 1
    return out[:-1] if out and out[-1] == "" else out
