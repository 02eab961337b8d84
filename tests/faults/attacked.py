# SPDX-License-Identifier: Apache-2.0
"""A JVM, a redis under a client's load, and Pythons with many descriptors, as programs to be attacked."""

import os
import re
import signal
import subprocess
import threading
import time

from common import Program, alive, look_at_fds  # tells where the next two are
from clients import connected, free_port
from harness import PYTHON, Failure, Steps, comm_of, read, threads_of, tree_of


def watched(pid):
    """Is some memory registered with a userfaultfd for writes?"""
    return re.search(r"^VmFlags:.* uw", read(f"/proc/{pid}/smaps", ""), re.M)


def tracked(program):
    """Its dumps copy memory while it runs."""
    program.options = (*program.options, "--pause", "track")
    return program


class Untouched:
    """What must hold of a program whose threads and mappings change by themselves: its tasks, and nobody traces it."""

    def __init__(self, root):
        self.root, self.pids = root, tree_of(root)

    def expect_same(self, t):
        t.until(lambda: tree_of(self.root) == self.pids and all(alive(p) for p in self.pids), 5, "its tasks have changed")
        t.until(lambda: not any(self.traced(p, tid) for p in self.pids for tid in threads_of(p)), 5, "it is still traced")
        if any(map(watched, self.pids)):
            raise Failure("its memory is still watched")

    @staticmethod
    def traced(pid, tid):
        return "\nTracerPid:\t0\n" not in read(f"/proc/{pid}/task/{tid}/status", "\nTracerPid:\t0\n")


class Moment(Program):
    """tests/state/moment.c: memory that changes all the time, copied while it runs."""

    def __init__(self, t, pause):
        super().__init__(t)
        self.options = ("--pause", pause)
        self.result = t.path("result")
        self.root = t.start([t.target("moment"), t.path("pid"), self.result, "quick"])
        t.until(lambda: os.path.exists(t.path("pid")), 20, "the start of moment")

    def before(self, root):
        return Unmarked(root)

    def check(self):
        if os.path.exists(self.result):
            os.unlink(self.result)
        os.kill(self.root, signal.SIGUSR1)
        self.t.until(lambda: os.path.exists(self.result) or not alive(self.root), 20, "moment does not answer")
        self.expect_alive()
        text = read(self.result).strip()
        if text != "ok":
            raise Failure(f"moment says: {text}")


class Unmarked:
    """What must hold of a program after its memory was copied while it ran: no mark of that, no fd, no child."""

    def __init__(self, root):
        self.root, self.pids = root, [root]
        self.fds = look_at_fds(root)

    def expect_same(self, t):
        t.until(lambda: not Untouched.traced(self.root, self.root), 5, "it is still traced")
        if watched(self.root):
            raise Failure("its memory is still watched")
        t.until(lambda: look_at_fds(self.root) == self.fds, 5, "it has other files open")
        # It has one child at a time, of its own, which comes and goes.
        t.until(lambda: len(tree_of(self.root)) <= 2, 5, "it has another child")
        for pid in tree_of(self.root)[1:]:
            t.until(lambda: pid not in tree_of(self.root), 5, "a child stays")
        # A clone is an orphan, which is ours to adopt.
        t.until(lambda: not [p for p in tree_of(os.getpid()) if comm_of(p) == "moment" and
                             p not in tree_of(self.root)], 5, "a clone stays")


def compile_live(t):
    """The folder with the classes of Live.java."""
    done = subprocess.run(["javac", "-d", t.base, t.target("Live.java")], capture_output=True, text=True)
    if done.returncode:
        raise Failure("javac: " + done.stderr)
    return t.base


class Jvm(Program):
    """tests/programs/targets/Live.java: collector, JIT, a dialogue of threads, timers; it checks what it holds."""

    LABELS = ["churn0", "churn1", "hot", "talk", "tick"]

    def __init__(self, t):
        super().__init__(t)
        self.steps = Steps(t, self.LABELS)
        self.root = t.start(["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xms32m", "-Xmx48m", "-Xss512k",
                             "-XX:-UsePerfData", "-cp", compile_live(t), "Live", "8"])
        self.steps.advance(3, seconds=60)

    def before(self, root):
        return Untouched(root)

    def check(self):
        self.expect_alive()
        self.steps.advance(1)
        if os.path.getsize(self.steps.path) > 30000:  # it is read as a whole
            self.steps.rotate()

    def again(self):
        self.steps.rotate()
        self.check()


class Ledger(threading.Thread):
    """A client that sets key after key, one at a time, round and round, and remembers what redis has acknowledged."""

    KEYS = 5000
    PAUSE = 0.0005

    def __init__(self, t, port, acknowledged):
        super().__init__(daemon=True)
        self.client = connected(t, port)
        self.acknowledged = acknowledged
        self.over = False
        self.broken = None  # why it could not go on

    def run(self):
        while not self.over:
            number = self.acknowledged + 1
            try:
                answer = self.client("set", f"key{number % self.KEYS}", number)
            except OSError as e:
                answer = str(e)
            if answer == "OK":
                self.acknowledged = number
            else:
                self.broken, self.over = f"write {number}: {answer!r}", True
            time.sleep(self.PAUSE)

    def settle(self):
        """No more writes from now on. How many were acknowledged."""
        self.over = True
        self.join(20)
        if self.is_alive():
            raise Failure("redis neither answers its client nor lets go of it")
        return self.acknowledged


def expect_acknowledged(client, acknowledged, keys):
    """These keys hold what was written last, or what was about to be."""
    for key in keys:
        client.send("get", f"key{key}")
    for key in keys:
        last = acknowledged - (acknowledged - key) % Ledger.KEYS
        answer = client.answer()
        if last > 0 and answer not in (str(last), str(last + Ledger.KEYS)):
            raise Failure(f"key{key} is {answer!r}: write {last} of {acknowledged} is lost")


class RedisServer(Program):
    """A redis that keeps everything in memory, and a client that writes all the time, whatever happens to redis."""

    options = ("--tcp", "close")

    def __init__(self, t):
        super().__init__(t)
        self.port = free_port()
        self.root = t.start(["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                             "--appendonly", "no", "--dir", t.work])
        self.acknowledged = 0
        self.write()

    def before(self, root):
        return Untouched(root)

    def write(self):
        """Begin to write behind what was acknowledged so far."""
        self.ledger = Ledger(self.t, self.port, self.acknowledged)
        self.ledger.start()

    def check(self):
        """The client has got further on the connection that it had, and what it wrote is there."""
        before = self.ledger.acknowledged
        self.expect_alive()
        self.t.until(lambda: self.ledger.broken or self.ledger.acknowledged > before + 3, 20, "redis answers no more")
        if self.ledger.broken:
            raise Failure(f"the client's connection has broken: {self.ledger.broken}")
        newest = self.ledger.acknowledged
        client = connected(self.t, self.port)
        for number in range(max(newest - 20, 1), newest + 1):
            if int(client("get", f"key{number % Ledger.KEYS}") or 0) < number:
                raise Failure(f"write {number} of {newest} is lost")
        client.connection.close()

    def expect_all(self):
        client = connected(self.t, self.port)
        for first in range(0, Ledger.KEYS, 500):
            expect_acknowledged(client, self.acknowledged, range(first, first + 500))
        return client

    def resume(self):
        """The saved redis finds its client gone. What it had acknowledged before it was saved, it holds."""
        self.acknowledged = self.ledger.settle()
        self.expect_all()
        self.write()

    def again(self):
        if not self.ledger.over or self.ledger.is_alive():
            self.acknowledged = self.ledger.settle()
        self.expect_alive()
        if self.expect_all()("set", "another", "key") != "OK":
            raise Failure("redis takes no more keys")


class Rich(Program):
    """Two Pythons with many kinds of descriptors, which only wait."""

    SCRIPT = """
import ctypes, fcntl, os, select, signal, socket, threading, time
poll = select.epoll(); a, b = socket.socketpair(); r, w = os.pipe(); poll.register(a, select.EPOLLIN); a.send(b"x")
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
memory = os.memfd_create("memory"); os.write(w, b"y"); master, slave = os.openpty(); os.write(master, b"typed\\n")
libc = ctypes.CDLL(None); event = libc.eventfd(3, 0); timer = libc.timerfd_create(1, 0); note = libc.inotify_init1(0)
libc.inotify_add_watch(note, b"/usr", 2)
gone = open("gone", "w+"); gone.write("z" * 5000); gone.flush(); os.unlink("gone")
fcntl.flock(gone, fcntl.LOCK_EX); signal.setitimer(signal.ITIMER_REAL, 5000); u = socket.socket(socket.AF_UNIX)
u.bind("name"); u.listen(); threading.Thread(target=time.sleep, args=(1000,)).start()
child = os.fork()
if child == 0:
    os.setsid()
open("ready", "w").close()
time.sleep(1000)
"""

    def __init__(self, t):
        super().__init__(t)
        self.root = t.start([PYTHON, "-B", "-c", self.SCRIPT])
        t.until(lambda: os.path.exists(t.path("ready")) and len(tree_of(self.root)) == 2, 10, "the start of the program")

    def check(self):
        self.expect_alive()
