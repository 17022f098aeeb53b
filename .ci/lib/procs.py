"""Processes, ports and waiting with a limit."""
import atexit
import concurrent.futures
import ctypes
import os
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

_running = []
_given = set()
# The kernel ends a child that is to die with its parent when the thread that made it ends: one thread makes all.
_starter = concurrent.futures.ThreadPoolExecutor(1)


def free_port():
    """A loopback port that nobody listens on, never given twice, and below those that outgoing connections get:
    one of them must not take it before the process that it is meant for listens, or while that is restarted."""
    while True:
        port = random.SystemRandom().randrange(12000, 32000)
        if port in _given:
            continue
        _given.add(port)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A child that writes to a log file and dies with us."""

    def __init__(self, name, argv, log_dir, env=None, cwd=None):
        self.name, self.argv, self.cwd = name, [str(a) for a in argv], cwd
        self.env = {**os.environ, **(env or {})}
        self.log = pathlib.Path(log_dir) / f"{name}.log"
        self.child = None

    def start(self):
        with open(self.log, "ab") as out:
            self.child = _starter.submit(subprocess.Popen, self.argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                         env=self.env, cwd=self.cwd, preexec_fn=_die_with_parent).result()
        _running.append(self)
        return self

    @property
    def pid(self):
        return self.child.pid

    def alive(self):
        return self.child is not None and self.child.poll() is None

    def kill(self):
        """SIGKILL, and wait until it is gone."""
        if self.alive():
            self.child.kill()
        if self.child is not None:
            self.child.wait(30)

    def stop(self, seconds=60):
        """SIGTERM, wait, and answer the exit status; SIGKILL when it takes too long (status -9)."""
        if self.alive():
            self.child.terminate()
            try:
                self.child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.child.returncode

    def signal(self, number):
        os.kill(self.pid, number)

    def memory(self, field="VmHWM"):
        """Bytes of a memory figure of /proc/PID/status (VmHWM: the greatest resident set so far)."""
        for line in open(f"/proc/{self.pid}/status"):
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {field} for {self.name}")

    def reset_peak(self):
        """Makes VmHWM start again at what is resident now."""
        with open(f"/proc/{self.pid}/clear_refs", "w") as f:
            f.write("5")

    def tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def end_all():
    for p in reversed(_running):
        if p.alive():
            try:
                p.child.send_signal(signal.SIGCONT)
                p.kill()
            except (OSError, subprocess.TimeoutExpired):
                pass


atexit.register(end_all)


def wait_for(what, seconds, probe, every=0.05, process=None):
    """Calls probe until it answers something true, once more behind the end; a named error after so many seconds,
    or at once when the process that it depends on has ended."""
    end = time.monotonic() + seconds
    last = None
    while True:
        late = time.monotonic() > end  # before the probe: this machine may have stood still since the last one
        try:
            got = probe()
            if got:
                return got
        except (OSError, urllib.error.URLError, subprocess.SubprocessError, ValueError) as e:
            last = e
        if process is not None and not process.alive():
            raise TimeoutError(f"{process.name} ended with status {process.child.returncode} while waiting for {what}:\n{process.tail()}")
        if late:
            raise TimeoutError(f"not within {seconds} s: {what}" + (f" (last: {last})" if last else ""))
        time.sleep(every)


def http_status(url, timeout=5):
    try:
        with urllib.request.urlopen(url, timeout=timeout) as r:
            r.read()
            return r.status
    except urllib.error.HTTPError as e:
        return e.code


def wait_http(url, seconds=60, process=None):
    wait_for(f"200 from {url}", seconds, lambda: http_status(url) == 200, process=process)
