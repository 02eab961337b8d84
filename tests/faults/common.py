# SPDX-License-Identifier: Apache-2.0
"""What the tests of faults have in common: programs that check themselves, what must not change, moments to strike at."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "programs"))
import harness  # noqa: E402
from run import main  # noqa: E402,F401
from harness import COMPILER, PYTHON, Failure, Skip, Steps, read, stat_of, state_of, threads_of, tree_of  # noqa: E402

KILLS = int(os.environ.get("TORPOR_TEST_KILLS", "30"))
CALLS = os.environ.get("TORPOR_TEST_CALLS", "20")
LIMIT = 60 + KILLS * 2
PATIENCE = 5  # seconds until what the kernel does by itself must have happened


# ---- programs that check themselves ----

class Program:
    """A program to be attacked."""

    root = 0
    options = ()  # of its dumps
    interrupted = 0  # waits that ended with EINTR

    def __init__(self, t):
        self.t = t

    def check(self):
        """A Failure if it does not get further, or is not what it was."""
        raise NotImplementedError

    def before(self, root):
        """What must not change while it runs."""
        return Before(root)

    def resume(self):
        """It was saved, ended and restored just now."""

    def mark(self):
        """It will be saved for good; what follows happens to copies."""
        self.check()

    def again(self):
        """A copy from that moment goes on: check it."""
        self.check()

    def expect_alive(self):
        if not alive(self.root):
            raise Failure(f"the program has ended (status {self.t.statuses.get(self.root)})")


class Steady(Program):
    """tests/faults/steady.c at work."""

    broken_off = 0  # nanosleep, poll or futex that ended with EINTR

    def __init__(self, t, *arguments):
        super().__init__(t)
        self.path, self.checks, self.marked = t.path("steady"), 0, 0
        self.root = t.start([t.target("steady"), *map(str, arguments)])
        t.until(lambda: "ready\n" in self.read(), 10, "the start of steady")
        self.check()

    def read(self):
        text = read(self.path, "")
        bad = re.search(r"^bad .*$", text, re.M)
        if bad:
            raise Failure(f"the program reports: {bad.group()!r}")
        return text

    def check(self):
        """Every thread gets further, and finds what it left."""
        self.checks += 1
        os.kill(self.root, signal.SIGUSR1)

        def answered():
            if not alive(self.root):
                self.read()
                self.expect_alive()
            return re.search(rf"^ok {self.checks} (\d+) (\d+)$", self.read(), re.M)
        found = self.t.until(answered, 25, "the program does not answer")
        self.interrupted = int(found.group(1))
        self.broken_off = int(found.group(2))
        if self.broken_off:
            raise Failure("a sleep, poll or futex ended with EINTR")

    def mark(self):
        self.check()
        self.marked = self.checks

    def again(self):
        """A restored copy goes on numbering its checks where the saved program was."""
        self.read()
        os.unlink(self.path)
        self.checks = self.marked
        self.check()


class Large(Steady):
    """The same with so much memory that a restore loads it before it makes the process."""

    def __init__(self, t):
        super().__init__(t, "large")


class PythonThreads(Program):
    """Eight threads of a Python that signal each other, with counters of their own."""

    def __init__(self, t):
        super().__init__(t)
        self.steps = Steps(t, [f"thread{k}" for k in range(8)])
        self.root = t.start([PYTHON, "-B", t.target("threads.py")])
        self.steps.advance(5)

    def check(self):
        self.expect_alive()
        self.steps.advance(2, seconds=20)
        if os.path.getsize(self.steps.path) > 100000:  # it is read as a whole
            self.steps.rotate()
            self.steps.advance(1)

    def again(self):
        self.steps.rotate()
        self.check()


def alive(pid):
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


def kill_tree(t, root):
    """End the processes of a tree, each by its PID."""
    for pid in reversed(tree_of(root)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    t.until(lambda: not stat_of(root), 10, f"the end of {root}")


# ---- what must not change ----

def look_at_maps(pid):
    """Mappings, neighbours that are alike merged."""
    return [m for m in harness.parse_smaps(read(f"/proc/{pid}/smaps", "")) if "[heap]" not in m]


def look_at_fds(pid):
    fds = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            pass
    return fds


# A wait for them opens the mask for its time, or the handler closes it; the checks would not succeed without them.
PASSING = sum(1 << (s - 1) for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM))


def look_at_thread(pid, tid):
    """Signal mask and tracer of a thread; None while it is stopped."""
    text = read(f"/proc/{pid}/task/{tid}/status", "")
    about = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if not about or about["State"].split()[0] in "tT":
        return None
    return f"{int(about['SigBlk'], 16) & ~PASSING:016x}", about["TracerPid"].strip()


# Of one that has just been made, or sends a signal: libc blocks all but SIGKILL and SIGSTOP for a moment.
SHUT = f"{(1 << 64) - 1 & ~PASSING & ~(1 << signal.SIGKILL - 1) & ~(1 << signal.SIGSTOP - 1):016x}"


def look_at_settled_thread(pid, tid):
    """As above, but not in such a moment."""
    end = time.monotonic() + PATIENCE
    while (view := look_at_thread(pid, tid)) and view[0] == SHUT and time.monotonic() < end:
        time.sleep(0.001)
    return view


class Before:
    """What /proc tells of a tree, to be compared with later."""

    def __init__(self, root):
        self.root = root
        self.pids = tree_of(root)
        self.views = {}
        for pid in self.pids:
            self.views[pid, "maps"] = look_at_maps(pid)
            self.views[pid, "fds"] = look_at_fds(pid)
            for tid in threads_of(pid):
                self.views[pid, tid] = look_at_settled_thread(pid, tid)

    def again(self, key):
        pid, what = key
        if what == "maps":
            return look_at_maps(pid)
        return look_at_fds(pid) if what == "fds" else look_at_thread(pid, what)

    def expect_same(self, t):
        """Everything is as it was. A busy program has moments: each view has some time to be it once."""
        for pid in self.pids:
            wanted = sorted(k[1] for k in self.views if k[0] == pid and isinstance(k[1], int))
            t.until(lambda: threads_of(pid) == wanted, PATIENCE, f"threads {threads_of(pid)} instead of {wanted}")
        for key, view in self.views.items():
            try:
                t.until(lambda: self.again(key) == view, PATIENCE, "")
            except Failure:
                raise Failure(f"{key}: {differ(view, self.again(key))}")


def differ(before, after):
    if isinstance(before, list) and isinstance(after, list):
        return f"gone {[m for m in before if m not in after]}, new {[m for m in after if m not in before]}"
    return f"before {before!r}, after {after!r}"


# ---- moments ----

def traced(pid):
    return re.search(r"^TracerPid:\s*[1-9]", read(f"/proc/{pid}/status", ""), re.M)


class Moments:
    """When to kill: by turns at random, and some random time after a sign of the wanted phase; or always after it."""

    def __init__(self, duration, sign=None, window=None, always=False):
        self.duration, self.sign, self.window, self.always = duration, sign, window or duration, always
        self.count, self.number = KILLS, 0

    def wait(self, pid):
        """Sleep until the next moment."""
        self.number += 1
        if self.sign and (self.always or self.number % 2):
            end = time.monotonic() + 5
            while not self.sign() and time.monotonic() < end and state_of(pid) not in ("", "Z"):
                pass
            delay(random.random() ** 2 * self.window)
        else:
            delay(random.random() * self.duration * 1.1)

    def strike(self, t, arguments, signo=signal.SIGKILL):
        """Run torpor and send it a signal at the next moment. (exit status, its PID)"""
        pid, _ = t.torpor_start(arguments)
        self.wait(pid)
        try:
            os.kill(pid, signo)  # it is not reaped before wait_exit()
        except ProcessLookupError:
            pass
        status = t.wait_exit(pid, 40)
        t.log(f"status {status}")
        return status, pid


class Supervised:
    """torpor under one of our supervisors of system calls, which writes its report into a file."""

    def __init__(self, t, supervisor):
        if t.setup.account is None:
            raise Skip("only root can set a filter and keep the file capability")
        self.t, self.supervisor, self.report = t, supervisor, os.path.join(t.base, "report")

    def launch(self, *arguments):
        account = self.t.setup.account
        self.t.launcher = [self.t.target(self.supervisor), *map(str, arguments), self.report, str(account.pw_uid),
                           str(account.pw_gid)]


class Nth(Supervised):
    """torpor under nth.c: something happens at one of its system calls."""

    def __init__(self, t, what):
        super().__init__(t, "nth")
        self.what = what

    def launch(self, number):
        super().launch(number, self.what)

    def launched(self):
        """It has ended. Which call it was, or None when there were not so many."""
        self.t.launcher = []
        call = read(self.report, "").strip()
        self.t.log(f"the call was {call}")
        return call or None

    @staticmethod
    def count(reaches):
        """How many calls there are, when reaches(n) says whether there is an n-th."""
        low, high = 1, 64
        while reaches(high):
            low, high = high, high * 2
        while low < high:
            middle = (low + high) // 2
            if reaches(middle):
                low = middle + 1
            else:
                high = middle
        return low


def some_numbers(last, wanted):
    """Which of so many calls: all, or some of each stretch."""
    if wanted == "all" or int(wanted) >= last:
        return list(range(1, last + 1))
    step = last / int(wanted)
    return sorted({1 + int(step * k + random.random() * step) for k in range(int(wanted))})


class Calls:
    """As Moments, but torpor is killed right before one of its system calls, or one of its children's: each, or some.

    They are counted with `arguments`, after which `again` makes it ready for the next time; what is struck later may have
    some `more`.
    """

    def __init__(self, t, arguments, again, more=0):
        self.nth = Nth(t, "kill")

        def reaches(number):
            status, _, call = self.launch(t, number, arguments)
            if call is None and status:
                raise Failure(f"before call {number}: status {status}, {t.errors(t.calls)}")
            again()
            return call is not None
        self.numbers = some_numbers(Nth.count(reaches) + more, CALLS)
        self.count, self.number = len(self.numbers), 0

    def launch(self, t, number, arguments):
        self.nth.launch(number)
        pid, _ = t.torpor_start(arguments)
        status = t.wait_exit(pid, 40)
        return status, pid, self.nth.launched()

    def strike(self, t, arguments, signo=signal.SIGKILL):
        status, pid, _ = self.launch(t, self.numbers[self.number], arguments)
        self.number += 1
        return status, pid


def delay(seconds):
    end = time.monotonic() + seconds
    if seconds > 0.001:
        time.sleep(seconds - 0.0005)
    while time.monotonic() < end:
        pass


def measure(t, arguments, again=lambda: None):
    """How long torpor takes: the median of some runs."""
    times = []
    for _ in range(5):
        times.append(t.torpor(*arguments).seconds)
        again()
    return sorted(times)[2]


# ---- what is left ----

def files(t):
    """What is in the folder of the images, but the file that t.restore() makes."""
    return [name for name in os.listdir(t.images) if name != "pid"]


def read_bytes(path):
    with open(path, "rb") as f:
        return f.read()


def kill_members(t, members):
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    t.until(lambda: not any(stat_of(p) for p in members), 10, "the ends of the tree")


def summary(t, outcomes, program=None):
    text = ", ".join(f"{n} {o}" for o, n in sorted(outcomes.items()))
    if program:
        text += f"; {program.interrupted} times EINTR from epoll_wait or sigtimedwait"
    t.log(text)
    print(f"    {t.name}: {text}", flush=True)


def whole(root, members):
    """The whole tree is there and runs."""
    return sorted(tree_of(root)) == sorted(members) and all(
        alive(p) and not doomed(p) and all((look_at_thread(p, tid) or (0, "1"))[1] == "0" for tid in threads_of(p))
        for p in members)


def doomed(pid):
    """It is about to die: SIGKILL has been sent, or has begun its work (PF_EXITING, PF_SIGNALED)."""
    stat = stat_of(pid)
    if stat is None or stat.flags & 0x404:
        return True
    pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)", read(f"/proc/{pid}/status", ""), re.M)
    return any(int(mask, 16) & 1 << (signal.SIGKILL - 1) for mask in pending)


def whole_or_gone(t, root, members, patience=PATIENCE):
    """Which of the two the tree is, once that does not change any more. A Failure for half a tree."""
    def now():
        left = [p for p in members if stat_of(p)]
        return "gone" if not left else "whole" if whole(root, members) else None

    def settled():
        first = now()
        time.sleep(0.02 if first == "whole" else 0.002)
        t.reap()
        return first if now() == first else None
    return t.until(settled, patience, f"half a tree: {[(p, state_of(p)) for p in members]}")


def killed(status, signo):
    if status not in (-signo, 0):
        raise Failure(f"torpor ended with {status}")


def compile_steady(setup, *supervisors):
    """Make steady.c, ticking.c and moment.c targets, where the user can execute them; likewise nth.c and watch.c."""
    if harness.TARGETS == os.path.join(harness.HERE, "targets"):
        harness.TARGETS = shutil.copytree(harness.TARGETS, os.path.join(setup.folder, "targets"))
    tests = os.path.join(HERE, "..")
    sources = {"steady": ["faults/steady.c"], "moment": ["kinds/common.c", "state/moment.c"], "ticking": ["faults/ticking.c"],
               **{name: ["faults/supervised.c", f"faults/{name}.c"] for name in supervisors}}
    for name, files_ in sources.items():
        subprocess.run([*COMPILER, "-O2", "-std=gnu17", "-D_GNU_SOURCE", "-pthread", "-I",
                        os.path.join(tests, "kinds"), "-o", os.path.join(harness.TARGETS, name),
                        *(os.path.join(tests, file) for file in files_)], check=True)


class Watch(Supervised):
    """torpor under watch.c."""

    def __init__(self, t):
        super().__init__(t, "watch")

    def run(self, *arguments, **expectations):
        """Run torpor, watched. (result, what it touched: lists of paths and of PIDs, and how many processes it made)."""
        self.launch()
        try:
            result = self.t.torpor(*arguments, **expectations)
        finally:
            self.t.launcher = []
        lines = [line.split(" ", 2) for line in read(self.report).splitlines()]
        if any(line[0] == "unreadable" for line in lines):
            raise Failure(f"what torpor touched could not be read: {lines}")
        return result, {what: [(line[2], line[1]) for line in lines if line[0] == what] for what in ("path", "pid", "own", "made")}
