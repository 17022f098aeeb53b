#!/usr/bin/env python3
"""Loads what `lockstitch rolling pull` has brought into a DuckDB database.

    load.py DIR NAME DATABASE [--after NUMBER]

Needs Python 3.11 and `pip install duckdb`. A cron line is all that a warehouse needs:

    */5 * * * *  LOCKSTITCH_CLIENT_ID=loader /usr/local/bin/lockstitch rolling pull hourly --dir /srv/events --url https://exports.example.com --client-secret-file /etc/lockstitch/secret; python3 /usr/local/lib/lockstitch/load.py /srv/events hourly /srv/events.duckdb

The rows are in the table NAME (in SQL with quotes where it has a hyphen), with the columns
of the files' header line. Of a name that comes twice there, as an attribute and a tag may
have it, the second column is NAME #2.
event_time and server_time are BIGINT, milliseconds since 1970 (an event_time may
be any 64-bit integer, which no timestamp can): make_timestamp_ms(server_time). The
rest is text; an empty cell is NULL. NUL characters are kept, but not in names.

Every file is loaded once, whenever this program is killed: its number goes into
the table lockstitch_files in the transaction that brings its rows. Only one
process can have the database open; a second one says so and ends.

When the header changes, because the rolling export was changed, it stops. Rename
the table NAME and run it again: it goes on with the next file and a new table.

Exit status 0: all files with a manifest are loaded. 1: something is wrong, said on
standard error; what came before is loaded.
"""
import argparse
import csv
import gzip
import hashlib
import json
import pathlib
import re
import sys

import duckdb

TYPES = {"event_time": "BIGINT", "server_time": "BIGINT"}


class Refused(Exception):
    """Nothing was loaded of this file, and the next run would fail likewise."""


def quoted(identifier):
    return '"' + identifier.replace('"', '""') + '"'


def numbers(directory, name):
    """The numbers that have a manifest, which is written last: these files are whole."""
    found = (re.fullmatch(re.escape(name) + r"-([1-9]\d*)\.json", p.name) for p in directory.iterdir())
    return sorted(int(m[1]) for m in found if m)


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def header(path):
    """The names of the columns. They come from definitions: commas, quotes and line ends are possible.
    The second of the same name is numbered; to the database a-z and A-Z are the same."""
    csv.field_size_limit(1 << 30)
    with gzip.open(path, "rt", encoding="utf-8", newline="") as f:
        cells = next(csv.reader(line.replace("\0", "") for line in f))
    same = [c.encode().lower() for c in cells]
    seen = [same[:i + 1].count(c) for i, c in enumerate(same)]
    return [c if n == 1 else f"{c} #{n}" for c, n in zip(cells, seen)]


def manifest_of(db, directory, name, number):
    """The manifest of a file, which must be of the order that the database has files of."""
    path = directory / f"{name}-{number}.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    order = db.execute("SELECT order_id FROM lockstitch_files WHERE name = ? ORDER BY number DESC LIMIT 1", [name]).fetchone()
    if order and order[0] != manifest["order_id"]:
        raise Refused(f"{path} belongs to another rolling export of the name {name!r}: load it into another database")
    return manifest


def load(db, directory, name, number):
    """One file, in one transaction."""
    manifest = manifest_of(db, directory, name, number)
    path = directory / manifest["file"]
    if digest(path) != manifest["sha256"]:
        raise Refused(f"{path}: the SHA-256 is not that of the manifest; remove both and pull again")
    columns = [(c, TYPES.get(c, "VARCHAR")) for c in header(path)]
    with db.cursor() as at:
        at.begin()
        at.execute("INSERT INTO lockstitch_files VALUES (?, ?, ?, ?, ?, now())",
                   [name, number, manifest["order_id"], manifest["sha256"], manifest["rows"]])
        at.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({', '.join(f'{quoted(c)} {t}' for c, t in columns)})")
        there = [c[0] for c in at.execute(f"FROM {quoted(name)} LIMIT 0").description]
        if there != [c for c, _ in columns]:
            names = [c for c, _ in columns]
            raise Refused(f"{path} has other columns than the table {name!r}: rename the table to go on with a new one\n"
                          f"  only in the file: {[c for c in names if c not in there]}\n  only in the table: {[c for c in there if c not in names]}")
        # First all as text, under names of our own; then the types. Nothing is guessed: without
        # new_line a CR within the quotes of a header is taken for the end of all lines.
        text = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(len(columns)))
        cells = ", ".join(f"CAST(c{i} AS {t})" for i, (_, t) in enumerate(columns))
        rows = at.execute(f"""INSERT INTO {quoted(name)} SELECT {cells} FROM read_csv(?, columns = {{{text}}}, auto_detect = false,
            header = true, new_line = '\\n', delim = ',', quote = '"', escape = '"', comment = '', compression = 'gzip', max_line_size = 33554432)""",
                          [str(path)]).fetchone()[0]
        if rows != manifest["rows"]:
            raise Refused(f"{path}: {rows} rows were read, the manifest says {manifest['rows']}")
        at.commit()
    print(f"{path}: {rows} rows", flush=True)


def main():
    p = argparse.ArgumentParser(description="Loads the files of a rolling export into a DuckDB database.")
    p.add_argument("directory", type=pathlib.Path)
    p.add_argument("name")
    p.add_argument("database")
    p.add_argument("--after", type=int, default=0, help="go on behind this number, although files up to it are missing")
    a = p.parse_args()
    with duckdb.connect(a.database) as db:
        db.execute("""CREATE TABLE IF NOT EXISTS lockstitch_files (name VARCHAR, number BIGINT, order_id VARCHAR, sha256 VARCHAR,
                      rows BIGINT, loaded_at TIMESTAMPTZ, PRIMARY KEY (name, number))""")
        last = db.execute("SELECT max(number) FROM lockstitch_files WHERE name = ?", [a.name]).fetchone()[0]
        if a.after:
            last = max(last or 0, a.after)
        there = numbers(a.directory, a.name)
        if there:  # of another order its files may have the numbers of those that are loaded, and would be passed over
            manifest_of(db, a.directory, a.name, there[-1])
        for number in there:
            if last is not None and number <= last:
                continue
            if last is not None and number != last + 1:
                raise Refused(f"file {last + 1} of {a.name} is not in {a.directory}, file {number} is; --after {number - 1} goes on without it")
            load(db, a.directory, a.name, number)
            last = number


if __name__ == "__main__":
    try:
        main()
    except (Refused, OSError, ValueError, KeyError, duckdb.Error) as e:
        sys.exit(f"load.py: {e}")
