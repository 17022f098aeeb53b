"""The foreign Kafka client: kcat to produce and to dump topics, any bytes."""
import collections
import json
import re
import subprocess

# The delimiters are long and random so that any other bytes can go between them.
FIELD = b"\x1f#8c4d1e0b-field#\x1f"
RECORD = b"\x1e#52f7a9d3-record#\x1e\n"

Record = collections.namedtuple("Record", "topic partition offset time key value")


class Producer:
    """One kcat that produces to one topic; records are acknowledged when close returns."""

    def __init__(self, brokers, topic, headers=(), settings=()):
        self.topic = topic
        argv = ["kcat", "-q", "-P", "-E", "-b", brokers, "-t", topic, "-D", RECORD.decode(), "-K", FIELD.decode(), "-Z",
                "-X", "partitioner=murmur2_random", "-X", "acks=all", "-X", "message.max.bytes=20000000",
                "-X", "linger.ms=2", "-X", "message.timeout.ms=240000", "-X", "reconnect.backoff.max.ms=500",
                "-X", "batch.size=200000"]
        for s in settings:
            argv += ["-X", s]
        for name, value in headers:
            argv += ["-H", f"{name}={value}"]
        self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def send(self, records):
        """records: (key, value) of bytes, None for null."""
        out = bytearray()
        for key, value in records:
            if key is not None:
                out += key + FIELD
            out += (value or b"") + RECORD
        self.child.stdin.write(out)
        self.child.stdin.flush()

    def close(self, seconds=300):
        try:
            self.child.stdin.close()
        except BrokenPipeError:
            pass
        errors = self.child.stderr.read().decode(errors="replace")
        if self.child.wait(seconds) != 0:
            raise RuntimeError(f"kcat could not produce to {self.topic}: {errors[-2000:]}")


def produce(brokers, topic, records, headers=(), settings=()):
    p = Producer(brokers, topic, headers, settings)
    try:
        p.send(records)
    except BrokenPipeError:
        pass
    p.close()


def _consume(brokers, topic, *rest, seconds=300):
    argv = ["kcat", "-C", "-e", "-q", "-b", brokers, "-t", topic, "-X", "fetch.message.max.bytes=30000000",
            "-X", "fetch.max.bytes=60000000", "-X", "receive.message.max.bytes=100000000",
            "-X", "check.crcs=true", "-o", "beginning", *rest]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds)
    if done.returncode != 0:
        raise RuntimeError(f"kcat could not read {topic}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout


_HEAD = re.compile(rb"(\d+) (\d+) (-?\d+) (-?\d+) (-?\d+)\n")


def dump(brokers, topic):
    """All committed records of a topic, in (partition, offset) order, byte for byte: lengths go before bytes."""
    raw = _consume(brokers, topic, "-f", "%p %o %T %K %S\\n%k%s")
    out, at = [], 0
    while at < len(raw):
        m = _HEAD.match(raw, at)
        if not m:
            raise RuntimeError(f"{topic}: the dump is not understood at byte {at}: {raw[at:at + 80]!r}")
        partition, offset, time, klen, vlen = map(int, m.groups())
        at = m.end()
        key = value = None
        if klen >= 0:
            key, at = raw[at:at + klen], at + klen
        if vlen >= 0:
            value, at = raw[at:at + vlen], at + vlen
        out.append(Record(topic, partition, offset, time, key, value))
    out.sort(key=lambda r: (r.partition, r.offset))
    return out


def headers(brokers, topic):
    """{(partition, offset): [(name, value), ...]} of a topic, from kcat's JSON envelopes."""
    out = {}
    for line in _consume(brokers, topic, "-J").decode("utf-8", "replace").split("\n"):
        if not line:
            continue
        envelope = json.loads(line, strict=False)
        flat = envelope.get("headers") or []
        out[envelope["partition"], envelope["offset"]] = list(zip(flat[::2], flat[1::2]))
    return out


def partitions(brokers, topic):
    done = subprocess.run(["kcat", "-L", "-J", "-b", brokers, "-t", topic], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=60, check=True)
    for t in json.loads(done.stdout)["topics"]:
        if t["topic"] == topic and not t.get("error"):
            return len(t["partitions"])
    return 0


def ends(brokers, topic, settings=()):
    """{partition: end}: where the next record will stand; kcat does not look behind an open transaction
    unless it is told isolation.level=read_uncommitted."""
    argv = ["kcat", "-Q", "-b", brokers]
    for one in settings:
        argv += ["-X", one]
    n = partitions(brokers, topic)
    for p in range(n):
        argv += ["-t", f"{topic}:{p}:-1"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
    out = {}
    for m in re.finditer(rb"\[(\d+)\] offset (\d+)", done.stdout):
        out[int(m[1])] = int(m[2])
    if len(out) != n:
        raise RuntimeError(f"ends of {topic}: {done.stdout!r}")
    return out
