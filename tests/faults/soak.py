#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Round after round of dump and restore: nothing is lost, and nothing grows.

    soak.py [--torpor FILE] [--list] [NAME...]

One tree: a shell that counts, a JVM, a redis whose client keeps a ledger of every acknowledged write, and nginx where
it is installed. TORPOR_TEST_SOAK=N makes N rounds (3; scripts/soak makes 50).
"""

import http.client
import os
import shutil
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from common import Program, compile_steady, files, main  # noqa: E402
from attacked import Jvm, Ledger, Untouched, compile_live, expect_acknowledged  # noqa: E402
from clients import connected, free_port  # noqa: E402
from harness import ENVIRONMENT_PATH, Failure, Steps, all_stats, case, read, tree_of  # noqa: E402

ROUNDS = int(os.environ.get("TORPOR_TEST_SOAK", "3"))
SETTLED = 5  # rounds after which nothing may grow any more
# How much a JVM may differ by itself: a connection more, threads that come and go, garbage not yet collected.
PLAY = {"descriptors": 1, "mappings": 40}
GROWTH = 16 << 20

NGINX = """
daemon off; pid {0}/nginx.pid; error_log /dev/null; worker_processes 2;
events {{ worker_connections 64; }}
http {{ access_log off; client_body_temp_path {0}/a; proxy_temp_path {0}/b; fastcgi_temp_path {0}/c; uwsgi_temp_path {0}/d;
scgi_temp_path {0}/e; server {{ listen 127.0.0.1:{1}; location / {{ return 200 "here"; }} }} }}
"""

SHELL = """
redis-server --port {redis} --bind 127.0.0.1 --save '' --appendonly no --dir . &
java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xms32m -Xmx48m -Xss512k -XX:-UsePerfData -cp {classes} Live 8 &
[ -z '{nginx}' ] || nginx -c {nginx} &
n=0
while [ ! -e stop ]; do n=$((n + 1)); echo "shell $n" >>steps; sleep 0.05; done
"""


class Mixed(Program):
    """All of them in one tree."""

    options = ("--tcp", "close")

    def __init__(self, t):
        super().__init__(t)
        self.redis, self.web, config = free_port(), None, ""
        if shutil.which("nginx", path=ENVIRONMENT_PATH):
            self.web = self.redis + 1
            config = t.write("nginx.conf", NGINX.format(t.work, self.web))
        self.steps = Steps(t, [*Jvm.LABELS, "shell"])
        script = SHELL.format(redis=self.redis, classes=compile_live(t), nginx=config)
        self.root = t.start(["sh", "-c", script])
        self.acknowledged = 0
        self.ledger = Ledger(t, self.redis, 0)
        self.ledger.start()
        self.steps.advance(3, seconds=60)

    def before(self, root):
        return Untouched(root)

    def check(self):
        self.expect_alive()
        written = self.ledger.acknowledged
        self.t.until(lambda: self.ledger.broken or self.ledger.acknowledged > written + 20, 20, "redis answers no more")
        if self.ledger.broken:
            raise Failure(f"the client's connection has broken: {self.ledger.broken}")
        self.steps.advance(2)
        if self.web:
            connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=10)
            connection.request("GET", "/")
            if connection.getresponse().read() != b"here":
                raise Failure("nginx answers something else")
            connection.close()
        if os.path.getsize(self.steps.path) > 30000:
            self.steps.rotate()

    def resume(self):
        """What redis had acknowledged before it was saved, it holds."""
        self.acknowledged = self.ledger.settle()
        client = connected(self.t, self.redis)
        for first in range(0, Ledger.KEYS, 500):
            expect_acknowledged(client, self.acknowledged, range(first, first + 500))
        client.connection.close()
        self.ledger = Ledger(self.t, self.redis, self.acknowledged)
        self.ledger.start()


def memory_of(pid):
    return sum(int(line.split()[1]) << 10 for line in read(f"/proc/{pid}/smaps_rollup", "").splitlines()
               if line.startswith("Private_Dirty:"))


def measure(t, program):
    """What must not grow: in the tree, and around it."""
    tree = tree_of(program.root)
    stats = all_stats()
    # The shell's sleeps come and go, also between the two looks.
    servers = [p for p in tree if p in stats and stats[p].state != "Z" and stats[p].comm != "sleep"]
    return {
        "descriptors": sum(len(os.listdir(f"/proc/{p}/fd")) for p in servers),
        "mappings": sum(read(f"/proc/{p}/maps", "").count("\n") for p in tree),
        "zombies": sum(s.state == "Z" and s.comm != "sleep" for s in stats.values()),
        "torpor": sum(s.comm == "torpor" for s in stats.values()),
        "files": len(files(t)) + len([n for n in os.listdir(t.work) if not n.startswith("steps")]),
    }, sum(memory_of(p) for p in tree)


@case("soak", needs=["redis-server", "javac"], limit=120 + ROUNDS * 20)
def soak(t):
    program = Mixed(t)
    program.check()
    first, first_memory, sizes, memory = None, 0, [], 0
    for number in range(1, ROUNDS + 1):
        save = ["dump", program.root, "-o", t.image(), *program.options]
        if number % 3 == 0:  # let go and saved once more
            t.torpor(*save, "--keep-running")
            program.check()
        members = tree_of(program.root)
        t.torpor(*save)
        t.expect_gone(program.root, members)
        t.restore(program.root)
        program.resume()
        program.check()
        sizes.append(os.path.getsize(t.image()))
        os.unlink(t.image())
        now, memory = measure(t, program)
        t.log(f"round {number}: {now}, {memory >> 10} KiB, image {sizes[-1] >> 10} KiB")
        if number == min(SETTLED, ROUNDS - 1):
            first, first_memory = now, memory
    grown = {k: (first[k], now[k]) for k in now if now[k] > first[k] + PLAY.get(k, 0)}
    if grown or memory > first_memory + GROWTH:
        raise Failure(f"it has grown: {grown}, memory {first_memory >> 10} to {memory >> 10} KiB")
    print(f"    {t.name}: {ROUNDS} rounds, {program.acknowledged} acknowledged writes, none lost; "
          f"{now['descriptors']} descriptors, {now['zombies']} zombies, memory {first_memory >> 10} KiB at first and "
          f"{memory >> 10} KiB at last, images of {min(sizes) >> 10} to {max(sizes) >> 10} KiB", flush=True)


if __name__ == "__main__":
    sys.exit(main(__doc__, compile_steady))
