"""The foreign HTTP client: curl, called as a person would."""
import hashlib
import json
import subprocess
import threading
import time
import urllib.parse
import zlib


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __str__(self):
        return f"{self.status} {self.body[:600].decode('utf-8', 'replace')}"


def curl(method, url, headers=(), body=None, seconds=120):
    """One request; redirects are not followed."""
    argv = ["curl", "-sS", "--noproxy", "*", "--max-time", str(seconds), "-X", method, "-i", "-o", "-"]
    for name, value in dict(headers).items():
        argv += ["-H", f"{name}: {value}"]
    if body is not None:
        argv += ["-H", "Expect:", "--data-binary", "@-"]
    done = subprocess.run([*argv, url], input=b"" if body is None else body, capture_output=True, timeout=seconds + 10)
    if done.returncode != 0:
        raise OSError(f"curl {method} {url}: {done.stderr.decode().strip()}")
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    got = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        got[name.strip().lower()] = value.strip()
    return Answer(int(lines[0].split()[1]), got, rest)


AWAY = 30  # seconds
away = []  # what was answered 503 and asked for again
_away = threading.Lock()


def unless_away(what, ask):
    """The answer of ask, which is called again for AWAY seconds while that is 503: a question to Kafka took longer than
    kafka_timeout, as on a machine that stands still for a moment. Each is said, and the suite's end says how many there
    were: with nothing away on purpose they are few."""
    end = time.monotonic() + AWAY
    while True:
        a = ask()
        if a.status != 503 or time.monotonic() > end:
            return a
        with _away:
            away.append(what)
        print(f"          503, asked for again: {what}: {a}", flush=True)
        time.sleep(min(5, float(a.headers.get("retry-after", 1))))


class Client:
    """One account's client of the API."""

    def __init__(self, url, id, secret, account):
        self.url, self.id, self.secret, self.account = url, id, secret, account
        self.token = None

    def at(self, url):
        """The same client, talking to another replica."""
        c = Client(url, self.id, self.secret, self.account)
        c.token = self.token
        return c

    def login(self):
        body = {"grant_type": "client_credentials", "client_id": self.id, "client_secret": self.secret}
        a = curl("POST", self.url + "/oauth/token", {"Content-Type": "application/json"}, json.dumps(body).encode())
        if a.status != 200:
            raise ValueError(f"no token: {a}")
        self.token = a.json()["access_token"]
        return self

    def call(self, method, path, body=None, headers=()):
        h = {"Authorization": f"Bearer {self.token}", **dict(headers)}
        if body is not None:
            h["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        return curl(method, self.url + path, h, body)

    def request(self, body, headers=()):
        """POST; the report id. Waits when the minute's or the pending exports are used up (429)."""
        end = time.monotonic() + 300
        while True:
            a = self.call("POST", "/emails/reports", body, headers)
            if a.status == 202:
                return a.json()["report_id"]
            if a.status not in (429, 503) or time.monotonic() > end:
                raise ValueError(f"POST {json.dumps(body, ensure_ascii=False)[:500]}: {a}")
            time.sleep(min(5, float(a.headers.get("retry-after", 1))))

    def status(self, report, header_auth=False):
        path = f"/emails/reports/{urllib.parse.quote(report)}" + ("?header_auth=true" if header_auth else "")
        a = unless_away(f"GET {report}", lambda: self.call("GET", path))
        if a.status != 200:
            raise ValueError(f"GET {report}: {a}")
        return a

    def wait(self, report, seconds=300):
        """The status body of a completed report."""
        end = time.monotonic() + seconds
        pause = 0.05
        while True:
            s = self.status(report).json()
            if s["status"] == "completed":
                return s
            if s["status"] not in ("requested", "processing"):
                raise ValueError(f"report {report} ended in {json.dumps(s)[:1500]}")
            if time.monotonic() > end:
                raise ValueError(f"report {report} not completed within {seconds} s: {json.dumps(s)[:1500]}")
            time.sleep(pause)
            pause = min(1, pause * 1.5)

    def download(self, status):
        """The text of a completed report's file, checked against its status."""
        end = time.monotonic() + 180
        while True:
            a = unless_away("a download", lambda: curl("GET", status["file_download_url"]))
            if a.status != 429 or time.monotonic() > end:
                break
            time.sleep(min(5, float(a.headers.get("retry-after", 1))))
        if a.status != 200:
            raise ValueError(f"download: {a}")
        if hashlib.sha256(a.body).hexdigest() != status["sha256"]:
            raise ValueError("the file's SHA-256 is not that of the status")
        text = gunzip(a.body)
        if len(a.body) != status["bytes"]:
            raise ValueError(f"the file has {len(a.body)} bytes, the status says {status['bytes']}")
        return text

    def export(self, body, seconds=300):
        """(text, status body) of one export from POST to file."""
        s = self.wait(self.request(body), seconds)
        return self.download(s), s


def gunzip(data):
    """The text of a gzip file that must be one member and nothing behind it."""
    d = zlib.decompressobj(31)
    text = d.decompress(data) + d.flush()
    if not d.eof or d.unused_data:
        raise ValueError("the file is not exactly one gzip member")
    return text


def metrics(admin):
    """{name: [(labels, value)]} of an admin listener's /metrics."""
    import re
    a = curl("GET", admin + "/metrics")
    out = {}
    for line in a.body.decode().splitlines():
        m = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
        if m and not line.startswith("#"):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m[2] or ""))
            out.setdefault(m[1], []).append((labels, float(m[3])))
    return out


def total(found, name):
    return sum(v for _, v in found.get(name, []))


def http_ok(url):
    return curl("GET", url).status == 200
