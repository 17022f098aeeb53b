"""Standing orders: each row in exactly one of the numbered files, and what is delivered is whole."""
import concurrent.futures
import datetime
import hashlib
import json
import time
import urllib.parse

import kcat
from api import curl, gunzip
from compare import EVENTS
from hostile import ACCOUNTS
from walk import once

BASE = "/emails/rolling-exports/"
GIVE_UP = 180  # seconds
SHAPE = ("segment_filter", "additional_attribute_mappings", "additional_tag_mappings", "spreadsheet_safe")


def instant(text):
    return datetime.datetime.fromisoformat(text)


class Order:
    """One standing order of one account, asked about at whichever replica answers."""

    def __init__(self, clients, name, body, arguments):
        self.clients, self.account = clients, clients[0].account
        self.name, self.body = name, {"every": "PT1M", **body}
        self.arguments = {"start": 0, "end": None, **arguments}
        self.since = {}  # partition -> first offset that is its

    def call(self, method, path="", body=None):
        end, turn = time.monotonic() + GIVE_UP, 0
        while True:
            try:
                a = self.clients[turn % len(self.clients)].call(method, BASE + self.name + path, body)
                if a.status < 500 and a.status != 429:
                    return a
            except OSError as e:
                a = e
            if time.monotonic() > end:
                raise ValueError(f"{method} {self.name}{path}: {a}")
            turn += 1
            time.sleep(0.1)

    def status(self):
        return self.call("GET").json()

    def files(self):
        """[(text, item, bytes)] of all files, in order."""
        items, page = [], None
        while page is None or page["items"]:
            page = self.call("GET", f"/files?after={items[-1]['number'] if items else 0}&limit=200").json()
            items += page["items"]
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            bodies = list(pool.map(self._download, items))
        return [(gunzip(b), i, b) for i, b in zip(items, bodies)]

    def _download(self, item):
        a = curl("GET", item["file_download_url"])
        if a.status != 200 or hashlib.sha256(a.body).hexdigest() != item["sha256"] or len(a.body) != item["bytes"]:
            raise ValueError(f"{self.account} {self.name}, file {item['number']}: {a.status}, {len(a.body)} bytes; listed {item}")
        return a.body


class Orders:
    """The part of the suite about standing orders: four of each account."""

    def __init__(self, suite, system, load):
        self.suite, self.system = suite, system
        clients = system.clients()
        questions = [load.question(i) for i in range(60)]
        self.orders = []
        for account in ACCOUNTS:
            mine = [(body, arguments) for a, body, arguments in questions if a == account]
            everything, filtered = mine[0], suite.random.choice([q for q in mine if "segment_filter" in q[0] and "additional_attribute_mappings" in q[0]])
            for name, (body, arguments), more in (
                    ("all", everything, {"start": "beginning"}), ("now", ({}, {}), {"start": "now"}),
                    ("filtered", filtered, {"start": "beginning"}), ("delivered", suite.random.choice(mine), {"start": "beginning", "destination": "lake"})):
                self.orders.append(Order(clients[account], name, {**{k: body[k] for k in SHAPE if k in body}, **more},
                                         {k: v for k, v in arguments.items() if k not in ("start", "end")}))
        self.ended = None  # when the traffic had ended

    def order(self, account, name):
        return next(o for o in self.orders if (o.account, o.name) == (account, name))

    def start(self):
        """Nothing is produced meanwhile: what the orders from now on begin with is known."""
        ends = kcat.ends(self.system.brokers, EVENTS)
        for o in self.orders:
            a = o.call("PUT", body=o.body)
            if a.status != 201:
                self.suite.must(f"{o.account}: order {o.name} is new", False, a)
            o.since = ends if o.body["start"] == "now" else {}
        self.suite.say(f"{len(self.orders)} standing orders")

    def finish(self):
        """Every order has done the first boundary behind the last event."""
        for o in self.orders:
            end = time.time() + 60 + GIVE_UP
            while not self._done(status := o.status()):
                if time.time() > end:
                    self.suite.must(f"{o.account}: order {o.name} came to the end", False, json.dumps(status)[:1500])
                time.sleep(0.3)
        self.suite.say("all orders are past the last event")

    def _done(self, status):
        start = status["next"].get("period_start")
        return (status["lag"]["files"] == 0 and start is not None and instant(start).timestamp() > self.ended
                and status.get("delivered", status["files"]) == status["files"])

    def check(self, reference):
        s, late, expected = self.suite, 0, {}
        total = 0
        for o in self.orders:
            status, files = o.status(), o.files()
            total += len(files)
            lines = reference.lines(o.account, **o.arguments)
            lines = [x for x in lines if x[0] is None or x[0].offset >= o.since.get(x[0].partition, 0)]
            wrong, after = once([f[:2] for f in files], lines)
            late += after
            wrong += numbers(status, [f[1] for f in files])
            if "destination" in o.body:
                wrong += self._delivered(o, status, files, expected)
            for text in wrong[:5]:
                s.say("      " + text)
            periods = len({f[1]["period_end"] for f in files})
            s.check(f"{o.account}: order {o.name}: {len(lines) - 1} rows, each in exactly one of {len(files)} files of {periods} periods, numbered without gaps"
                    f"{', with a filter' if 'segment_filter' in o.body else ''}{', delivered whole' if 'destination' in o.body else ''}",
                    not wrong and ("segment_filter" in o.body or periods > 1 and len(lines) > 1),  # a filter may leave nothing
                    f"{len(wrong)} wrong")
        s.check(f"{late} rows are in a file although an earlier file has later ones", late > 0)
        # What has a dot in front is not an object: what writes that were killed have left.
        found = {p.relative_to(self.system.lake).as_posix() for p in self.system.lake.rglob("*") if p.is_file()}
        found = {p for p in found if not p.startswith(".")}
        s.check(f"the destination has {len(expected)} objects and nothing besides them", found == set(expected), sorted(found ^ set(expected))[:5])

    def _delivered(self, o, status, files, expected):
        """What is wrong with the objects of an order in the destination."""
        wrong = []
        for _, item, data in files:
            n = item["number"]
            day = instant(item["period_end"]) - datetime.timedelta(milliseconds=1)
            name = f"{urllib.parse.quote(o.account, safe='')}/{o.name}/{status['order_id']}/{day:%Y/%m/%d}/{o.name}-{n}"
            expected[name + ".csv.gz"] = expected[name + ".json"] = True
            try:
                got, manifest = (self.system.lake / (name + ".csv.gz")).read_bytes(), json.loads((self.system.lake / (name + ".json")).read_bytes())
            except (OSError, ValueError) as e:
                wrong.append(f"delivered file {n}: {e}")
                continue
            want = {"version": 1, "file": f"{o.name}-{n}.csv.gz", "name": o.name, "order_id": status["order_id"]}
            want |= {k: item[k] for k in ("number", "period_start", "period_end", "cursor", "rows", "bytes", "sha256", "complete_through") if k in item}
            if got != data or manifest != want or not item["delivered"]:
                wrong.append(f"delivered file {n}: {len(got)} of {len(data)} bytes, its manifest {manifest}, listed {item}")
        return wrong


def numbers(status, items):
    """What is wrong with the numbers, periods and cursors of an order's files."""
    wrong = []
    if [i["number"] for i in items] != list(range(1, status["files"] + 1)) or status["state"] != "active":
        wrong.append(f"files {[i['number'] for i in items]}, status {status}")
    for one, next_ in zip(items, items[1:]):
        same = one["period_end"] == next_["period_end"]
        if same and (one["cursor"]["to"] != next_["cursor"]["from"] or one.get("period_start") != next_.get("period_start")):
            wrong.append(f"file {next_['number']} does not go on where its period was left")
        if not same and instant(next_["period_start"]) < instant(one["period_end"]):
            wrong.append(f"the periods of files {one['number']} and {next_['number']} overlap")
        if ("complete_through" in one) == same or not same and one["complete_through"] != one["period_end"]:
            wrong.append(f"file {one['number']}: complete through {one.get('complete_through')}, the next is of {'the same' if same else 'another'} period")
    for i in items:
        if instant(i["period_end"]).timestamp() % 60 or i["rows"] == 0:
            wrong.append(f"file {i['number']}: {i['rows']} rows, period to {i['period_end']}")
    return wrong
