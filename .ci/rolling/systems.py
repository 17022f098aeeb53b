"""What the parts run against: `lockstitch dev`, or two replicas beside Apache Kafka and an S3 server."""
import json
import time

from hostile import ACCOUNTS
from parts import S3, Kafka
from product import Dev, Serve, create_topics

MANY = {"tokens_per_minute": 1_000_000, "exports_per_minute": 1_000_000, "downloads_per_minute": 1_000_000, "calls_per_minute": 1_000_000, "max_pending": 10_000, "flush_interval": "1s",
        "file_lifetime": "24h"}  # there is no room for four orders of an account with a file every minute for a week
SMALL = "12KiB"  # a limit that makes many files


def some_limit(random):
    """A limit of the file size, from one that few rows reach to one that is hardly ever reached."""
    return f"{int(8_000 * 12 ** random.random())}B"


class OnDev:
    """One process; killed, it is away until it is started again. Destinations are directories."""

    def __init__(self, suite):
        self.suite, self.lake = suite, suite.dir / "lake"
        flags = [x for k, v in MANY.items() for x in ("--" + k.replace("_", "-"), str(v))]
        flags += ["--destinations", f"lake:{'|'.join(ACCOUNTS)}:file://{self.lake}"]
        self.dev = Dev(suite, flags=[*flags, "--max-file-size", "16KiB"]).start()
        self.brokers, self.process = self.dev.brokers, self.dev.process

    def clients(self):
        return self.dev.clients()

    def kill(self, limit=None):
        """SIGKILL, and a start with another limit of the file size."""
        self.process.kill()
        self.process.argv[-1] = limit or some_limit(self.suite.random)
        self.dev.start()

    def wait_ready(self):
        pass  # start has waited


class OnKafka:
    """Two replicas, of which one is killed and started again. Destinations are buckets."""

    def __init__(self, suite):
        self.suite = suite
        kafka = Kafka(suite.dir, extra=["transaction.abort.timed.out.transaction.cleanup.interval.ms=1000"])
        s3 = S3(suite.dir, "first", "lake")
        self.brokers, self.lake = kafka.brokers, s3.root / "lake"
        create_topics(suite, self.brokers)
        settings = {**MANY, "session_timeout": "6s", "max_file_size": "16KiB",
                    "destinations": [{"name": "lake", "accounts": list(ACCOUNTS), "url": s3.url("lake")}]}
        self.replicas = [Serve(suite, name, self.brokers, s3.url("first"), settings, s3.env) for name in ("one", "two")]
        for r in self.replicas:
            r.start(ready=False)
        for r in self.replicas:
            r.wait_ready()
        # The ends at first deployment are committed before the first event is processed; an export that completes shows it.
        self.clients()[ACCOUNTS[0]][0].export({"start_at": "2000-01-01T00:00:00Z", "end_at": "2000-01-02T00:00:00Z"})

    def clients(self):
        each = [r.clients() for r in self.replicas]
        return {a: [c[a][0] for c in each] for a in ACCOUNTS}

    def kill(self, limit=None):
        r = self.suite.random.choice(self.replicas)
        r.process.kill()
        r.config.write_text(json.dumps({**json.loads(r.config.read_text()), "max_file_size": limit or some_limit(self.suite.random)}))
        time.sleep(self.suite.random.choice((0, 1, 8)))  # gone before the group has noticed, and after
        r.start(ready=False)

    def wait_ready(self):
        for r in self.replicas:
            r.wait_ready()
