"""Three Apache Kafka brokers and an S3 server, each behind a proxy that makes faults."""
import base64
import concurrent.futures
import json
import os
import subprocess
import urllib.request

import kcat
from parts import KAFKA, S3
from procs import Process, free_port, wait_for
from suite import build

JAVA = ["java", "-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{KAFKA}/*"]


class Proxy:
    """The process of .ci/tools/faultproxy and its control listener."""

    def __init__(self, log_dir, brokers, s3):
        """brokers: upstream addresses in the order of the brokers; s3: the server's address."""
        self.control = f"http://127.0.0.1:{free_port()}"
        self.brokers = [f"127.0.0.1:{free_port()}" for _ in brokers]
        self.s3 = f"http://127.0.0.1:{free_port()}"
        argv = [build("./.ci/tools/faultproxy", "faultproxy"), "-control", self.control[7:], "-s3", f"{self.s3[7:]}={s3}"]
        for listen, upstream in zip(self.brokers, brokers):
            argv += ["-kafka", f"{listen}={upstream}"]
        self.process = Process("faultproxy", argv, log_dir).start()
        wait_for("the proxy", 30, lambda: self.counts() is not None, process=self.process)

    def _call(self, path):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.control + path, timeout=10) as r:
            return r.read()

    def counts(self):
        """{"s3 PUT 500": 2, …}: the faults that have happened."""
        return json.loads(self._call("/counts"))

    def arm(self, target, kind, n=0, method="", seconds=0):
        self._call(f"/arm?target={target}&kind={kind}&n={n}&method={method}&for={seconds}s")

    def disarm(self):
        self._call("/disarm")


class Cluster:
    """Three brokers that are controllers as well; replication 3, min ISR 2. Clients reach them through the proxy."""

    def __init__(self, log_dir, *buckets):
        self.dir = log_dir
        self.clients, self.internal, self.controllers = ([free_port() for _ in range(3)] for _ in range(3))
        self.s3 = S3(log_dir, *buckets)
        self.proxy = Proxy(log_dir, [f"127.0.0.1:{p}" for p in self.clients], self.s3.endpoint[7:])
        self.brokers = ",".join(self.proxy.brokers)
        self.id = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "x")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            self.processes = list(pool.map(self._format, range(3)))
        for p in self.processes:
            p.start()
        self.wait_whole(300)  # a machine that does much else

    def _format(self, i):
        voters = ",".join(f"{n + 1}@127.0.0.1:{p}" for n, p in enumerate(self.controllers))
        addresses = f"INTERNAL://127.0.0.1:{self.internal[i]},CONTROLLER://127.0.0.1:{self.controllers[i]}"
        settings = self.dir / f"broker{i + 1}.properties"
        settings.write_text("\n".join([
            "process.roles=broker,controller", f"node.id={i + 1}", f"controller.quorum.voters={voters}",
            f"listeners=CLIENT://127.0.0.1:{self.clients[i]},{addresses}",
            f"advertised.listeners=CLIENT://{self.proxy.brokers[i]},{addresses}",
            "listener.security.protocol.map=CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=INTERNAL", "controller.listener.names=CONTROLLER",
            f"log.dirs={self.dir / f'broker{i + 1}'}", "auto.create.topics.enable=false",
            "default.replication.factor=3", "min.insync.replicas=2",
            "offsets.topic.replication.factor=3", "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=3", "transaction.state.log.min.isr=2", "transaction.state.log.num.partitions=4",
            "group.initial.rebalance.delay.ms=0", "replica.lag.time.max.ms=6000", "broker.session.timeout.ms=4000",
            "broker.heartbeat.interval.ms=1000", "transaction.abort.timed.out.transaction.cleanup.interval.ms=1000",
            "num.network.threads=2", "num.io.threads=4", "background.threads=4", "log.cleaner.enable=false", ""]))
        subprocess.run([*JAVA, "kafka.tools.StorageTool", "format", "-t", self.id, "-c", settings],
                       stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120)
        return Process(f"broker{i + 1}", [*JAVA, "kafka.Kafka", settings], self.dir)

    def wait_whole(self, seconds=300):
        """Until every broker is in the cluster and every partition has all its replicas in sync."""
        for p in self.processes:
            assert p.alive(), f"{p.name} has ended:\n{p.tail()}"
        wait_for("three brokers in sync", seconds, self._whole, every=0.3)

    def _whole(self):
        try:
            done = subprocess.run(["kcat", "-L", "-J", "-b", self.brokers, "-m", "5"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode != 0:
            return False
        seen = json.loads(done.stdout)
        return len(seen["brokers"]) == 3 and all(len(p["isrs"]) == 3 and p["leader"] > 0 for t in seen["topics"] for p in t["partitions"])

    def store_url(self, bucket):
        return self.s3.url(bucket, self.proxy.s3)

    def ends(self, topic):
        """{partition: high watermark}."""
        return kcat.ends(self.brokers, topic, ["isolation.level=read_uncommitted"])
