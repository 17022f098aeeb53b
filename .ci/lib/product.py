"""Lockstitch as processes: dev, and serve with settings."""
import json
import subprocess

from api import Client
from compare import credentials
from procs import Process, free_port, wait_http
from suite import Failed, lockstitch

KEY = "k1:0123456789abcdef0123456789abcdef0123456789abcdef"


class Dev:
    """`lockstitch dev` on fixed ports, so that it can be started again."""

    def __init__(self, suite, name="dev", flags=(), data=None):
        self.data = data or suite.dir / f"{name}-data"
        kafka, http, admin = free_port(), free_port(), free_port()
        self.brokers, self.url, self.admin = f"127.0.0.1:{kafka}", f"http://127.0.0.1:{http}", f"http://127.0.0.1:{admin}"
        argv = [lockstitch(), "dev", "--data-dir", self.data, "--kafka-listen", self.brokers, "--http-listen", f"127.0.0.1:{http}",
                "--admin-listen", f"127.0.0.1:{admin}", "--public-url", self.url, "--sample=false"]
        for c in credentials():
            argv += ["--client", ":".join(c)]
        self.process = Process(name, [*argv, *flags], suite.dir)

    def start(self, seconds=90):
        self.process.start()
        wait_http(self.admin + "/readyz", seconds, self.process)
        return self

    def clients(self):
        return {a: [Client(self.url, i, s, a).login()] for i, s, a in credentials()}


class Serve:
    """One `lockstitch serve` replica."""

    def __init__(self, suite, name, brokers, store, settings=None, env=None, public_url=None, binary=None):
        http, admin = free_port(), free_port()
        self.url, self.admin = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{admin}"
        config = {"brokers": brokers.split(","), "store_url": store, "data_dir": str(suite.dir / f"{name}-data"), "instance_id": name,
                  "http_listen": f"127.0.0.1:{http}", "admin_listen": f"127.0.0.1:{admin}", "public_url": public_url or self.url, "shutdown_delay": "0s",
                  "clients": [{"id": i, "secret": s, "account": a} for i, s, a in credentials()],
                  "signing_keys": [{"kid": KEY.split(":")[0], "key": KEY.split(":")[1]}], **(settings or {})}
        self.config = suite.dir / f"{name}.yaml"
        self.config.write_text(json.dumps(config))  # JSON is YAML
        self.process = Process(name, [binary or lockstitch(), "serve", "--config", self.config], suite.dir, env=env)

    def start(self, seconds=90, ready=True):
        self.process.start()
        if ready:
            self.wait_ready(seconds)
        return self

    def wait_ready(self, seconds=90):
        wait_http(self.admin + "/readyz", seconds, self.process)

    def clients(self):
        return {a: [Client(self.url, i, s, a).login()] for i, s, a in credentials()}


def deployed(running):
    """Returns when every lane was taken over once. Before that the ends of the first deployment are written down, and
    what was produced until then is decorated by a rule of its own, which the reference must be told of (first_ends). An
    export that completes shows it."""
    client = next(iter(running.clients().values()))[0]
    client.export({"start_at": "2000-01-01T00:00:00Z", "end_at": "2000-01-02T00:00:00Z"})


def create_topics(suite, brokers, *flags):
    done = subprocess.run([lockstitch(), "topics", "create", "--brokers", brokers, *flags], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    if done.returncode != 0:
        suite.say(done.stdout.decode(errors="replace"))
        suite.check(f"lockstitch topics create {' '.join(flags)}", False, f"exit {done.returncode}")
        raise Failed()
