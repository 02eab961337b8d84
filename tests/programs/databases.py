# SPDX-License-Identifier: Apache-2.0
"""Databases in the middle of a transaction: PostgreSQL with its processes and shared memory, SQLite with its locks."""

import glob
import signal
import sqlite3
import subprocess

import harness
from harness import PYTHON, Failure, Skip, case


# ---- PostgreSQL ----

SERVER = """
mkfifo commands && exec 3<>commands
"$0" -D data -k "$PWD" -c listen_addresses= -c max_connections=10 -c autovacuum_naptime=1 &
until "$1" -q -h "$PWD" -c 'select 1' postgres; do sleep 0.1; done >answers 2>&1
: >answers
"$1" -X -q -A -t -h "$PWD" postgres <&3 >>answers 2>&1 &
wait
"""


class PostgreSQL:
    """A server and a session with it in one tree, whose root is a shell; and sessions from outside."""

    def __init__(self, t):
        self.t, self.number, self.seen = t, 0, 0
        versions = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[-2]))
        if not versions:
            raise Skip("not installed: postgresql")
        self.bin = versions[-1]
        # Not on disk: only what the server itself does counts here.
        status = t.wait_exit(t.start([f"{self.bin}/initdb", "-D", "data", "-A", "trust", "--no-sync", "--no-locale"]))
        if status != 0:
            raise Failure(f"initdb ended with status {status}: {harness.read(t.logs + '/stderr', '')[-300:]}")
        self.root = t.start(["/bin/sh", "-c", SERVER, f"{self.bin}/postgres", f"{self.bin}/psql"])
        t.until(lambda: "psql" in self.names(), 30, "the session of the tree")

    def names(self):
        stats = harness.all_stats()
        return [stats[pid].comm for pid in harness.tree_of(self.root, stats)]

    def ask(self, sql):
        """What the session in the tree answers."""
        self.number += 1
        end = f"end {self.number}\n"
        with open(self.t.path("commands"), "w") as f:
            f.write(f"{sql}\n\\echo {end}")
        text = self.t.until(lambda: (a := harness.read(self.t.path("answers")))[self.seen:].endswith(end) and a, 20,
                            f"no answer to {sql!r}: {harness.read(self.t.path('answers'))[self.seen:]!r}")
        answer = text[self.seen:-len(end)].strip()
        self.seen = len(text)
        return answer

    def ask_anew(self, sql):
        """What a new session answers, from outside."""
        call = subprocess.run([f"{self.bin}/psql", "-X", "-q", "-A", "-t", "-h", self.t.work, "-c", sql, "postgres"],
                              capture_output=True, text=True, timeout=30, cwd=self.t.work,
                              env=self.t.setup.environment(), **self.t.setup.user_arguments())
        if call.returncode != 0:
            raise Failure(f"a new session cannot ask {sql!r}: {call.stderr.strip()}")
        return call.stdout.strip()


def expect(answer, expected):
    if answer != expected:
        raise Failure(f"the answer is {answer!r}, not {expected!r}")


@case("postgresql", limit=300)
def postgresql(t):
    """Rows that were written, an open transaction that nobody else sees, a lock that it holds, new sessions."""
    server = PostgreSQL(t)
    server.ask("create table numbers as select n from generate_series(1, 100000) n; create table kept (round int);")
    server.ask("begin; insert into kept values (0); lock table kept in share mode;")
    for number in range(harness.ROUNDS):
        t.cycle(server.root, static=False)
        expect(server.ask("select count(*), max(round) from kept;"), f"{number + 1}|{number}")
        expect(server.ask_anew("select count(*), sum(n) from numbers"), "100000|5000050000")
        expect(server.ask_anew("select count(*) from kept"), "0")
        expect(server.ask_anew("select mode from pg_locks where relation = 'kept'::regclass and mode = 'ShareLock'"), "ShareLock")
        server.ask(f"insert into kept values ({number + 1});")
    server.ask("commit;")
    t.cycle(server.root, static=False)
    expect(server.ask_anew("select count(*) from kept"), str(harness.ROUNDS + 1))
    with open(t.path("commands"), "w") as f:
        f.write("\\q\n")
    harness.kill(int(harness.read(t.path("data/postmaster.pid")).split()[0]), signal.SIGINT)
    if t.wait_exit(server.root, 30) != 0 or "database system is shut down" not in harness.read(t.logs + "/stderr"):
        raise Failure(f"the server does not shut down in order: {harness.read(t.logs + '/stderr')[-300:]}")


# ---- SQLite ----

SQLITE = """
import os, sqlite3, sys, time
base = sqlite3.connect("base", isolation_level=None)
base.execute("create table numbers (n integer)")
base.execute("insert into numbers values (0)")
count = 0
while True:
    base.execute("begin immediate")
    for step in range(20):
        count += 1
        base.execute("insert into numbers values (?)", (count,))
        with open("steps", "a") as f:
            f.write(f"row {count}\\n")
        time.sleep(0.02)
    if base.execute("select count(*), max(n) from numbers").fetchone() != (count + 1, count):
        open("steps", "a").write("bad count\\n")
    stop = os.path.exists("stop")
    base.execute("commit")
    if stop:
        base.close()
        open("steps", "a").write("done\\n")
        sys.exit(0)
"""


def sqlite_ask(t, sql):
    base = sqlite3.connect(f"file:{t.path('base')}?mode=ro", uri=True, timeout=0.1, isolation_level=None)
    try:
        return base.execute(sql).fetchone()
    finally:
        base.close()


@case("sqlite", limit=200)
def sqlite(t):
    """Saved within transactions, which nobody sees before their end; at the end all rows are there."""
    steps = harness.Steps(t, ["row"])
    root = t.start([PYTHON, "-c", SQLITE])
    for number in range(harness.ROUNDS):
        steps.advance(5)
        rows = steps.counts()["row"]
        t.cycle(root)
        seen = sqlite_ask(t, "select max(n) from numbers")[0]
        if seen % 20 or seen > steps.counts()["row"]:
            raise Failure(f"others see {seen} rows while {rows} were written: part of a transaction")
    harness.finish(t, root, steps)
    rows = steps.counts()["row"]
    if sqlite_ask(t, "select count(*), max(n) from numbers") != (rows + 1, rows) or sqlite_ask(t, "pragma integrity_check") != ("ok",):
        raise Failure(f"the base does not hold the {rows} rows")
