"""What Lockstitch must answer, computed from dumps of the topics alone.

Written from the contract (its sections are named below) and sharing nothing
with the product: slow, all in memory, one plain function per rule.
"""
import bisect
import collections
import datetime
import json
import re

TYPES = ("SENT", "DELIVERED", "OPENED", "CLICKED", "BOUNCED", "UNSUBSCRIBED", "ABUSE")
COLUMNS = ("activity_id,split_id,activity_name,split_activity_name,sender,subject,address,variation,type,correlation_id,"
           "event_time,server_time,device,location,link_id,link_url,link_title,bounce_code,unsubscribe_topic,abuse_section").split(",")
IDS = {"activity_id", "split_id", "link_id", "bounce_code"}
TEXTS = {"correlation_id", "type", "account_id", "section", "profile_id", "activity_name", "split_activity_name", "sender",
         "subject", "variation", "device", "location", "link_url", "link_title", "unsubscribe_topic", "abuse_section"}
TIMES = {"event_time", "server_time"}
ONLY = {"device": ("OPENED", "CLICKED"), "location": ("OPENED", "CLICKED"), "link_id": ("CLICKED",), "link_url": ("CLICKED",),
        "link_title": ("CLICKED",), "bounce_code": ("BOUNCED",), "unsubscribe_topic": ("UNSUBSCRIBED",), "abuse_section": ("ABUSE",)}
LAST_TIME = 253402300799999  # 9999-12-31T23:59:59.999Z
EMAIL = "com.apsis1.attributes.email"


class Poison(Exception):
    """The argument is the stable word of the dead letter's lockstitch.reason."""


class Number(str):
    """A JSON number: its literal."""


def _no_constant(word):
    raise ValueError(word)


_decoder = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_no_constant, strict=True)


def _depth(text):
    deepest = now = 0
    for m in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text, re.S):
        c = m[0]
        if c in "[{":
            now += 1
            deepest = max(deepest, now)
        elif c in "]}":
            now -= 1
    return deepest


def _clean(v):
    """Lone surrogates become U+FFFD, everywhere."""
    if isinstance(v, Number):
        return v
    if isinstance(v, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", v)
    if isinstance(v, list):
        return [_clean(x) for x in v]
    if isinstance(v, dict):
        return {_clean(k): _clean(x) for k, x in v.items()}
    return v


def parse_object(value, key=None):
    """1.1: one JSON object, at most 1 MiB as its key, at most 64 deep."""
    if value is None:
        raise Poison("null_value")
    if len(value) > 1 << 20 or len(key or b"") > 1 << 20:
        raise Poison("too_large")
    text = value.decode("utf-8", "replace")
    if text.count("[") + text.count("{") > 64 and _depth(text) > 64:
        raise Poison("too_deep")
    try:
        got, end = _decoder.raw_decode(text, re.match(r"[ \t\r\n]*", text).end())
    except ValueError:
        raise Poison("not_json")
    if text[end:].strip(" \t\r\n"):
        raise Poison("not_json")
    if not isinstance(got, dict):
        raise Poison("not_object")
    return _clean(got)


def _integer(v):
    return isinstance(v, Number) and not re.search(r"[.eE]", v)


def _text(o, name, required=False):
    v = o.get(name)
    if v is None:
        if required:
            raise Poison("missing_field")
        return None
    if not isinstance(v, str) or isinstance(v, Number):
        raise Poison("wrong_type")
    return v


def _time(o, name, low, high):
    v = o.get(name)
    if v is None:
        return None
    if not _integer(v):
        raise Poison("wrong_type")
    if len(v) > 20 or not low <= int(v) <= high:
        raise Poison("out_of_range")
    return int(v)


Event = collections.namedtuple("Event", "account type correlation section profile server_time cells")


def decode_event(record, default_account=None):
    """1.1: the event of a record, or Poison."""
    o = parse_object(record.value, record.key)
    got = {}
    for name in IDS:
        v = o.get(name)
        if v is not None and not (_integer(v) or isinstance(v, str) and not isinstance(v, Number)):
            raise Poison("wrong_type")
        got[name] = None if v is None else str(v)
    for name in TEXTS:
        got[name] = _text(o, name)
    event_time = _time(o, "event_time", -(1 << 63), (1 << 63) - 1)
    server_time = _time(o, "server_time", 0, LAST_TIME)
    if got["account_id"] is None:
        got["account_id"] = default_account
    if got["profile_id"] is None:
        got["profile_id"] = (record.key or b"").decode("utf-8", "replace")
    for name in ("correlation_id", "type", "account_id", "section"):
        if got[name] is None:
            raise Poison("missing_field")
    if not 1 <= len(got["correlation_id"].encode()) <= 256 or len(got["account_id"].encode()) > 1024:
        raise Poison("out_of_range")
    kind = got["type"]
    if kind not in TYPES:
        raise Poison("unknown_type")
    if got["split_id"] is None:
        got["split_id"] = got["activity_id"]
    if server_time is None:
        server_time = record.time
    cells = {}
    for name in COLUMNS:
        if name in ("address", "event_time", "server_time"):
            continue
        v = got[name] or ""
        cells[name] = v if kind in ONLY.get(name, TYPES) else ""
    cells["event_time"] = str(event_time or 0)
    cells["server_time"] = str(server_time)
    return Event(got["account_id"], kind, got["correlation_id"], got["section"], got["profile_id"], server_time, cells)


class Snapshot:
    """1.2: one version of a profile."""

    def __init__(self, account, sections, audiences):
        self.account, self.sections, self.audiences = account, sections, audiences
        self.cells = {}  # rendered cells by attribute, filled by Reference


def decode_profile(record):
    """1.2: a Snapshot, None for a deletion, or Poison."""
    if record.value is None and len(record.key or b"") <= 1 << 20:
        return None
    o = parse_object(record.value or b"", record.key)
    account = _text(o, "account_id", required=True)
    named = _text(o, "profile_id")
    if named is not None and named != (record.key or b"").decode("utf-8", "replace"):
        raise Poison("profile_mismatch")
    sections = {}
    for section, body in _object(o, "sections").items():
        if body is None:
            continue
        if not isinstance(body, dict):
            raise Poison("wrong_type")
        attributes = {}
        for version, v in _object(body, "attributes").items():
            _version(version)
            if v is not None and not isinstance(v, (list, dict)):
                attributes[version] = v
        sections[section] = (attributes, {_version(t) for t in _list(body, "tags")})
    audiences = set()
    for a in _list(o, "segments"):
        if not isinstance(a, str) or isinstance(a, Number):
            raise Poison("wrong_type")
        audiences.add(a)
    return Snapshot(account, sections, audiences)


def _object(o, name):
    v = o.get(name)
    if v is None:
        return {}
    if not isinstance(v, dict):
        raise Poison("wrong_type")
    return v


def _list(o, name):
    v = o.get(name)
    if v is None:
        return []
    if not isinstance(v, list):
        raise Poison("wrong_type")
    return v


def _version(v):
    if not isinstance(v, str):
        raise Poison("wrong_type")
    if not re.fullmatch(r"[0-9]{1,19}", v):
        raise Poison("out_of_range" if not isinstance(v, Number) or _integer(v) else "wrong_type")
    return str(v)


class Definitions:
    """1.3: what exists on each account, the newest value of every key."""

    def __init__(self, records):
        latest = {}
        for r in records:
            latest[r.key] = r.value
        self.attributes, self.tags, self.sections, self.audiences = {}, {}, {}, {}
        for value in latest.values():
            try:
                o = parse_object(value)
                self._add(o)
            except Poison:
                pass

    def _add(self, o):
        kind, account = _text(o, "kind", True), _text(o, "account_id", True)
        if kind in ("attribute", "tag"):
            version = _version(o.get("version_id"))
            one = {k: _text(o, k, True) for k in ("discriminator", "section", "name")}
            if kind == "attribute":
                one["type"] = _text(o, "type") or "text"
            one["version_id"] = version
            (self.attributes if kind == "attribute" else self.tags).setdefault(account, {})[version] = one
        elif kind in ("section", "segment"):
            one = _text(o, "discriminator", True)
            _text(o, "name", True)
            (self.sections if kind == "section" else self.audiences).setdefault(account, set()).add(one)
        else:
            raise Poison("unknown_type")


def plain_number(literal):
    """Section 4, number and decimal: no exponent, no trailing zeros after the point, at most 128 characters."""
    m = re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?", literal)
    sign, digits, fraction = m[1], m[2] + (m[3] or ""), m[3] or ""
    if len(m[4] or "") > 4000:
        return "0" if not digits.strip("0") else literal
    shift = int(m[4] or 0) - len(fraction)
    digits = digits.lstrip("0")
    if not digits:
        return "0"
    short = digits.rstrip("0")
    shift += len(digits) - len(short)
    if shift >= 0:
        length = len(short) + shift
    elif len(short) > -shift:
        length = len(short) + 1
    else:
        length = 2 - shift
    if length + len(sign) > 128:
        return literal
    if shift >= 0:
        return sign + short + "0" * shift
    if len(short) > -shift:
        return sign + short[:shift] + "." + short[shift:]
    return sign + "0." + "0" * (-shift - len(short)) + short


def _valid_date(text):
    try:
        datetime.date(int(text[0:4]), int(text[5:7]), int(text[8:10]))
        return True
    except ValueError:
        return False


def _rfc3339(text):
    m = re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))", text)
    if not m or not _valid_date(m[1]):
        return None
    hour, minute, second = int(m[2]), int(m[3]), int(m[4])
    if hour > 23 or minute > 59 or second > 59 or int(m[7] or 0) > 23 or int(m[8] or 0) > 59:
        return None
    days = datetime.date.fromisoformat(m[1]).toordinal() - datetime.date(1970, 1, 1).toordinal()
    offset = (int(m[7] or 0) * 60 + int(m[8] or 0)) * (-1 if m[6] == "-" else 1)
    return (days * 86400 + hour * 3600 + minute * 60 + second - offset * 60) * 1000 + int(((m[5] or "") + "000")[:3])


def attribute_cell(kind, v):
    """Section 4: (text of an attribute's value, whether its type's own rule wrote it)."""
    if v is True or v is False:
        return ("true" if v else "false"), kind == "boolean"
    if isinstance(v, Number):
        if kind in ("number", "decimal"):
            return plain_number(v), True
        return str(v), kind == "timestamp" and _integer(v)
    if kind == "date" and re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", v) and _valid_date(v):
        return v[:10], True
    if kind == "timestamp":
        t = _rfc3339(v)
        if t is not None:
            return str(t), True
    return v, False


def quote(text):
    if any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def cell(text, safe, by_rule=False):
    if safe and not by_rule and text[:1] in ("=", "+", "-", "@", "\t", "\r") and text:
        text = "'" + text
    return quote(text)


def matches(expression, names, audiences):
    """A segment_filter's expression: ! before & before |."""
    words = []
    for token in re.findall(r"[!&|()]|[^!&|()\s]+", expression):
        words.append({"!": "not", "&": "and", "|": "or", "(": "(", ")": ")"}.get(token) or repr(names[token] in audiences))
    return eval(" ".join(words), {"__builtins__": {}})


Row = collections.namedtuple("Row", "server_time topic partition offset event snapshot")


class Reference:
    """Sections 2 and 4 over the dumps of the topics.

    event_topics: [dump, ...] in the order of the topics' names; first_ends:
    {(topic, partition): (event end, profile end)} as of the first deployment."""

    def __init__(self, event_topics, profiles, definitions, first_ends=None, horizon=7 * 86400_000, default_account=None):
        self.definitions = Definitions(definitions)
        self.dead = {}  # (topic, partition, offset) -> (reason, record)
        self.own = {}  # a row's own cells, rendered
        self.events = self.duplicates = self.late = 0
        first_ends = first_ends or {}
        versions = collections.defaultdict(list)  # (partition, profile) -> [(offset, time, snapshot)]
        for r in profiles:
            try:
                got = decode_profile(r)
            except Poison as p:
                self.dead[r.topic, r.partition, r.offset] = (p.args[0], r)
                got = None
            versions[r.partition, (r.key or b"").decode("utf-8", "replace")].append((r.offset, r.time, got))
        self.rows = []
        for records in event_topics:
            log_time = collections.defaultdict(int)
            kept = {}
            for r in records:
                self.events += 1
                now = log_time[r.partition] = max(log_time[r.partition], r.time)
                try:
                    e = decode_event(r, default_account)
                except Poison as p:
                    self.dead[r.topic, r.partition, r.offset] = (p.args[0], r)
                    continue
                key = r.partition, e.account, e.type, e.correlation
                if key in kept and now - kept[key] <= horizon:
                    self.duplicates += 1
                    continue
                kept[key] = now
                ends = first_ends.get((r.topic, r.partition), (0, 0))
                self.rows.append(Row(e.server_time, r.topic, r.partition, r.offset, e,
                                     self._as_of(versions.get((r.partition, e.profile)), r, e, ends)))
        self.rows.sort(key=lambda w: w[:4])
        self.by_account = collections.defaultdict(list)
        for w in self.rows:
            self.by_account[w.event.account].append(w)

    def _as_of(self, versions, record, event, ends):
        """2.3: the newest version not later than the event."""
        if not versions:
            return None
        for offset, time, snapshot in reversed(versions):
            if time <= record.time:
                break
        else:
            if record.offset >= ends[0] or versions[0][0] >= ends[1]:
                return None
            self.late += 1
            snapshot = versions[0][2]
        if snapshot is None or snapshot.account != event.account:
            return None
        return snapshot

    def _attribute(self, snapshot, definition, safe):
        if snapshot is None:
            return ""
        key = definition["section"], definition["version_id"], definition["type"], safe
        got = snapshot.cells.get(key)
        if got is None:
            v = snapshot.sections.get(definition["section"], ({}, ()))[0].get(definition["version_id"])
            got = "" if v is None else cell(attribute_cell(definition["type"], v)[0], safe, attribute_cell(definition["type"], v)[1])
            snapshot.cells[key] = got
        return got

    def _address(self, account, section, snapshot, safe):
        """1.3: of several versions the numerically greatest for which the profile has a value."""
        if snapshot is None:
            return ""
        key = "address", section, safe
        got = snapshot.cells.get(key)
        if got is None:
            got = ""
            values = snapshot.sections.get(section, ({}, ()))[0]
            emails = [d for d in self.definitions.attributes.get(account, {}).values()
                      if d["section"] == section and d["discriminator"] == EMAIL and d["version_id"] in values]
            if emails:
                got = self._attribute(snapshot, max(emails, key=lambda d: int(d["version_id"])), safe)
            snapshot.cells[key] = got
        return got

    def _own_cells(self, w, safe):
        """The cells of the event itself: those before the address, those after it."""
        key = w.topic, w.partition, w.offset, safe
        got = self.own.get(key)
        if got is None:
            line = [cell(w.event.cells[name], safe, name in TIMES) for name in COLUMNS if name != "address"]
            at = COLUMNS.index("address")
            got = self.own[key] = ",".join(line[:at]), ",".join(line[at:])
        return got

    def export(self, account, start, end, attributes=(), tags=(), expression=None, names=None, safe=False, below=None):
        """Section 4: the text of the file. start and end in ms (end exclusive or None); attributes and tags are
        version ids; names: audience discriminators by the names in the expression; below: the barrier,
        {(topic, partition): offset}, if the topics have grown since. Answers (bytes, rows)."""
        out = [line for _, line in self.lines(account, start, end, attributes, tags, expression, names, safe, below)]
        return ("\n".join(out) + "\n").encode(), len(out) - 1

    def lines(self, account, start, end, attributes=(), tags=(), expression=None, names=None, safe=False, below=None):
        """The same as [(Row, line)], first the header with the row None."""
        d = self.definitions
        attributes = [d.attributes[account][v] for v in attributes]
        tags = [d.tags[account][v] for v in tags]
        head = list(COLUMNS) + [f"{x['name']} (version_id: {x['version_id']})" for x in attributes + tags]
        out = [(None, ",".join(cell(h, safe) for h in head))]
        rows = self.by_account[account]
        low = bisect.bisect_left(rows, start, key=lambda w: w.server_time)
        high = len(rows) if end is None else bisect.bisect_left(rows, end, key=lambda w: w.server_time)
        extra, member = {}, {}
        for w in rows[low:high]:
            s = w.snapshot
            if below is not None and w.offset >= below.get((w.topic, w.partition), 0):
                continue
            if expression is not None:
                if id(s) not in member:
                    member[id(s)] = matches(expression, names, s.audiences if s else ())
                if not member[id(s)]:
                    continue
            before, after = self._own_cells(w, safe)
            if id(s) not in extra:
                extra[id(s)] = [self._attribute(s, a, safe) for a in attributes] + [
                    "TAG" if s and t["version_id"] in s.sections.get(t["section"], ({}, ()))[1] else "" for t in tags]
            out.append((w, ",".join([before, self._address(account, w.event.section, s, safe), after] + extra[id(s)])))
        return out

    def summary(self):
        return (f"{self.events} event records: {len(self.rows)} kept, {self.duplicates} duplicates, {len(self.dead)} dead letters, "
                f"{sum(1 for w in self.rows if w.snapshot)} decorated, {self.late} by the rule of the first deployment")
