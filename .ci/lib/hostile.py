"""The hostile load: definitions, profiles and events of three accounts, made from a seed.

Everything here is meant to be legal and awkward, or illegal in exactly one way.
What must become of it is not known here: reference.py says that.
"""
import datetime
import json
import random
import time

ACCOUNTS = ("acme", "Größe & Söhne/株式会社 100%", "a")
SECTIONS = ("usercreated.sections.europe-r6tz73a27t", "usercreated.sections.asien-ünïcode", "s")
TYPES = ("SENT", "DELIVERED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE")
KINDS = ("text", "boolean", "date", "timestamp", "number", "decimal", "location", "some-future-type")
AUDIENCES = tuple(f"usercreated.segments.{w}-{i}" for i, w in enumerate(("women", "men", "europe", "vip", "новые", "old", "x", "all")))
EMAIL = "com.apsis1.attributes.email"
DAY = 86400_000
LAST_TIME = 253402300799999


class Raw(str):
    """JSON text that goes out as it is."""


class Pairs(list):
    """A JSON object as a list of (name, value), so that names can repeat."""


class Load:
    """events hostile events in `phases` pieces; profiles change between and during them."""

    def __init__(self, seed, events=50000, profiles=1200, phases=20, complete_profiles=False):
        self.r = random.Random(seed)
        self.now = int(time.time() * 1000)
        self.events, self.phases = events, phases
        # complete_profiles: every profile has a version before the first event, so that a
        # deployment that starts later decorates nothing by the rule of the first deployment.
        self.complete = complete_profiles
        self.ids = [self._profile_id(i) for i in range(profiles)]
        self.owner = {p: ACCOUNTS[i % 3] for i, p in enumerate(self.ids)}
        self.attributes = {a: [] for a in ACCOUNTS}  # (section, version id, discriminator, type)
        self.tags = {a: [] for a in ACCOUNTS}
        self.sent = []
        self.serial = 0
        self._definitions = self._make_definitions()

    # Pieces of text

    def text(self):
        r = self.r
        k = r.random()
        if k < 0.35:
            return r.choice(("Newsletter", "Spring sale", "hello", "a", "x y", "0", "-5", "=1+1", "@sum", "+46", "\ttab", "TAG", "true", "null"))
        if k < 0.40:
            return ""
        if k < 0.999:
            return "".join(r.choice(PIECES) for _ in range(r.randint(1, 5)))
        return r.choice(("ж", "x", '"', "😀", ",\n"))[:1] * 5000

    def short(self):
        t = self.text()
        return t if len(t) < 200 else t[:40]

    def _uuid(self):
        u = "%032x" % self.r.getrandbits(128)
        return f"{u[:8]}-{u[8:12]}-{u[12:16]}-{u[16:20]}-{u[20:]}"

    def _profile_id(self, i):
        r = self.r
        return (lambda: self._uuid(), lambda: self._uuid().upper(), lambda: self._uuid(), lambda: f"p{i}", lambda: f"{i}",
                lambda: f"kund/{i} åäö", lambda: f'"{i}", 😀', lambda: "x" * 180 + str(i), lambda: self._uuid().replace("-", ""),
                lambda: f"p{i}@example.com")[i % 10 if r.random() < 0.7 else 0]()

    def _id(self):
        """An activity, split or link id of any shape, string or integer."""
        r = self.r
        return r.choice((lambda: Raw(r.randint(1, 99999)), lambda: str(r.randint(1, 50)), lambda: Raw(r.randint(1, 50)), lambda: Raw("-0"),
                         lambda: Raw(10 ** 39 + r.randint(0, 9)), lambda: self._uuid().upper(), lambda: "007", lambda: self.short(),
                         lambda: f"act-{r.randint(1, 30)}", lambda: f"act-{r.randint(1, 30)}", lambda: Raw(-r.randint(1, 9))))()

    # JSON

    def json(self, v, depth=0):
        """v as JSON in one of its many spellings; names and texts may carry surrogates, which become raw bytes or escapes."""
        r = self.r
        if isinstance(v, Raw):
            return str(v)
        if isinstance(v, str):
            t = json.dumps(v, ensure_ascii=r.random() < 0.3)
            return t.replace("/", "\\/") if r.random() < 0.1 else t
        if v is None or v is True or v is False or isinstance(v, int):
            return json.dumps(v)
        space = r.choice(("", "", "", " ", "\n\t", " \r\n"))
        if isinstance(v, dict):
            v = list(v.items())
            r.shuffle(v)
            v = Pairs(v)
        if isinstance(v, Pairs):
            body = ("," + space).join(self.json(k) + space + ":" + space + self.json(x) for k, x in v)
            return "{" + space + body + space + "}"
        return "[" + space + ("," + space).join(self.json(x) for x in v) + "]"

    def bytes(self, v):
        return self.json(v).encode("utf-8", "surrogateescape")

    # Definitions

    def _make_definitions(self):
        r, out = self.r, []

        def add(kind, account, one, **fields):
            out.append((f"{kind}/{account}/{one}".encode(), self.bytes({"kind": kind, "account_id": account, **fields})))

        for account in ACCOUNTS:
            for s in SECTIONS:
                add("section", account, s, discriminator=s, name=self.short() or "x")
            for a in AUDIENCES:
                add("segment", account, a, discriminator=a, name=self.short() or "x")
            versions = iter(["9", "10", "100", "99", "9999999999999999998", "1", "491874", "9820534"] +
                            [str(r.randint(10 ** 5, 10 ** 12)) for _ in range(90)])
            for s in SECTIONS:
                for _ in range(2):
                    self._attribute(add, account, s, EMAIL, next(versions), "text")
                for i in range(20):
                    self._attribute(add, account, s, f"usercreated.attributes.{'color' if i < 3 else i}", next(versions), KINDS[i % len(KINDS)])
                for i in range(7):
                    v = next(versions)
                    d = f"usercreated.tags.{'t' if i < 2 else i}"
                    self.tags[account].append((s, v, d))
                    add("tag", account, v, version_id=v, discriminator=d, section=s, name=self.short() or "x")
            add("attribute", account, "gone", version_id="555", discriminator="gone", section=SECTIONS[0], name="gone", type="text")
            out.append((f"attribute/{account}/gone".encode(), None))
            add("tag", account, "broken", version_id="556", discriminator="broken", section=SECTIONS[0], name="broken")
            out.append((f"tag/{account}/broken".encode(), b'{"kind":"tag","account_id":'))
        for bad in (b"", b"[]", b"nonsense", b'{"kind":"teapot","account_id":"acme"}', b'{"kind":"attribute","account_id":"acme"}'):
            out.append((b"bad/%d" % len(bad), bad or b" "))
        return out

    def _attribute(self, add, account, section, discriminator, version, kind):
        self.attributes[account].append((section, version, discriminator, kind))
        add("attribute", account, version, version_id=version, discriminator=discriminator, section=section, name=self.short() or "x", type=kind)

    def definitions(self):
        return self._definitions

    # Profiles

    def value(self, kind):
        r = self.r
        if r.random() < 0.25:
            kind = r.choice(KINDS)
        if kind == "boolean":
            return r.choice((True, False, "true", "FALSE"))
        if kind == "date":
            return r.choice(("2024-02-29", "2023-02-29", "1999-12-31T23:59:59Z", "2024-13-01", "2020-01-01 and more", "24-1-1", "2024-02-3"))
        if kind == "timestamp":
            return r.choice((Raw(r.randint(-10 ** 12, 2 * 10 ** 12)), "2024-01-01T00:00:00Z", "2024-01-01T00:00:00.9999+05:30", Raw("0"), Raw("-0"),
                             "1969-12-31T23:59:59.9995Z", "2024-02-30T00:00:00Z", "2024-01-01", "1900-03-01T12:00:00.000000001-11:00", Raw("1.5"), Raw("1e3")))
        if kind in ("number", "decimal"):
            return r.choice((Raw("-0"), Raw("-0.000"), Raw("1.50"), Raw("1E2"), Raw("0.000000123e-3"), Raw("12345678901234567890123456789012345678901.10"),
                             Raw("1e999999999"), Raw("-1e-999999999"), Raw("100"), Raw("1e126"), Raw("1e127"), Raw("1e128"), Raw("-1e127"), Raw("1.0e-126"),
                             Raw("1e-127"), Raw("0e99999"), Raw("0.10E+1"), "12.50", Raw("-7.5"), Raw(r.randint(-99, 99)), Raw(f"{r.randint(1, 99999)}.{r.randint(0, 999)}")))
        if kind == "location":
            return r.choice(("SE", "59.3,18.1", '{"lat":1}', "DE-suffix"))
        return self.text()

    def _snapshot(self, profile, account):
        r = self.r
        sections = {}
        for s in SECTIONS:
            if r.random() < 0.15:
                continue
            attributes = {}
            for section, version, discriminator, kind in self.attributes[account]:
                if section != s:
                    continue
                if discriminator == EMAIL:
                    if r.random() < 0.7:
                        attributes[version] = r.choice((f"u{r.randint(1, 9999)}@example.com", "ä,b@exämple.se", '"q"@x', f"{version}@v.org"))
                elif r.random() < 0.5:
                    attributes[version] = self.value(kind)
            if r.random() < 0.1:
                attributes["77"] = r.choice(([1, "x"], {"a": None}, None, "unknown version"))
            tags = [Raw(v) if v[0] != "0" and r.random() < 0.3 else v for section, v, _ in self.tags[account] if section == s and r.random() < 0.4]
            if r.random() < 0.2:
                tags.append("123123")
            body = {"attributes": attributes, "tags": tags}
            for k in ("attributes", "tags"):
                if r.random() < 0.05:
                    body[k] = None
            sections[s] = body
        o = {"account_id": account, "sections": sections, "segments": [a for a in AUDIENCES if r.random() < 0.45] + (["unknown"] if r.random() < 0.1 else [])}
        if r.random() < 0.6:
            o["profile_id"] = profile
        if r.random() < 0.1:
            o["extra"] = {"nested": [1, {"deep": "x" * 50}]}
        return o

    def profile(self, p, version=None):
        """One record of the profiles topic: mostly a snapshot, else a deletion or poison."""
        r = self.r
        key = p.encode()
        k = r.random() if version is None else 1
        if k < 0.08:
            return key, None
        if k < 0.14:
            good = self._snapshot(p, self.owner[p])
            bad = r.randrange(8)
            if bad == 0:
                return key, self.bytes(good)[:-1]
            if bad == 1:
                good["profile_id"] = "somebody else"
            elif bad == 2:
                del good["account_id"]
            elif bad == 3:
                good["account_id"] = Raw(5)
            elif bad == 4:
                good["segments"] = "all"
            elif bad == 5:
                good["sections"] = {SECTIONS[0]: {"tags": {}}}
            elif bad == 6:
                return key, b"[]"
            else:
                return key, b'{"x":' + b"[" * 100 + b"]" * 100 + b',"account_id":"a"}'
            return key, self.bytes(good)
        account = self.owner[p] if r.random() < 0.97 else r.choice(ACCOUNTS)
        return key, self.bytes(self._snapshot(p, account))

    def first_profiles(self):
        """The first versions; without complete_profiles a fifth of the profiles comes only later."""
        return [self.profile(p, 1) for p in self.ids if self.complete or self.r.random() < 0.8]

    # Events

    def _server_time(self):
        r = self.r
        k = r.random()
        if k < 0.80:
            t = self.now - int(r.random() ** 2 * 80 * DAY) - r.randint(0, 3600_000)
            return t // 1000 * 1000 if r.random() < 0.5 else t
        if k < 0.90:
            return self.now // DAY * DAY - r.randint(0, 20) * 1000
        if k < 0.96:
            return None
        return r.choice((0, 1, r.randint(0, 60 * DAY), LAST_TIME, LAST_TIME - r.randint(0, DAY), self.now + r.randint(0, 30 * DAY), 951782400000))

    def _correlation(self):
        r = self.r
        k = r.random()
        self.serial += 1
        if k < 0.6:
            return self._uuid()
        if k < 0.75:
            return self._uuid().upper()
        if k < 0.95:
            return r.choice((f"{self.serial}", f"msg,{self.serial}", f"ü{self.serial}\n", f'"{self.serial}"', f"{self.serial}\x00", f"{self._uuid()}x", self._uuid()[:-1]))
        if k < 0.97:
            return (f"{self.serial}-" + "x" * 300)[:256]
        return f"{self.serial}" + "é" * 100

    def event(self):
        r = self.r
        account = r.choice(ACCOUNTS)
        p = r.choice(self.ids) if r.random() < 0.95 else f"nobody-{r.randint(1, 99)}"
        if r.random() < 0.93 and p in self.owner:
            account = self.owner[p]
        o = {"type": r.choices(TYPES, (30, 25, 15, 10, 8, 6, 6))[0], "correlation_id": self._correlation(), "account_id": account,
             "section": r.choice(SECTIONS) if r.random() < 0.98 else self.short() or "none"}
        for name, make in (("activity_id", self._id), ("split_id", self._id), ("activity_name", self.text), ("split_activity_name", self.short),
                           ("sender", self.short), ("subject", self.text), ("variation", self.short), ("device", self.short), ("location", self.short),
                           ("link_id", self._id), ("link_url", self.text), ("link_title", self.short), ("unsubscribe_topic", self.short),
                           ("abuse_section", self.short), ("bounce_code", lambda: r.choice((Raw(2001), "3001", "9999", Raw(4003))))):
            k = r.random()
            if k < 0.70:
                o[name] = make()
            elif k < 0.75:
                o[name] = None
        k = r.random()
        if k < 0.8:
            o["event_time"] = self.now - r.randint(0, 90 * DAY)
        elif k < 0.9:
            o["event_time"] = r.choice((0, Raw("-0"), 1, -1, -(1 << 63), (1 << 63) - 1, 86400000))
        t = self._server_time()
        if t is not None:
            o["server_time"] = t
        if r.random() < 0.5:
            o["profile_id"] = p
        key = p
        if r.random() < 0.02:
            o["profile_id"], key = p, r.choice(self.ids)  # does not hash to this partition, mostly
        if r.random() < 0.05:
            o[r.choice(("extra", "TYPE", "Account_Id", "événement"))] = r.choice(([1, 2, {"x": [None]}], Raw("1e999999999"), "x", {"a": {"b": "]}"}}))
        return key, o

    def _retry(self):
        """An earlier event once more: near or far, its times changed, or not quite the same."""
        r = self.r
        key, o = self.sent[-r.randint(1, min(50, len(self.sent)))] if r.random() < 0.5 else r.choice(self.sent)
        o = dict(o)
        o["event_time"] = self.now - r.randint(0, DAY)
        if r.random() < 0.5:
            o["server_time"] = self.now - r.randint(0, 80 * DAY)
        k = r.random()
        if k < 0.15:
            o["type"] = r.choice(TYPES)
        elif k < 0.2:
            o["account_id"] = r.choice(ACCOUNTS)
        elif k < 0.25:
            o["correlation_id"] = o["correlation_id"].swapcase()
        elif k < 0.3:
            o.setdefault("profile_id", key)
            key = r.choice(self.ids)
        elif k < 0.5:
            o["subject"] = self.text()
        return key, o

    def _odd(self, key, o):
        """Legal, but few would write it."""
        r = self.r
        k = r.randrange(9)
        o = dict(o)
        if k == 0:
            o["subject"] = r.choice(("cut \udcf0\udc9f\udc98", "\udcff\udcfe", "\udced\udca0\udc80 x", "\udcf0\udc9f\udc98\udcf0\udc9f\udc98\udc80", "\udcc0\udcaf", "a\udce2\udc82"))
            text = json.dumps(o["subject"], ensure_ascii=False)
            o["subject"] = Raw(text)
        elif k == 1:
            o["sender"] = Raw(r.choice(('"\\ud83d"', '"\\ude00x"', '"\\ud83d\\ud83d\\ude00"', '"\\uD83D\\u0041"', '"\\ud83d\\ude00"', '"\\u0000\\u001f"')))
        elif k == 2:
            return key, self.bytes(Pairs([("type", Raw("5")), ("subject", [])] + list(o.items()) + [("sender", "first"), ("sender", "last"), ("subject", "last")]))
        elif k == 3:
            text = self.bytes(o)
            return key, text.replace(b'"type"', b'"\\u0074ype"', 1)
        elif k == 4:
            return key, r.choice((b" ", b"\n\t\r ")) + self.bytes(o) + r.choice((b"\n", b"  \r\n"))
        elif k == 5:
            o["extra"] = Raw("[" * 62 + "]" * 62)
        elif k == 6:
            o["extra"] = "x" * r.randint(1000, 30000)
        elif k == 7:
            o["correlation_id"] = Raw(json.dumps(f"{self.serial}\udcff\udcff", ensure_ascii=False))
        else:
            o["activity_id"] = Raw("9" * 40)
        return key, self.bytes(o)

    def _poison(self, key, o):
        """Illegal in exactly one way."""
        r = self.r
        o = dict(o)
        k = r.randrange(27)
        whole = self.bytes(o)
        simple = {0: None, 1: b"\xef\xbb\xbf" + whole, 2: whole + b"}", 3: whole[:-1], 4: b"[" + whole + b"]", 5: b'"text"', 6: b"null", 7: b"12", 8: b" ",
                  9: b"\x00\x01\xff\xfe not json\n at all \r\n", 10: whole.replace(b":", b"=", 1), 11: whole + b" {}"}
        if k in simple:
            return key, simple[k]
        if k == 12:
            del o[r.choice(("type", "correlation_id", "account_id", "section"))]
        elif k == 13:
            o[r.choice(("type", "correlation_id", "account_id", "section"))] = None
        elif k == 14:
            o[r.choice(("type", "correlation_id", "account_id", "section", "subject", "device", "profile_id"))] = Raw(5)
        elif k == 15:
            o["type"] = r.choice(("sent", "SENT ", "", "SPAM", "NULL", "OPEN"))
        elif k == 16:
            o["correlation_id"] = r.choice(("", "x" * 257, "é" * 129, "x" * 100000))
        elif k == 17:
            o[r.choice(("event_time", "server_time"))] = r.choice(("0", True, [], {}, Raw("1.0"), Raw("1e3"), "2024-01-01T00:00:00Z"))
        elif k == 18:
            o["server_time"] = r.choice((-1, LAST_TIME + 1, Raw("9" * 30)))
        elif k == 19:
            o["event_time"] = r.choice((1 << 63, -(1 << 63) - 1, Raw("9" * 40)))
        elif k == 20:
            o[r.choice(("activity_id", "split_id", "link_id", "bounce_code"))] = r.choice((Raw("1.5"), Raw("1e3"), True, [], {}))
        elif k == 21:
            o["link_title"] = r.choice((Raw("1"), False, [], {"a": 1}))
        elif k == 22:
            o["extra"] = Raw("[" * 64 + "]" * 64) if r.random() < 0.5 else Raw('{"a":' * 5000 + "1" + "}" * 5000)
        elif k == 23:
            o["subject"] = Raw(r.choice(('"raw\nnewline"', '"raw\x00nul"', '"\\x41"', '"\\u12"', "NaN", "-Infinity", "01", "+1", ".5", "'single'", "tru")))
        elif k == 24:
            return key, whole[:r.randint(1, len(whole) - 1)]
        elif k == 25:
            return key, whole[:-1] + b",}"
        else:
            o[r.choice(("sender", "account_id"))] = Raw('["list"]')
        return key, self.bytes(o)

    def one(self):
        """One record of the events topic."""
        r = self.r
        k = r.random()
        if k < 0.12 and len(self.sent) > 100:
            key, o = self._retry()
            return key.encode(), self.bytes(o)
        key, o = self.event()
        if k < 0.15:
            key, value = self._poison(key, o)
            return key.encode(), value
        if k < 0.20:
            key, value = self._odd(key, o)
            return key.encode(), value
        self.sent.append((key, o))
        if k < 0.21:
            o["profile_id"] = key
            return None, self.bytes(o)
        return key.encode(), self.bytes(o)

    def phase(self):
        """(profile records, event records) of one phase, to be produced at the same time."""
        n = self.events // self.phases
        return [self.profile(self.r.choice(self.ids)) for _ in range(n // 8)], [self.one() for _ in range(n)]

    def giants(self, limit):
        """Values around 1 MiB and far over it, none over the broker's limit."""
        out = []
        for size in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1, 950_000, 10_000_000):
            if size < limit - 1000:
                key, o = self.event()
                o = {"type": "SENT", "correlation_id": f"giant-{size}", "account_id": ACCOUNTS[0], "section": SECTIONS[0], "server_time": self.now - size, "subject": "big", "extra": ""}
                value = json.dumps(o).encode()
                out.append((key.encode(), value[:-2] + b"x" * (size - len(value)) + b'"}'))
                if size == 950_000:
                    out.append((key.encode(), b"x" * size))
        return out

    # Questions

    def question(self, i):
        """Request i: (account, body, arguments for Reference.export)."""
        r = self.r
        account = ACCOUNTS[i % 3]
        if i < 3:
            start, end = self.now - 85 * DAY, None
        else:
            k = r.random()
            if k < 0.06:
                start, end = r.randint(0, 5 * DAY), r.randint(6 * DAY, 59 * DAY)
            elif k < 0.12:
                start, end = LAST_TIME - r.randint(1, DAY), LAST_TIME - r.randint(0, 1)
            elif k < 0.2:
                start = self.now // DAY * DAY - r.randint(0, 20) * 1000
                end = start + r.randint(1, 5) * 1000
            else:
                start = self.now - int(r.random() ** 2 * 85 * DAY)
                end = min(start + int(60_000 * (88 * 1440) ** r.random()), self.now + DAY * 2)
                end = None if r.random() < 0.2 else max(end, start + 1)
        if end is not None and end <= start:
            end = start + 1
        body = {"start_at": self._instant(start)}
        if end is not None:
            body["end_at"] = self._instant(end)
        attributes, tags = list(self.attributes[account]), list(self.tags[account])
        r.shuffle(attributes)
        r.shuffle(tags)
        if i >= 3:
            attributes, tags = attributes[:r.choice((0, 1, 5, 20))], tags[:r.choice((0, 1, 8))]
        if attributes:
            body["additional_attribute_mappings"] = [self._mapping(x, self.attributes[account], attributes) for x in attributes]
        if tags:
            body["additional_tag_mappings"] = [self._mapping(x, self.tags[account], tags) for x in tags]
        arguments = {"start": start, "end": end, "attributes": [a[1] for a in attributes], "tags": [t[1] for t in tags]}
        if i >= 3 and r.random() < 0.7:
            self._filter(body, arguments)
        if r.random() < 0.3:
            body["spreadsheet_safe"] = arguments["safe"] = True
        return account, body, arguments

    def _mapping(self, one, everything, wanted):
        same = [x for x in everything if x[0] == one[0] and x[2] == one[2]]
        if max(same, key=lambda x: int(x[1])) == one and self.r.random() < 0.4:
            return {"section_discriminator": one[0], "discriminator": one[2]}
        return {"version_id": one[1]}

    def _filter(self, body, arguments):
        r = self.r
        if r.random() < 0.25:
            one = r.choice(AUDIENCES)
            body["segment_filter"] = {"segment_discriminator": one}
            arguments.update(expression="it", names={"it": one})
            return
        names = dict(zip(r.sample(("women", "europe", "a", "b2", "VIP", "x_y"), 4), r.sample(AUDIENCES, 4)))
        unused = set(names)

        def expression(depth):
            k = r.random()
            s = r.choice(("", "", " "))
            if depth > 4 or k < 0.3:
                name = unused.pop() if unused else r.choice(sorted(names))
                return name
            if k < 0.45:
                return "!" + s + expression(depth + 1)
            if k < 0.6:
                return "(" + s + expression(depth + 1) + s + ")"
            return expression(depth + 1) + s + r.choice("&|") + s + expression(depth + 1)

        text = expression(0)
        while unused:
            text += " " + r.choice("&|") + " " + r.choice(("", "!")) + unused.pop()
        body["segment_filter"] = {"segment_discriminators": names, "filter": text}
        arguments.update(expression=text, names=names)

    def _instant(self, ms):
        """RFC 3339 with any of the spellings that the contract takes."""
        r = self.r
        t = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=ms)
        text = f"{t.year:04d}" + t.strftime("-%m-%dT%H:%M:%S")
        if t.microsecond or r.random() < 0.5:
            text += ".%03d" % (t.microsecond // 1000) + r.choice(("", "", "999", "999999", "4"))
        text += r.choice(("Z", "Z", "+00:00", "z"))
        return text.replace("T", "t") if r.random() < 0.1 else text


PIECES = ('"', ",", "\r\n", "\n", "\r", "\0", "😀", "👩‍👩‍👧‍👦", "שלום", "مرحبا", "\u202e", "\ufeff", "é", "e\u0301", "日本語", " ", "'", "\\", "/", "\t", ";", "<b>", "=",
          "plain", "Word", "\u2028", "\x7f", "\x1b", "ß", "İ", "a" * 40, '""', '","', "%00", "{}", "\ufffd", "\U0010ffff", "NULL", "0x1F", "1e5", "\x01")
