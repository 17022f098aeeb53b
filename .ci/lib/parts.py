"""The real parts: an Apache Kafka broker and an S3 server, on loopback."""
import os
import subprocess

from procs import Process, free_port, wait_for
from suite import CACHE

KAFKA = CACHE / "kafka-4.1.0"


class Kafka:
    """One KRaft process, broker and controller. users: {name: password}; those reach it by SASL at self.guarded and have
    no rights to begin with, all others may do everything."""

    def __init__(self, log_dir, heap="512m", extra=(), users=None):
        self.port, controller = free_port(), free_port()
        self.brokers = f"127.0.0.1:{self.port}"
        also = ""
        if users:
            self.guarded = f"127.0.0.1:{free_port()}"
            also = f",SASL://{self.guarded}"
            module = "org.apache.kafka.common.security.plain.PlainLoginModule required " + " ".join(f'user_{u}="{p}"' for u, p in users.items())
            extra = [*extra, "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT",
                     "sasl.enabled.mechanisms=PLAIN", f"listener.name.sasl.plain.sasl.jaas.config={module};",
                     "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS"]
        self.settings = log_dir / "kafka.properties"
        self.settings.write_text("\n".join([
            "process.roles=broker,controller", "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{controller}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}{also}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.port}{also}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={log_dir / 'kafka'}",
            "offsets.topic.replication.factor=1", "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1", "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=4", "group.initial.rebalance.delay.ms=0",
            "auto.create.topics.enable=false", "default.replication.factor=1", "min.insync.replicas=1",
            *extra, ""]))
        self.java = ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-cp", f"{KAFKA}/*"]
        cluster = subprocess.run([*self.java, "kafka.tools.StorageTool", "random-uuid"], stdin=subprocess.DEVNULL,
                                 capture_output=True, check=True, timeout=120).stdout.decode().split()[-1]
        subprocess.run([*self.java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", self.settings],
                       stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120)
        self.process = Process("kafka", [*self.java, "kafka.Kafka", self.settings], log_dir)
        self.start()

    def start(self):
        self.process.start()
        wait_for("Apache Kafka", 300, self._answers, every=0.3, process=self.process)

    def _answers(self):
        done = subprocess.run(["kcat", "-L", "-b", self.brokers, "-m", "2"], stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=20)
        return done.returncode == 0


class S3:
    """versitygw over a directory; every sub-directory is a bucket."""

    def __init__(self, log_dir, *buckets):
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        root = log_dir / "s3"
        for b in buckets:
            (root / b).mkdir(parents=True)
        self.root = root
        self.env = {"AWS_ACCESS_KEY_ID": "suite", "AWS_SECRET_ACCESS_KEY": "suite-secret", "AWS_REGION": "us-east-1",
                    "AWS_EC2_METADATA_DISABLED": "true"}
        self.process = Process("versitygw", [CACHE / "bin" / "versitygw", "--port", f"127.0.0.1:{port}", "posix", root], log_dir,
                               env={"ROOT_ACCESS_KEY": "suite", "ROOT_SECRET_KEY": "suite-secret"}).start()
        from procs import http_status
        wait_for("the S3 server", 30, lambda: http_status(self.endpoint + "/") in (200, 403), process=self.process)

    def url(self, bucket, endpoint=None):
        return f"s3://{bucket}?endpoint={endpoint or self.endpoint}&use_path_style=true&region=us-east-1"
