"""The transactional producer of .ci/tools/txn, driven line by line."""
import base64
import json
import subprocess

from suite import build


class Txn:
    def __init__(self, brokers, id, timeout="10m"):
        self.child = subprocess.Popen([build("./.ci/tools/txn", "txn"), "-brokers", brokers, "-id", id, "-timeout", timeout],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _do(self, **command):
        self.child.stdin.write(json.dumps(command) + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline().strip()
        if not answer.startswith("ok"):
            raise RuntimeError(f"transactional producer, {command['op']}: {answer}")
        return [int(x) for x in answer.split()[1:]]

    def begin(self):
        self._do(op="begin")

    def send(self, topic, key, value):
        """(partition, offset) of the record."""
        more = {} if value is None else {"value": base64.b64encode(value).decode()}
        return self._do(op="send", topic=topic, key=base64.b64encode(key or b"").decode(), **more)

    def commit(self):
        self._do(op="commit")

    def abort(self):
        self._do(op="abort")

    def empty(self, topic):
        self._do(op="empty", topic=topic)

    def delete(self, topic):
        self._do(op="delete", topic=topic)

    def grow(self, topic, partitions):
        self._do(op="grow", topic=topic, partitions=partitions)

    def forget(self, group):
        """Deletes a group that has no members left, with its offsets."""
        self._do(op="forget", group=group)

    def transaction(self, topic, records, commit):
        self.begin()
        for key, value in records:
            self.send(topic, key, value)
        self.commit() if commit else self.abort()

    def close(self):
        self.child.stdin.close()
        self.child.wait(30)

    def kill(self):
        """SIGKILL: what is open stays open until its timeout."""
        self.child.kill()
        self.child.wait(30)
