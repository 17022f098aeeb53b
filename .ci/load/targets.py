"""The two databases that the examples load into, asked apart from the loaders."""
import collections
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess

from procs import Process, wait_for
from suite import CACHE, ROOT

# A program that kills itself when its connections have done n calls.
KILLED_AFTER = """
import duckdb, os, runpy, signal, sys
left, connect = int(sys.argv[1]), duckdb.connect
class Connection:
    def __init__(self, real): self.real = real
    def __enter__(self): return self
    def __exit__(self, *error): self.real.close()
    def cursor(self): return Connection(self.real.cursor())
    def __getattr__(self, name):
        def call(*arguments):
            global left
            answer = getattr(self.real, name)(*arguments)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer
        return call
duckdb.connect = lambda *arguments: Connection(connect(*arguments))
sys.argv[:2] = []
runpy.run_path(sys.argv[0], run_name="__main__")
"""

EXAMPLES = ROOT / "deploy" / "examples"
PYTHON = CACHE / "venv" / "bin" / "python"


def numbered(header, same):
    """The cells, with a number behind each for which an earlier one gives the same."""
    seen, cells = collections.Counter(), []
    for c in header:
        seen[same(c)] += 1
        cells.append(c if seen[same(c)] == 1 else f"{c} #{seen[same(c)]}")
    return cells


class DuckDB:
    title = "DuckDB"
    one_at_a_time = True  # a second process is refused, and does not wait

    def __init__(self, database):
        self.database, self.env = database, {}

    def argv(self, directory, name, after=None):
        return [PYTHON, EXAMPLES / "duckdb" / "load.py", directory, name, self.database, *([f"--after={after}"] if after else [])]

    def killed_after(self, n, directory, name):
        """Runs the loader until its n-th call of the database has been answered; the exit status."""
        loader = self.argv(directory, name)
        return subprocess.run([PYTHON, "-c", KILLED_AFTER, str(n), *loader[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode

    def held(self):
        """A process that has the database open until its input ends."""
        program = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
        child = subprocess.Popen([PYTHON, "-c", program, self.database], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        return child

    def ask(self, sql):
        """Rows as lists; what the connection says of itself is not needed."""
        program = ("import duckdb, json, sys\n"
                   "with duckdb.connect(sys.argv[1]) as db:\n"
                   " r = db.execute(sys.stdin.read())\n"
                   " print(json.dumps([[c[0] for c in r.description], r.fetchall()]))")
        done = subprocess.run([PYTHON, "-c", program, self.database], input=sql.encode(), capture_output=True, timeout=60)
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace"))
        return json.loads(done.stdout)

    def table(self, name):
        """(columns, rows as tuples)"""
        columns, rows = self.ask(f'FROM "{name}"')
        return columns, [tuple(r) for r in rows]

    def numbers(self, name):
        return [n for n, in self.ask(f"SELECT number FROM lockstitch_files WHERE name = '{name}' ORDER BY loaded_at, number")[1]]

    def change(self, sql):
        self.ask(sql)

    @staticmethod
    def columns(header):
        """Names that differ only in the case of ASCII letters are the same."""
        return numbered([c.replace("\0", "") for c in header], lambda c: c.encode().lower())

    @staticmethod
    def cell(text):
        return text or None


class PostgreSQL:
    title = "PostgreSQL"
    one_at_a_time = False

    def __init__(self, server, database):
        self.env = {**server.env, "PGDATABASE": database}
        self._psql("-c", f"create database {database}", PGDATABASE="postgres")
        self._psql("-f", EXAMPLES / "postgresql" / "schema.sql")
        self._psql("-f", EXAMPLES / "postgresql" / "schema.sql")  # may be run again

    def _psql(self, *arguments, **env):
        done = subprocess.run(["psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                              env={**os.environ, **self.env, **env}, timeout=60)
        if done.returncode != 0:
            raise OSError(done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def argv(self, directory, name, after=None):
        return [EXAMPLES / "postgresql" / "load.sh", directory, name, *([str(after)] if after else [])]

    def _json(self, sql):
        """Of each row its only column, JSON. By COPY, since psql leaves U+10FFFF out of what it shows."""
        lines = self._psql("-c", f"copy ({sql}) to stdout").split("\n")
        return [json.loads(line.replace("\\\\", "\\")) for line in lines if line]

    def table(self, name):
        columns, = self._json(f"select json_agg(attname order by attnum) from pg_attribute where attrelid = '\"{name}\"'::regclass and attnum > 0")
        return columns, [tuple(r[c] for c in columns) for r in self._json(f'select row_to_json(t) from "{name}" t')]

    def copying(self):
        """Whether a COPY has begun."""
        return self._json("select to_json(count(*)) from pg_stat_progress_copy where command = 'COPY FROM' and bytes_processed > 0") == [1]

    def waiting(self):
        """Whether a loader waits for another."""
        return self._json("select to_json(count(*)) from pg_locks where locktype = 'advisory' and not granted") == [1]

    def numbers(self, name):
        return [int(n) for n in self._psql("-c", f"select number from lockstitch_files where name = '{name}' order by loaded_at, number").split()]

    def change(self, sql):
        self._psql("-c", sql)

    @classmethod
    def columns(cls, header):
        return [cls.column(c) for c in numbered(header, cls.column)]

    @staticmethod
    def column(cell):
        """Cut at 63 bytes, but not the version id."""
        cell = cell.replace("\0", "")
        tail = ""
        if len(cell.encode()) > 63 and (m := re.search(r" \(version_id: \d+\)( #\d+)?\Z", cell)):
            tail = m[0]
        head = cell[:len(cell) - len(tail)]
        while len((head + tail).encode()) > 63:
            head = head[:-1]
        return head + tail

    @staticmethod
    def cell(text):
        return text.replace("\0", "") or None


class Server:
    """A PostgreSQL of our own: in a directory of its own, on a Unix socket in it and on no port, as an unprivileged user."""

    def __init__(self, suite):
        programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        suite.must("there is a PostgreSQL (.ci/run tools installs it)", programs)
        programs = programs[-1].parent
        home = suite.dir / "pg"
        home.mkdir(mode=0o700)
        drop, user = [], pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0:  # which PostgreSQL refuses to run as
            user = "postgres"
            suite.dir.chmod(0o711)
            shutil.chown(home, user, user)
            drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig", "KILL"]
        subprocess.run([*drop, programs / "initdb", "-D", home / "data", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"],
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=120, cwd="/")
        self.env = {"PGHOST": str(home), "PGUSER": user}
        self.process = Process("postgres", [*drop, programs / "postgres", "-D", home / "data", "-k", home, "-c", "listen_addresses=", "-c", "fsync=off",
                                            "-c", "log_min_error_statement=panic"], suite.dir, cwd="/").start()
        wait_for("PostgreSQL", 60, lambda: subprocess.run([programs / "pg_isready", "-q", "-h", home], timeout=20).returncode == 0, process=self.process)
